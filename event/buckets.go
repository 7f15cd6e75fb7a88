package event

// Moments are what is exact of a [Histogram]: count, sum, least and greatest of
// its values. With [BucketPairs] and a [Tally], those who record a value
// in several places work out once where it is counted. The zero value is empty
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

// AddSums adds n values, if any, of which the sum, the least and the greatest are
// known.
func (m *Moments) AddSums(n, sum, least, greatest uint64) {
	if n > 0 {
		m.add(&moments{n, sum, least, greatest})
	}
}

// FillPairs counts values in the buckets whose numbers these are, as
// [BucketPairs] gives them: those of the lower halves in h, the others in o. Until
// [Histogram.AddMoments] has added the moments of the same values, h and o must
// not be used for anything else.
func (h *Histogram) FillPairs(o *Histogram, at []uint32) {
	for _, pair := range at {
		if i, j := int(pair&0xffff), int(pair>>16); i < buckets && j < buckets {
			h.addAt(i, 1)
			o.addAt(j, 1)
		}
	}
}

// AddMoments adds the moments of values that [Histogram.FillPairs] has counted.
func (h *Histogram) AddMoments(m *Moments) {
	if m.count > 0 {
		h.moments.add(&m.moments)
	}
}
