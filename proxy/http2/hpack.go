package http2

import (
	"errors"
	"unsafe"
)

// Errors of decode.
var (
	errCompression = errors.New("header block is no valid HPACK")
	errListTooLong = errors.New("header list is larger than the proxy allows")
)

// maxScratch is how many bytes of decoded strings a decoder keeps room for
// between blocks.
const maxScratch = 2048

// decoder decodes the header blocks of one direction of a connection. Its zero
// value needs limit and the table's maximum set. It allocates nothing once its
// buffers have grown.
type decoder struct {
	table dynamicTable
	// limit is the largest table that whoever receives the blocks announced.
	limit   uint32
	scratch []byte
	huffman *huffmanTables

	// Of the block that was decoded last: whether it refers to the dynamic
	// table, and what it enters there, as fields has it. unkept: it does more
	// to the table than that.
	refers, unkept bool
	entered        []byte
}

func (d *decoder) init() {
	d.limit = defaultTable
	d.table.max = defaultTable
	d.huffman = huffman()
}

// decode decodes a whole block into h. After an error the decoder is out of
// step with its encoder and of no more use.
func (d *decoder) decode(block []byte, maxList int, h *head) error {
	if cap(d.scratch) > maxScratch {
		d.scratch = nil
	}
	d.refers, d.unkept, d.entered = false, false, d.entered[:0]
	first := true
	for len(block) > 0 {
		var err error
		b := block[0]
		switch {
		case b&0x80 != 0:
			block, err = d.indexed(block, h)
		case b&0xc0 == 0x40:
			block, err = d.literal(block, 6, true, h)
		case b&0xe0 == 0x20:
			block, err = d.update(block, first)
			if err != nil {
				return err
			}
			continue // still at the beginning
		default:
			h.never = b&0x10 != 0
			block, err = d.literal(block, 4, false, h)
			h.never = false
		}
		if err != nil {
			return err
		}
		if h.size > maxList {
			return errListTooLong
		}
		first = false
	}
	return nil
}

// update follows a dynamic table size update, allowed where a block begins.
func (d *decoder) update(block []byte, first bool) ([]byte, error) {
	size, rest, ok := readInt(block, 5)
	if !ok || !first || size > uint64(d.limit) {
		return nil, errCompression
	}
	d.unkept = true
	d.table.resize(uint32(size))
	return rest, nil
}

func (d *decoder) indexed(block []byte, h *head) ([]byte, error) {
	index, rest, ok := readInt(block, 7)
	if !ok {
		return nil, errCompression
	}
	name, value, id, ok := d.entry(index)
	if !ok {
		return nil, errCompression
	}
	h.known = true
	h.field(id, name, value)
	h.known = false
	return rest, nil
}

// entry looks an index up in both tables.
func (d *decoder) entry(index uint64) (name, value []byte, id fieldName, ok bool) {
	switch {
	case index == 0:
		return nil, nil, 0, false
	case index <= staticFields:
		e := &staticTable[index-1]
		return bytesOf(e.name), bytesOf(e.value), e.id, true
	case index <= staticFields+uint64(d.table.count):
		d.refers = true
		name, value, id = d.table.get(int(index - staticFields))
		return name, value, id, true
	}
	return nil, nil, 0, false
}

func (d *decoder) literal(block []byte, prefix uint, keep bool, h *head) ([]byte, error) {
	index, rest, ok := readInt(block, prefix)
	if !ok {
		return nil, errCompression
	}
	d.scratch = d.scratch[:0]
	var name []byte
	var id fieldName
	if index != 0 {
		name, _, id, ok = d.entry(index)
		if ok && keep && index > staticFields {
			// insert must not be given what it may move.
			d.scratch = append(d.scratch, name...)
			name = d.scratch
		}
	} else {
		name, rest, ok = d.text(rest)
		id = nameOf(name)
	}
	if !ok {
		return nil, errCompression
	}
	value, rest, ok := d.text(rest)
	if !ok {
		return nil, errCompression
	}
	h.field(id, name, value)
	if keep {
		d.table.insert(name, value, id)
		if len(d.entered)+len(name)+len(value) > maxKeptList {
			d.unkept = true
		} else {
			d.entered = appendFieldParts(d.entered, id, name, value, false)
		}
	}
	return rest, nil
}

// text reads a string. It points into block, or into scratch where it was
// compressed; what text returned before stays valid.
func (d *decoder) text(block []byte) (text, rest []byte, ok bool) {
	if len(block) == 0 {
		return nil, nil, false
	}
	compressed := block[0]&0x80 != 0
	n, rest, ok := readInt(block, 7)
	if !ok || n > uint64(len(rest)) {
		return nil, nil, false
	}
	text, rest = rest[:n], rest[n:]
	if compressed {
		start := len(d.scratch)
		d.scratch, ok = d.huffman.append(d.scratch, text)
		text = d.scratch[start:]
	}
	return text, rest, ok
}

// readInt reads an integer with a prefix of n bits (RFC 7541, 5.1).
func readInt(b []byte, n uint) (v uint64, rest []byte, ok bool) {
	if len(b) == 0 {
		return 0, nil, false
	}
	mask := uint64(1)<<n - 1
	v = uint64(b[0]) & mask
	b = b[1:]
	if v < mask {
		return v, b, true
	}
	for shift := uint(0); shift < 63 && len(b) > 0; shift += 7 {
		c := b[0]
		b = b[1:]
		v += uint64(c&0x7f) << shift
		if c&0x80 == 0 {
			return v, b, true
		}
	}
	return 0, nil, false
}

// appendInt appends v with a prefix of n bits; high are the bits above it.
func appendInt(dst []byte, high byte, n uint, v uint64) []byte {
	mask := uint64(1)<<n - 1
	if v < mask {
		return append(dst, high|byte(v))
	}
	dst = append(dst, high|byte(mask))
	v -= mask
	for v >= 0x80 {
		dst = append(dst, byte(v)|0x80)
		v >>= 7
	}
	return append(dst, byte(v))
}

// appendField appends a literal field that refers to no table, and is never to
// enter one: it may have been sent as such.
func appendField(dst, name, value []byte) []byte {
	dst = append(dst, 0x10)
	dst = append(appendInt(dst, 0, 7, uint64(len(name))), name...)
	return append(appendInt(dst, 0, 7, uint64(len(value))), value...)
}

// bytesOf is s as bytes, which must not be written to.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
