//go:build !race

package http2_test

import "testing"

// TestAllocations holds the relay to no allocation for a call. Under the race
// detector sync.Pool loses things on purpose.
func TestAllocations(t *testing.T) {
	const streams = 8
	burst, stop := calls(t, streams, true)
	defer stop()
	if n := testing.AllocsPerRun(2000, burst); n > 0 {
		t.Errorf("%v allocations for %d calls", n, streams)
	}
}
