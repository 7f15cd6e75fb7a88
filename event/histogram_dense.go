package event

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// DenseHistogram is a [Histogram] that has room for every bucket, 20 KiB: what
// encoded ones are added up in, one sum after the other, in a core's cache. Its
// contents are the Histogram's. The zero value is empty and ready. It is not safe
// for concurrent use.
type DenseHistogram struct {
	moments
	// large: a count is so large that sums of such may overflow.
	large bool
	// counts have room for what four pairs more than the last bucket may reach.
	counts [buckets + 4*0x80]uint64
}

// What four pairs of a gap and a count, of a byte each, have in common as a number:
// no byte is a varint's that goes on, and no count is 0.
const (
	goesOn    = 0x8080808080808080
	countMost = 0x7f007f007f007f00
	countAny  = 0x8000800080008000
)

// largeCount is far from where counts overflow, however many are added up.
const largeCount = 1 << 32

// MergeBinary adds all values of what [Histogram.AppendBinary] wrote, as
// [Histogram.MergeBinary] does. It accepts the canonical form only, and on an error
// leaves d empty.
func (d *DenseHistogram) MergeBinary(data []byte) error {
	if len(data) == 0 {
		return nil
	}
	if data[0] != histogramFormat {
		d.wipe()
		return fmt.Errorf("cannot read histogram: format %d, want %d", data[0], histogramFormat)
	}
	m, err := d.addBuckets(varints{data[1:]})
	if err != nil {
		d.wipe()
		return fmt.Errorf("cannot read histogram: %w", err)
	}
	d.moments.add(&m)
	return nil
}

// addBuckets adds the buckets, and returns the moments of what it read.
func (d *DenseHistogram) addBuckets(in varints) (moments, error) {
	m, err := in.moments()
	if err != nil {
		return m, err
	}
	first, last := -1, -1
	for data := in.data; len(data) > 0; {
		var gap, n uint64
		if gap, n, data = shortPair(data); n == 0 {
			if gap, n, data = longPair(data); n == 0 {
				return m, errBucket
			}
		}
		if gap >= uint64(buckets-last-1) {
			return m, errBeyond
		}
		last += int(gap) + 1
		if first < 0 {
			first = last
		}
		d.large = d.large || n >= largeCount
		d.counts[last] = saturatingAdd(d.counts[last], n)
		m.count = saturatingAdd(m.count, n)
		if !d.large {
			var counted uint64
			last, counted, data = d.addShort(last, data)
			m.count = saturatingAdd(m.count, counted)
		}
		if last >= buckets {
			return m, errBeyond
		}
	}
	if first < 0 {
		return m, errOuter
	}
	return m, m.check(first, last)
}

// addShort adds buckets after the last, four at a time, as long as all have bytes of
// their own. It returns the new last one, how many values it added, and what is left
// of data. Buckets beyond all that are possible it adds, too, and then ends.
func (d *DenseHistogram) addShort(last int, data []byte) (newLast int, counted uint64, rest []byte) {
	for len(data) >= 8 && last < buckets {
		w := binary.LittleEndian.Uint64(data)
		if w&goesOn != 0 || (w+countMost)&countAny != countAny {
			break
		}
		data = data[8:]
		i := last + 1 + int(w&0x7f)
		j := i + 1 + int(w>>16&0x7f)
		k := j + 1 + int(w>>32&0x7f)
		last = k + 1 + int(w>>48&0x7f)
		d.counts[i] += w >> 8 & 0x7f
		d.counts[j] += w >> 24 & 0x7f
		d.counts[k] += w >> 40 & 0x7f
		d.counts[last] += w >> 56
		counted += (w >> 8 & 0x00ff00ff00ff00ff) * 0x0001000100010001 >> 48
	}
	return last, counted, data
}

// AppendBinary appends what [Histogram.AppendBinary] does of a histogram of the
// same values.
func (d *DenseHistogram) AppendBinary(dst []byte) []byte {
	if d.count == 0 {
		return dst
	}
	first, last := bucket(d.min), bucket(d.max)
	dst, _ = appendBuckets(d.moments.append(dst), d.counts[first:last+1], first)
	return dst
}

// AddTo adds all values to h.
func (d *DenseHistogram) AddTo(h *Histogram) {
	if d.count == 0 {
		return
	}
	first, last := bucket(d.min), bucket(d.max)
	for i, n := range d.counts[first : last+1] {
		if n > 0 {
			h.addAt(first+i, n)
		}
	}
	h.moments.add(&d.moments)
}

// Reset empties d.
func (d *DenseHistogram) Reset() {
	if d.count > 0 {
		clear(d.counts[bucket(d.min) : bucket(d.max)+1])
	}
	d.moments, d.large = moments{}, false
}

// wipe empties d, whatever it holds.
func (d *DenseHistogram) wipe() { *d = DenseHistogram{} }

// atOnce is how many buckets appendBuckets writes without looking at each.
const atOnce = 8

// appendBuckets appends the pairs of a histogram's form for counts that follow one
// another; gap is how many empty buckets precede them since the last that was
// written. It returns how many precede the next. Which buckets are empty is as good
// as chance, so that a branch for each would take longer than all the rest.
func appendBuckets[T uint16 | uint64](dst []byte, counts []T, gap int) (out []byte, next int) {
	for len(counts) >= atOnce {
		c := (*[atOnce]T)(counts)
		counts = counts[atOnce:]
		some := c[0] | c[1] | c[2] | c[3] | c[4] | c[5] | c[6] | c[7]
		if some == 0 {
			gap += atOnce
			continue
		}
		if some >= 0x80 || gap >= 0x80-atOnce {
			dst, gap = appendEach(dst, c[:], gap)
			continue
		}
		if cap(dst)-len(dst) < 4*atOnce {
			dst = slices.Grow(dst, 4*atOnce)
		}
		to := (*[4 * atOnce]byte)(dst[len(dst) : len(dst)+4*atOnce])
		at, empty := uint(0), uint(gap)
		for _, n := range c {
			to[at&(4*atOnce-1)], to[(at+1)&(4*atOnce-1)] = byte(empty), byte(n)
			// 1 where n is from 1 to 0x7f, 0 where it is 0.
			one := (uint(n) + 0x7f) >> 7
			at += 2 * one
			empty = (empty + 1) & (one - 1)
		}
		dst, gap = dst[:len(dst)+int(at)], int(empty)
	}
	return appendEach(dst, counts, gap)
}

// appendEach is as appendBuckets, of any counts.
func appendEach[T uint16 | uint64](dst []byte, counts []T, gap int) (out []byte, next int) {
	for _, n := range counts {
		if n == 0 {
			gap++
			continue
		}
		if gap < 0x80 && n < 0x80 {
			dst = append(dst, byte(gap), byte(n))
		} else {
			dst = binary.AppendUvarint(dst, uint64(gap))
			dst = binary.AppendUvarint(dst, uint64(n))
		}
		gap = 0
	}
	return dst, gap
}
