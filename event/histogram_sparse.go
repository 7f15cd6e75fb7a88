package event

// SparseHistogram is a [Histogram] that was read and holds the buckets that are
// not empty, and no others: reading one and merging it into a Histogram takes a
// fraction of what reading a whole Histogram takes. Its memory is used again.
// The zero value is empty and ready; it is not safe for concurrent use.
type SparseHistogram struct {
	moments
	at []uint16
	n  []uint64
}

// UnmarshalBinary replaces s by what [Histogram.AppendBinary] wrote. It accepts
// the canonical form only, and on an error leaves s empty.
func (s *SparseHistogram) UnmarshalBinary(data []byte) error {
	s.at, s.n = s.at[:0], s.n[:0]
	var err error
	s.moments, err = readHistogram(data, func(at int, n uint64) { s.at, s.n = append(s.at, uint16(at)), append(s.n, n) })
	if err != nil {
		s.at, s.n = s.at[:0], s.n[:0]
	}
	return err
}

// MergeSparse adds all values of s, which stays as it is.
func (h *Histogram) MergeSparse(s *SparseHistogram) {
	if s.count == 0 {
		return
	}
	if h.count == 0 || s.min < h.min {
		h.min = s.min
	}
	h.max = max(h.max, s.max)
	h.count = saturatingAdd(h.count, s.count)
	h.sum = saturatingAdd(h.sum, s.sum)
	for i, at := range s.at {
		o := int(at >> subBits)
		if o >= len(h.octaves) || h.octaves[o] == nil {
			h.grow(o)
		}
		n := &h.octaves[o][at&(subBuckets-1)]
		*n = saturatingAdd(*n, s.n[i])
	}
}
