package event

import (
	"encoding/binary"
	"math/bits"
)

const continuations = 0x8080808080808080

// countVarints is how many varints a packed column holds: each ends with its
// first byte below 0x80.
func countVarints(b []byte) int {
	n := 0
	for ; len(b) >= 8; b = b[8:] {
		n += bits.OnesCount64(^binary.LittleEndian.Uint64(b) & continuations)
	}
	for _, c := range b {
		n += int(c>>7 ^ 1)
	}
	return n
}

// decodeVarints fills dst from a column that holds len(dst) of them, and tells
// whether each is valid and b ends with the last. It takes eight bytes at a
// time: columns of small numbers go eight values a step, and others without a
// branch on their length, which a processor could not predict.
func decodeVarints(dst []uint64, b []byte) bool {
	n := 0
	for len(b) >= 8 && n < len(dst) {
		x := binary.LittleEndian.Uint64(b)
		ends := ^x & continuations
		if ends == continuations && len(dst)-n >= 8 {
			eight := (*[8]uint64)(dst[n:])
			for i := range eight {
				eight[i] = x >> (8 * i) & 0xff
			}
			n += 8
			b = b[8:]
			continue
		}
		if ends == 0 {
			v, size := binary.Uvarint(b)
			if size <= 0 {
				return false
			}
			dst[n] = v
			n++
			b = b[size:]
			continue
		}
		last := bits.TrailingZeros64(ends)
		dst[n] = compact(x & (2<<last - 1))
		n++
		b = b[(last+1)>>3:]
	}
	for n < len(dst) {
		v, size := binary.Uvarint(b)
		if size <= 0 {
			return false
		}
		dst[n] = v
		n++
		b = b[size:]
	}
	return len(b) == 0
}

// compact joins the low seven bits of each of eight bytes.
func compact(x uint64) uint64 {
	x = x&0x007f007f007f007f | x&0x7f007f007f007f00>>1
	x = x&0x00003fff00003fff | x&0x3fff00003fff0000>>2
	return x&0x000000000fffffff | x&0x0fffffff00000000>>4
}
