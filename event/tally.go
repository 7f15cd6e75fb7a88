package event

import "math"

// Tally counts values by their buckets in an eighth of a [Histogram]'s memory,
// so that many of them stay in a core's cache: counts of 16 bits, of the octaves
// between the least and the greatest value. It knows no moments; those who fill
// it keep [Moments] of the same values beside it. It is exact: what a count can't
// hold is carried. The zero value is empty and ready. It is not safe for
// concurrent use.
type Tally struct {
	// low is the bucket that counts begin with, the first of an octave.
	low    int
	counts []uint16
	// carried has a bucket once for each 65,536 values that its count has lost.
	carried []uint16
}

// BucketPairs sets dst[i] to the numbers of the buckets that count low[i], in
// the lower half, and high[i], which have as many elements.
func BucketPairs(dst []uint32, low, high []uint64) {
	low, high = low[:len(dst)], high[:len(dst)]
	for i := range dst {
		dst[i] = numberOf(low[i]) | numberOf(high[i])<<16
	}
}

// numberOf is bucket without branches. A float's bits are its exponent, and below
// it the bits that follow the highest: what tells octaves and their buckets apart.
func numberOf(v uint64) uint32 {
	v = min(v, 1<<rangeBits-1) // floats are exact up to 1<<53
	number := uint32(math.Float64bits(float64(int64(v)))>>(52-subBits)) - (1022+subBits)<<subBits
	if v < subBuckets {
		number = uint32(v)
	}
	return number
}

// TallyPairs counts values in the buckets whose numbers these are, as
// [BucketPairs] gives them: those of the lower halves in low, the others in high,
// which is another tally.
func TallyPairs(at []uint32, low, high *Tally) {
	for {
		at = at[tallyPairs(at, low, high):]
		if len(at) == 0 {
			return
		}
		low.add(int(at[0] & 0xffff))
		high.add(int(at[0] >> 16))
		at = at[1:]
	}
}

// tallyPairs counts until there is no room for a value, and returns how many it
// has counted. It calls nothing, so that all it needs stays in registers.
func tallyPairs(at []uint32, low, high *Tally) int {
	a, b := low.counts, high.counts
	firstA, firstB := uint32(low.low), uint32(high.low)
	for n, pair := range at {
		i, k := pair&0xffff-firstA, pair>>16-firstB // beyond any length where below the first
		if i >= uint32(len(a)) || k >= uint32(len(b)) {
			return n
		}
		c, d := a[i]+1, b[k]+1
		if c == 0 || d == 0 {
			return n
		}
		a[i], b[k] = c, d
	}
	return len(at)
}

// add counts one value.
func (t *Tally) add(bucket int) {
	if bucket >= buckets {
		return
	}
	t.reach(bucket)
	k := bucket - t.low
	if t.counts[k]++; t.counts[k] == 0 {
		t.carried = append(t.carried, uint16(bucket))
	}
}

// reach makes room for a bucket's octave and those up to it.
func (t *Tally) reach(bucket int) {
	first := bucket &^ (subBuckets - 1)
	low, end := min(t.low, first), max(t.low+len(t.counts), first+subBuckets)
	if len(t.counts) == 0 {
		low, end = first, first+subBuckets
	}
	if low == t.low && end-low == len(t.counts) {
		return
	}
	counts := make([]uint16, end-low)
	if len(t.counts) > 0 {
		copy(counts[t.low-low:], t.counts)
	}
	t.low, t.counts = low, counts
}

// span are the counts that can be other than 0 where m is of the same values, and
// the bucket that they begin with.
func (t *Tally) span(m *Moments) (counts []uint16, first int) {
	if m.count == 0 || len(t.counts) == 0 {
		return nil, 0
	}
	first = max(bucket(m.min), t.low)
	end := min(bucket(m.max)+1, t.low+len(t.counts))
	if first >= end {
		return nil, 0
	}
	return t.counts[first-t.low : end-t.low], first
}

// Add adds the values of o, which stays as it is. m are moments of its values, or
// of them and others.
func (t *Tally) Add(o *Tally, m *Moments) {
	counts, first := o.span(m)
	if len(counts) > 0 {
		t.reach(first)
		t.reach(first + len(counts) - 1)
		to := t.counts[first-t.low:]
		for k, n := range counts {
			to[k] += n
			if to[k] < n {
				t.carried = append(t.carried, uint16(first+k))
			}
		}
	}
	t.carried = append(t.carried, o.carried...)
}

// AddTo adds the values, whose moments are m, to h.
func (t *Tally) AddTo(h *Histogram, m *Moments) {
	counts, first := t.span(m)
	for k, n := range counts {
		if n > 0 {
			h.addAt(first+k, uint64(n))
		}
	}
	for _, i := range t.carried {
		h.addAt(int(i), 1<<16)
	}
	h.AddMoments(m)
}

// addAt adds to the count of a bucket.
func (h *Histogram) addAt(bucket int, n uint64) {
	o := bucket >> subBits
	if o >= len(h.octaves) || h.octaves[o] == nil {
		h.grow(o)
	}
	c := &h.octaves[o][bucket&(subBuckets-1)]
	*c = saturatingAdd(*c, n)
}

// AppendBinary appends what [Histogram.AppendBinary] does of a histogram of the
// same values, whose moments are m.
func (t *Tally) AppendBinary(dst []byte, m *Moments) []byte {
	if len(t.carried) > 0 {
		var h Histogram
		t.AddTo(&h, m)
		return h.AppendBinary(dst)
	}
	if m.count == 0 {
		return dst
	}
	counts, first := t.span(m)
	dst, _ = appendBuckets(m.moments.append(dst), counts, first)
	return dst
}

// Touch reads a little of each line of the cache that t has.
func (t *Tally) Touch() (read uint64) {
	for i := 0; i < len(t.counts); i += 32 {
		read += uint64(t.counts[i])
	}
	return read
}

// Reset empties t and keeps its memory. m are the moments of its values.
func (t *Tally) Reset(m *Moments) {
	counts, _ := t.span(m)
	clear(counts)
	t.carried = t.carried[:0]
}
