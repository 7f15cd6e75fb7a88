package event

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"slices"
)

// SparseHistogram is a [Histogram] that holds the buckets that are not empty,
// and no others: what is read, sent and merged in great numbers, but not
// recorded into. Its contents are the Histogram's, and so are its answers. Its
// memory is used again. The zero value is empty and ready. A copy shares the
// buckets of its original. It is not safe for concurrent use.
type SparseHistogram struct {
	moments
	at []uint16
	n  []uint64
}

// Sparse copies h.
func (h *Histogram) Sparse() SparseHistogram {
	if h.count == 0 {
		return SparseHistogram{}
	}
	s := SparseHistogram{moments: h.moments}
	first, last := h.span()
	size := 0
	for _, p := range h.octaves[first : last+1] {
		if p == nil {
			continue
		}
		for _, n := range p {
			if n > 0 {
				size++
			}
		}
	}
	s.at, s.n = make([]uint16, 0, size), make([]uint64, 0, size)
	for i := first; i <= last; i++ {
		p := h.octaves[i]
		if p == nil {
			continue
		}
		for j, n := range p {
			if n > 0 {
				s.at, s.n = append(s.at, uint16(i<<subBits+j)), append(s.n, n)
			}
		}
	}
	return s
}

// UnmarshalBinary replaces s by what [Histogram.AppendBinary] wrote. It accepts
// the canonical form only, and on an error leaves s empty.
func (s *SparseHistogram) UnmarshalBinary(data []byte) error {
	s.moments, s.at, s.n = moments{}, s.at[:0], s.n[:0]
	if len(data) == 0 {
		return nil
	}
	if data[0] != histogramFormat {
		return fmt.Errorf("cannot read histogram: format %d, want %d", data[0], histogramFormat)
	}
	if err := s.readBuckets(varints{data[1:]}); err != nil {
		s.moments, s.at, s.n = moments{}, s.at[:0], s.n[:0]
		return fmt.Errorf("cannot read histogram: %w", err)
	}
	return nil
}

// readBuckets is as that of a Histogram.
func (s *SparseHistogram) readBuckets(in varints) error {
	m, err := readMoments(&in)
	if err != nil {
		return err
	}
	last := -1
	data := in.data
	for len(data) > 0 {
		gap, n, rest := shortPair(data)
		if n == 0 {
			if gap, n, rest = longPair(data); n == 0 {
				return errBucket
			}
		}
		data = rest
		if gap >= uint64(buckets-last-1) {
			return errBeyond
		}
		last += int(gap) + 1
		s.at, s.n = append(s.at, uint16(last)), append(s.n, n)
		m.count = saturatingAdd(m.count, n)
	}
	if len(s.at) == 0 {
		return errOuter
	}
	s.moments = m
	return m.check(int(s.at[0]), last)
}

// AppendBinary appends the canonical form, the same bytes as those of a
// [Histogram] with the same contents.
func (s *SparseHistogram) AppendBinary(dst []byte) []byte {
	if s.count == 0 {
		return dst
	}
	dst = s.moments.append(dst)
	next := 0
	for i, at := range s.at {
		dst = binary.AppendUvarint(dst, uint64(int(at)-next))
		dst = binary.AppendUvarint(dst, s.n[i])
		next = int(at) + 1
	}
	return dst
}

// MarshalJSON is as that of a [Histogram].
func (s SparseHistogram) MarshalJSON() ([]byte, error) { return quoted(s.AppendBinary(nil)), nil }

// UnmarshalJSON reads what MarshalJSON wrote; null leaves s as it is.
func (s *SparseHistogram) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		return nil
	}
	var raw []byte
	if err := json.Unmarshal(data, &raw); err != nil {
		return fmt.Errorf("cannot read histogram: %w", err)
	}
	return s.UnmarshalBinary(raw)
}

// quoted is data in base64, as a JSON string.
func quoted(data []byte) []byte {
	out := make([]byte, 0, base64.StdEncoding.EncodedLen(len(data))+2)
	out = append(out, '"')
	out = base64.StdEncoding.AppendEncode(out, data)
	return append(out, '"')
}

// IsZero tells that there are no values, for encoding/json.
func (s SparseHistogram) IsZero() bool { return s.count == 0 }

// Merge adds all values of o, which stays as it is; s shares nothing with it.
func (s *SparseHistogram) Merge(o *SparseHistogram) {
	if o.count == 0 {
		return
	}
	if s.count == 0 {
		s.moments = o.moments
		s.at, s.n = append(s.at[:0:0], o.at...), append(s.n[:0:0], o.n...)
		return
	}
	at, n := make([]uint16, 0, len(s.at)+len(o.at)), make([]uint64, 0, len(s.at)+len(o.at))
	i, j := 0, 0
	for i < len(s.at) || j < len(o.at) {
		switch {
		case j == len(o.at) || i < len(s.at) && s.at[i] < o.at[j]:
			at, n = append(at, s.at[i]), append(n, s.n[i])
			i++
		case i == len(s.at) || o.at[j] < s.at[i]:
			at, n = append(at, o.at[j]), append(n, o.n[j])
			j++
		default:
			at, n = append(at, s.at[i]), append(n, saturatingAdd(s.n[i], o.n[j]))
			i++
			j++
		}
	}
	s.at, s.n = at, n
	s.moments.add(&o.moments)
}

// MergeSparse adds all values of s, which stays as it is.
func (h *Histogram) MergeSparse(s *SparseHistogram) {
	if s.count == 0 {
		return
	}
	h.moments.add(&s.moments)
	for i, at := range s.at {
		o := int(at >> subBits)
		if o >= len(h.octaves) || h.octaves[o] == nil {
			h.grow(o)
		}
		n := &h.octaves[o][at&(subBuckets-1)]
		*n = saturatingAdd(*n, s.n[i])
	}
}

// Quantile is as that of a [Histogram].
func (s *SparseHistogram) Quantile(q float64) float64 {
	var one [1]float64
	s.Quantiles(one[:], q)
	return one[0]
}

// Quantiles sets into[i] to the quantile qs[i], for ascending qs, in one pass;
// into is as long as qs.
func (s *SparseHistogram) Quantiles(into []float64, qs ...float64) {
	var seen uint64
	next := 0
	for i, q := range qs {
		switch {
		case s.count == 0 || math.IsNaN(q):
			into[i] = 0
			continue
		case q <= 0:
			into[i] = float64(s.min)
			continue
		case q >= 1:
			into[i] = float64(s.max)
			continue
		}
		rank := rank(q, s.count)
		for next < len(s.at) && seen < rank {
			seen = saturatingAdd(seen, s.n[next])
			next++
		}
		into[i] = float64(s.max)
		if seen >= rank && next > 0 {
			into[i] = s.value(int(s.at[next-1]))
		}
	}
}

// Clone copies s.
func (s *SparseHistogram) Clone() SparseHistogram {
	return SparseHistogram{s.moments, slices.Clone(s.at), slices.Clone(s.n)}
}

// SparseReader reads many histograms with few allocations. The zero value is
// ready; it is not safe for concurrent use.
type SparseReader struct{ room SparseHistogram }

// Room for buckets that a SparseReader takes at once, and that which has to be
// left of it for one more histogram to go there.
const (
	sparseChunk = 16 << 10
	sparseLeast = 1 << 10
)

// Read reads what [Histogram.AppendBinary] wrote. The histogram is the caller's
// to keep, and shares nothing.
func (r *SparseReader) Read(data []byte) (SparseHistogram, error) {
	if cap(r.room.at)-len(r.room.at) < sparseLeast {
		r.room.at, r.room.n = make([]uint16, 0, sparseChunk), make([]uint64, 0, sparseChunk)
	}
	used := len(r.room.at)
	s := SparseHistogram{at: r.room.at[used:used:cap(r.room.at)], n: r.room.n[used:used:cap(r.room.n)]}
	if err := s.UnmarshalBinary(data); err != nil {
		return SparseHistogram{}, err
	}
	if k := len(s.at); used+k <= cap(r.room.at) {
		r.room.at, r.room.n = r.room.at[:used+k], r.room.n[:used+k]
	}
	s.at, s.n = slices.Clip(s.at), slices.Clip(s.n)
	return s, nil
}
