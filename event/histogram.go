package event

import (
	"math"
	"math/bits"
)

// HistogramError is the greatest relative error of [Histogram.Quantile], for
// values below 2^40.
const HistogramError = 1.0 / 128

const (
	subBits    = 6
	subBuckets = 1 << subBits
	// rangeBits: values from 2^40 µs on (12.7 days) share the last bucket.
	rangeBits = 40
	pages     = rangeBits - subBits + 1
	buckets   = pages * subBuckets
)

type page [subBuckets]uint64

// Histogram is a mergeable distribution of whole numbers, usually µs: count,
// sum, least and greatest are exact, quantiles are within [HistogramError].
//
// It is log-linear: 64 buckets an octave; values up to 127 have a bucket each.
// Merging is addition, so any order gives the same contents. Counts and sum
// stay at their greatest value instead of overflowing. An octave takes 512
// bytes from its first value on; [Histogram.Reset] keeps them.
//
// The zero value is empty and ready. A copy shares the buckets of its
// original: use [Histogram.Merge] into an empty one to copy. It is not safe for
// concurrent use.
type Histogram struct {
	moments
	// octaves is as long as the highest octave seen; unseen ones are nil.
	octaves []*page
}

// bucket is where a value is counted.
func bucket(v uint64) int {
	if v < subBuckets {
		return int(v)
	}
	if v >= 1<<rangeBits {
		return buckets - 1
	}
	shift := bits.Len64(v) - 1 - subBits
	return shift<<subBits + int(v>>shift)
}

// bounds are the least and greatest value of a bucket.
func bounds(i int) (lo, hi uint64) {
	if i < 2*subBuckets {
		return uint64(i), uint64(i)
	}
	shift := i>>subBits - 1
	lo = uint64(i-shift<<subBits) << shift
	return lo, lo + 1<<shift - 1
}

// Record adds one value.
func (h *Histogram) Record(us uint64) {
	if us < h.min || h.count == 0 {
		h.min = us
	}
	h.max = max(h.max, us)
	h.count = saturatingAdd(h.count, 1)
	h.sum = saturatingAdd(h.sum, us)
	c := h.cell(us)
	*c = saturatingAdd(*c, 1)
}

// RecordN adds a value n times.
func (h *Histogram) RecordN(us, n uint64) {
	if n == 0 {
		return
	}
	if h.count == 0 || us < h.min {
		h.min = us
	}
	if us > h.max {
		h.max = us
	}
	h.count = saturatingAdd(h.count, n)
	h.sum = saturatingAdd(h.sum, saturatingMul(us, n))
	c := h.cell(us)
	*c = saturatingAdd(*c, n)
}

// cell is the count of the bucket of a value.
func (h *Histogram) cell(us uint64) *uint64 {
	i := bucket(us)
	o := i >> subBits
	if o >= len(h.octaves) || h.octaves[o] == nil {
		h.grow(o)
	}
	return &h.octaves[o][i&(subBuckets-1)]
}

func (h *Histogram) grow(octave int) {
	for len(h.octaves) <= octave {
		h.octaves = append(h.octaves, nil)
	}
	h.octaves[octave] = new(page)
}

// Merge adds all values of o, which stays as it is. o may be h itself.
func (h *Histogram) Merge(o *Histogram) {
	if o.count == 0 {
		return
	}
	first, last := o.span()
	h.moments.add(&o.moments)
	for i := first; i <= last; i++ {
		from := o.octaves[i]
		if from == nil || *from == (page{}) {
			continue
		}
		if i >= len(h.octaves) || h.octaves[i] == nil {
			h.grow(i)
		}
		to := h.octaves[i]
		for j, n := range from {
			to[j] = saturatingAdd(to[j], n)
		}
	}
}

// span are the first and the last octave that may have values.
func (h *Histogram) span() (first, last int) {
	return bucket(h.min) >> subBits, bucket(h.max) >> subBits
}

// Quantile is the value at rank ⌈q·Count⌉ of all values in order, in their
// unit, within [HistogramError] of it. 0 and less give Min, 1 and more Max,
// exactly; a rank among the values from 2^40 on gives Max. It is 0 where there
// are no values, or q is no number.
func (h *Histogram) Quantile(q float64) float64 {
	switch {
	case h.count == 0 || math.IsNaN(q):
		return 0
	case q <= 0:
		return float64(h.min)
	case q >= 1:
		return float64(h.max)
	}
	rank := rank(q, h.count)
	var seen uint64
	for i, p := range h.octaves {
		if p == nil {
			continue
		}
		for j, n := range p {
			seen = saturatingAdd(seen, n)
			if n > 0 && seen >= rank {
				return h.value(i<<subBits + j)
			}
		}
	}
	return float64(h.max)
}

// rank is ⌈q·n⌉, at least 1. What the product may lie above the exact one is
// taken off first, so that the 0.99 quantile of 100 values is the 99th.
func rank(q float64, n uint64) uint64 {
	x := q * float64(n)
	r := math.Ceil(x - x*0x1p-50)
	if r < 1 {
		return 1
	}
	if r >= float64(n) {
		return n
	}
	return uint64(r)
}

// Reset empties h and keeps its memory.
func (h *Histogram) Reset() {
	if h.count > 0 {
		first, last := h.span()
		for _, p := range h.octaves[first : last+1] {
			if p != nil {
				*p = page{}
			}
		}
	}
	h.moments = moments{}
}

func saturatingAdd(a, b uint64) uint64 {
	s, carry := bits.Add64(a, b, 0)
	return s | -carry
}

func saturatingMul(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	if hi != 0 {
		return math.MaxUint64
	}
	return lo
}
