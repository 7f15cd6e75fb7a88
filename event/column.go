package event

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

// column gathers the numbers of one column while a batch fills: compactly, as
// zigzag varints. [packer] brings it into the form of the wire.
type column struct {
	data []byte
	any  uint64
	most need // bytes
}

func (c *column) put(v uint64) {
	c.any |= v
	v = zigzag(int64(v))
	if v < 0x80 {
		c.data = append(c.data, byte(v))
		return
	}
	c.data = binary.AppendUvarint(c.data, v)
}

// reset empties a column, and gives back the memory that a burst made larger
// than keepColumn, or that was not needed of late, where that is over.
func (c *column) reset(over bool) {
	c.any = 0
	if cap(c.data) > keepColumn && len(c.data) < keepColumn/2 {
		c.data = nil
	}
	c.data = emptied(c.data, &c.most, MaxBatchBytes, over)
}

func resetColumns(columns []column, over bool) {
	for i := range columns {
		columns[i].reset(over)
	}
}

// blockRows is how many rows are unpacked or packed at a time; as a multiple of
// eight it makes every block begin with a byte of its own.
const blockRows = 128

// How a column is written.
const (
	plain   = iota
	changes // of values from one to the next
	changed // the same, and what was put are the differences
	either  // plain or changes, whichever is shorter: costs a pass more
)

// Flags of a packed column's first number, below its width.
const (
	flagBase   = 1
	flagDelta  = 2
	widthShift = 2
)

// packer writes columns: all numbers in as many bits as most need, less a base,
// and patches for the others. It keeps its memory.
type packer struct {
	values  []uint64 // of the column at hand
	most    need     // values
	longest int      // column since the last release
	patches []byte
	// counts are how many values have so many bits, those below 0 after the
	// others.
	counts [2 * 65]uint32
	// above is how many values from 0 up have so many bits or more, below how many
	// of those below 0; more is by how many bytes the numbers of the patches
	// exceed one each, at each width.
	above, below, more [65 + 8]uint32
}

// keepValues is how long a column may be whose room the packer keeps.
const keepValues = 16 << 10

// source is a column as the packer reads it.
type source struct {
	data []byte
	n    int
	mode int
	// rank translates numbers, where not nil.
	rank []uint32
	// first is added to the first value.
	first uint64
}

// load decodes a column's values, once for all that is then done with them.
func (p *packer) load(s *source) {
	if cap(p.values) > keepValues && s.n <= keepValues {
		p.values = nil
	}
	if cap(p.values) < s.n {
		p.values = make([]uint64, s.n, s.n+s.n/4)
	}
	p.values, p.longest = p.values[:s.n], max(p.longest, s.n)
	v := p.values
	decodeVarints(v, s.data)
	for i, x := range v {
		v[i] = uint64(unzigzag(x))
	}
	if s.n > 0 {
		v[0] += s.first
	}
	if s.rank != nil {
		for i, x := range v {
			v[i] = uint64(s.rank[x])
		}
	}
	if s.mode == changes {
		p.subtract()
	}
}

// release gives back memory as [emptied] does.
func (p *packer) release(over bool) {
	if p.most.exceeded(cap(p.values), p.longest, over) {
		p.values = nil
	}
	p.longest = 0
}

// subtract replaces values by their differences.
func (p *packer) subtract() {
	last := uint64(0)
	for i, x := range p.values {
		p.values[i], last = x-last, x
	}
}

// add undoes subtract.
func (p *packer) add() {
	last := uint64(0)
	for i, x := range p.values {
		last += x
		p.values[i] = last
	}
}

// append writes a column as a field, or nothing where it holds only zeros.
func (p *packer) append(dst []byte, field int, s source) []byte {
	p.load(&s)
	base, width, bits := p.choose()
	if width == 0 && base == 0 && p.counts[0] == uint32(s.n) {
		return dst
	}
	if s.mode == either {
		s.mode = changes
		p.subtract()
		if b, w, less := p.choose(); less < bits {
			base, width = b, w
		} else {
			s.mode = plain
			p.add()
		}
	}
	dst = append(dst, byte(field<<3|wireBytes))
	at := len(dst)
	head := uint64(width) << widthShift
	if base != 0 {
		head |= flagBase
	}
	if s.mode != plain {
		head |= flagDelta
	}
	dst = binary.AppendUvarint(dst, head)
	if base != 0 {
		dst = binary.AppendUvarint(dst, zigzag(int64(base)))
	}
	dst = p.pack(dst, base, width)
	return endField(dst, at)
}

// endField puts the length before what was appended since at.
func endField(dst []byte, at int) []byte {
	n := len(dst) - at
	size := uvarintSize(uint64(n))
	dst = append(dst, make([]byte, size)...)
	copy(dst[at+size:], dst[at:at+n])
	binary.PutUvarint(dst[at:], uint64(n))
	return dst
}

// choose finds the base and the width that make a column shortest, or nearly,
// and how many bits it then takes, about.
func (p *packer) choose() (base uint64, width, best int) {
	clear(p.counts[:])
	n := len(p.values)
	if n == 0 {
		return 0, 0, 0
	}
	least, most := int64(1<<63-1), int64(-1<<63)
	for _, v := range p.values {
		q := int64(v)
		sign := q >> 63
		p.counts[bits.Len64(uint64(q^sign))+int(sign&65)]++
		least, most = min(least, q), max(most, q)
	}
	base, width = uint64(least), bits.Len64(uint64(most)-uint64(least))
	if least > 0 && bits.Len64(uint64(most)) <= width || width == 64 {
		base = 0
	}
	best = n*width + 8*baseSize(base)
	top := bits.Len64(max(uint64(most)&^uint64(most>>63), uint64(least^least>>63)))
	p.accumulate(top)
	// The narrower, the more patches: once these alone are too many, they stay so.
	for w := min(width, top) - 1; w >= 0; w-- {
		more := int(p.more[w])
		patches := patchBits(int(p.above[w+1]+p.below[0]), more, n)
		if cost := n*w + patches; cost < best {
			best, base, width = cost, 0, w
		}
		if w > 0 && least < 0 {
			middle := ^uint64(0) << (w - 1)
			around := patchBits(int(p.above[w]+p.below[w]), more, n)
			if cost := n*w + 8*baseSize(middle) + around; cost < best {
				best, base, width = cost, middle, w
			}
			patches = min(patches, around)
		}
		if patches > best {
			break
		}
	}
	return base, width, best
}

// accumulate makes above, below and more from the counts.
func (p *packer) accumulate(top int) {
	clear(p.above[top+1:])
	clear(p.below[top+1:])
	clear(p.more[top+1:])
	for size := top; size >= 0; size-- {
		p.above[size] = p.above[size+1] + p.counts[size]
		p.below[size] = p.below[size+1] + p.counts[65+size]
		p.more[size] = p.more[size+7] + p.above[size+7] + p.below[size+7]
	}
}

// patchBits estimates what so many patches take, which have more bytes than one
// each.
func patchBits(patches, more, n int) int {
	total := 2*patches + more
	if patches*64 < n {
		total += patches
	}
	return 8 * total
}

func baseSize(base uint64) int {
	if base == 0 {
		return 0
	}
	return uvarintSize(zigzag(int64(base)))
}

// pack writes the numbers' low bits, and then the patches.
func (p *packer) pack(dst []byte, base uint64, width int) []byte {
	at := len(dst)
	size := (len(p.values)*width + 7) / 8
	dst = slices.Grow(dst, size+8)[:at+size+8]
	out := dst[at:]
	p.patches = p.patches[:0]
	mask := uint64(1)<<width - 1
	var held uint64
	bit, patched := 0, 0
	for row, v := range p.values {
		v -= base
		if high := int64(v) >> width; high != 0 && width < 64 {
			p.patches = binary.AppendUvarint(p.patches, uint64(row-patched))
			p.patches = binary.AppendUvarint(p.patches, zigzag(high))
			patched = row
		}
		v &= mask
		held |= v << bit
		if bit += width; bit >= 64 {
			binary.LittleEndian.PutUint64(out, held)
			out = out[8:]
			bit -= 64
			held = v >> (width - bit)
		}
	}
	binary.LittleEndian.PutUint64(out, held)
	return append(dst[:at+size], p.patches...)
}

// fieldSize is what a bytes field of n bytes takes; fields are mostly below 16,
// so a tag is one byte.
func fieldSize(n int) int { return 1 + uvarintSize(uint64(n)) + n }

func uvarintSize(v uint64) int {
	n := 1
	for v >= 0x80 {
		v >>= 7
		n++
	}
	return n
}

const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
)

func appendBytes[T string | []byte](dst []byte, field int, data T) []byte {
	dst = appendTag(dst, field, wireBytes)
	dst = binary.AppendUvarint(dst, uint64(len(data)))
	return append(dst, data...)
}

func appendTag(dst []byte, field, wire int) []byte {
	return binary.AppendUvarint(dst, uint64(field<<3|wire))
}

// appendString leaves out the empty string, as proto3 does.
func appendString(dst []byte, field int, s string) []byte {
	if s == "" {
		return dst
	}
	return appendBytes(dst, field, s)
}

// appendUint leaves out zero, as proto3 does.
func appendUint(dst []byte, field int, v uint64) []byte {
	if v == 0 {
		return dst
	}
	dst = appendTag(dst, field, wireVarint)
	return binary.AppendUvarint(dst, v)
}

func zigzag(v int64) uint64 { return uint64(v<<1) ^ uint64(v>>63) }

func unzigzag(v uint64) int64 { return int64(v>>1) ^ -int64(v&1) }
