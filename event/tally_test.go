package event_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/weirmesh/weir/event"
)

// What tallies, or FillPairs, and Moments make of values is what Record makes of
// them, also where a count goes beyond 16 bits.
func TestTally(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	wide := []uint64{1 << 20, 0, 1, 63, 64, 127, 128, 1<<40 - 1, 1 << 40, math.MaxUint64}
	for range 1000 {
		wide = append(wide, rng.Uint64()>>rng.IntN(64))
	}
	many := make([]uint64, 200_000)
	for i := range many {
		many[i] = 900 + uint64(i&1)*uint64(i)
	}
	var low, high event.Tally
	for _, values := range [][]uint64{wide, many, {5000}, nil, wide[:1]} {
		at := make([]uint32, len(values))
		others := make([]uint64, len(values))
		for i := range others {
			others[i] = values[len(values)-1-i]
		}
		event.BucketPairs(at, values, others)
		var want, filled, filledToo, got event.Histogram
		var m, half event.Moments
		for i, v := range values {
			want.Record(v)
			if i%2 == 0 {
				m.Record(v)
			} else {
				half.Record(v)
			}
		}
		m.Add(&half)
		for len(at) > 0 {
			n := min(len(at), 100)
			event.TallyPairs(at[:n], &low, &high)
			filled.FillPairs(&filledToo, at[:n])
			at = at[n:]
		}
		event.TallyPairs([]uint32{math.MaxUint32}, &low, &high)
		filled.FillPairs(&filledToo, []uint32{math.MaxUint32})
		filled.AddMoments(&m)
		filledToo.AddMoments(&m)
		filled.AddMoments(&event.Moments{})
		low.AddTo(&got, &m)
		// Twice the same values, the sums of whose counts are beyond 16 bits for many.
		var twice event.Tally
		doubled := m
		doubled.Add(&m)
		twice.Add(&low, &m)
		twice.Add(&low, &m)
		var both event.Histogram
		both.Merge(&want)
		both.Merge(&want)
		if string(twice.AppendBinary(nil, &doubled)) != string(both.AppendBinary(nil)) {
			t.Errorf("Add and Merge differ for %d values", len(values))
		}
		bytes := string(want.AppendBinary(nil))
		for name, have := range map[string]string{
			"FillPairs": string(filled.AppendBinary(nil)), "FillPairs, second": string(filledToo.AppendBinary(nil)),
			"AddTo": string(got.AppendBinary(nil)), "AppendBinary": string(low.AppendBinary(nil, &m)), "second": string(high.AppendBinary(nil, &m)),
		} {
			if have != bytes {
				t.Errorf("%s and Record differ for %d values", name, len(values))
			}
		}
		low.Reset(&m)
		high.Reset(&m)
		if again := low.AppendBinary(nil, &event.Moments{}); len(again) > 0 {
			t.Error("what is reset has values")
		}
	}
}
