package aggregator

import (
	"testing"
	"time"
)

// TestUntilPublish: partitions publish once an interval, one after the other, when
// the proxies' flushes, in the first half of it, are over.
func TestUntilPublish(t *testing.T) {
	const partitions = 16
	second := time.Unix(1_800_000_000, 0)
	for _, every := range []time.Duration{time.Second, 2 * time.Second} {
		var last time.Time
		for n := range partitions {
			p := &partition{a: &Aggregator{o: Options{RollupEvery: every, Partitions: partitions}}, number: n}
			at := second.Add(p.untilPublish(second))
			if phase := at.Sub(second); phase < every*7/10 || phase >= every*9/10 || !at.After(last) {
				t.Errorf("partition %d publishes %v after the beginning of %v", n, phase, every)
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
