package rollup

import (
	"testing"

	"github.com/weirmesh/weir/event"
)

// TestSpares: cells are used again, a bounded number of them, those of totals too.
func TestSpares(t *testing.T) {
	const pending, rows, second = 40, 100, 1_800_000_000
	f := NewFolder(Limits{Pending: pending})
	for round := range 3 {
		for i := range rows {
			w := event.Workload{Namespace: "ns", Kind: "deploy", Name: string(rune('a' + i))}
			e := event.Event{Protocol: event.HTTP1, Status: 200, GRPCStatus: event.NoGRPCStatus, Latency: 1 << i % 30, Duration: 1 << 20}
			f.cell(f.slot(Key{Dimension: ByPod, Workload: w, Pod: "pod"}, second), second).Add(&e)
		}
		d := f.Take(false)
		if len(d.Items) != 2*rows {
			t.Fatalf("round %d: %d items, want %d", round, len(d.Items), 2*rows)
		}
		if n := len(f.spare.cells); n != pending {
			t.Errorf("round %d: %d cells are kept, want %d", round, n, pending)
		}
	}
}
