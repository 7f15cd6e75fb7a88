package event

import (
	"encoding/binary"
	"math/bits"
)

const continuations = 0x8080808080808080

// decodeVarints fills dst from b, which holds at least that many valid varints,
// and returns what follows them. It takes eight bytes at a time, and each value
// in them without a branch on its length, which a processor could not predict.
func decodeVarints(dst []uint64, b []byte) []byte {
	n := 0
	for len(b) >= 8 && n < len(dst) {
		x := binary.LittleEndian.Uint64(b)
		ends := ^x & continuations
		if ends == continuations && len(dst)-n >= 8 {
			eight := (*[8]uint64)(dst[n:])
			eight[0], eight[1], eight[2], eight[3] = x&0xff, x>>8&0xff, x>>16&0xff, x>>24&0xff
			eight[4], eight[5], eight[6], eight[7] = x>>32&0xff, x>>40&0xff, x>>48&0xff, x>>56
			n += 8
			b = b[8:]
			continue
		}
		if ends == 0 {
			v, size := binary.Uvarint(b)
			dst[n] = v
			n++
			b = b[size:]
			continue
		}
		used := 0
		for ; ends != 0 && n < len(dst); n++ {
			last := bits.TrailingZeros64(ends) & 63
			dst[n] = compact(x & (2<<last - 1))
			x = x >> last >> 1
			ends = ends >> last >> 1
			used += last + 1
		}
		b = b[used>>3:]
	}
	for ; n < len(dst); n++ {
		v, size := binary.Uvarint(b)
		dst[n] = v
		b = b[size:]
	}
	return b
}

// compact joins the low seven bits of each of eight bytes.
func compact(x uint64) uint64 {
	x = x&0x007f007f007f007f | x&0x7f007f007f007f00>>1
	x = x&0x00003fff00003fff | x&0x3fff00003fff0000>>2
	return x&0x000000000fffffff | x&0x0fffffff00000000>>4
}
