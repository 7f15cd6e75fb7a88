package event

import (
	"strconv"
	"testing"
)

// distinct makes batches of events each of which has a path, an authority, a peer
// and a connection of its own, where so told, and all of which begin alike.
func distinct(batches, events int, all bool) [][]Event {
	list := make([][]Event, batches)
	n := 1_000_000
	for i := range list {
		for range events {
			n++
			text := strconv.Itoa(n)
			e := Event{
				Direction: Inbound, Protocol: HTTP1, Method: "GET", Authority: "web", Path: "/users/" + text + "/orders",
				Status: 200, GRPCStatus: NoGRPCStatus, Start: 1e15, Latency: 900, Duration: 1000, Connection: 7, Stream: 1,
			}
			if all {
				e.Authority, e.Connection, e.Peer.Workload.Name = text+".example", uint64(n), "client-"+text
			}
			list[i] = append(list[i], e)
		}
	}
	return list
}

// TestDistinctAllocatesNothing holds that strings never seen before leave no
// garbage: neither paths, nor authorities, peers and connections.
func TestDistinctAllocatesNothing(t *testing.T) {
	f := func(all bool) {
		t.Helper()
		const runs = 3 * usualBatches
		batches := distinct(2*runs+1, 500, all)
		var e Encoder
		e.Reserve(512)
		var out []byte
		next := 0
		once := func() {
			for i := range batches[next] {
				e.Add(&batches[next][i])
			}
			out = e.Encode(out[:0], &Header{Instance: 1, Sequence: uint64(next)})
			e.Reset()
			next++
		}
		for range runs {
			once()
		}
		if n := testing.AllocsPerRun(runs, once); n != 0 {
			t.Errorf("all differ: %v: a batch of 500 new paths takes %v allocations, want 0", all, n)
		}
	}
	f(false)
	f(true)
}

// TestMemoryFollowsNeed: memory that only an earlier nature of the traffic needed
// is given back, that which is reserved is not.
func TestMemoryFollowsNeed(t *testing.T) {
	f := func(reserved int) {
		t.Helper()
		var e Encoder
		if reserved > 0 {
			e.Reserve(reserved)
		}
		batch := func(events []Event) {
			for i := range events {
				e.Add(&events[i])
			}
			_ = e.Encode(nil, &Header{Instance: 1, Sequence: 1})
			e.Reset()
		}
		many, one := distinct(1, 500, true)[0], distinct(1, 1, false)[0]
		batch(many)
		if n := cap(e.connStates); n < len(many) {
			t.Fatalf("room for %d connections is left after a batch, want that of %d", n, len(many))
		}
		for range 2 * usualBatches {
			batch(one)
		}
		if n := cap(e.connStates) + cap(e.peers) + len(e.connIndex.slots); n > 4*leastRoom {
			t.Errorf("%d reserved: there is room for %d connections and peers after small batches", reserved, n)
		}
		if n := cap(e.columns[eventExchange].data); n > 2*leastRoom {
			t.Errorf("%d reserved: a column has room for %d bytes after small batches", reserved, n)
		}
		if n := cap(e.exchanges); n < reserved || n > max(reserved, 2*leastRoom) {
			t.Errorf("%d reserved: there is room for %d exchanges after small batches", reserved, n)
		}
		if n := len(e.strings.chunks) * chunkBytes; n < 24*reserved || n > roomy*(24*reserved+chunkBytes) {
			t.Errorf("%d reserved: there is room for %d bytes of strings after small batches", reserved, n)
		}
	}
	f(0)
	f(512)
}
