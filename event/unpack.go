package event

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// packed is a column of the wire, being read: checked by parse, and then read
// block by block.
type packed struct {
	bits    []byte
	patches []byte
	base    uint64
	width   int
	delta   bool
	// n is how many values there are; 0 where all are 0.
	n int

	last  uint64 // the value before, of differences
	row   int    // of the next patch; n where there is none
	patch uint64 // what it adds
}

var (
	errShort  = errors.New("is cut short")
	errVarint = errors.New("holds what is no varint")
	errPatch  = errors.New("has a patch for a row that is not above the one before, or not there")
	errWidth  = errors.New("has numbers of more than 64 bits")
)

// parse takes a column of n values, which is absent where all are 0.
func (p *packed) parse(data []byte, n int) error {
	*p = packed{}
	if len(data) == 0 {
		return nil
	}
	head, size := binary.Uvarint(data)
	if size <= 0 {
		return errVarint
	}
	data = data[size:]
	if head>>widthShift > 64 {
		return errWidth
	}
	p.n, p.width, p.delta = n, int(head>>widthShift), head&flagDelta != 0
	if head&flagBase != 0 {
		base, size := binary.Uvarint(data)
		if size <= 0 {
			return errVarint
		}
		p.base, data = uint64(unzigzag(base)), data[size:]
	}
	length := (n*p.width + 7) / 8
	if len(data) < length {
		return errShort
	}
	// What follows belongs to the same batch: reading eight bytes at once may
	// reach into it.
	p.bits, p.patches = data, data[length:]
	if err := checkPatches(p.patches, n); err != nil {
		return err
	}
	p.nextPatch(0)
	return nil
}

func checkPatches(data []byte, n int) error {
	row := uint64(0)
	for first := true; len(data) > 0; first = false {
		step, size := binary.Uvarint(data)
		if size <= 0 {
			return errVarint
		}
		data = data[size:]
		if row += step; step >= MaxEvents || row >= uint64(n) || step == 0 && !first {
			return errPatch
		}
		if _, size = binary.Uvarint(data); size <= 0 {
			return errVarint
		}
		data = data[size:]
	}
	return nil
}

// nextPatch reads the patch after that of a row.
func (p *packed) nextPatch(row int) {
	if len(p.patches) == 0 {
		p.row = p.n
		return
	}
	step, size := binary.Uvarint(p.patches)
	high, more := binary.Uvarint(p.patches[size:])
	p.patches = p.patches[size+more:]
	p.row, p.patch = row+int(step), uint64(unzigzag(high))<<p.width
}

// read fills dst with the values from row first on, which is a multiple of
// blockRows; there are that many. Blocks are read in order.
func (p *packed) read(dst []uint64, first int) {
	p.unpack(dst, first)
	for p.row < first+len(dst) && p.row < p.n {
		dst[p.row-first] += p.patch
		p.nextPatch(p.row)
	}
	if p.delta {
		last := p.last
		for i, v := range dst {
			last += v
			dst[i] = last
		}
		p.last = last
	}
}

// unpack reads the numbers without their patches.
func (p *packed) unpack(dst []uint64, first int) {
	base, width := p.base, uint(p.width)
	if width == 0 {
		for i := range dst {
			dst[i] = base
		}
		return
	}
	b := p.bits[first*p.width/8:]
	if need := len(dst)*p.width/8 + 9; len(b) < need {
		var room [blockRows*8 + 16]byte
		copy(room[:], b)
		b = room[:need]
	}
	mask := uint64(1)<<width - 1
	if width <= 56 {
		done := len(dst) &^ 7
		switch {
		case width <= 8:
			unpack8(dst[:done], b, width, base)
		case width <= 16:
			unpack16(dst[:done], b, width, base)
		case width <= 30:
			unpack30(dst[:done], b, width, base)
		default:
			done = 0
		}
		bit := uint(done) * width
		for i := done; i < len(dst); i++ {
			dst[i] = binary.LittleEndian.Uint64(b[bit>>3:])>>(bit&7)&mask + base
			bit += width
		}
		return
	}
	for i := range dst {
		bit := uint(i) * width
		at := b[bit>>3:]
		v := binary.LittleEndian.Uint64(at)>>(bit&7) | uint64(at[8])<<(64-bit&7)
		dst[i] = v&mask + base
	}
}

// Eight numbers begin at a byte, whatever their width, so those who take eight at
// a time need as few loads as the numbers fill: one where they have up to 8 bits.

// unpack8 reads numbers of up to 8 bits, a multiple of eight of them.
func unpack8(dst []uint64, b []byte, width uint, base uint64) {
	mask := uint64(1)<<(width&63) - 1
	for len(dst) >= 8 {
		d, x := (*[8]uint64)(dst), binary.LittleEndian.Uint64(b)
		d[0] = x&mask + base
		x >>= width & 63
		d[1] = x&mask + base
		x >>= width & 63
		d[2] = x&mask + base
		x >>= width & 63
		d[3] = x&mask + base
		x >>= width & 63
		d[4] = x&mask + base
		x >>= width & 63
		d[5] = x&mask + base
		x >>= width & 63
		d[6] = x&mask + base
		x >>= width & 63
		d[7] = x&mask + base
		dst, b = dst[8:], b[width:]
	}
}

// unpack16 reads numbers of up to 16 bits, a multiple of eight of them: four from
// each of two loads, the second of which may begin within a byte.
func unpack16(dst []uint64, b []byte, width uint, base uint64) {
	mask := uint64(1)<<(width&63) - 1
	half, shift := width>>1, 4*width&7
	for len(dst) >= 8 {
		d, x, y := (*[8]uint64)(dst), binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[half:])>>(shift&63)
		d[0], d[4] = x&mask+base, y&mask+base
		x, y = x>>(width&63), y>>(width&63)
		d[1], d[5] = x&mask+base, y&mask+base
		x, y = x>>(width&63), y>>(width&63)
		d[2], d[6] = x&mask+base, y&mask+base
		x, y = x>>(width&63), y>>(width&63)
		d[3], d[7] = x&mask+base, y&mask+base
		dst, b = dst[8:], b[width:]
	}
}

// unpack30 reads numbers of up to 30 bits, a multiple of eight of them: two from
// each of four loads.
func unpack30(dst []uint64, b []byte, width uint, base uint64) {
	mask := uint64(1)<<(width&63) - 1
	for len(dst) >= 8 {
		d := (*[8]uint64)(dst)
		x := binary.LittleEndian.Uint64(b)
		y := binary.LittleEndian.Uint64(b[2*width>>3:]) >> (2 * width & 7)
		z := binary.LittleEndian.Uint64(b[4*width>>3:]) >> (4 * width & 7)
		w := binary.LittleEndian.Uint64(b[6*width>>3:]) >> (6 * width & 7)
		d[0], d[1] = x&mask+base, x>>(width&63)&mask+base
		d[2], d[3] = y&mask+base, y>>(width&63)&mask+base
		d[4], d[5] = z&mask+base, z>>(width&63)&mask+base
		d[6], d[7] = w&mask+base, w>>(width&63)&mask+base
		dst, b = dst[8:], b[width:]
	}
}

// all reads a whole column of n values into dst, whose memory it may use. It is
// empty where all are 0.
func (p *packed) all(dst []uint64) []uint64 {
	dst = room(dst, p.n)
	for first := 0; first < p.n; first += blockRows {
		p.read(dst[first:min(first+blockRows, p.n)], first)
	}
	return dst
}

// spec is what a column's values must be below; 0 for no bound.
type spec struct {
	name  string
	limit uint64
}

func (s spec) exceeded(entry int, v uint64) error {
	return fmt.Errorf("%s of entry %d is %d, and must be below %d", s.name, entry, v, s.limit)
}

// check holds a column's values to the bound, without looking at each where
// that shows from the width alone.
func (p packed) check(want spec) error {
	if want.limit == 0 || p.n == 0 {
		return nil
	}
	if !p.delta && p.row == p.n && p.width < 32 && p.base < want.limit && p.base+(1<<p.width-1) < want.limit {
		return nil
	}
	var block [blockRows]uint64
	for first := 0; first < p.n; first += blockRows {
		b := block[:min(blockRows, p.n-first)]
		p.read(b, first)
		for i, v := range b {
			if v >= want.limit {
				return want.exceeded(first+i, v)
			}
		}
	}
	return nil
}
