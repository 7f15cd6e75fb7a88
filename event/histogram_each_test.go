package event

import (
	"math"
	"testing"
)

func TestEach(t *testing.T) {
	var h Histogram
	want := []uint64{0, 1, 127, 128, 5000, 5_001_000, 1 << 39}
	for i, v := range want {
		h.RecordN(v, uint64(i+1))
	}
	i, last := 0, -1.0
	h.Each(func(value float64, n uint64) {
		if i >= len(want) || n != uint64(i+1) || value <= last || math.Abs(value-float64(want[i])) > HistogramError*float64(want[i]) {
			t.Errorf("number %d is %v, %d times", i, value, n)
		}
		i, last = i+1, value
	})
	if i != len(want) {
		t.Errorf("%d values; want %d", i, len(want))
	}
	var empty Histogram
	empty.Each(func(value float64, n uint64) { t.Errorf("an empty one has %v, %d times", value, n) })
}
