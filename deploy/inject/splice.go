package inject

import (
	"errors"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// errInvolved says that a text cannot be edited where an operation wants it.
var errInvolved = errors.New("the text is too involved to be edited")

// splice carries ops out on a text of YAML or JSON by putting lines in and taking
// lines out. It knows the common ways to write; where it is mistaken, the caller
// sees it by the values.
func splice(text string, ops []Op) (string, error) {
	for _, op := range ops {
		var root yaml.Node
		if err := yaml.Unmarshal([]byte(text), &root); err != nil || len(root.Content) != 1 {
			return "", errInvolved
		}
		e := newEditor(text)
		if err := e.edit(root.Content[0], names(op.Path), op); err != nil {
			return "", err
		}
		text = e.text
	}
	return text, nil
}

// editor changes a text once.
type editor struct {
	text string
	// starts are the offsets of lines, and of the end.
	starts []int
	eol    string
}

func newEditor(text string) *editor {
	e := &editor{text: text, starts: []int{0}, eol: "\n"}
	for i := range len(text) {
		if text[i] == '\n' && i+1 < len(text) {
			e.starts = append(e.starts, i+1)
		}
	}
	e.starts = append(e.starts, len(text))
	if strings.Contains(text, "\r\n") {
		e.eol = "\r\n"
	}
	return e
}

func (e *editor) lines() int { return len(e.starts) - 1 }

// line is one with its end.
func (e *editor) line(i int) string { return e.text[e.starts[i]:e.starts[i+1]] }

// replace puts s in place of what is between two offsets.
func (e *editor) replace(from, to int, s string) { e.text = e.text[:from] + s + e.text[to:] }

// offset is where a node begins.
func (e *editor) offset(n *yaml.Node) (int, error) {
	if n.Line < 1 || n.Line > e.lines() {
		return 0, errInvolved
	}
	at := 0
	line := e.line(n.Line - 1)
	for range n.Column - 1 { // columns count characters
		_, rest, _ := cutRune(line[at:])
		at = len(line) - len(rest)
	}
	return e.starts[n.Line-1] + at, nil
}

func cutRune(s string) (first, rest string, ok bool) {
	for i := range s {
		if i > 0 {
			return s[:i], s[i:], true
		}
	}
	return s, "", s != ""
}

// indent counts a line's leading spaces, and tabs, which JSON may have; blank lines
// have -1.
func indent(line string) int {
	trimmed := strings.TrimLeft(line, " \t")
	if strings.TrimRight(trimmed, "\r\n\t ") == "" {
		return -1
	}
	return len(line) - len(trimmed)
}

// edit finds the node that holds what op is about.
func (e *editor) edit(n *yaml.Node, path []string, op Op) error {
	if n.Kind == yaml.AliasNode {
		return errInvolved
	}
	if len(path) == 1 {
		switch {
		case n.Kind == yaml.MappingNode && op.Op == "add":
			return e.addKey(n, path[0], op.Value)
		case n.Kind == yaml.SequenceNode && op.Op == "add":
			return e.addItem(n, path[0], op.Value)
		case n.Kind == yaml.MappingNode:
			return e.removeKey(n, path[0])
		case n.Kind == yaml.SequenceNode:
			return e.removeItem(n, path[0])
		}
		return errInvolved
	}
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == path[0] {
				return e.edit(n.Content[i+1], path[1:], op)
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(path[0]); err == nil && i < len(n.Content) {
			return e.edit(n.Content[i], path[1:], op)
		}
	}
	return errInvolved
}

// addKey puts a key first into a mapping.
func (e *editor) addKey(n *yaml.Node, key string, value any) error {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return e.fillNull(n.Content[i], n.Content[i+1], value)
		}
	}
	if n.Style&yaml.FlowStyle != 0 || len(n.Content) == 0 {
		return e.addFlow(n, key, value)
	}
	first := n.Content[0]
	text, err := blockEntry(key, value)
	if err != nil || !e.beginsLine(first) {
		return errInvolved
	}
	e.insertLines(e.above(first.Line-1), first.Column-1, text)
	return nil
}

// beginsLine tells that only spaces stand before a node.
func (e *editor) beginsLine(n *yaml.Node) bool {
	return n.Line <= e.lines() && indent(e.line(n.Line-1)) == n.Column-1
}

// above is the line above which to insert, so that comments stay with what they
// stand above.
func (e *editor) above(line int) int {
	for line > 0 && (indent(e.line(line-1)) == -1 || strings.HasPrefix(strings.TrimLeft(e.line(line-1), " "), "#")) {
		line--
	}
	return line
}

// insertLines puts text above a line, indented.
func (e *editor) insertLines(line, columns int, text string) {
	var b strings.Builder
	if at := e.starts[line]; at > 0 && e.text[at-1] != '\n' {
		b.WriteString(e.eol) // the text's last line has no end
	}
	for l := range strings.Lines(text) {
		l = strings.TrimRight(l, "\n")
		if l != "" {
			b.WriteString(strings.Repeat(" ", columns))
		}
		b.WriteString(l + e.eol)
	}
	e.replace(e.starts[line], e.starts[line], b.String())
}

// fillNull gives a key a value that is there without one.
func (e *editor) fillNull(key, old *yaml.Node, value any) error {
	if old.Kind != yaml.ScalarNode || old.Tag != "!!null" || old.Value != "" || !e.beginsLine(key) {
		return errInvolved
	}
	text, err := blockValue(value)
	if err != nil {
		return err
	}
	e.insertLines(key.Line, key.Column-1+2, text)
	return nil
}

// addItem puts an item first or last into a list.
func (e *editor) addItem(n *yaml.Node, at string, value any) error {
	if n.Style&yaml.FlowStyle != 0 || len(n.Content) == 0 {
		if at == "-" && len(n.Content) > 0 {
			return e.appendFlow(n, value)
		}
		return e.addFlow(n, "", value)
	}
	text, err := blockEntry("", value)
	if err != nil || !e.beginsLine(n) || at != "0" && at != "-" {
		return errInvolved
	}
	line := e.above(n.Line - 1)
	if at == "-" {
		line = e.blockEnd(n.Line-1, n.Column-1, true)
	}
	e.insertLines(line, n.Column-1, text)
	return nil
}

// blockEnd is the line after what begins in a line and a column: the lines that are
// indented further, and with list those of a list in that column. Comments that
// stand further left at its end are not part of it.
func (e *editor) blockEnd(line, column int, list bool) int {
	end := line + 1
	for i := line + 1; i < e.lines(); i++ {
		l := e.line(i)
		in := indent(l)
		switch {
		case in > column || in == column && list && strings.HasPrefix(l[in:], "-"):
			end = i + 1
		case in == -1 || l[in] == '#':
		default:
			return end
		}
	}
	return end
}

// removeKey takes a key and its value out.
func (e *editor) removeKey(n *yaml.Node, key string) error {
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Value != key {
			continue
		}
		if n.Style&yaml.FlowStyle != 0 {
			return e.removeFlow(k)
		}
		if !e.beginsLine(k) {
			return errInvolved
		}
		e.removeLines(k.Line-1, e.blockEnd(k.Line-1, k.Column-1, v.Kind == yaml.SequenceNode))
		return nil
	}
	return errInvolved
}

// removeItem takes an item out of a list.
func (e *editor) removeItem(n *yaml.Node, at string) error {
	i, err := strconv.Atoi(at)
	if err != nil || i >= len(n.Content) {
		return errInvolved
	}
	item := n.Content[i]
	if n.Style&yaml.FlowStyle != 0 {
		return e.removeFlow(item)
	}
	line := item.Line - 1
	if indent(e.line(line)) != n.Column-1 { // the dash begins the line
		return errInvolved
	}
	e.removeLines(line, e.blockEnd(line, n.Column-1, false))
	return nil
}

func (e *editor) removeLines(from, to int) { e.replace(e.starts[from], e.starts[to], "") }
