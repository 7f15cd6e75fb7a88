package event

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
)

// histogramFormat begins the binary form of a histogram that is not empty.
const histogramFormat = 1

// AppendBinary appends the canonical sparse form of h: equal contents give
// equal bytes, in whatever order they were recorded or merged. An empty
// histogram is no bytes at all; another is the format's number (1) and then
// unsigned varints: sum, min, max − min, and for each bucket that is not empty,
// ascending: how many empty ones precede it since the last, and its count.
func (h *Histogram) AppendBinary(dst []byte) []byte {
	if h.count == 0 {
		return dst
	}
	dst = h.moments.append(dst)
	first, last := h.span()
	gap := first << subBits
	for i := first; i <= last; i++ {
		if p := h.octaves[i]; p == nil {
			gap += subBuckets
		} else {
			dst, gap = appendBuckets(dst, p[:], gap)
		}
	}
	return dst
}

// UnmarshalBinary replaces h by what [Histogram.AppendBinary] wrote. It accepts
// the canonical form only, and on an error leaves h empty. What it keeps are at most
// 512 bytes for each two bytes of data, and never more than 18 KiB.
func (h *Histogram) UnmarshalBinary(data []byte) error {
	h.Reset()
	if len(data) == 0 {
		return nil
	}
	if data[0] != histogramFormat {
		return fmt.Errorf("cannot read histogram: format %d, want %d", data[0], histogramFormat)
	}
	s, err := h.readBuckets(varints{data[1:]})
	if err != nil {
		for _, p := range h.octaves {
			if p != nil {
				*p = page{}
			}
		}
		return fmt.Errorf("cannot read histogram: %w", err)
	}
	h.moments = s
	return nil
}

func (h *Histogram) readBuckets(in varints) (s moments, err error) {
	if s, err = readMoments(&in); err != nil {
		return s, err
	}
	first, last := -1, -1
	for len(in.data) > 0 {
		gap, ok1 := in.next()
		n, ok2 := in.next()
		if !ok1 || !ok2 || n == 0 {
			return s, errBucket
		}
		if gap >= uint64(buckets-last-1) {
			return s, errBeyond
		}
		last += int(gap) + 1
		if first < 0 {
			first = last
		}
		o := last >> subBits
		if o >= len(h.octaves) || h.octaves[o] == nil {
			h.grow(o)
		}
		h.octaves[o][last&(subBuckets-1)] = n
		s.count = saturatingAdd(s.count, n)
	}
	return s, s.check(first, last)
}

// varints reads unsigned varints in their shortest form.
type varints struct{ data []byte }

func (v *varints) next() (uint64, bool) {
	if len(v.data) > 0 && v.data[0] < 0x80 {
		x := uint64(v.data[0])
		v.data = v.data[1:]
		return x, true
	}
	x, n := binary.Uvarint(v.data)
	if n <= 0 || n > 1 && v.data[n-1] == 0 {
		return 0, false
	}
	v.data = v.data[n:]
	return x, true
}

// shortPair reads a bucket's gap and its number of values where they are of a byte
// each, as most are; n is 0 where they are not. It is small enough to be inlined,
// unlike a function that reads all of them.
func shortPair(data []byte) (gap, n uint64, rest []byte) {
	if len(data) > 1 && data[0]|data[1] < 0x80 {
		return uint64(data[0]), uint64(data[1]), data[2:]
	}
	return 0, 0, data
}

// longPair is as shortPair of any length; n is 0 where they are not valid.
func longPair(data []byte) (gap, n uint64, rest []byte) {
	in := varints{data}
	gap, ok1 := in.next()
	n, ok2 := in.next()
	if !ok1 || !ok2 {
		return 0, 0, data
	}
	return gap, n, in.data
}

// MarshalJSON gives the binary form in base64, as a string. It is on the value,
// so that a Histogram inside another value is encoded, too.
func (h Histogram) MarshalJSON() ([]byte, error) {
	return quoted(h.AppendBinary(nil)), nil
}

// UnmarshalJSON reads what [Histogram.MarshalJSON] wrote; null leaves h as it
// is.
func (h *Histogram) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		return nil
	}
	var raw []byte
	if err := json.Unmarshal(data, &raw); err != nil {
		return fmt.Errorf("cannot read histogram: %w", err)
	}
	return h.UnmarshalBinary(raw)
}
