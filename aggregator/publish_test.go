package aggregator

import (
	"testing"
	"time"
)

// TestUntilPublish: partitions publish once an interval, one after the other, at
// equal distances throughout it.
func TestUntilPublish(t *testing.T) {
	const partitions = 16
	second := time.Unix(1_800_000_000, 0)
	for _, every := range []time.Duration{time.Second, 2 * time.Second} {
		var last time.Time
		for n := range partitions {
			p := &partition{a: &Aggregator{o: Options{RollupEvery: every, Partitions: partitions}}, number: n}
			at := second.Add(p.untilPublish(second.Add(-1)) - 1)
			if want := last.Add(every / partitions); n > 0 && !at.Equal(want) || n == 0 && !at.Equal(second) {
				t.Errorf("partition %d publishes %v after the beginning of %v", n, at.Sub(second), every)
			}
			last = at
			if next := at.Add(p.untilPublish(at)); next.Sub(at) != every {
				t.Errorf("partition %d publishes again %v later, want %v", n, next.Sub(at), every)
			}
			if wait := p.untilPublish(at.Add(-1)); wait != 1 {
				t.Errorf("partition %d publishes in %v, want 1 ns", n, wait)
			}
		}
	}
}
