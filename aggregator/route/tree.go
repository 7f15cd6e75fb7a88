package route

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
)

// Bounds of what a Tree learns.
const (
	// Variety is how many literal values a segment may have under one prefix
	// before it becomes Any.
	Variety = 100
	// maxNodes of one tree. At the bound, its widest position becomes Any.
	maxNodes = 1000
	// maxKept values of a position that became Any keep their name, each with
	// its share of at least one in keepShare of all, seen at least keepSeen
	// times.
	maxKept   = 16
	keepShare = 32
	keepSeen  = 8
	// unused is for how long a value counts, seconds, and learned, for how long
	// a position stays Any that nobody asks for.
	unused  = 3600
	learned = 24 * 3600
)

// Budget bounds the nodes of several trees together. It is not safe for
// concurrent use.
type Budget struct {
	// Nodes is how many more there may be.
	Nodes int
}

// Tree learns which segments of one workload's paths vary. It is not safe for
// concurrent use, but Canonical may run beside itself.
type Tree struct {
	budget  *Budget
	root    node
	nodes   int
	version uint64
}

// node is a position: what follows a prefix.
type node struct {
	children map[string]*node
	// literals is how many children count to the variety: all but those that
	// are placeholders.
	literals int
	// any: literal values that are no children are Any.
	any  bool
	seen uint32
	// used is when it last was, Unix seconds.
	used int64
}

// Position is one that has become Any, as it is written down.
type Position struct {
	// Prefix is the template before it: "" or "/users".
	Prefix string
	// Kept values have their own name still.
	Kept []string
	// Used is when it last was, Unix seconds.
	Used int64
}

// NewTree returns a tree that knows nothing, with its nodes out of a budget.
func NewTree(b *Budget) *Tree { return &Tree{budget: b} }

// Version changes whenever templates do: Canonical of an earlier template may
// be another then.
func (t *Tree) Version() uint64 { return t.version }

// Nodes is how much the tree takes of its budget.
func (t *Tree) Nodes() int { return t.nodes }

// Template appends the template of a path, and learns from it. now is in Unix
// seconds. It allocates only where something new is learned.
func (t *Tree) Template(dst []byte, path string, now int64) []byte {
	return t.template(dst, path, now, 1)
}

// Seen learns from a path as so many calls of Template do.
func (t *Tree) Seen(path string, now int64, times uint32) {
	var buffer [MaxTemplate]byte
	t.template(buffer[:0], path, now, times)
}

// Canonical appends what has become of a template, or the template of a path,
// without learning.
func (t *Tree) Canonical(dst []byte, path string) []byte {
	return t.template(dst, path, 0, 0)
}

// template learns from the path as if it came so many times; 0: not at all.
func (t *Tree) template(dst []byte, path string, now int64, times uint32) []byte {
	learn := times > 0
	w := walk{rest: pathOf(path)}
	if !strings.HasPrefix(w.rest, "/") {
		return append(dst, bare(w.rest)...)
	}
	start, n := len(dst), &t.root
	for w.next() {
		if learn && n != nil {
			n.used = max(n.used, now)
		}
		if w.full(len(dst) - start) {
			return append(append(dst, '/'), Rest...)
		}
		dst = append(dst, '/')
		at := len(dst)
		child := n.child(w.segment)
		if child != nil {
			dst = append(dst, w.segment...)
		} else {
			dst = appendSegment(dst, w.segment)
			name := dst[at:]
			child = n.bytes(name)
			if child == nil && n != nil && n.any && !wholeBytes(name) {
				dst = append(dst[:at], Any...)
				child = n.child(Any)
			}
			if child == nil && learn && n != nil {
				child, dst = t.grow(n, dst, start, at, now)
			}
		}
		if learn && child != nil {
			child.seen += times
			child.used = max(child.used, now)
		}
		n = child
	}
	return dst
}

func (n *node) child(name string) *node {
	if n == nil {
		return nil
	}
	return n.children[name]
}

func (n *node) bytes(name []byte) *node {
	if n == nil {
		return nil
	}
	return n.children[string(name)]
}

// grow adds a child named dst[at:] to what dst[start:at] leads to. Where that is
// one too many, positions become Any, and dst says so. The child is nil where
// the budget is used up: such a path is known by its shape alone.
func (t *Tree) grow(n *node, dst []byte, start, at int, now int64) (*node, []byte) {
	name := string(dst[at:])
	child := t.add(n, name)
	if child == nil {
		return nil, dst
	}
	child.used = now
	switch {
	case n.literals > Variety:
		t.collapse(n, n.major())
	case t.nodes > maxNodes:
		t.shrink()
	default:
		return child, dst
	}
	// What leads here may be called something else now.
	return t.find(dst[:start], string(dst[start:]))
}

// find is where a template leads, and appends what has become of it.
func (t *Tree) find(dst []byte, template string) (*node, []byte) {
	n := &t.root
	for w := (walk{rest: template}); w.next(); {
		name := w.segment
		if n.child(name) == nil && n != nil && n.any && !whole(name) {
			name = Any
		}
		dst = append(append(dst, '/'), name...)
		n = n.child(name)
	}
	return n, dst
}

func (t *Tree) add(n *node, name string) *node {
	if t.budget.Nodes <= 0 {
		return nil
	}
	t.budget.Nodes--
	t.nodes++
	if n.children == nil {
		n.children = map[string]*node{}
	}
	child := &node{}
	n.children[name] = child
	if !whole(name) {
		n.literals++
	}
	return child
}

// collapse lets a position become Any, but for the values named, in any order.
func (t *Tree) collapse(n *node, kept []string) {
	t.version++
	n.any = true
	star := n.children[Any]
	if star == nil {
		star = &node{}
		if n.children == nil {
			n.children = map[string]*node{}
		}
		n.children[Any] = star
		t.nodes++
		t.budget.Nodes--
	}
	var gone []string
	for name := range n.children {
		if !whole(name) && !slices.Contains(kept, name) {
			gone = append(gone, name)
		}
	}
	slices.Sort(gone)
	for _, name := range gone {
		child := n.children[name]
		delete(n.children, name)
		n.literals--
		t.absorb(star, child)
	}
}

// major are the literal children that are worth their names.
func (n *node) major() []string {
	var names []string
	var total uint64
	for name, child := range n.children {
		if !whole(name) {
			total += uint64(child.seen)
			if child.seen >= keepSeen {
				names = append(names, name)
			}
		}
	}
	names = slices.DeleteFunc(names, func(name string) bool { return uint64(n.children[name].seen)*keepShare < total })
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(n.children[b].seen, n.children[a].seen), strings.Compare(a, b))
	})
	return names[:min(len(names), maxKept)]
}

// absorb merges a node, which is gone then, into another.
func (t *Tree) absorb(into, from *node) {
	into.seen += from.seen
	into.used = max(into.used, from.used)
	into.any = into.any || from.any
	t.nodes--
	t.budget.Nodes++
	for name, child := range from.children {
		switch have := into.children[name]; {
		case have != nil:
			t.absorb(have, child)
		default:
			if into.children == nil {
				into.children = map[string]*node{}
			}
			into.children[name] = child
			if !whole(name) {
				into.literals++
			}
		}
	}
	if into.literals > Variety || into.any && into.literals > 0 {
		t.collapse(into, into.major())
	}
}

// shrink lets the widest positions become Any until there is room again.
func (t *Tree) shrink() {
	for t.nodes > maxNodes*3/4 {
		var s search
		if s.visit(&t.root); s.best == nil {
			break
		}
		t.collapse(s.best, s.best.major())
	}
	if t.nodes > maxNodes*3/4 {
		t.cut(&t.root)
	}
	if t.nodes > maxNodes*3/4 {
		t.Reset()
	}
}

// Reset forgets everything, and gives the budget back.
func (t *Tree) Reset() {
	t.budget.Nodes += t.nodes
	t.nodes, t.root = 0, node{}
	t.version++
}

// search looks for the widest position: that with the most literal values of
// which two or more would lose their names; of several, that of the least
// prefix.
type search struct {
	prefix, found []byte
	best          *node
}

func (s *search) visit(n *node) {
	if n.literals > 1 && (s.best == nil || n.literals > s.best.literals || n.literals == s.best.literals && bytes.Compare(s.prefix, s.found) < 0) &&
		n.literals-len(n.major()) > 1 {
		s.best, s.found = n, append(s.found[:0], s.prefix...)
	}
	at := len(s.prefix)
	for name, child := range n.children {
		if len(child.children) > 0 {
			s.prefix = append(append(s.prefix[:at], '/'), name...)
			s.visit(child)
		}
	}
	s.prefix = s.prefix[:at]
}

// cut forgets all that is not Any: no position is to blame.
func (t *Tree) cut(n *node) {
	for name, child := range n.children {
		t.cut(child)
		if len(child.children) == 0 && !child.any {
			t.drop(n, name)
		}
	}
}

func (t *Tree) drop(n *node, name string) {
	delete(n.children, name)
	t.nodes--
	t.budget.Nodes++
	if !whole(name) {
		n.literals--
	}
}

// Sweep forgets what nobody asked for in long: values for an hour, positions
// that are Any for a day. now is in Unix seconds.
func (t *Tree) Sweep(now int64) { t.sweep(&t.root, now) }

func (t *Tree) sweep(n *node, now int64) {
	if n.any && now-n.used > learned {
		n.any = false
		t.version++
	}
	for name, child := range n.children {
		t.sweep(child, now)
		kept := n.any // what a position kept, and its Any, stay as long as it
		if !kept && len(child.children) == 0 && !child.any && now-child.used > unused {
			t.drop(n, name)
		}
	}
}

// Positions lists the positions that have become Any, in the order of their
// prefixes.
func (t *Tree) Positions() []Position {
	all := positions(&t.root, "", nil)
	slices.SortFunc(all, func(a, b Position) int { return strings.Compare(a.Prefix, b.Prefix) })
	return all
}

func positions(n *node, prefix string, all []Position) []Position {
	if n.any {
		p := Position{Prefix: prefix, Used: n.used}
		for name := range n.children {
			if !whole(name) {
				p.Kept = append(p.Kept, name)
			}
		}
		slices.Sort(p.Kept)
		all = append(all, p)
	}
	for name, child := range n.children {
		all = positions(child, prefix+"/"+name, all)
	}
	return all
}

// Learn makes a position Any that another tree has found to be so, or an
// earlier one.
func (t *Tree) Learn(p Position) {
	n := &t.root
	n.used = max(n.used, p.Used)
	for w := (walk{rest: p.Prefix}); w.next(); {
		name := w.segment
		if n.child(name) == nil && n.any && !whole(name) {
			name = Any
		}
		child := n.child(name)
		if child == nil {
			if child = t.add(n, name); child == nil {
				return
			}
		}
		child.used = max(child.used, p.Used)
		n = child
	}
	if n.any || len(p.Kept) > maxKept || t.budget.Nodes <= len(p.Kept)+1 || t.nodes > 2*maxNodes {
		return
	}
	for _, name := range p.Kept {
		if n.child(name) == nil {
			t.add(n, name).used = p.Used
		}
	}
	t.collapse(n, p.Kept)
}
