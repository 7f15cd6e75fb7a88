package event

import (
	"hash/maphash"
	"strings"
)

// words are an interner's strings as a batch has them: written out, or joined of
// two that are, where that is shorter. Paths of few collections and operations,
// say, are told by the names of these. It keeps its memory.
type words struct {
	// ranks has, by number in the interner, the number in the batch.
	ranks []uint32
	// plain are those written out, in their order; number 0 is the empty one.
	plain []string
	// heads and tails of those that are joined, in order of their numbers.
	heads, tails []uint32
	// pieces finds those of the class at hand that are no strings of the
	// interner; numbers has theirs.
	pieces  index
	numbers []uint32

	columns [stringColumns]column
	joins   [joinedColumns]column
	text    []byte
	most    struct{ ranks, plain, heads, tails, numbers, text need }
}

const (
	// maxJoined is how many strings of a class may be joined: where there are
	// more, most are new, and looking for what they have in common takes its time
	// for little.
	maxJoined = 2048
	// joined marks a rank that counts from the end of those that are plain.
	joined = 1 << 31
	// keepWords is how many strings' room is kept from batch to batch.
	keepWords = 4096
)

// gather ranks all strings of t.
func (w *words) gather(t *interner) {
	w.ranks = room(w.ranks, len(t.strings)+1)
	w.ranks[0] = 0
	w.plain, w.heads, w.tails = append(w.plain[:0], ""), w.heads[:0], w.tails[:0]
	for class := range uint8(classes) {
		n, cost := w.measure(t, class)
		if class < classPath || n < 2 || n > maxJoined || !w.join(t, class, cost) {
			w.write(t, class)
		}
	}
	for i, rank := range w.ranks {
		if rank&joined != 0 {
			w.ranks[i] = rank&^joined + uint32(len(w.plain))
		}
	}
	w.lay()
}

// measure is how many strings a class has, and about how long they are written
// out.
func (w *words) measure(t *interner, class uint8) (n, cost int) {
	before := ""
	for i, c := range t.class {
		if c == class {
			s := t.strings[i]
			n, cost, before = n+1, cost+1+len(s)-shared(before, s), s
		}
	}
	return n, cost
}

// write has a class's strings written out.
func (w *words) write(t *interner, class uint8) {
	for i, c := range t.class {
		if c == class {
			w.ranks[i+1] = uint32(len(w.plain))
			w.plain = append(w.plain, t.strings[i])
		}
	}
}

// join splits each string of a class in two. It tells whether that is shorter
// than most bytes; else nothing has changed.
func (w *words) join(t *interner, class uint8, most int) bool {
	w.forget()
	written, before := len(w.plain), len(w.heads)
	for i, c := range t.class {
		if c == class {
			s := t.strings[i]
			w.heads = append(w.heads, w.piece(t, s[:w.split(t, class, s)]))
		}
	}
	cost := joinedCost + len(w.heads) - before + w.cost(written)
	tails := len(w.plain)
	at := before
	for i, c := range t.class {
		if c == class {
			s := t.strings[i]
			w.ranks[i+1] = joined | uint32(at)
			at++
			w.tails = append(w.tails, w.piece(t, s[w.split(t, class, s):]))
		}
	}
	if cost+w.cost(tails) < most {
		return true
	}
	w.plain, w.heads, w.tails = w.plain[:written], w.heads[:before], w.tails[:before]
	return false
}

// joinedCost is about what the columns of joined strings take beside a byte
// each.
const joinedCost = 8

// cost is about how long the strings from a number on are written out.
func (w *words) cost(from int) (cost int) {
	before := ""
	for _, s := range w.plain[from:] {
		cost, before = cost+1+len(s)-shared(before, s), s
	}
	return cost
}

// piece finds or makes the number of a part of a string.
func (w *words) piece(t *interner, s string) uint32 {
	if s == "" {
		return 0
	}
	hash := maphash.String(t.seed, s)
	if n, ok := t.find(hash, s); ok && t.class[n-1] < classPath {
		return w.ranks[n]
	}
	if i, ok := w.pieces.find(hash, func(i uint32) bool { return w.plain[w.numbers[i]] == s }); ok {
		return w.numbers[i]
	}
	n := uint32(len(w.plain))
	w.plain = append(w.plain, s)
	w.pieces.add(hash)
	w.numbers = append(w.numbers, n)
	return n
}

// split is where a string of a class is best cut: a path and an identity before
// their last segment, a pod after its workload's name.
func (w *words) split(t *interner, class uint8, s string) int {
	if class != classPod {
		return strings.LastIndexByte(s, '/') + 1
	}
	end := len(s)
	for range 2 { // a replica set's hash, and the pod's
		if end = strings.LastIndexByte(s[:end], '-'); end <= 0 {
			return 0
		}
		if n, ok := t.number(s[:end]); ok && t.class[n-1] == className {
			return end
		}
	}
	return 0
}

// lay makes the columns and the text.
func (w *words) lay() {
	resetColumns(w.columns[:], false)
	resetColumns(w.joins[:], false)
	w.text = w.text[:0]
	for i, s := range w.plain[1:] {
		n := shared(w.plain[i], s)
		w.columns[stringShared].put(uint64(n))
		w.columns[stringLength].put(uint64(len(s) - n))
		w.text = append(w.text, s[n:]...)
	}
	for i, head := range w.heads {
		w.joins[joinedHead].put(uint64(head))
		w.joins[joinedTail].put(uint64(w.tails[i]))
	}
}

// forget forgets the pieces of a class.
func (w *words) forget() {
	w.pieces.reset(keepWords, false)
	w.numbers = w.numbers[:0]
}

// release lets go of the strings, which are the interner's, and gives memory back
// as [emptied] does.
func (p *Workspace) release() {
	p.batches++
	over := p.batches%usualBatches == 0
	w, m := &p.words, &p.words.most
	clear(w.plain)
	w.plain = emptied(w.plain, &m.plain, keepWords, over)
	w.ranks = emptied(w.ranks, &m.ranks, keepWords, over)
	w.heads = emptied(w.heads, &m.heads, keepWords, over)
	w.tails = emptied(w.tails, &m.tails, keepWords, over)
	w.numbers = emptied(w.numbers, &m.numbers, keepWords, over)
	w.text = emptied(w.text, &m.text, keepColumn, over)
	w.pieces.reset(keepWords, over)
	resetColumns(w.columns[:], over)
	resetColumns(w.joins[:], over)
	p.packer.release(over)
}

// appendStrings writes the strings, each without what it shares with the one
// before, and then those that are joined.
func (p *Workspace) appendStrings(dst []byte) []byte {
	w := &p.words
	if len(w.plain) == 1 {
		return dst
	}
	dst, at := begin(dst, fieldStrings, len(w.plain)-1)
	for i := range w.columns {
		dst = p.packer.append(dst, fieldColumn+i, source{data: w.columns[i].data, n: len(w.plain) - 1, mode: either})
	}
	dst = appendBytes(dst, fieldText, w.text)
	if n := len(w.heads); n > 0 {
		var from int
		dst, from = begin(dst, fieldJoined, n)
		for i := range w.joins {
			dst = p.packer.append(dst, fieldColumn+i, source{data: w.joins[i].data, n: n, mode: either})
		}
		dst = endField(dst, from)
	}
	return endField(dst, at)
}
