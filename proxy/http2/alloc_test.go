//go:build !race

package http2_test

import "testing"

// TestAllocations holds the relay to no allocation for a call. Under the race
// detector sync.Pool loses things on purpose.
func TestAllocations(t *testing.T) {
	r := testing.Benchmark(func(b *testing.B) { benchmark(b, 8, true) })
	if n := r.AllocsPerOp(); n > 0 {
		t.Errorf("%d allocations a call", n)
	}
}
