package rollup_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/event"
)

// TestPairs: what a workload asked of each peer, by route and second, is what its
// events add up to one by one: few peers or more than are summed up together,
// ends out of order where seconds meet, and times that need more than 32 bits.
func TestPairs(t *testing.T) {
	type pair struct {
		peer, path string
		second     int64
	}
	for _, peers := range []int{1, 8, 200} {
		rng := rand.New(rand.NewPCG(uint64(peers), 5))
		f := rollup.NewFolder(rollup.Limits{Routes: 10_000, Pending: 1 << 20})
		want := map[pair]*rollup.Cell{}
		for sequence := range uint64(6) {
			sent := t0 + int64(sequence+2)*second
			var events []event.Event
			for i := range 3000 {
				e := request(event.Outbound, 0, fmt.Sprintf("/route/%c", 'a'+rng.IntN(20)))
				peer := rng.IntN(peers)
				e.Connection, e.Peer.Workload.Name = uint64(peer+1), fmt.Sprint("peer-", peer)
				e.Latency = uint64(rng.ExpFloat64() * 2000)
				e.Duration = e.Latency + rng.Uint64N(100)
				if rng.IntN(500) == 0 {
					e.Duration += 1 << 33
				}
				if rng.IntN(30) == 0 {
					e.Status = uint16(500 + rng.IntN(30))
				}
				end := sent - 1_500_000 + int64(i)*400 + rng.Int64N(20_000)
				e.Start = end - int64(e.Duration)
				events = append(events, e)
				k := pair{e.Peer.Workload.Name, e.Path, end / second}
				if want[k] == nil {
					want[k] = &rollup.Cell{}
				}
				want[k].Add(&e)
			}
			if r, err := fold(f, encode(header(1, sequence+1, sent), events...), sent); err != nil || r.Moved != 0 {
				t.Fatal(r, err)
			}
		}
		got := 0
		f.Scan(0, 1<<60, func(k rollup.Key) func(int64, *rollup.Cell) {
			if k.Dimension != rollup.ByPeerRoute {
				return nil
			}
			return func(second int64, c *rollup.Cell) {
				got++
				w := want[pair{k.Peer.Workload.Name, k.Route.Path, second}]
				if w == nil || !bytes.Equal(c.AppendBinary(nil), w.AppendBinary(nil)) {
					t.Fatalf("%d peers: %s %s at %d has %d requests, or others than wanted", peers, k.Peer.Workload.Name, k.Route.Path, second, c.Requests)
				}
			}
		})
		if got != len(want) {
			t.Errorf("%d peers: %d pairs, want %d", peers, got, len(want))
		}
	}
}
