package rollup

import (
	"math/rand/v2"
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

// TestOwnSpares: a slot gets the cell again that it had, if it is there, and nobody
// gets one that another has, whatever number of them is kept.
func TestOwnSpares(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	s := spares{most: 30}
	var slots [60]slot
	own := map[*slot]*Cell{} // each one's that waits
	for range 2000 {
		had := map[*Cell]*slot{}
		for range rng.IntN(50) {
			at := &slots[rng.IntN(len(slots))]
			c := s.take(at)
			if had[c] != nil {
				t.Fatal("two have the same cell")
			}
			if mine := own[at]; mine != nil && c != mine {
				t.Fatal("a slot whose cell was there got another")
			}
			for of, waiting := range own {
				if waiting == c {
					delete(own, of)
				}
			}
			had[c] = at
		}
		for c, at := range had {
			if s.put(c, at); len(s.cells) < s.most && own[at] == nil {
				own[at] = c
			}
		}
		s.keep(10 + rng.IntN(40))
		clear(own)
		for i, c := range s.cells {
			if c.owner == nil {
				continue
			}
			if own[c.owner] != nil || int(c.owner.spare) != i+1 {
				t.Fatalf("a slot's cell is at %d, which takes it to be at %d", i+1, c.owner.spare)
			}
			own[c.owner] = c.cell
		}
		for i := range slots {
			if slots[i].spare > 0 && own[&slots[i]] == nil {
				t.Fatal("a slot takes a cell to be there that is gone")
			}
		}
	}
}
