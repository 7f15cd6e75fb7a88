package aggregator

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/aggregator/store"
	"github.com/weirmesh/weir/event"
)

// samePeers is a batch of one request of each of n clients.
func samePeers(sequence uint64, n int, now time.Time) []byte {
	var enc event.Encoder
	for i := range n {
		e := event.Event{Direction: event.Inbound, Protocol: event.HTTP1, Status: 200, GRPCStatus: event.NoGRPCStatus, Method: "GET", Path: "/",
			Start: now.UnixMicro() - 10, Duration: 10, Latency: 5, Connection: uint64(i + 1), Stream: 1}
		e.Peer.Addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1)
		enc.Add(&e)
	}
	return enc.Encode(nil, &event.Header{
		Source:   event.Source{Workload: event.Workload{Namespace: "ns", Kind: "deploy", Name: "web"}, Pod: "web-0"},
		Instance: 1, Sequence: sequence, Sent: now.UnixMicro(),
	})
}

// TestBoundOfManyRows: an aggregator of which more rows are active than its memory
// has room for, until the next tier has them, keeps to its bound; so does who takes
// over from it with all of its history. Of each window, totals and edges are exact
// within the edges that the answer names.
func TestBoundOfManyRows(t *testing.T) {
	const peers, seconds, limit = 150, 420, 800_000
	now := time.Unix(1_800_000_000, 0)
	began := now.Unix() + 1
	bus := &memory{now: func() time.Time { return now }}
	o := memoryOptions(bus, "me", func() time.Time { return now })
	o.Tiers, o.StoreBytes, o.MaxPart = store.Tiers(), limit, 0
	p := owning(t, o)
	if err := p.loadHistory(t.Context()); err != nil {
		t.Fatal(err)
	}
	check := func(what string) {
		t.Helper()
		if bytes := p.store.Bytes(); bytes > limit {
			t.Fatalf("%s: the store takes %d bytes, of %d", what, bytes, limit)
		}
		for _, back := range []int64{7, 45, 130, 300, 600} {
			for _, method := range []string{query.MethodStat, query.MethodEdges} {
				checkRequests(t, p, what, method, began, now.Unix(), back, peers)
			}
		}
	}
	for i := range uint64(seconds) {
		now = now.Add(time.Second)
		if err := p.take(t.Context(), event.Mark{Sequence: i + 1}, "", samePeers(i+1, peers, now)); err != nil {
			t.Fatal(err)
		}
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
		p.a.trim(now)
		if i%30 == 29 {
			check(fmt.Sprintf("after %d s", i+1))
		}
		if i != 200 && i != seconds-1 {
			continue
		}
		p = owning(t, o)
		if err := p.loadHistory(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.a.trim(now.Add(trimEvery))
		check(fmt.Sprintf("taken over after %d s", i+1))
	}
	if p.store.Finest() <= began || p.store.Totals().Finest() >= p.store.Finest() {
		t.Errorf("edges are fine %d s after the beginning, those of totals %d s", p.store.Finest()-began, p.store.Totals().Finest()-began)
	}
}

// checkRequests asks for what came in the last seconds, of each of which there were
// so many.
func checkRequests(t *testing.T, p *partition, what, method string, began, now, back int64, each int) {
	t.Helper()
	var reply query.Reply
	if err := p.a.fill(&reply, method, fmt.Appendf(nil, `{"since":%d,"until":%d}`, now+1-back, now+1)); err != nil {
		t.Fatal(err)
	}
	var got uint64
	for i := range reply.Rows {
		got += reply.Rows[i].Stats.Requests
	}
	for i := range reply.Edges {
		got += reply.Edges[i].Stats.Requests
	}
	w := reply.Windows[0]
	if want := uint64(w.Until-max(w.Since, began)) * uint64(each); got != want {
		t.Fatalf("%s: %s of the last %d s: %d requests in [%d, %d), want %d", what, method, back, got, w.Since-now, w.Until-now, want)
	}
}
