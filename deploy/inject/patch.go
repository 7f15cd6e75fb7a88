package inject

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Op is one operation of JSON Patch (RFC 6902): "add" or "remove".
type Op struct {
	Op string `json:"op"`
	// Path is a JSON pointer.
	Path string `json:"path"`
	// Value is what "add" adds.
	Value any `json:"value,omitempty"`
}

var (
	escapePointer   = strings.NewReplacer("~", "~0", "/", "~1")
	unescapePointer = strings.NewReplacer("~1", "/", "~0", "~")
)

// pointer makes a JSON pointer of names.
func pointer(names ...string) string {
	var b strings.Builder
	for _, n := range names {
		b.WriteByte('/')
		b.WriteString(escapePointer.Replace(n))
	}
	return b.String()
}

// names takes a JSON pointer apart.
func names(pointer string) []string {
	if pointer == "" {
		return nil
	}
	parts := strings.Split(pointer[1:], "/")
	for i := range parts {
		parts[i] = unescapePointer.Replace(parts[i])
	}
	return parts
}

// below puts a prefix before the paths of ops.
func below(prefix string, ops []Op) []Op {
	out := make([]Op, len(ops))
	for i, op := range ops {
		out[i] = Op{Op: op.Op, Path: prefix + op.Path, Value: op.Value}
	}
	return out
}

// parseJSON reads values, numbers as they are written.
func parseJSON(data []byte) (any, error) {
	var v any
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	err := d.Decode(&v)
	return v, err
}

// plain turns a Go value into what parseJSON gives, so that values compare.
func plain(v any) (any, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return parseJSON(data)
}

// at finds what lies at a path; nil where there is nothing.
func at(v any, path ...string) any {
	for _, name := range path {
		switch node := v.(type) {
		case map[string]any:
			v = node[name]
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(node) {
				return nil
			}
			v = node[i]
		default:
			return nil
		}
	}
	return v
}

// apply carries ops out on a tree of values, which it changes, and returns it.
func apply(tree any, ops []Op) (any, error) {
	for _, op := range ops {
		var err error
		if tree, err = applyOne(tree, names(op.Path), op); err != nil {
			return nil, fmt.Errorf("cannot %s %s: %w", op.Op, op.Path, err)
		}
	}
	return tree, nil
}

func applyOne(tree any, path []string, op Op) (any, error) {
	name := path[0]
	if len(path) > 1 {
		child := at(tree, name)
		if child == nil {
			return nil, fmt.Errorf("there is no %q", name)
		}
		changed, err := applyOne(child, path[1:], op)
		if err != nil {
			return nil, err
		}
		switch node := tree.(type) {
		case map[string]any:
			node[name] = changed
		case []any:
			i, _ := strconv.Atoi(name) // at has read it
			node[i] = changed
		}
		return tree, nil
	}
	switch node := tree.(type) {
	case map[string]any:
		if op.Op == "remove" {
			delete(node, name)
			return node, nil
		}
		value, err := plain(op.Value)
		node[name] = value
		return node, err
	case []any:
		i, err := strconv.Atoi(name)
		if name == "-" {
			i, err = len(node), nil
		}
		switch {
		case err != nil || i < 0 || i > len(node) || op.Op == "remove" && i == len(node):
			return nil, fmt.Errorf("there is no item %q", name)
		case op.Op == "remove":
			return slices.Delete(node, i, i+1), nil
		}
		value, err := plain(op.Value)
		return slices.Insert(node, i, value), err
	}
	return nil, fmt.Errorf("%q lies in what is neither a mapping nor a list", name)
}
