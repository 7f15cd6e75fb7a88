package inject

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"

	"sigs.k8s.io/yaml"
)

// Options say how manifests are injected.
type Options struct {
	// Config is the installation's.
	Config Config
	// Flags are settings by name, which outdo Config and annotations. On
	// namespaces, and as far as they concern one on Services, they are written as
	// annotations.
	Flags map[string]string
	// By is what the mark weir.dev/injected-by says.
	By string
}

// Inject adds the sidecar to what pods are made of in manifests: YAML, several
// documents of it, or JSON, Lists included. It returns the manifests with all else
// untouched, byte for byte, and a report for each object. What is injected already
// is left as it is. The error names the document that cannot be read, or the
// annotation or flag that cannot be heeded; there are no manifests then.
func Inject(manifests []byte, o Options) ([]byte, []Report, error) {
	w := wishes{config: o.Config, flags: o.Flags, by: o.By}
	if _, err := w.settle(nil); err != nil {
		return nil, nil, err
	}
	documents, err := split(manifests)
	if err != nil {
		return nil, nil, err
	}
	known := namespaces(documents)
	return each(documents, func(o object) (Report, []Op, error) {
		w := w
		w.namespace = known[o.namespace]
		return o.inject(w)
	})
}

// Uninject takes out what Inject added, and marks on namespaces and Services with
// it. All else stays byte for byte.
func Uninject(manifests []byte) ([]byte, []Report, error) {
	documents, err := split(manifests)
	if err != nil {
		return nil, nil, err
	}
	return each(documents, object.uninject)
}

// document is one of a stream, with what stands before it.
type document struct {
	text string
	json bool
	// value is nil where there is only white space and comments.
	value any
}

// namespaces are those that the documents describe, by name.
func namespaces(documents []document) map[string]Namespace {
	out := map[string]Namespace{}
	for _, d := range documents {
		for _, o := range objects(d.value, "") {
			if o.is("Namespace", "") {
				out[o.name] = Namespace{
					Name:        o.name,
					Labels:      stringMap(at(o.value, "metadata", "labels")),
					Annotations: stringMap(at(o.value, "metadata", "annotations")),
				}
			}
		}
	}
	return out
}

// each does with every object what do says.
func each(documents []document, do func(object) (Report, []Op, error)) ([]byte, []Report, error) {
	var out bytes.Buffer
	var reports []Report
	for _, d := range documents {
		text := d.text
		if d.value != nil {
			var ops []Op
			for _, o := range objects(d.value, "") {
				r, more, err := do(o)
				if err != nil {
					return nil, nil, err
				}
				reports, ops = append(reports, r), append(ops, more...)
			}
			var err error
			if text, err = d.changed(ops); err != nil {
				return nil, nil, err
			}
		}
		out.WriteString(text)
	}
	return out.Bytes(), reports, nil
}

// changed is the document's text with ops carried out: on the text as it is, or on
// its values where that is too involved.
func (d document) changed(ops []Op) (string, error) {
	if len(ops) == 0 {
		return d.text, nil
	}
	want, err := plain(d.value)
	if err == nil {
		want, err = apply(want, ops)
	}
	if err != nil {
		return "", err
	}
	if text, err := splice(d.text, ops); err == nil {
		if got, err := d.parse(text); err == nil && reflect.DeepEqual(got, want) {
			return text, nil
		}
	}
	return d.anew(want)
}

// anew writes values.
func (d document) anew(want any) (string, error) {
	if d.json {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		e.SetIndent("", "    ")
		err := e.Encode(want)
		space := d.text[:len(d.text)-len(strings.TrimLeft(d.text, " \t\r\n"))]
		return space + strings.TrimSuffix(b.String(), "\n"), err
	}
	out, err := yaml.Marshal(want)
	if err != nil {
		return "", err
	}
	text := string(out)
	if strings.Contains(d.text, "\r\n") {
		text = strings.ReplaceAll(text, "\n", "\r\n")
	}
	if first, _, ok := strings.Cut(d.text, "\n"); ok && separates(first) {
		text = "---\n" + text
	}
	return text, nil
}

// parse reads a document's values as kubectl does.
func (d document) parse(text string) (any, error) {
	if d.json {
		return parseJSON([]byte(text))
	}
	data, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		return nil, err
	}
	return parseJSON(data)
}

// split takes manifests apart. The texts of its documents make up the whole.
func split(manifests []byte) ([]document, error) {
	if documents, ok := splitJSON(string(manifests)); ok {
		return documents, nil
	}
	var documents []document
	line, begin := 1, 1
	var text strings.Builder
	end := func() error {
		d := document{text: text.String()}
		text.Reset()
		if hasContent(d.text) {
			var err error
			if d.value, err = d.parse(strings.TrimPrefix(d.text, "\ufeff")); err != nil {
				return fmt.Errorf("cannot read the document that begins in line %d: %w", begin, err)
			}
		}
		documents = append(documents, d)
		return nil
	}
	for l := range strings.Lines(string(manifests)) {
		if separates(l) && text.Len() > 0 {
			if err := end(); err != nil {
				return nil, err
			}
			begin = line
		}
		text.WriteString(l)
		line++
	}
	return documents, end()
}

// separates tells that a line begins a document.
func separates(line string) bool {
	rest, ok := strings.CutPrefix(line, "---")
	return ok && (rest == "" || strings.ContainsAny(rest[:1], " \t\r\n"))
}

// hasContent tells that a text is more than white space, comments and directives.
func hasContent(text string) bool {
	for line := range strings.Lines(strings.TrimPrefix(text, "\ufeff")) {
		if separates(line) {
			line = line[3:]
		}
		line = strings.TrimSpace(line)
		if line != "" && line != "..." && line[0] != '#' && line[0] != '%' {
			return true
		}
	}
	return false
}

// splitJSON takes a stream of JSON objects apart, if it is one.
func splitJSON(manifests string) ([]document, bool) {
	if !strings.HasPrefix(strings.TrimLeft(manifests, " \t\r\n"), "{") {
		return nil, false
	}
	d := json.NewDecoder(strings.NewReader(manifests))
	d.UseNumber()
	var documents []document
	at := int64(0)
	for {
		var value any
		err := d.Decode(&value)
		if err == io.EOF {
			return append(documents, document{text: manifests[at:]}), true
		}
		if err != nil {
			return nil, false
		}
		next := d.InputOffset()
		documents = append(documents, document{text: manifests[at:next], json: true, value: value})
		at = next
	}
}
