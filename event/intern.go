package event

import (
	"hash/maphash"
	"unicode/utf8"
	"unsafe"
)

const (
	// chunkBytes is the unit in which copies of strings are kept.
	chunkBytes = 4 << 10
	// keepChunks, keepColumn, keepEntries (of peers, connections and strings) and
	// keepRoutes (of routes and exchanges) are what a Reset keeps of a burst:
	// memory beyond them is given back.
	keepChunks  = 32
	keepColumn  = 64 << 10
	keepEntries = 4096
	keepRoutes  = 1024
)

// Classes of strings. Those of one class are written one after another, for
// they mostly begin alike.
const (
	classWord = iota // methods, reasons, kinds and the like
	className
	classPath
	classPod
	classIdentity
	classes
)

// interner numbers strings and keeps copies of them until its reset. Its tables
// and chunks are used again, so that it stops allocating once it has seen a
// batch of the usual size.
type interner struct {
	index   index
	seed    maphash.Seed // nobody else can make strings collide
	strings []string
	class   []uint8 // of each string
	bytes   int     // of the strings, about as encoded
	chunks  [][]byte
	chunk   int // the one being filled
	most    struct{ strings, class, chunks need }
	scratch []byte
}

// text is the string of a number.
func (t *interner) text(n uint32) string {
	if n == 0 {
		return ""
	}
	return t.strings[n-1]
}

// intern gives the number of a string; text of that is a copy that lives until
// reset.
func (t *interner) intern(s string, class uint8) uint32 {
	if s == "" {
		return 0
	}
	if len(t.strings) == 0 && t.seed == (maphash.Seed{}) {
		t.seed = maphash.MakeSeed()
	}
	hash := maphash.String(t.seed, s)
	if n, ok := t.find(hash, s); ok {
		return n
	}
	clean := t.clean(s)
	if len(clean) != len(s) || clean != s {
		hash = maphash.String(t.seed, clean)
		if n, ok := t.find(hash, clean); ok {
			return n
		}
	}
	kept := t.keep(clean)
	t.strings = append(t.strings, kept)
	t.class = append(t.class, class)
	t.index.add(hash)
	t.bytes += fieldSize(len(kept))
	return uint32(len(t.strings))
}

func (t *interner) find(hash uint64, s string) (uint32, bool) {
	n, ok := t.index.find(hash, func(n uint32) bool { return t.strings[n] == s })
	return n + 1, ok
}

// number is that of a string, if it is there.
func (t *interner) number(s string) (uint32, bool) {
	if len(t.strings) == 0 {
		return 0, false
	}
	return t.find(maphash.String(t.seed, s), s)
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

// reset forgets all strings; their text is no longer valid. It gives memory back
// as [emptied] does.
func (t *interner) reset(over bool) {
	clear(t.strings)
	t.strings = emptied(t.strings, &t.most.strings, keepEntries, over)
	t.class = emptied(t.class, &t.most.class, keepEntries, over)
	t.index.reset(keepEntries, over)
	t.bytes = 0
	keep, used := keepChunks, t.chunk+1
	if n := &t.most.chunks; n.exceeded(len(t.chunks)*chunkBytes, used*chunkBytes, over) {
		keep = max(used, n.least/chunkBytes)
	}
	if len(t.chunks) > keep {
		clear(t.chunks[keep:])
		t.chunks = t.chunks[:keep]
	}
	for i := range t.chunks {
		t.chunks[i] = t.chunks[i][:0]
	}
	t.chunk = 0
}
