package event

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
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
	dst = append(dst, histogramFormat)
	dst = binary.AppendUvarint(dst, h.sum)
	dst = binary.AppendUvarint(dst, h.min)
	dst = binary.AppendUvarint(dst, h.max-h.min)
	next := 0
	for i, p := range h.octaves {
		if p == nil {
			continue
		}
		for j, n := range p {
			if n == 0 {
				continue
			}
			at := i<<subBits + j
			dst = binary.AppendUvarint(dst, uint64(at-next))
			dst = binary.AppendUvarint(dst, n)
			next = at + 1
		}
	}
	return dst
}

// UnmarshalBinary replaces h by what [Histogram.AppendBinary] wrote. It accepts
// the canonical form only, and on an error leaves h empty. What it keeps are at most
// 512 bytes for each two bytes of data, and never more than 18 KiB.
func (h *Histogram) UnmarshalBinary(data []byte) error {
	h.Reset()
	var err error
	h.moments, err = readHistogram(data, func(at int, n uint64) {
		o := at >> subBits
		if o >= len(h.octaves) || h.octaves[o] == nil {
			h.grow(o)
		}
		h.octaves[o][at&(subBuckets-1)] = n
	})
	if err != nil {
		h.Reset()
	}
	return err
}

// readHistogram reads what AppendBinary wrote, and calls add with each bucket
// that is not empty and its count, ascending. Where it fails, what add got is
// not valid.
func readHistogram(data []byte, add func(at int, n uint64)) (moments, error) {
	if len(data) == 0 {
		return moments{}, nil
	}
	if data[0] != histogramFormat {
		return moments{}, fmt.Errorf("cannot read histogram: format %d, want %d", data[0], histogramFormat)
	}
	s, err := readBuckets(varints{data[1:]}, add)
	if err != nil {
		return moments{}, fmt.Errorf("cannot read histogram: %w", err)
	}
	return s, nil
}

func readBuckets(in varints, add func(at int, n uint64)) (s moments, err error) {
	sum, ok1 := in.next()
	least, ok2 := in.next()
	spread, ok3 := in.next()
	if !ok1 || !ok2 || !ok3 || least+spread < least {
		return s, errors.New("sum, min or max is not valid")
	}
	s.sum, s.min, s.max = sum, least, least+spread
	first, last := -1, -1
	for len(in.data) > 0 {
		gap, ok1 := in.next()
		n, ok2 := in.next()
		if !ok1 || !ok2 || n == 0 {
			return s, errors.New("a bucket is not valid")
		}
		if gap >= uint64(buckets-last-1) {
			return s, fmt.Errorf("bucket beyond the last, %d", buckets-1)
		}
		last += int(gap) + 1
		if first < 0 {
			first = last
		}
		add(last, n)
		s.count = saturatingAdd(s.count, n)
	}
	if first != bucket(s.min) || last != bucket(s.max) {
		return s, errors.New("min or max is not in the outermost buckets")
	}
	if sum < saturatingMul(s.count, s.min) || sum > saturatingMul(s.count, s.max) {
		return s, errors.New("the sum does not fit count, min and max")
	}
	return s, nil
}

// varints reads unsigned varints in their shortest form.
type varints struct{ data []byte }

func (v *varints) next() (uint64, bool) {
	x, n := binary.Uvarint(v.data)
	if n <= 0 || n > 1 && v.data[n-1] == 0 {
		return 0, false
	}
	v.data = v.data[n:]
	return x, true
}

// MarshalJSON gives the binary form in base64, as a string. It is on the value,
// so that a Histogram inside another value is encoded, too.
func (h Histogram) MarshalJSON() ([]byte, error) {
	data := h.AppendBinary(nil)
	out := make([]byte, 0, base64.StdEncoding.EncodedLen(len(data))+2)
	out = append(out, '"')
	out = base64.StdEncoding.AppendEncode(out, data)
	return append(out, '"'), nil
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
