package conformance

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// A lenient reads HTTP/1 as some server somewhere does: each field is a way in
// which servers have differed. It only finds where requests end.
type lenient struct {
	name string
	// bareLF takes LF alone for the end of a line.
	bareLF bool
	// lengthFirst believes Content-Length where there is Transfer-Encoding too.
	lengthFirst bool
	// lastLength believes the last of several Content-Length, else the first.
	lastLength bool
	// anyChunked finds "chunked" anywhere in Transfer-Encoding; else it must be
	// the whole value.
	anyChunked bool
	// trims forgives white space and control bytes around names and sizes, and
	// a size's prefix and tail.
	trims bool
	// noExtensions takes a chunk's extension up to the first LF of any kind.
	noExtensions bool
}

// leniences are servers that differ as much as they can.
var leniences = []lenient{
	{name: "strict"},
	{name: "bare LF", bareLF: true, anyChunked: true},
	{name: "length first", lengthFirst: true},
	{name: "last length", lengthFirst: true, lastLength: true, trims: true},
	{name: "any chunked", anyChunked: true, trims: true},
	{name: "forgives all", bareLF: true, lastLength: true, anyChunked: true, trims: true, noExtensions: true},
}

// ends returns the offsets in b at which requests end.
func (l *lenient) ends(b []byte) []int {
	var all []int
	at := 0
	for at < len(b) {
		for bytes.HasPrefix(b[at:], []byte("\r\n")) {
			at += 2 // Empty lines before a request are skipped by all.
		}
		n := l.request(b[at:])
		if n < 0 {
			break
		}
		at += n
		all = append(all, at)
	}
	return all
}

// line returns a line without its end, and the size of both; -1: not whole.
func (l *lenient) line(b []byte) (string, int) {
	end, size := bytes.Index(b, []byte("\r\n")), 2
	if l.bareLF {
		if lf := bytes.IndexByte(b, '\n'); lf >= 0 && (end < 0 || lf < end) {
			end, size = lf, 1
		}
	}
	if end < 0 {
		return "", -1
	}
	return string(b[:end]), end + size
}

// request returns the size of the first request of b; -1: not whole.
func (l *lenient) request(b []byte) int {
	_, at := l.line(b)
	if at < 0 {
		return -1
	}
	length, chunked, lengths := 0, false, 0
	for {
		line, n := l.line(b[at:])
		if n < 0 {
			return -1
		}
		at += n
		if line == "" {
			break
		}
		name, value, _ := strings.Cut(line, ":")
		if l.trims {
			name = strings.Trim(name, " \t\v\f\r\x00")
		}
		value = strings.ToLower(strings.Trim(value, " \t\v\f\r\x00"))
		switch strings.ToLower(name) {
		case "content-length":
			if lengths++; lengths == 1 || l.lastLength {
				length = l.number(value, 10)
			}
		case "transfer-encoding":
			chunked = chunked || value == "chunked" || l.anyChunked && strings.Contains(value, "chunk")
		}
	}
	if chunked && !(l.lengthFirst && lengths > 0) {
		n := l.chunks(b[at:])
		if n < 0 {
			return -1
		}
		return at + n
	}
	if len(b)-at < length {
		return -1
	}
	return at + length
}

// number reads a size.
func (l *lenient) number(s string, base int) int {
	if l.trims {
		s = strings.Trim(s, " \t+\"")
		s = strings.TrimPrefix(s, "0x")
		for i, r := range s {
			if digit := strings.IndexRune("0123456789abcdef"[:base], r); digit < 0 {
				s = s[:i]
				break
			}
		}
	}
	n, err := strconv.ParseUint(s, base, 31)
	if err != nil {
		return 0
	}
	return int(n)
}

// chunks returns the size of a chunked body; -1: not whole.
func (l *lenient) chunks(b []byte) int {
	at := 0
	for {
		line, n := l.line(b[at:])
		if l.noExtensions {
			if lf := bytes.IndexByte(b[at:], '\n'); lf >= 0 {
				line, n = string(b[at:at+lf]), lf+1
			}
		}
		if n < 0 {
			return -1
		}
		at += n
		size, _, _ := strings.Cut(line, ";")
		left := l.number(strings.ToLower(size), 16)
		if left == 0 {
			break
		}
		if at += left; at > len(b) {
			return -1
		}
		if _, n = l.line(b[at:]); n < 0 {
			return -1
		}
		at += n
	}
	for {
		line, n := l.line(b[at:])
		if n < 0 {
			return -1
		}
		at += n
		if line == "" {
			return at
		}
	}
}

// TestLeniencesDiffer proves the reader able to disagree.
func TestLeniencesDiffer(t *testing.T) {
	for _, shape := range []string{
		"POST / HTTP/1.1\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
		"POST / HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\nhello",
		"POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"GET / HTTP/1.1\r\nA: b\n\nGET / HTTP/1.1\r\n\r\n",
		"POST / HTTP/1.1\r\nContent-Length : 5\r\n\r\nhello",
	} {
		seen := map[string]bool{}
		for i := range leniences {
			seen[fmt.Sprint(leniences[i].ends([]byte(shape)))] = true
		}
		if len(seen) < 2 {
			t.Errorf("all agree on %q", shape)
		}
	}
}
