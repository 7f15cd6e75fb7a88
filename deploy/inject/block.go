package inject

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// blockEntry writes one key of a mapping, or without a key one item of a list, as
// lines.
func blockEntry(key string, value any) (string, error) {
	if key == "" {
		return blockValue([]any{value})
	}
	v, err := blockNode(value)
	if err != nil {
		return "", err
	}
	k := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: key, Style: scalarStyle(key)}
	return encode(&yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Content: []*yaml.Node{k, v}})
}

// blockValue writes a value as lines.
func blockValue(value any) (string, error) {
	n, err := blockNode(value)
	if err != nil {
		return "", err
	}
	return encode(n)
}

func encode(n *yaml.Node) (string, error) {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	e.CompactSeqIndent()
	if err := e.Encode(n); err != nil {
		return "", err
	}
	return b.String(), e.Close()
}

// blockNode turns a value into YAML without braces, fields in the order of JSON, by
// which a container begins with its name.
func blockNode(value any) (*yaml.Node, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	var root yaml.Node
	if err := yaml.Unmarshal(data, &root); err != nil {
		return nil, err
	}
	restyle(root.Content[0])
	return root.Content[0], nil
}

func restyle(n *yaml.Node) {
	n.Style = 0
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		n.Style = scalarStyle(n.Value)
	}
	for _, child := range n.Content {
		restyle(child)
	}
}

// scalarStyle is how a text is written, so that no version of YAML reads it as
// anything but text.
func scalarStyle(s string) yaml.Style {
	switch {
	case strings.Contains(s, "\n"):
		return yaml.LiteralStyle
	case regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9_./-]*$`).MatchString(s) && !reserved[strings.ToLower(s)]:
		return 0
	}
	return yaml.DoubleQuotedStyle
}

// reserved are what YAML 1.1 takes for something else than text.
var reserved = map[string]bool{
	"y": true, "n": true, "yes": true, "no": true, "on": true, "off": true, "true": true, "false": true, "null": true,
}
