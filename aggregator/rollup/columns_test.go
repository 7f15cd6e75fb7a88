package rollup_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/event"
)

// place is where an event counts, once in each dimension.
type place struct {
	dimension rollup.Dimension
	direction event.Direction
	second    int64
}

// marginals are the dimensions in which each event counts.
var marginals = []rollup.Dimension{rollup.Total, rollup.ByPod, rollup.ByPeer, rollup.ByRoute}

// tally is a list of sums; with whole, of all seconds together.
type tally struct {
	whole bool
	cells map[place]*rollup.Cell
}

func (l *tally) at(d rollup.Dimension, direction event.Direction, second int64) *rollup.Cell {
	if l.whole {
		second = 0
	}
	p := place{d, direction, second}
	if l.cells[p] == nil {
		l.cells[p] = &rollup.Cell{}
	}
	return l.cells[p]
}

// scanned are all cells of a folder that wait, as a question sees them.
func scanned(f *rollup.Folder, whole bool) *tally {
	l := &tally{whole, map[place]*rollup.Cell{}}
	f.Scan(0, 1<<60, func(k rollup.Key) func(int64, *rollup.Cell) {
		return func(second int64, c *rollup.Cell) { l.at(k.Dimension, k.Direction, second).Merge(c) }
	})
	return l
}

// taken are those of a delta, as who reads it back sees them.
func taken(t *testing.T, d *rollup.Delta, whole bool) *tally {
	t.Helper()
	l := &tally{whole, map[place]*rollup.Cell{}}
	var adder rollup.Adder
	for i := range d.Items {
		it := &d.Items[i]
		if err := adder.Add(l.at(it.Key.Dimension, it.Key.Direction, it.Second), it.Sums); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// same compares the marginals of two lists to the byte.
func same(t *testing.T, what string, got, want *tally) {
	t.Helper()
	for _, l := range []*tally{got, want} {
		for p := range l.cells {
			if p.dimension == rollup.Ledger || p.dimension == rollup.ByPeerRoute {
				continue
			}
			have, expected := got.at(p.dimension, p.direction, p.second), want.at(p.dimension, p.direction, p.second)
			if !bytes.Equal(have.AppendBinary(nil), expected.AppendBinary(nil)) {
				t.Fatalf("%s: %+v: %d requests of %d, %d of %d bytes, or other distributions", what, p,
					have.Requests, expected.Requests, have.ResponseBytes, expected.ResponseBytes)
			}
		}
	}
}

// anyEvent is one of few kinds, that ended at end or some seconds before.
func anyEvent(rng *rand.Rand, end int64) event.Event {
	e := request(event.Inbound, 0, fmt.Sprint("/api/", string(rune('a'+rng.IntN(4)))))
	if rng.IntN(2) == 0 {
		e.Direction = event.Outbound
	}
	e.Duration = uint64(rng.IntN(3000) * rng.IntN(1000))
	e.Latency = e.Duration / uint64(1+rng.IntN(3))
	if rng.IntN(20) == 0 {
		end -= rng.Int64N(5 * second)
	}
	e.Start = end - int64(e.Duration)
	e.RequestBytes, e.ResponseBytes = uint64(rng.IntN(100)), uint64(rng.IntN(10_000))
	e.Connection = uint64(rng.IntN(6))
	e.Peer.Workload.Name = fmt.Sprint("peer-", e.Connection%3)
	if e.Connection == 5 {
		e.Peer = event.Peer{Addr: netip.MustParseAddrPort("192.0.2.1:80")}
	}
	switch rng.IntN(12) {
	case 0:
		e.Status = uint16(500 + rng.IntN(20)) // more outcomes than are counted together
	case 1:
		e.Status, e.Error = 503, event.ErrConnectRefused
	case 2:
		e.Protocol, e.GRPCStatus, e.Path = event.GRPC, int16(rng.IntN(4)), "/pkg.Svc/Do"
	case 3:
		e.Protocol, e.Status, e.Method, e.Path = event.TCP, 0, "", ""
	case 4:
		e.Kind = event.Progress
	case 5:
		e.Direction = 0 // counts nowhere
	}
	return e
}

// TestColumnsCountAsEventsDo: batches of any size, from any mixture of events, are
// to a question between any two of them, and to who reads the rollups, what their
// events add up to one by one.
func TestColumnsCountAsEventsDo(t *testing.T) {
	for seed := range uint64(12) {
		rng := rand.New(rand.NewPCG(seed, 9))
		var limits rollup.Limits
		whole := seed%3 == 2
		if whole {
			limits = rollup.Limits{Peers: 2, Routes: 2, Pending: 20}
		}
		f := rollup.NewFolder(limits)
		want := &tally{whole, map[place]*rollup.Cell{}}
		now := t0
		for sequence := range uint64(40) {
			var events []event.Event
			plain := rng.IntN(2) == 0 // long runs of the same pod's requests
			for range 1 + rng.IntN(700)*rng.IntN(2) {
				now += rng.Int64N(10_000)
				e := anyEvent(rng, now)
				if plain {
					e.Direction, e.Kind, e.Protocol, e.GRPCStatus = event.Inbound, event.End, event.HTTP1, event.NoGRPCStatus
				}
				events = append(events, e)
				if e.Direction == 0 {
					continue
				}
				for _, d := range marginals {
					want.at(d, e.Direction, (e.Start+int64(e.Duration))/second).Add(&e)
				}
			}
			if _, err := fold(f, encode(header(1, sequence+1, now), events...), now); err != nil {
				t.Fatal(err)
			}
			same(t, fmt.Sprintf("seed %d, after batch %d", seed, sequence), scanned(f, whole), want)
			if rng.IntN(5) == 0 {
				same(t, fmt.Sprintf("seed %d, rollup at batch %d", seed, sequence), taken(t, f.Take(false), whole), want)
				want.cells = map[place]*rollup.Cell{}
			}
		}
	}
}
