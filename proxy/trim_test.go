package proxy

import "testing"

func TestTrimsAfterABurstAndThenRests(t *testing.T) {
	var tr trimmer
	f := func(events, accepted uint64, want bool) {
		t.Helper()
		if got := tr.look(events, accepted); got != want {
			t.Errorf("at %d events and %d connections: %v; want %v", events, accepted, got, want)
		}
	}
	f(0, 0, false) // nothing ever came
	f(50_000, 100, false)
	f(100_000, 1000, false)
	f(100_000, 1000, true) // the burst is over
	f(100_000, 1000, true)
	f(100_000, 1000, true)
	f(100_000, 1000, false) // all is given back
	f(100_000, 1000, false)
	f(100_001, 1000, true) // a probe now and then
	f(100_002, 1001, true)
	f(200_000, 1001, false) // a burst again
}
