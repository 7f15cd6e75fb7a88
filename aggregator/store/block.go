package store

import (
	"cmp"
	"slices"
	"sync"
)

// block holds the values of one step of a tier, encoded, one after the other.
type block struct {
	// entries in the order of arrival, until closed: then by id.
	entries []entry
	data    []byte
	// waste is how many bytes of data belong to no entry any more.
	waste  int
	sorted bool
	// index finds entries while the block is young.
	index map[uint32]int32
	// counted is what the shelf has counted of its bytes.
	counted int
}

type entry struct{ id, offset, size uint32 }

const entryBytes = 12

// settled is for how long after its end a block is expected to change, seconds.
const settled = 10

func (b *block) bytes() int {
	return cap(b.data) + entryBytes*cap(b.entries) + 24*len(b.index) + 128
}

// used is how much of it entries and values take.
func (b *block) used() int { return len(b.data) + entryBytes*len(b.entries) }

func (b *block) value(at int) []byte {
	e := b.entries[at]
	return b.data[e.offset : e.offset+e.size : e.offset+e.size]
}

// find is where the entry of an id is, or -1.
func (b *block) find(id uint32) int {
	if b.sorted {
		at, ok := slices.BinarySearchFunc(b.entries, id, func(e entry, id uint32) int { return cmp.Compare(e.id, id) })
		if !ok {
			return -1
		}
		return at
	}
	if at, ok := b.index[id]; ok {
		return int(at)
	}
	return -1
}

// append adds an entry whose id is not there yet.
func (b *block) append(id uint32, data []byte) {
	if b.index == nil {
		b.index = make(map[uint32]int32, max(len(b.entries)+1, cap(b.entries)))
		for at, e := range b.entries {
			b.index[e.id] = int32(at)
		}
	}
	b.sorted = false
	b.index[id] = int32(len(b.entries))
	b.entries = append(b.entries, entry{id, uint32(len(b.data)), uint32(len(data))})
	b.data = append(b.data, data...)
}

// replace gives an entry another value.
func (b *block) replace(at int, data []byte) {
	e := &b.entries[at]
	b.waste += int(e.size)
	if len(data) <= int(e.size) {
		b.waste -= len(data)
		copy(b.data[e.offset:], data)
		e.size = uint32(len(data))
		return
	}
	*e = entry{e.id, uint32(len(b.data)), uint32(len(data))}
	b.data = append(b.data, data...)
	if b.waste > 4096 && b.waste > len(b.data)/2 {
		b.pack()
	}
}

// push adds an entry whose id is greater than all there are, to a block that
// will be closed at once.
func (b *block) push(id uint32, data []byte) {
	b.entries = append(b.entries, entry{id, uint32(len(b.data)), uint32(len(data))})
	b.data = append(b.data, data...)
	b.sorted = false
}

// close makes a block small that is expected not to change any more. packed tells
// that it had much more room than it needs.
func (b *block) close() (packed bool) {
	if b.sorted {
		return false
	}
	slices.SortFunc(b.entries, func(x, y entry) int { return cmp.Compare(x.id, y.id) })
	if b.waste+cap(b.data)-len(b.data) > len(b.data)/slack {
		young := b.data
		b.pack()
		rooms.Put(&room{young[:0]})
		packed = true
	}
	b.entries = slices.Clip(b.entries)
	b.sorted, b.index = true, nil
	return packed
}

// slack is how many bytes are worth one that is wasted, rather than to copy them all.
const slack = 16

// guess tells how large a block will be from how large the last of its kind became,
// lest it grows bit by bit, which means copying. from is what each was made of, in
// whatever unit.
type guess struct{ from, bytes, entries int }

// block returns a new one, to be made of so much, in memory that makeRoom gives.
func (g *guess) block(from int, makeRoom func(bytes int) []byte) *block {
	if g.from == 0 || g.bytes == 0 {
		return &block{}
	}
	times := float64(from) / float64(g.from)
	return &block{
		data:    makeRoom(int(times*float64(g.bytes)*(1+0.5/slack)) + 64),
		entries: make([]entry, 0, int(times*float64(g.entries)*(1+0.5/slack))+4),
	}
}

// newRoom is room for n bytes.
func newRoom(n int) []byte { return make([]byte, 0, n) }

// room is memory in which the values of a block were until they were packed, for
// those of another.
type room struct{ data []byte }

// rooms are those that wait.
var rooms sync.Pool

// anyRoom is room for n bytes, and perhaps half as many more.
func anyRoom(n int) []byte {
	r, _ := rooms.Get().(*room)
	switch {
	case r == nil:
	case cap(r.data) >= n && cap(r.data) <= n+n/2:
		return r.data
	default:
		rooms.Put(r)
	}
	return newRoom(n)
}

// pack moves the values together.
func (b *block) pack() {
	data := make([]byte, 0, len(b.data)-b.waste)
	for i := range b.entries {
		e := &b.entries[i]
		offset := uint32(len(data))
		data = append(data, b.data[e.offset:e.offset+e.size]...)
		e.offset = offset
	}
	b.data, b.waste = data, 0
}
