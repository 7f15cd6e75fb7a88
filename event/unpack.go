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
		bit := uint(0)
		for i := range dst {
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
