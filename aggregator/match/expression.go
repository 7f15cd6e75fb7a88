package match

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/conf"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser"
	"github.com/weirmesh/weir/event"
)

// maxNodes bounds what an expression is made of.
const maxNodes = 256

// where compiles an expression.
func where(s string) (p predicate, failure *Error) {
	defer func() {
		// The parser is another's: whatever it should do with what strangers
		// write, it must not end this process.
		if r := recover(); r != nil {
			p, failure = nil, fail("where", "it cannot be read: %v", r)
		}
	}()
	plain, places, failure := withoutUnits(s)
	if failure != nil {
		return nil, failure
	}
	c := &compiler{source: s, places: places, fields: Fields()}
	config := conf.New(nil)
	config.MaxNodes = maxNodes
	config.DisableIfOperator = true
	clear(config.Builtins)
	clear(config.Functions)
	tree, err := parser.ParseWithConfig(plain, config)
	if err != nil {
		var at *file.Error
		if errors.As(err, &at) {
			return nil, c.failAt(at.Location, "%s", syntax(at.Message))
		}
		return nil, fail("where", "%v", err)
	}
	n, failure := c.compile(tree.Node)
	if failure != nil {
		return nil, failure
	}
	if n.kind != Bool {
		return nil, c.failAt(tree.Node.Location(), "this is a %s, not a condition; compare it, as in %s", n.kind, n.asCondition())
	}
	return n.truth, nil
}

// syntax says what the parser found wrong, in the words of whoever wrote the
// expression instead of the parser's.
func syntax(message string) string {
	rest, ok := strings.CutPrefix(message, "unexpected token ")
	switch {
	case !ok:
		return message
	case strings.HasPrefix(rest, "EOF"):
		return "it ends too early"
	}
	// The rest is as Operator("=").
	_, word, ok := strings.Cut(rest, `("`)
	end := strings.LastIndex(word, `")`)
	if !ok || end < 0 {
		return message
	}
	if word = word[:end]; word == "=" {
		return "= compares nothing; use =="
	}
	return strconv.Quote(word) + " is not expected here: is and, or, a comparison, a quote or a bracket missing?"
}

// place says that the runes from `at` on, of the expression without units, come
// from those from `from` on, and have the unit.
type place struct {
	at, from int
	unit     Unit
}

// withoutUnits replaces each amount with a unit by a plain number, as the
// parser knows no units.
func withoutUnits(s string) (string, []place, *Error) {
	var out []rune
	places := []place{{}}
	in := []rune(s)
	for i := 0; i < len(in); {
		switch r := in[i]; {
		case r == '"' || r == '\'' || r == '`':
			end := closing(in, i)
			out = append(out, in[i:end]...)
			i = end
		case r >= '0' && r <= '9':
			end := i
			for end < len(in) && (unicode.IsDigit(in[end]) || unicode.IsLetter(in[end]) || in[end] == '.' && end+1 < len(in) && unicode.IsDigit(in[end+1])) {
				end++
			}
			word := string(in[i:end])
			v, unit, ok := quantity(word)
			if !ok {
				return "", nil, fail("where", "at character %d: %q is no number, or its unit is none of us, ms, s, m, h, B, kB, KiB, MB, MiB, GB, GiB", i+1, clip(word))
			}
			places = append(places, place{at: len(out), from: i, unit: unit})
			out = append(out, []rune(strconv.FormatFloat(v, 'f', -1, 64))...)
			places = append(places, place{at: len(out), from: end})
			i = end
		case unicode.IsLetter(r) || r == '_':
			for i < len(in) && (unicode.IsLetter(in[i]) || unicode.IsDigit(in[i]) || in[i] == '_') {
				out = append(out, in[i])
				i++
			}
		default:
			out = append(out, r)
			i++
		}
	}
	return string(out), places, nil
}

// closing is the place after a quoted text that begins at i.
func closing(in []rune, i int) int {
	quote := in[i]
	for i++; i < len(in); i++ {
		if in[i] == '\\' && quote != '`' {
			i++
		} else if in[i] == quote {
			return i + 1
		}
	}
	return len(in)
}

type compiler struct {
	source string
	places []place
	fields []Field
}

// place of a rune of the expression without units.
func (c *compiler) place(at int) place {
	p := c.places[0]
	for _, next := range c.places[1:] {
		if next.at <= at {
			p = next
		}
	}
	return p
}

func (c *compiler) failAt(l file.Location, format string, args ...any) *Error {
	p := c.place(l.From)
	at := min(p.from+max(0, l.From-p.at), len([]rune(c.source)))
	return fail("where", "at character %d: %s", at+1, fmt.Sprintf(format, args...))
}

// node is a part of an expression: what gives its value, by kind.
type node struct {
	kind Kind
	// name of the field, where it is one.
	name string
	// constant tells that it is the same for every event.
	constant bool
	unit     Unit

	text   func(h *event.Header, e *event.Event) string
	number func(h *event.Header, e *event.Event) float64
	truth  predicate
}

// asCondition shows how a node is made a condition.
func (n *node) asCondition() string {
	switch {
	case n.name == "":
		return `path == "/"`
	case n.kind == Text:
		return n.name + ` == "x"`
	}
	return n.name + " > " + strings.Fields(example(n.unit))[0]
}

func (c *compiler) compile(n ast.Node) (*node, *Error) {
	switch n := n.(type) {
	case *ast.IdentifierNode:
		return c.field(n)
	case *ast.IntegerNode:
		return c.literal(n, float64(n.Value)), nil
	case *ast.FloatNode:
		return c.literal(n, n.Value), nil
	case *ast.StringNode:
		v := n.Value
		return &node{kind: Text, constant: true, text: func(*event.Header, *event.Event) string { return v }}, nil
	case *ast.BoolNode:
		v := n.Value
		return &node{kind: Bool, constant: true, truth: func(*event.Header, *event.Event) bool { return v }}, nil
	case *ast.UnaryNode:
		return c.unary(n)
	case *ast.BinaryNode:
		return c.binary(n)
	}
	return nil, c.failAt(n.Location(), "%s is not possible here; %s", construct(n), possible)
}

// possible is what an expression may have.
const possible = "there are fields, numbers, texts in quotes, comparisons, + - * /, in [..], contains, startsWith, endsWith, and, or, not and brackets"

// operators are those that there are, for whatever operands.
var operators = [...]string{"==", "!=", "<", "<=", ">", ">=", "+", "-", "*", "/", "contains", "startsWith", "endsWith", "and", "&&", "or", "||"}

// construct names what the parser knows and this language does not have.
func construct(n ast.Node) string {
	switch n.(type) {
	case *ast.CallNode, *ast.BuiltinNode:
		return "a call of a function"
	case *ast.MemberNode, *ast.ChainNode, *ast.SliceNode:
		return "a part of a value"
	case *ast.ConditionalNode:
		return "a choice with ?"
	}
	return "this"
}

func (c *compiler) literal(n ast.Node, v float64) *node {
	return &node{kind: Number, constant: true, unit: c.place(n.Location().From).unit, number: func(*event.Header, *event.Event) float64 { return v }}
}

func (c *compiler) field(n *ast.IdentifierNode) (*node, *Error) {
	for i := range c.fields {
		if f := &c.fields[i]; f.Name == n.Value {
			return &node{kind: f.Kind, name: f.Name, unit: f.Unit, text: f.text, number: f.number, truth: f.truth}, nil
		}
	}
	return nil, c.failAt(n.Location(), "%s", unknownField(n.Value, c.fields))
}

func (c *compiler) unary(n *ast.UnaryNode) (*node, *Error) {
	of, err := c.compile(n.Node)
	if err != nil {
		return nil, err
	}
	switch {
	case (n.Operator == "not" || n.Operator == "!") && of.kind == Bool:
		return condition(func(h *event.Header, e *event.Event) bool { return !of.truth(h, e) }), nil
	case n.Operator == "-" && of.kind == Number:
		return &node{kind: Number, constant: of.constant, unit: of.unit, number: func(h *event.Header, e *event.Event) float64 { return -of.number(h, e) }}, nil
	}
	return nil, c.failAt(n.Location(), "%s cannot be used with a %s", n.Operator, of.kind)
}

func condition(p predicate) *node { return &node{kind: Bool, truth: p} }

func (c *compiler) binary(n *ast.BinaryNode) (*node, *Error) {
	a, err := c.compile(n.Left)
	if err != nil {
		return nil, err
	}
	if n.Operator == "in" {
		return c.in(a, n)
	}
	b, err := c.compile(n.Right)
	if err != nil {
		return nil, err
	}
	var out *node
	switch {
	case a.kind != b.kind:
		return nil, c.failAt(n.Location(), "%s cannot be used between a %s and a %s", n.Operator, a.kind, b.kind)
	case a.kind == Number && !fits(a.unit, b.unit) && !fits(b.unit, a.unit):
		return nil, c.failAt(n.Location(), "a time and a number of bytes cannot be compared")
	case a.kind == Bool:
		out = logic(n.Operator, a.truth, b.truth)
	case a.kind == Text:
		out = onText(n.Operator, a.text, b.text)
	default:
		out = onNumbers(n.Operator, a, b)
	}
	if out == nil && !slices.Contains(operators[:], n.Operator) {
		return nil, c.failAt(n.Location(), "%s is not possible here; %s", n.Operator, possible)
	}
	if out == nil {
		return nil, c.failAt(n.Location(), "%s cannot be used with a %s", n.Operator, a.kind)
	}
	return out, nil
}

func logic(op string, a, b predicate) *node {
	switch op {
	case "and", "&&":
		return condition(func(h *event.Header, e *event.Event) bool { return a(h, e) && b(h, e) })
	case "or", "||":
		return condition(func(h *event.Header, e *event.Event) bool { return a(h, e) || b(h, e) })
	case "==":
		return condition(func(h *event.Header, e *event.Event) bool { return a(h, e) == b(h, e) })
	case "!=":
		return condition(func(h *event.Header, e *event.Event) bool { return a(h, e) != b(h, e) })
	}
	return nil
}

func onText(op string, a, b func(*event.Header, *event.Event) string) *node {
	var test func(a, b string) bool
	switch op {
	case "==":
		test = func(a, b string) bool { return a == b }
	case "!=":
		test = func(a, b string) bool { return a != b }
	case "<":
		test = func(a, b string) bool { return a < b }
	case "<=":
		test = func(a, b string) bool { return a <= b }
	case ">":
		test = func(a, b string) bool { return a > b }
	case ">=":
		test = func(a, b string) bool { return a >= b }
	case "contains":
		test = strings.Contains
	case "startsWith":
		test = strings.HasPrefix
	case "endsWith":
		test = strings.HasSuffix
	default:
		return nil
	}
	return condition(func(h *event.Header, e *event.Event) bool { return test(a(h, e), b(h, e)) })
}

func onNumbers(op string, a, b *node) *node {
	x, y := a.number, b.number
	if compare := comparator(op); compare != nil {
		return condition(func(h *event.Header, e *event.Event) bool { return compare(x(h, e), y(h, e)) })
	}
	out := &node{kind: Number, constant: a.constant && b.constant, unit: max(a.unit, b.unit)}
	switch op {
	case "+":
		out.number = func(h *event.Header, e *event.Event) float64 { return x(h, e) + y(h, e) }
	case "-":
		out.number = func(h *event.Header, e *event.Event) float64 { return x(h, e) - y(h, e) }
	case "*":
		out.number = func(h *event.Header, e *event.Event) float64 { return x(h, e) * y(h, e) }
	case "/":
		out.number = func(h *event.Header, e *event.Event) float64 { return x(h, e) / y(h, e) }
	default:
		return nil
	}
	return out
}

// in compiles `field in ["a", "b"]`.
func (c *compiler) in(a *node, n *ast.BinaryNode) (*node, *Error) {
	list, ok := n.Right.(*ast.ArrayNode)
	if !ok || a.kind == Bool {
		return nil, c.failAt(n.Right.Location(), `what follows in is a list of values in brackets, as in method in ["GET", "HEAD"]`)
	}
	numbers, texts := map[float64]bool{}, map[string]bool{}
	for _, item := range list.Nodes {
		v, err := c.compile(item)
		if err != nil {
			return nil, err
		}
		if !v.constant || v.kind != a.kind || !fits(v.unit, a.unit) {
			return nil, c.failAt(item.Location(), "the list must hold values, each a %s", a.kind)
		}
		if v.kind == Number {
			numbers[v.number(nil, nil)] = true
		} else {
			texts[v.text(nil, nil)] = true
		}
	}
	if a.kind == Number {
		return condition(func(h *event.Header, e *event.Event) bool { return numbers[a.number(h, e)] }), nil
	}
	return condition(func(h *event.Header, e *event.Event) bool { return texts[a.text(h, e)] }), nil
}
