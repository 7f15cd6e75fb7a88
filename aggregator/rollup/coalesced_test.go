package rollup_test

import (
	"testing"

	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/event"
)

// summarize encodes a batch of the sums of so many events like each of events,
// in the second in which they ended.
func summarize(h event.Header, each uint64, events ...event.Event) []byte {
	var enc event.Encoder
	for i := range events {
		e := &events[i]
		s := event.Summary{
			Second: (e.Start + int64(e.Duration)) / second, Events: each,
			RequestBytes: each * e.RequestBytes, ResponseBytes: each * e.ResponseBytes,
		}
		if e.IsRequest() {
			var latency, duration event.Histogram
			latency.RecordN(e.Latency, each)
			duration.RecordN(e.Duration, each)
			s.Latency, s.Duration = latency.AppendBinary(nil), duration.AppendBinary(nil)
		}
		e.Method, e.Authority, e.Path = "", "", event.CoalescedPath
		enc.AddSummary(e, &s)
	}
	return enc.Encode(nil, &h)
}

// TestCoalesced: what a proxy told as sums counts as if it had been told one by
// one, except that its routes are one.
func TestCoalesced(t *testing.T) {
	failed := request(event.Inbound, t0, "/b")
	failed.Status, failed.Error = 503, event.ErrConnectRefused
	call := request(event.Outbound, t0+second, "/pkg.Svc/Do")
	call.Protocol, call.GRPCStatus = event.GRPC, 13
	conn := request(event.Inbound, t0, "")
	conn.Protocol, conn.Status, conn.Method = event.TCP, 0, ""
	progress := conn
	progress.Kind = event.Progress
	all := []event.Event{request(event.Inbound, t0, "/a"), failed, call, conn, progress}

	one, many := rollup.NewFolder(rollup.Limits{}), rollup.NewFolder(rollup.Limits{})
	h := header(1, 1, t0+5*second)
	var each []event.Event
	for range 3 {
		each = append(each, all...)
	}
	h.Produced = uint64(len(each))
	if _, err := fold(one, encode(h, each...), t0+5*second); err != nil {
		t.Fatal(err)
	}
	h.Shed = h.Produced
	data := summarize(h, 3, all...)
	for range 2 { // the second one is a duplicate
		if _, err := fold(many, data, t0+5*second); err != nil {
			t.Fatal(err)
		}
	}
	want, got := sums(one), sums(many)
	for _, d := range []rollup.Dimension{rollup.Total, rollup.ByPod, rollup.ByPeer, rollup.ByRoute, rollup.ByPeerRoute} {
		for _, direction := range []event.Direction{event.Inbound, event.Outbound} {
			at := [2]int{int(d), int(direction)}
			if (want[at] == nil) != (got[at] == nil) {
				t.Fatalf("dimension %d, %v: %v, want %v", d, direction, got[at], want[at])
			}
			if want[at] != nil && string(got[at].AppendBinary(nil)) != string(want[at].AppendBinary(nil)) {
				t.Errorf("dimension %d, %v: %+v, want %+v", d, direction, got[at], want[at])
			}
		}
	}
	many.Scan(0, 1<<60, func(k rollup.Key) func(int64, *rollup.Cell) {
		if k.Dimension == rollup.ByRoute && k.Route.Path != event.CoalescedPath {
			t.Errorf("route %+v", k.Route)
		}
		if k.Dimension == rollup.ByPeer && k.Peer.Workload != voting {
			t.Errorf("peer %+v", k.Peer)
		}
		return func(at int64, _ *rollup.Cell) {
			if k.Direction == event.Outbound && at != t0/second+1 {
				t.Errorf("outbound counted in second %d", at-t0/second)
			}
		}
	})
	ledger := got[[2]int{int(rollup.Ledger), 0}]
	if ledger.Batches != 1 || ledger.Events != 0 || ledger.Shed != h.Produced || ledger.Lost != 0 {
		t.Errorf("ledger %+v", ledger)
	}
}

// TestCoalescedClocks: seconds that are not possible become the batch's, and one
// as old as a bus was away is possible.
func TestCoalescedClocks(t *testing.T) {
	f := func(offset, want int64) {
		t.Helper()
		folder := rollup.NewFolder(rollup.Limits{})
		r, err := fold(folder, summarize(header(1, 1, t0), 2, request(event.Inbound, t0+offset*second, "/")), t0)
		if err != nil || r.Coalesced != 2 {
			t.Fatalf("%+v, %v", r, err)
		}
		folder.Scan(0, 1<<60, func(k rollup.Key) func(int64, *rollup.Cell) {
			return func(at int64, _ *rollup.Cell) {
				if k.Dimension != rollup.Ledger && at != t0/second+want {
					t.Errorf("dimension %d in second %d, want %d", k.Dimension, at-t0/second, want)
				}
			}
		})
	}
	f(0, 0)
	f(-7200, -7200)
	f(-86400, 0)
	f(3600, 0)
	f(1<<60, 0)
}
