package event

import "math/bits"

// Moments are what is exact of a [Histogram]: count, sum, least and greatest of
// its values. With [Buckets] and [Histogram.Fill], those who record a value in
// several histograms work out once where it is counted. The zero value is empty
// and ready. It is not safe for concurrent use.
type Moments struct{ moments }

// Record adds one value.
func (m *Moments) Record(v uint64) {
	if v < m.min || m.count == 0 {
		m.min = v
	}
	m.max = max(m.max, v)
	m.count = saturatingAdd(m.count, 1)
	m.sum = saturatingAdd(m.sum, v)
}

// Add adds all values of o, which stays as it is.
func (m *Moments) Add(o *Moments) {
	if o.count > 0 {
		m.add(&o.moments)
	}
}

// Buckets sets dst[i] to the number of the bucket that counts values[i], which
// has as many elements.
func Buckets(dst []uint16, values []uint64) {
	values = values[:len(dst)]
	for i, v := range values {
		v = min(v, 1<<rangeBits-1)
		shift := max(bits.Len64(v)-1-subBits, 0)
		dst[i] = uint16(shift<<subBits + int(v>>(shift&63)))
	}
}

// Fill counts values in the buckets whose numbers these are; numbers that
// [Buckets] does not give it leaves out. Until [Histogram.AddMoments] has added
// the moments of the same values, h must not be used for anything else.
func (h *Histogram) Fill(at []uint16) {
	octaves := h.octaves
	for _, i := range at {
		o := int(i) >> subBits
		if o >= len(octaves) || octaves[o] == nil {
			if o >= pages {
				continue
			}
			h.grow(o)
			octaves = h.octaves
		}
		n := &octaves[o][i&(subBuckets-1)]
		*n = saturatingAdd(*n, 1)
	}
}

// AddMoments adds the moments of values that [Histogram.Fill] has counted.
func (h *Histogram) AddMoments(m *Moments) {
	if m.count > 0 {
		h.moments.add(&m.moments)
	}
}
