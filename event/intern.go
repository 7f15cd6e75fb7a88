package event

import (
	"unicode/utf8"
	"unsafe"
)

const (
	// chunkBytes is the unit in which copies of strings are kept.
	chunkBytes = 16 << 10
	// keepChunks, keepColumn, keepEntries (of peers and connections) and
	// keepRoutes (of routes, exchanges and strings) are what a Reset keeps of a
	// burst: memory beyond them is given back.
	keepChunks  = 4
	keepColumn  = 64 << 10
	keepEntries = 4096
	keepRoutes  = 1024
)

// Classes of strings. Those of one class are written one after another, for
// they mostly begin alike.
const (
	classWord = iota // methods, reasons, kinds and the like
	classPath
	className
	classPod
	classIdentity
	classes
)

// interner numbers strings and keeps copies of them until its reset. Its maps
// and chunks are used again, so that it stops allocating once it has seen a
// batch of the usual size.
type interner struct {
	numbers map[string]uint32
	strings []string
	class   []uint8 // of each string
	ranks   []uint32
	// order, columns and text are made from the strings by sort.
	order   []uint32
	columns [stringColumns]column
	text    []byte
	bytes   int // of the strings, about as encoded
	chunks  [][]byte
	chunk   int // the one being filled
	scratch []byte
}

// intern gives the number of a string, and a copy that lives until reset.
func (t *interner) intern(s string, class uint8) (uint32, string) {
	if s == "" {
		return 0, ""
	}
	if n, ok := t.numbers[s]; ok {
		return n, t.strings[n-1]
	}
	clean := t.clean(s)
	if len(clean) != len(s) || clean != s {
		if n, ok := t.numbers[clean]; ok {
			return n, t.strings[n-1]
		}
	}
	if t.numbers == nil {
		t.numbers = make(map[string]uint32)
	}
	kept := t.keep(clean)
	t.strings = append(t.strings, kept)
	t.class = append(t.class, class)
	n := uint32(len(t.strings))
	t.numbers[kept] = n
	t.bytes += fieldSize(len(kept))
	return n, kept
}

// rank gives each string its number in the batch, by class; 0 stays 0. The
// result is valid until the next call.
func (t *interner) rank() []uint32 {
	var next [classes + 1]uint32
	for _, c := range t.class {
		next[c+1]++
	}
	for i := 1; i <= classes; i++ {
		next[i] += next[i-1]
	}
	t.ranks = append(t.ranks[:0], 0)
	for _, c := range t.class {
		next[c]++
		t.ranks = append(t.ranks, next[c])
	}
	return t.ranks
}

// sort makes columns and text: the strings in order of rank, which must be up
// to date, each without what it shares with the one before.
func (t *interner) sort() {
	t.order = room(t.order, len(t.strings))
	for i, rank := range t.ranks[1:] {
		t.order[rank-1] = uint32(i)
	}
	resetColumns(t.columns[:])
	t.text = t.text[:0]
	before := ""
	for _, i := range t.order {
		s := t.strings[i]
		n := shared(before, s)
		t.columns[stringShared].put(uint64(n))
		t.columns[stringLength].put(uint64(len(s) - n))
		t.text = append(t.text, s[n:]...)
		before = s
	}
}

// shared is how many bytes two strings have in common at their beginnings.
func shared(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// clean makes a string fit for protobuf: valid UTF-8, with U+FFFD for each byte
// that is not, and at most MaxStringBytes, cut between characters. Where it
// changes anything, the result is valid until the next call.
func (t *interner) clean(s string) string {
	if len(s) <= MaxStringBytes && utf8.ValidString(s) {
		return s
	}
	t.scratch = t.scratch[:0]
	for _, r := range s {
		if len(t.scratch)+utf8.RuneLen(r) > MaxStringBytes {
			break
		}
		t.scratch = utf8.AppendRune(t.scratch, r)
	}
	return unsafe.String(unsafe.SliceData(t.scratch), len(t.scratch))
}

// keep copies a string of at most MaxStringBytes into a chunk.
func (t *interner) keep(s string) string {
	if len(t.chunks) == 0 {
		t.chunks = append(t.chunks, make([]byte, 0, chunkBytes))
	}
	c := &t.chunks[t.chunk]
	if len(*c)+len(s) > cap(*c) {
		t.chunk++
		if t.chunk == len(t.chunks) {
			t.chunks = append(t.chunks, make([]byte, 0, chunkBytes))
		}
		c = &t.chunks[t.chunk]
	}
	at := len(*c)
	*c = append(*c, s...)
	return unsafe.String(unsafe.SliceData((*c)[at:]), len(s))
}

// reset forgets all strings; what intern returned is no longer valid.
func (t *interner) reset() {
	if len(t.strings) > keepRoutes {
		t.numbers, t.strings, t.class, t.ranks, t.order = nil, nil, nil, nil, nil
	}
	if cap(t.text) > keepColumn {
		t.text = nil
	}
	clear(t.numbers)
	clear(t.strings)
	t.strings, t.class, t.bytes = t.strings[:0], t.class[:0], 0
	if len(t.chunks) > keepChunks {
		clear(t.chunks[keepChunks:])
		t.chunks = t.chunks[:keepChunks]
	}
	for i := range t.chunks {
		t.chunks[i] = t.chunks[i][:0]
	}
	t.chunk = 0
}
