package aggregator

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/event"
)

// timings encodes a batch of one proxy's requests with given latencies, µs.
func timings(instance, sequence uint64, now time.Time, latencies []uint64) []byte {
	var enc event.Encoder
	for _, us := range latencies {
		e := event.Event{Direction: event.Inbound, Protocol: event.HTTP1, Status: 200, GRPCStatus: event.NoGRPCStatus, Method: "GET", Path: "/",
			Start: now.UnixMicro() - int64(us), Duration: us, Latency: us, Connection: 1, Stream: 1}
		e.Peer.Addr = netip.MustParseAddrPort("10.0.0.1:1")
		enc.Add(&e)
	}
	return enc.Encode(nil, &event.Header{
		Source:   event.Source{Workload: event.Workload{Namespace: "ns", Kind: "deploy", Name: "web"}, Pod: fmt.Sprint("web-", instance)},
		Instance: instance, Sequence: sequence, Sent: now.UnixMicro(),
	})
}

// TestQuantiles: through events, rollups, tiers and the answers of several
// members, merged in any order, no quantile is off by more than the bound.
func TestQuantiles(t *testing.T) {
	const n = 20_000
	distributions := map[string]func(*rand.Rand) uint64{
		"exactly 1 s":  func(*rand.Rand) uint64 { return 1_000_000 },
		"5001 ms":      func(*rand.Rand) uint64 { return 5_001_000 },
		"bimodal":      func(r *rand.Rand) uint64 { return []uint64{900, 900, 900, 2_500_000}[r.IntN(4)] + r.Uint64N(50) },
		"heavy tail":   func(r *rand.Rand) uint64 { return uint64(min(100/math.Pow(1-r.Float64(), 1/0.8), 3e9)) },
		"bucket edges": func(r *rand.Rand) uint64 { return 1<<r.IntN(30) - r.Uint64N(2) },
	}
	for name, draw := range distributions {
		rng := rand.New(rand.NewPCG(1, 2))
		start := time.Unix(1_800_000_000, 0)
		var all []uint64
		var replies []query.Reply
		var now time.Time
		for member := range uint64(4) {
			now = start
			p := owning(t, memoryOptions(&memory{}, fmt.Sprint("m", member), func() time.Time { return now }))
			for batch := range uint64(50) {
				now = start.Add(time.Duration(batch) * 10 * time.Second)
				latencies := make([]uint64, n/200)
				for i := range latencies {
					latencies[i] = draw(rng)
				}
				all = append(all, latencies...)
				if err := p.take(t.Context(), event.Mark{Sequence: batch + 1}, "", timings(member+1, batch+1, now, latencies)); err != nil {
					t.Fatal(err)
				}
				p.complete = true
				if err := p.publish(t.Context()); err != nil {
					t.Fatal(err)
				}
				for tier := 1; tier < len(p.tiers); tier++ {
					if j, due := p.nextJob(tier, p.lasts[tier-1]); due {
						if err := p.fold(t.Context(), j); err != nil {
							t.Fatal(err)
						}
					}
				}
				p.maintain()
			}
			if len(p.a.o.Tiers) < 2 || p.store.Finest() <= start.Unix() {
				t.Fatal("nothing went into coarser tiers")
			}
			var reply query.Reply
			request := fmt.Appendf(nil, `{"since":%d,"until":%d}`, start.Unix()-900, now.Unix()+1)
			if err := p.a.fill(&reply, query.MethodStat, request); err != nil {
				t.Fatal(err)
			}
			replies = append(replies, reply)
		}
		slices.Sort(all)
		var first string
		for range 6 {
			rng.Shuffle(len(replies), func(i, j int) { replies[i], replies[j] = replies[j], replies[i] })
			merged, err := query.Merge(replies)
			if err != nil {
				t.Fatal(err)
			}
			data, err := json.Marshal(merged.Rows)
			if err != nil {
				t.Fatal(err)
			}
			if first == "" {
				first = string(data)
			}
			if string(data) != first {
				t.Fatalf("%s: another order gives\n%s\nnot\n%s", name, data, first)
			}
			checkQuantiles(t, name, &merged.Rows[0].Stats.Latency, all)
		}
	}
}

func checkQuantiles(t *testing.T, name string, h *event.SparseHistogram, sorted []uint64) {
	t.Helper()
	n := len(sorted)
	if h.Count() != uint64(n) || h.Max() != sorted[n-1] {
		t.Fatalf("%s: %d values, max %d; want %d, %d", name, h.Count(), h.Max(), n, sorted[n-1])
	}
	for _, q := range []float64{0.01, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999} {
		exact := float64(sorted[int(math.Ceil(q*float64(n)-1e-9))-1])
		if off := math.Abs(h.Quantile(q)-exact) / exact; off > event.HistogramError {
			t.Errorf("%s: p%g is %g, want %g: off by %.2f %%", name, 100*q, h.Quantile(q), exact, 100*off)
		}
	}
}
