package event_test

import (
	"math/rand/v2"
	"testing"

	"github.com/weirmesh/weir/event"
)

// Columns of any width are read as they were written, whatever their lengths, also
// where a batch ends with them.
func TestWidths(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for width := range 64 {
		for _, n := range []int{1, 7, 8, 9, 127, 128, 135, 300} {
			var enc event.Encoder
			latencies, tails := make([]uint64, n), make([]uint64, n)
			for i := range n {
				latencies[i] = rng.Uint64() >> (63 - width) >> 1
				tails[i] = rng.Uint64() >> (63 - width/2) >> 1
				enc.Add(&event.Event{
					Start: 1e15, Direction: event.Inbound, Protocol: event.HTTP1, Status: 200,
					Latency: latencies[i], Duration: latencies[i] + tails[i], RequestBytes: tails[i], ResponseBytes: latencies[i],
				})
			}
			data := enc.Encode(nil, &event.Header{Instance: 1, Sequence: 1, Sent: 1e15, Source: event.Source{Workload: event.Workload{Name: "a"}}})
			var d event.Decoder
			if err := d.Reset(data); err != nil {
				t.Fatalf("width %d, %d rows: %v", width, n, err)
			}
			var r event.Rows
			at := 0
			for d.NextRows(&r) {
				for i := range r.N {
					if r.Latency[i] != latencies[at] || r.Duration[i] != latencies[at]+tails[at] || r.RequestBytes[i] != tails[at] || r.ResponseBytes[i] != latencies[at] {
						t.Fatalf("width %d, row %d of %d: %d, %d, %d, %d, want latency %d and tail %d", width, at, n,
							r.Latency[i], r.Duration[i], r.RequestBytes[i], r.ResponseBytes[i], latencies[at], tails[at])
					}
					at++
				}
			}
			if at != n {
				t.Fatalf("width %d: %d rows of %d", width, at, n)
			}
		}
	}
}
