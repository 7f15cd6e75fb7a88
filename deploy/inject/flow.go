package inject

import (
	"bytes"
	"encoding/json"
	"strings"

	"go.yaml.in/yaml/v3"
)

// addFlow puts a key, or without one an item, first into what is in braces or
// brackets.
func (e *editor) addFlow(n *yaml.Node, key string, value any) error {
	open, err := e.offset(n)
	if err != nil || open >= len(e.text) || e.text[open] != '{' && e.text[open] != '[' {
		return errInvolved
	}
	at := open + 1
	rest := strings.TrimLeft(e.text[at:], " \t")
	if len(n.Content) > 0 && strings.HasPrefix(strings.TrimPrefix(rest, "\r"), "\n") {
		return e.addPretty(n, at, key, value)
	}
	entry, err := flowEntry(key, value, "", "")
	if err != nil {
		return err
	}
	if len(n.Content) > 0 {
		entry += ", "
	}
	e.replace(at, at, entry)
	return nil
}

// addPretty is addFlow where each entry has a line.
func (e *editor) addPretty(n *yaml.Node, at int, key string, value any) error {
	if !e.beginsLine(n.Content[0]) {
		return errInvolved
	}
	outer, inner := e.line(n.Line-1), e.line(n.Content[0].Line-1)
	outer, inner = outer[:max(indent(outer), 0)], inner[:indent(inner)]
	entry, err := flowEntry(key, value, inner, strings.TrimPrefix(inner, outer))
	if err != nil {
		return errInvolved
	}
	entry = strings.ReplaceAll("\n"+inner+entry+",", "\n", e.eol)
	e.replace(at, at, entry)
	return nil
}

// appendFlow puts an item last into a list in brackets that holds some.
func (e *editor) appendFlow(n *yaml.Node, value any) error {
	last, err := e.offset(n.Content[len(n.Content)-1])
	if err != nil {
		return err
	}
	end, err := e.flowEnd(last)
	if err != nil || e.text[end] != ']' {
		return errInvolved
	}
	entry, err := flowEntry("", value, "", "")
	if err != nil {
		return err
	}
	at := len(strings.TrimRight(e.text[:end], " \t\r\n"))
	e.replace(at, at, ", "+entry)
	return nil
}

// flowEntry writes JSON, which is YAML, too.
func flowEntry(key string, value any, prefix, unit string) (string, error) {
	text, err := flowValue(value, prefix, unit)
	if err != nil || key == "" {
		return text, err
	}
	name, err := flowValue(key, "", "")
	return name + ": " + text, err
}

func flowValue(value any, prefix, unit string) (string, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent(prefix, unit)
	if unit == "" {
		enc.SetIndent("", "")
	}
	err := enc.Encode(value)
	return strings.TrimSuffix(b.String(), "\n"), err
}

// removeFlow takes out the entry that begins with n, and its comma.
func (e *editor) removeFlow(n *yaml.Node) error {
	begin, err := e.offset(n)
	if err != nil {
		return err
	}
	end, err := e.flowEnd(begin)
	if err != nil {
		return err
	}
	if e.text[end] == ',' {
		rest := strings.TrimLeft(e.text[end+1:], " \t\r\n")
		e.replace(begin, len(e.text)-len(rest), "")
		return nil
	}
	end = len(strings.TrimRight(e.text[:end], " \t\r\n"))
	before := strings.TrimRight(e.text[:begin], " \t\r\n")
	if strings.HasSuffix(before, ",") {
		begin = len(before) - 1
	}
	e.replace(begin, end, "")
	return nil
}

// flowEnd is where an entry in braces or brackets ends: at a comma or the closing
// one.
func (e *editor) flowEnd(from int) (int, error) {
	depth := 0
	fresh := true // a quote here begins a quoted text
	for i := from; i < len(e.text); i++ {
		switch c := e.text[i]; c {
		case '"', '\'':
			if fresh {
				if i = quoteEnd(e.text, i); i < 0 {
					return 0, errInvolved
				}
			}
			fresh = false
		case '{', '[':
			depth++
			fresh = true
		case '}', ']':
			if depth == 0 {
				return i, nil
			}
			depth--
			fresh = false
		case ',':
			if depth == 0 {
				return i, nil
			}
			fresh = true
		case ':':
			fresh = true
		case ' ', '\t', '\r', '\n':
		default:
			fresh = false
		}
	}
	return 0, errInvolved
}

// quoteEnd is where the quotes close that open at an offset; -1 if they do not.
func quoteEnd(text string, open int) int {
	for i := open + 1; i < len(text); i++ {
		switch {
		case text[i] == '\\' && text[open] == '"':
			i++
		case text[i] != text[open]:
		case text[open] == '\'' && strings.HasPrefix(text[i+1:], "'"):
			i++
		default:
			return i
		}
	}
	return -1
}
