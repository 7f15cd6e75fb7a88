package event

import (
	"encoding/binary"
	"errors"
	"math/bits"
)

// The buckets of sums are written bit by bit: each that is not empty as how many
// empty ones precede it since the last, and how many values more than one it has.
// Both are Golomb-Rice codes (R. F. Rice, Some Practical Universal Noiseless Coding
// Techniques, JPL 79-22), whose parameters precede them: the buckets of many values
// are mostly next to one another and have many each, those of few the other way round.

// Widths of a histogram's two parameters.
const (
	gapParameter   = 4
	countParameter = 5
)

var (
	errBits    = errors.New("its buckets are cut short")
	errBuckets = errors.New("its buckets are not those of its events")
)

// bitWriter appends bits, the lowest of a byte first. Its zero value is ready.
type bitWriter struct {
	dst  []byte
	held uint64
	n    uint // bits that are held, less than 32
}

// put appends the lowest bits of v, 32 at most, which has no others.
func (w *bitWriter) put(v uint64, width uint) {
	w.held |= v << w.n
	if w.n += width; w.n >= 32 {
		w.dst = binary.LittleEndian.AppendUint32(w.dst, uint32(w.held))
		w.held >>= 32
		w.n -= 32
	}
}

// rice appends a number: v >> k zeros, a one, and its k lowest bits.
func (w *bitWriter) rice(v uint64, k uint) {
	q := v >> k
	for ; q >= 31; q -= 31 {
		w.put(0, 31)
	}
	w.put(1<<q, uint(q)+1)
	w.put(v&(1<<k-1), k)
}

// pair appends two numbers, at once where they are short.
func (w *bitWriter) pair(a, b uint64, j, k uint) {
	p, q := uint(a>>(j&63)), uint(b>>(k&63))
	first := p + 1 + j
	if length := first + q + 1 + k; length <= 32 {
		v := (a&(1<<(j&63)-1)<<1 | 1) << (p & 63)
		v |= (b&(1<<(k&63)-1)<<1 | 1) << (q & 63) << (first & 63)
		w.put(v, length)
		return
	}
	w.rice(a, j)
	w.rice(b, k)
}

// end appends what is held, to the end of a byte, and returns all.
func (w *bitWriter) end() []byte {
	for ; w.n > 0; w.n -= min(w.n, 8) {
		w.dst = append(w.dst, byte(w.held))
		w.held >>= 8
	}
	return w.dst
}

// parameter is the best of a Rice code for numbers of a mean.
func parameter(sum, count uint64) uint {
	if count == 0 {
		return 0
	}
	return uint(bits.Len64(sum * 3 / 4 / count))
}

// histogram appends buckets, of which there is one at least, from first to last.
func (w *bitWriter) histogram(counts []BucketCount, n uint64) {
	first, last := counts[0].Bucket(), counts[len(counts)-1].Bucket()
	m := uint64(len(counts))
	gap := min(parameter(uint64(last-first+1)-m, m-1), 1<<gapParameter-1)
	more := min(parameter(n-m, m), 1<<countParameter-1)
	w.put(uint64(gap), gapParameter)
	w.put(uint64(more), countParameter)
	w.rice(counts[0].Count()-1, more)
	next := first + 1
	for _, c := range counts[1:] {
		w.pair(uint64(c.Bucket()-next), c.Count()-1, gap, more)
		next = c.Bucket() + 1
	}
}

// bitReader reads what a bitWriter wrote. Beyond the end are zeros.
type bitReader struct {
	// data has eight bytes more than there are.
	data []byte
	at   uint // bits that were read
}

const padding = 8

// peeked is how many bits peek gives at least.
const peeked = 57

// peek are the next bits.
func (r *bitReader) peek() uint64 {
	at := min(r.at>>3, uint(len(r.data)-padding))
	return binary.LittleEndian.Uint64(r.data[at:]) >> (r.at & 7)
}

// over tells whether more was read than there is.
func (r *bitReader) over() bool { return r.at > 8*uint(len(r.data)-padding) }

// take reads up to 32 bits.
func (r *bitReader) take(width uint) uint64 {
	v := r.peek() & (1<<width - 1)
	r.at += width
	return v
}

// rice reads a number; one beyond limit, or cut short, is limit + 1.
func (r *bitReader) rice(k uint, limit uint64) uint64 {
	q := uint64(0)
	for {
		x := r.peek() & (1<<56 - 1)
		if x != 0 {
			zeros := uint(bits.TrailingZeros64(x))
			q += uint64(zeros)
			r.at += zeros + 1
			break
		}
		q += 56
		r.at += 56
		if q > limit || r.over() {
			return limit + 1
		}
	}
	return min(q<<k|r.take(k), limit+1)
}

// histogram appends the buckets from first to last of n values, one at least.
func (r *bitReader) histogram(dst []BucketCount, first, last int, n uint64) ([]BucketCount, error) {
	gap, more := uint(r.take(gapParameter)), uint(r.take(countParameter))
	gaps, counts := uint64(1)<<gap-1, uint64(1)<<more-1
	bucket, count := first, r.rice(more, n)+1
	gap, more = gap&63, more&63 // tells the compiler that shifts by them are plain
	for left := n; ; {
		if count > left {
			if r.over() {
				return dst, errBits
			}
			return dst, errBuckets
		}
		left -= count
		dst = append(dst, makeBucketCount(bucket, uint32(count)))
		if bucket == last {
			switch {
			case r.over():
				return dst, errBits
			case left > 0:
				return dst, errBuckets
			}
			return dst, nil
		}
		// Both numbers are short, nearly always, and read at once then: without a
		// branch on their lengths.
		x := r.peek()
		p := uint(bits.TrailingZeros64(x))
		x = x >> (p & 63) >> 1
		skipped := uint64(p)<<gap | x&gaps
		x >>= gap
		q := uint(bits.TrailingZeros64(x))
		count = (uint64(q)<<more | x>>(q&63)>>1&counts) + 1
		if length := p + q + 2 + gap + more; length <= peeked {
			r.at += length
		} else {
			skipped = r.rice(gap, buckets)
			count = r.rice(more, left) + 1
		}
		if bucket += int(skipped) + 1; bucket > last {
			return dst, errBuckets
		}
	}
}
