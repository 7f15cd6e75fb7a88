package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"k8s.io/client-go/util/jsonpath"
)

// jsonPathPrefix is what a template follows in -o.
const jsonPathPrefix = "jsonpath="

// template shows one JSON object as kubectl's -o jsonpath does. What an object
// lacks shows as nothing.
type template struct{ text string }

// parseTemplate reads kubectl's notation; like kubectl it takes one bare path
// without braces, too.
func parseTemplate(text string) (*template, error) {
	if text == "" {
		return nil, fmt.Errorf("%s needs a template, as in -o %s'{.id} {.status}'", jsonPathPrefix, jsonPathPrefix)
	}
	if !strings.Contains(text, "{") {
		text = "{." + strings.TrimPrefix(text, ".") + "}"
	}
	t := &template{text}
	_, err := t.parse()
	return t, err
}

func (t *template) parse() (*jsonpath.JSONPath, error) {
	p := jsonpath.New("output").AllowMissingKeys(true)
	if err := p.Parse(t.text); err != nil {
		return nil, fmt.Errorf("the template %q cannot be read: %w (it is kubectl's, as '{.id} {.status}')", t.text, err)
	}
	return p, nil
}

// render gives the text of one object, on one line whatever strangers wrote
// into it.
func (t *template) render(object []byte) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(object))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("cannot read an object back: %w", err)
	}
	// Parsed anew: {range} uses it up.
	path, err := t.parse()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := path.Execute(&out, numbers(v)); err != nil {
		return nil, fmt.Errorf("cannot apply the template of -o %s: %w", strings.TrimSuffix(jsonPathPrefix, "="), err)
	}
	return out.Bytes(), nil
}

// numbers makes whole numbers int64, for a float64 of them shows with an
// exponent, and keeps what would steer a terminal from doing so.
func numbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, one := range v {
			v[key] = numbers(one)
		}
	case []any:
		for i, one := range v {
			v[i] = numbers(one)
		}
	case string:
		return printable(v)
	case json.Number:
		if whole, err := v.Int64(); err == nil {
			return whole
		}
		if f, err := v.Float64(); err == nil {
			return f
		}
	}
	return v
}
