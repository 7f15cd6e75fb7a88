package telemetry

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/weirmesh/weir/event"
)

// sums are what coalescing must keep, whatever else it gives up.
type sums struct {
	events, requests, successes, connections, in, out uint64
	latency, duration                                 event.Histogram
}

func (s *sums) add(e *event.Event, n uint64) {
	s.events += n
	if e.Kind != event.End {
		return
	}
	if !e.IsRequest() {
		s.connections += n
		return
	}
	s.requests += n
	if e.Success() {
		s.successes += n
	}
}

// anything is an event of as many kinds as a hostile network could make.
func anything(rng *rand.Rand, peers, seconds int) event.Event {
	e := event.Event{
		Direction: event.Direction(1 + rng.IntN(2)), Protocol: event.Protocol(rng.IntN(7)), Kind: event.Kind(rng.IntN(10) / 9),
		Status: uint16(rng.IntN(1000)), GRPCStatus: int16(rng.IntN(20) - 1), Method: "GET", Path: fmt.Sprint("/", rng.IntN(100)),
		Start: int64(1_790_000_000+rng.IntN(seconds)) * 1e6, Latency: rng.Uint64N(1 << rng.IntN(40)),
		RequestBytes: rng.Uint64N(1000), ResponseBytes: rng.Uint64N(1 << 30), Connection: 1 + rng.Uint64N(50), Stream: 1,
		SecurityReason: "not meshed",
	}
	e.Duration = e.Latency + rng.Uint64N(1000)
	if rng.IntN(5) == 0 {
		e.Error = event.ErrServerReset
	}
	if p := rng.IntN(peers); p%2 == 0 {
		e.Peer.Addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(p >> 16), byte(p >> 8), byte(p)}), uint16(p))
	} else {
		e.Peer.Workload = event.Workload{Cluster: "c", Namespace: "n", Kind: "deploy", Name: fmt.Sprint("w", p)}
	}
	return e
}

// TestCoalescerIsExactAndBounded: however many seconds, peers and outcomes there
// are, the sums are those of the events, and fit into one batch.
func TestCoalescerIsExactAndBounded(t *testing.T) {
	f := func(name string, peers, seconds, batches int) {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, uint64(peers)))
			var c coalescer
			var want sums
			var enc event.Encoder
			for range batches {
				for range 2000 {
					e := anything(rng, peers, seconds)
					enc.Add(&e)
					want.add(&e, 1)
					want.in, want.out = want.in+e.RequestBytes, want.out+e.ResponseBytes
					if e.IsRequest() {
						want.latency.Record(e.Latency)
						want.duration.Record(e.Duration)
					}
				}
				if err := c.add(enc.Encode(nil, &event.Header{Sent: 1_790_000_000e6})); err != nil {
					t.Fatal(err)
				}
				enc.Reset()
				if c.bytes > maxCoalescedBytes || len(c.rows) > event.MaxSummaries {
					t.Fatalf("%d bytes, %d summaries", c.bytes, len(c.rows))
				}
			}
			if c.width == 1 && c.coarse == 0 {
				t.Errorf("width %d, coarse %d", c.width, c.coarse)
			}
			c.put(&enc)
			data := enc.Encode(nil, &event.Header{Instance: 1, Sequence: 1})
			var d event.Decoder
			if err := d.Reset(data); err != nil {
				t.Fatal(err)
			}
			got, n := read(t, &d)
			for _, same := range [][2]uint64{
				{got.events, want.events}, {got.requests, want.requests}, {got.successes, want.successes},
				{got.connections, want.connections}, {got.in, want.in}, {got.out, want.out}, {c.events, want.events},
			} {
				if same[0] != same[1] {
					t.Errorf("got %+v, want %+v", got, want)
				}
			}
			if string(got.latency.AppendBinary(nil)) != string(want.latency.AppendBinary(nil)) ||
				string(got.duration.AppendBinary(nil)) != string(want.duration.AppendBinary(nil)) {
				t.Error("histograms differ")
			}
			t.Logf("%d events: %d summaries, %d bytes, of %d s each, coarse %d", want.events, n, len(data), c.width, c.coarse)
		})
	}
	f("a long time", 2, 5000, 20)
	f("many peers", 100_000, 3, 20)
	f("all of it", 100_000, 1_000_000, 30)
}

// read adds up the summaries of a batch.
func read(t *testing.T, d *event.Decoder) (got sums, n int) {
	t.Helper()
	var s event.Summary
	var h event.Histogram
	for ; d.NextSummary(&s); n++ {
		var e event.Event
		d.Describe(s.Exchange, s.Connection, &e)
		got.add(&e, s.Events)
		got.in, got.out = got.in+s.RequestBytes, got.out+s.ResponseBytes
		for of, data := range map[*event.Histogram][]byte{&got.latency: s.Latency, &got.duration: s.Duration} {
			if err := h.UnmarshalBinary(data); err != nil {
				t.Fatal(err)
			}
			of.Merge(&h)
		}
	}
	return got, n
}

// TestCoalescerKeepsWhatItCan: a minute of usual traffic is told by second, peer
// and outcome.
func TestCoalescerKeepsWhatItCan(t *testing.T) {
	var c coalescer
	var enc event.Encoder
	peer := func(i int) event.Workload {
		return event.Workload{Namespace: "n", Kind: "deploy", Name: fmt.Sprint("w", i)}
	}
	for i := range 60_000 {
		e := event.Event{
			Direction: event.Inbound, Protocol: event.HTTP1, Status: 200, GRPCStatus: event.NoGRPCStatus, Path: "/",
			Start: 1_790_000_000e6 + int64(i)*1000, Latency: uint64(i % 100), Duration: uint64(i % 100),
			Peer: event.Peer{Workload: peer(i % 4), Pod: "p"}, Connection: 1, Stream: uint32(i),
		}
		if i%10 == 0 {
			e.Status = 503
		}
		if enc.Add(&e); i%10_000 == 9999 {
			if err := c.add(enc.Encode(nil, &event.Header{})); err != nil {
				t.Fatal(err)
			}
			enc.Reset()
		}
	}
	seconds, kinds := map[int64]uint64{}, map[event.Event]uint64{}
	for _, r := range c.rows {
		seconds[r.Second] += r.Events
		kinds[c.kinds[r.kind]] += r.Events
	}
	// Of four peers, two are never at a multiple of ten.
	if len(seconds) < 60 || len(seconds) > 61 || len(kinds) != 6 {
		t.Errorf("%d seconds, %d kinds", len(seconds), len(kinds))
	}
	for k := range kinds {
		if k.Peer.Workload == (event.Workload{}) || k.Peer.Pod != "" || k.Path != event.CoalescedPath {
			t.Errorf("kind %+v", k)
		}
	}
}
