package http2

import (
	"slices"
	"sync"
)

// huffmanLengths are the lengths, in bits, of the codes of RFC 7541 appendix B,
// by symbol. The codes are canonical (numbered by length, then by symbol), so
// that the lengths say all.
var huffmanLengths = [256]uint8{
	13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
	28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
	6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
	5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
	13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
	7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
	15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
	6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
	20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
	24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
	22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
	21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
	26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
	19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
	20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
	26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
}

const (
	huffmanMax  = 30  // bits of the longest code
	huffmanEOS  = 256 // the symbol that must not occur; the last code of 30 bits
	huffmanFast = 11  // bits that one look-up resolves
	// huffmanLeast is the length of the shortest code.
	huffmanLeast = 5
)

// fastCodes is what the next huffmanFast bits hold: the one or two whole codes
// that they begin with, as most texts are of codes of five and six bits.
type fastCodes struct {
	symbols [2]byte
	count   uint8 // 0: the first code is longer
	bits    uint8 // of the codes together
}

// huffmanTables decode: codes of up to huffmanFast bits by look-up, longer
// ones by the canonical ranges.
type huffmanTables struct {
	fast [1 << huffmanFast]fastCodes
	// limit[n] is one past the last code of n bits or fewer, in n bits.
	limit [huffmanMax + 1]uint32
	// offset[n] is what to subtract from a code of n bits for its place in
	// symbols.
	offset  [huffmanMax + 1]uint32
	symbols [257]uint16
}

// huffman returns the tables, which are built when they are first needed.
var huffman = sync.OnceValue(func() *huffmanTables {
	t := new(huffmanTables)
	length := func(symbol int) int {
		if symbol == huffmanEOS {
			return huffmanMax
		}
		return int(huffmanLengths[symbol])
	}
	code, place := uint32(0), uint32(0)
	for n := 1; n <= huffmanMax; n++ {
		code <<= 1
		t.offset[n] = code - place
		for symbol := 0; symbol <= huffmanEOS; symbol++ {
			if length(symbol) != n {
				continue
			}
			t.symbols[place] = uint16(symbol)
			place++
			code++
		}
		t.limit[n] = code
	}
	for bits := range t.fast {
		t.fast[bits] = t.codes(uint64(bits))
	}
	return t
})

// codes finds the whole codes that huffmanFast bits begin with, two at most.
func (t *huffmanTables) codes(bits uint64) (f fastCodes) {
	left := uint(huffmanFast)
	for f.count < 2 && left > 0 {
		symbol, length := t.next(bits&(1<<left-1), left)
		if length > left {
			break
		}
		f.symbols[f.count] = byte(symbol) // never huffmanEOS: that is longer
		f.count++
		f.bits += uint8(length)
		left -= length
	}
	return f
}

// append decodes src and appends it to dst. It tells whether src was valid:
// whole codes, then fewer than 8 bits of padding, all ones.
func (t *huffmanTables) append(dst, src []byte) ([]byte, bool) {
	at := len(dst)
	// As many as there can be, and one more: two are written at a time.
	dst = slices.Grow(dst, len(src)*8/huffmanLeast+2)
	dst = dst[:cap(dst)]
	var acc uint64 // the low n bits are those not yet decoded
	var n uint
	for {
		for n <= 48 && len(src) > 0 {
			acc = acc<<8 | uint64(src[0])
			n += 8
			src = src[1:]
		}
		for n >= huffmanFast {
			f := &t.fast[acc>>(n-huffmanFast)&(1<<huffmanFast-1)]
			if f.count == 0 {
				break
			}
			_ = dst[at+1]
			dst[at], dst[at+1] = f.symbols[0], f.symbols[1]
			at += int(f.count)
			n -= uint(f.bits)
		}
		switch {
		case n < huffmanMax && len(src) > 0:
			continue
		case n == 0:
			return dst[:at], true
		case n < huffmanFast: // the end: what is missing reads as padding
			pad := huffmanFast - n
			f := &t.fast[(acc<<pad|(1<<pad-1))&(1<<huffmanFast-1)]
			if length := uint(huffmanLengths[f.symbols[0]]); f.count > 0 && length <= n {
				dst[at] = f.symbols[0]
				at++
				n -= length
				continue
			}
		}
		symbol, length := t.next(acc, n)
		if length > n { // no whole code is left
			ones := uint64(1)<<n - 1
			return dst[:at], n < 8 && acc&ones == ones
		}
		if symbol == huffmanEOS {
			return dst[:at], false
		}
		dst[at] = byte(symbol)
		at++
		n -= length
	}
}

// next finds the code that the low n bits of acc begin with. Where they hold
// no whole code the length is more than n.
func (t *huffmanTables) next(acc uint64, n uint) (symbol uint16, length uint) {
	var window uint32 // the next 30 bits, padded with ones
	if n >= huffmanMax {
		window = uint32(acc >> (n - huffmanMax) & (1<<huffmanMax - 1))
	} else {
		pad := huffmanMax - n
		window = uint32((acc<<pad | (1<<pad - 1)) & (1<<huffmanMax - 1))
	}
	for length = huffmanLeast; length < huffmanMax; length++ {
		if window>>(huffmanMax-length) < t.limit[length] {
			break
		}
	}
	return t.symbols[window>>(huffmanMax-length)-t.offset[length]], length
}
