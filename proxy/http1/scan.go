package http1

import (
	"encoding/binary"
	"math/bits"
)

// token holds which bytes may stand in a method or a field name (RFC 9110,
// section 5.6.2).
var token = class("!#$%&'*+-.^_`|~" + alphanumeric)

// hostByte holds which bytes may stand in an authority: those of RFC 3986's
// host and port, without the comma (lists of hosts) and the at sign (user
// information, which RFC 9110 section 4.2.4 forbids).
var hostByte = class("-._~%!$&'()*+;=:[]" + alphanumeric)

const alphanumeric = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

func class(members string) (set [256]bool) {
	for i := range len(members) {
		set[members[i]] = true
	}
	return set
}

// only tells whether p holds nothing but members of set.
func only(p []byte, set *[256]bool) bool {
	for _, c := range p {
		if !set[c] {
			return false
		}
	}
	return true
}

const (
	lowBits  = 0x0101010101010101
	highBits = 0x8080808080808080
)

// control returns the index, from from on, of the first control byte (below
// 0x20, or DEL) of p, or -1. It looks at eight bytes at a time: heads are
// mostly text, and this is the one pass over all of it.
func control(p []byte, from int) int {
	i := from
	for ; i+8 <= len(p); i += 8 {
		x := binary.LittleEndian.Uint64(p[i:])
		del := x ^ 0x7f*lowBits
		// A byte's high bit is set if the byte is below 0x20 (or is DEL); the
		// lowest set one is never a false alarm.
		if m := ((x-0x20*lowBits)&^x | (del-lowBits)&^del) & highBits; m != 0 {
			return i + bits.TrailingZeros64(m)>>3
		}
	}
	for ; i < len(p); i++ {
		if p[i] < 0x20 || p[i] == 0x7f {
			return i
		}
	}
	return -1
}

// equalFold tells whether p is word, which is in lower case, but for case.
func equalFold(p []byte, word string) bool {
	if len(p) != len(word) {
		return false
	}
	for i := range len(word) {
		c := p[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != word[i] {
			return false
		}
	}
	return true
}

// sameFold tells whether a and b are the same but for case.
func sameFold(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		x, y := a[i], b[i]
		if x != y && (x|0x20 != y|0x20 || x|0x20 < 'a' || x|0x20 > 'z') {
			return false
		}
	}
	return true
}

// trim cuts spaces and tabs off both ends.
func trim(p []byte) []byte {
	for len(p) > 0 && (p[0] == ' ' || p[0] == '\t') {
		p = p[1:]
	}
	for len(p) > 0 && (p[len(p)-1] == ' ' || p[len(p)-1] == '\t') {
		p = p[:len(p)-1]
	}
	return p
}

// hexDigit returns the value of a hexadecimal digit, or -1.
func hexDigit(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
