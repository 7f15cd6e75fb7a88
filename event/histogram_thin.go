package event

import "fmt"

// MergeBinary adds all values of what [Histogram.AppendBinary] wrote, as Merge
// of the histogram that it was written from. It accepts the canonical form only,
// and on an error leaves h empty.
func (h *Histogram) MergeBinary(data []byte) error {
	if len(data) == 0 {
		return nil
	}
	if data[0] != histogramFormat {
		h.wipe()
		return fmt.Errorf("cannot read histogram: format %d, want %d", data[0], histogramFormat)
	}
	m, err := h.addBuckets(varints{data[1:]})
	if err != nil {
		h.wipe()
		return fmt.Errorf("cannot read histogram: %w", err)
	}
	h.moments.add(&m)
	return nil
}

// addBuckets adds the buckets, and returns the moments of what it read.
func (h *Histogram) addBuckets(in varints) (moments, error) {
	m, err := in.moments()
	if err != nil {
		return m, err
	}
	first, last := -1, -1
	octaves := h.octaves
	for data := in.data; len(data) > 0; {
		var gap, n uint64
		// As shortPair, which costs 4 % here.
		if len(data) > 1 && data[0] < 0x80 && data[1] < 0x80 {
			gap, n, data = uint64(data[0]), uint64(data[1]), data[2:]
		} else {
			gap, n, data = longPair(data)
		}
		if n == 0 {
			return m, errBucket
		}
		if gap >= uint64(buckets-last-1) {
			return m, errBeyond
		}
		last += int(gap) + 1
		if first < 0 {
			first = last
		}
		o := uint(last) >> subBits
		if o >= uint(len(octaves)) || octaves[o] == nil {
			h.grow(int(o))
			octaves = h.octaves
		}
		c := &octaves[o][last&(subBuckets-1)]
		*c = saturatingAdd(*c, n)
		m.count = saturatingAdd(m.count, n)
	}
	if first < 0 {
		return m, errOuter
	}
	return m, m.check(first, last)
}

// moments is as readMoments, and faster where they are of two or three bytes, as
// milliseconds are.
func (v *varints) moments() (moments, error) {
	var m [3]uint64
	data := v.data
	for i := range m {
		switch {
		case len(data) > 2 && data[0] >= 0x80 && data[1] < 0x80 && data[1] > 0:
			m[i], data = uint64(data[0]&0x7f)|uint64(data[1])<<7, data[2:]
		case len(data) > 3 && data[0] >= 0x80 && data[1] >= 0x80 && data[2] < 0x80 && data[2] > 0:
			m[i], data = uint64(data[0]&0x7f)|uint64(data[1]&0x7f)<<7|uint64(data[2])<<14, data[3:]
		default:
			v.data = data
			var ok bool
			if m[i], ok = v.next(); !ok {
				return moments{}, errMoments
			}
			data = v.data
		}
	}
	v.data = data
	if m[1]+m[2] < m[1] {
		return moments{}, errMoments
	}
	return moments{sum: m[0], min: m[1], max: m[1] + m[2]}, nil
}

// wipe empties h, whatever it holds.
func (h *Histogram) wipe() {
	for _, p := range h.octaves {
		if p != nil {
			*p = page{}
		}
	}
	h.moments = moments{}
}

// Thin sets into to what is left of h when all buckets are left out that neither
// hold the least or greatest value nor one of the quantiles qs, ascending; what
// they counted goes to the next that is left. Count, Sum, Min, Max and the
// quantiles qs of it are h's; other quantiles are not, nor is the sum of two of
// its kind anything. into's memory is used again.
func (h *Histogram) Thin(into *SparseHistogram, qs ...float64) {
	into.moments, into.at, into.n = h.moments, into.at[:0], into.n[:0]
	if h.count == 0 {
		return
	}
	first, last := h.span()
	least, most := bucket(h.min), bucket(h.max)
	var seen, left uint64
	next := uint64(0)
	// want is the rank of the least quantile that has not been found.
	want := func() {
		for next = h.count; len(qs) > 0; qs = qs[1:] {
			if next = rank(qs[0], h.count); next > seen {
				return
			}
			next = h.count
		}
	}
	want()
	for i := first; i <= last; i++ {
		p := h.octaves[i]
		if p == nil {
			continue
		}
		for j, n := range p {
			if n == 0 {
				continue
			}
			seen, left = saturatingAdd(seen, n), saturatingAdd(left, n)
			at := i<<subBits + j
			if seen < next && at != least && at != most {
				continue
			}
			into.at, into.n = append(into.at, uint16(at)), append(into.n, left)
			left = 0
			want()
		}
	}
}
