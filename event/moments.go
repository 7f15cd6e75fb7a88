package event

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// moments is what is exact of a histogram.
type moments struct{ count, sum, min, max uint64 }

// Count is how many values there are.
func (m *moments) Count() uint64 { return m.count }

// Sum of all values, exact.
func (m *moments) Sum() uint64 { return m.sum }

// Max is the greatest value, exact; 0 where there is none.
func (m *moments) Max() uint64 { return m.max }

// Min is the least value, exact; 0 where there is none.
func (m *moments) Min() uint64 { return m.min }

// Mean is Sum/Count; 0 where there are no values.
func (m *moments) Mean() float64 {
	if m.count == 0 {
		return 0
	}
	return float64(m.sum) / float64(m.count)
}

// add adds those of o, which has values.
func (m *moments) add(o *moments) {
	if m.count == 0 || o.min < m.min {
		m.min = o.min
	}
	m.max = max(m.max, o.max)
	m.count = saturatingAdd(m.count, o.count)
	m.sum = saturatingAdd(m.sum, o.sum)
}

// value is what stands for a bucket: its middle, but never outside what was
// seen.
func (m *moments) value(i int) float64 {
	if i == buckets-1 && m.max >= 1<<rangeBits {
		return float64(m.max)
	}
	lo, hi := bounds(i)
	lo, hi = max(lo, m.min), min(hi, m.max)
	return float64(lo) + float64(hi-lo)/2
}

// append appends the beginning of the binary form.
func (m *moments) append(dst []byte) []byte {
	dst = append(dst, histogramFormat)
	dst = binary.AppendUvarint(dst, m.sum)
	dst = binary.AppendUvarint(dst, m.min)
	return binary.AppendUvarint(dst, m.max-m.min)
}

var (
	errMoments = errors.New("sum, min or max is not valid")
	errBucket  = errors.New("a bucket is not valid")
	errBeyond  = fmt.Errorf("bucket beyond the last, %d", buckets-1)
	errOuter   = errors.New("min or max is not in the outermost buckets")
	errSum     = errors.New("the sum does not fit count, min and max")
)

// readMoments reads what append wrote after the format; the count is not in it.
func readMoments(in *varints) (m moments, err error) {
	sum, ok1 := in.next()
	least, ok2 := in.next()
	spread, ok3 := in.next()
	if !ok1 || !ok2 || !ok3 || least+spread < least {
		return m, errMoments
	}
	return moments{sum: sum, min: least, max: least + spread}, nil
}

// check holds the moments to the first and the last bucket that is not empty.
func (m *moments) check(first, last int) error {
	if first != bucket(m.min) || last != bucket(m.max) {
		return errOuter
	}
	if m.sum < saturatingMul(m.count, m.min) || m.sum > saturatingMul(m.count, m.max) {
		return errSum
	}
	return nil
}
