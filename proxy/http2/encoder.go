package http2

import (
	"bytes"
	"hash/maphash"
)

// Sizes of what an encoder remembers; powers of two, above what a table of
// defaultTable bytes holds of usual fields.
const (
	encoderFields = 128
	encoderNames  = 64
)

// encoder encodes header blocks for one connection. A field enters the dynamic
// table when it comes the second time, so that what is in every request is
// there and what is in one is not. Strings are not compressed: the table does
// most of it, and peers are near. Its zero value needs init.
type encoder struct {
	table  dynamicTable
	seed   maphash.Seed
	added  uint32 // how many fields ever entered the table
	resize bool   // the table's size changed, and the peer must be told
	memory *encoderMemory
	noted  bool // a field was remembered, so that it is encoded otherwise next time
	lists  lists
}

// encoderMemory says where in the table a field may be, by its hash.
type encoderMemory struct {
	fields [encoderFields]remembered
	names  [encoderNames]uint32 // encoder.added when it entered
}

// remembered is a field that was encoded before.
type remembered struct {
	hash uint32
	at   uint32 // encoder.added when it entered the table; 0: it has not
}

func (e *encoder) init(seed maphash.Seed) {
	e.table.max = defaultTable
	e.seed = seed
}

// setMax follows the peer's SETTINGS_HEADER_TABLE_SIZE.
func (e *encoder) setMax(size uint32) {
	if size = min(size, defaultTable); size != e.table.max {
		e.table.resize(size)
		e.resize = true
	}
}

// append appends the block of the fields, which are as fields.add has them.
func (e *encoder) append(dst, list []byte) []byte {
	if e.memory == nil {
		e.memory = new(encoderMemory)
	}
	if e.resize {
		e.resize = false
		// Where it was smaller in between, emptying the table says so too.
		e.table.evict(e.table.max + 1)
		dst = append(dst, 0x20)
		dst = appendInt(dst, 0x20, 5, uint64(e.table.max))
	}
	if block := e.lists.find(list, e.table.state); block != nil {
		return append(dst, block...)
	}
	whole, at, before := list, len(dst), e.table.state
	e.noted = false
	for len(list) > 0 {
		id, never, text, n, rest := nextField(list)
		list = rest
		dst = e.field(dst, id, text, n, never)
	}
	if !e.noted && e.table.state == before {
		e.lists.keep(whole, dst[at:], before)
	}
	return dst
}

// field appends a field; text is its name of n bytes and its value.
func (e *encoder) field(dst []byte, id fieldName, text []byte, n int, never bool) []byte {
	exact, named := staticIndex(id, text[n:])
	if exact {
		return append(dst, 0x80|named)
	}
	if never {
		return e.literal(dst, 0x10, 4, uint64(named), text, n)
	}
	sum := maphash.Bytes(e.seed, text) ^ uint64(n)*0x9e3779b97f4a7c15
	slot, hash := &e.memory.fields[sum%encoderFields], uint32(sum>>32)
	index := uint64(named)
	var name *uint32
	if named == 0 {
		name = &e.memory.names[maphash.Bytes(e.seed, text[:n])%encoderNames]
		if i := e.index(*name); i > 0 {
			if have, _, _ := e.table.get(i); bytes.Equal(have, text[:n]) {
				index = uint64(i) + staticFields
			}
		}
	}
	if slot.hash != hash {
		*slot = remembered{hash: hash}
		e.noted = true
		return e.literal(dst, 0, 4, index, text, n)
	}
	if i := e.index(slot.at); i > 0 {
		have, value, _ := e.table.get(i)
		if bytes.Equal(have, text[:n]) && bytes.Equal(value, text[n:]) {
			return appendInt(dst, 0x80, 7, uint64(i)+staticFields)
		}
	}
	if uint32(len(text))+entryCost > e.table.max/4 {
		return e.literal(dst, 0, 4, index, text, n)
	}
	dst = e.literal(dst, 0x40, 6, index, text, n)
	e.table.insert(text[:n], text[n:], id)
	e.added++
	slot.at = e.added
	if name != nil {
		*name = e.added
	}
	return dst
}

// index is where in the table the field is that entered as the at-th; 0 where
// it is gone or never entered.
func (e *encoder) index(at uint32) int {
	i := e.added - at + 1
	if at == 0 || i > uint32(e.table.count) {
		return 0
	}
	return int(i)
}

// literal appends a field whose name may have an index.
func (e *encoder) literal(dst []byte, kind byte, prefix uint, index uint64, text []byte, n int) []byte {
	dst = appendInt(dst, kind, prefix, index)
	if index == 0 {
		dst = append(appendInt(dst, 0, 7, uint64(n)), text[:n]...)
	}
	return append(appendInt(dst, 0, 7, uint64(len(text)-n)), text[n:]...)
}

// staticIndex looks a field up in the static table: exact tells that index is
// that of name and value, else it is the name's, 0 where there is none.
func staticIndex(id fieldName, value []byte) (exact bool, index byte) {
	var first, last byte
	switch id {
	case fieldMethod:
		first, last = 2, 3
	case fieldScheme:
		first, last = 6, 7
	case fieldStatus:
		first, last = 8, 14
	case fieldPath:
		first, last = 4, 5
	case fieldAuthority:
		return false, 1
	case fieldHost:
		return false, 38
	case fieldContentType:
		return false, 31
	case fieldLength:
		return false, 28
	default:
		return false, 0
	}
	for i := first; i <= last; i++ {
		if staticTable[i-1].value == string(value) {
			return true, i
		}
	}
	return false, first
}
