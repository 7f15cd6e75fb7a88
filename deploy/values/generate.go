package values

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// header begins values.yaml.
const header = `# The values of Weir's chart, with their defaults.
# Generated from deploy/values by ` + "`make generate`" + `.
`

// YAML returns the chart's values.yaml: the defaults, each below what it does.
func YAML() []byte {
	var b strings.Builder
	b.WriteString(header)
	writeYAML(&b, reflect.ValueOf(*Default()), "")
	return []byte(b.String())
}

func writeYAML(b *strings.Builder, v reflect.Value, indent string) {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if indent == "" {
			b.WriteByte('\n')
		}
		fmt.Fprintf(b, "%s# %s\n", indent, field.Tag.Get("doc"))
		if enum := field.Tag.Get("enum"); enum != "" {
			fmt.Fprintf(b, "%s# One of %s.\n", indent, strings.ReplaceAll(enum, ",", ", "))
		}
		fmt.Fprintf(b, "%s%s:", indent, field.Tag.Get("json"))
		if field.Type.Kind() == reflect.Struct {
			b.WriteByte('\n')
			writeYAML(b, v.Field(i), indent+"  ")
			continue
		}
		text, _ := json.Marshal(v.Field(i).Interface()) // plain values: JSON is YAML
		fmt.Fprintf(b, " %s\n", text)
	}
}

// Schema returns the chart's values.schema.json, which Helm holds values
// against.
func Schema() []byte {
	s := schema(reflect.TypeFor[Values]())
	s["$schema"] = "http://json-schema.org/draft-07/schema#"
	s["title"] = "Values of Weir's chart. Generated from deploy/values by make generate."
	text, _ := json.MarshalIndent(s, "", "  ") // maps and texts
	return append(text, '\n')
}

func schema(t reflect.Type) map[string]any {
	properties := map[string]any{}
	for i := range t.NumField() {
		field := t.Field(i)
		properties[field.Tag.Get("json")] = property(field)
	}
	return map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
}

func property(field reflect.StructField) map[string]any {
	var p map[string]any
	switch field.Type.Kind() {
	case reflect.Struct:
		p = schema(field.Type)
	case reflect.Bool:
		p = map[string]any{"type": "boolean"}
	case reflect.Int:
		least, most := bounds(field)
		p = map[string]any{"type": "integer", "minimum": least, "maximum": most}
	case reflect.String:
		p = textSchema(field)
	case reflect.Slice:
		items := map[string]any{"type": "object"}
		if field.Type.Elem().Kind() == reflect.String {
			items = textSchema(field)
		}
		p = map[string]any{"type": "array", "items": items}
	default:
		p = map[string]any{"type": "object", "additionalProperties": map[string]any{"type": "string"}}
	}
	p["description"] = field.Tag.Get("doc")
	return p
}

func textSchema(field reflect.StructField) map[string]any {
	p := map[string]any{"type": []string{"string", "number"}}
	if enum := field.Tag.Get("enum"); enum != "" {
		p["enum"] = strings.Split(enum, ",")
	}
	if name := field.Tag.Get("form"); name != "" {
		p["pattern"] = forms()[name].pattern.String()
	}
	return p
}
