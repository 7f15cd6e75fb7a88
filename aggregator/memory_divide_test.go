package aggregator

import (
	"net/netip"
	"testing"
	"time"

	"github.com/weirmesh/weir/event"
)

// TestDivide: what all partitions may keep together fits the memory.
func TestDivide(t *testing.T) {
	for _, memory := range []int64{LeastMemory, 128 << 20, 256 << 20, 4 << 30} {
		const parts = 16
		l, storeBytes, keys := Divide(memory, parts)
		sum := int64(storeBytes) + int64(keys)*keyMemory +
			parts*int64(l.PathNodes*nodeMemory+l.Sources*sourceMemory+l.Pending*cellMemory)
		// What is kept leaves the collector a quarter of what the runtime may have.
		if limit := RuntimeLimit(memory); sum > limit-max(limit/4, workMemory) || limit+codeMemory != memory || storeBytes < 12<<20 || l.Keys*parts > keys || l.Keys < 1 || l.Sources < 1 || l.PathNodes < 1 || l.Pending < 1 {
			t.Errorf("of %d bytes: %d may be used, with %+v", memory, sum, l)
		}
	}
}

// TestSpread: a partition that needs more rows gets those that others leave,
// and all together never more than there are.
func TestSpread(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	o := memoryOptions(&memory{}, "me", func() time.Time { return now })
	o.Partitions, o.Keys, o.Limits.Keys = 4, 400, 100
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range a.partitions {
		if _, err := p.takeOver(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	busy := a.partitions[2]
	for i := range 40 {
		now = now.Add(trimEvery)
		if err := busy.take(t.Context(), event.Mark{Sequence: uint64(i + 1)}, "", manyPeers(uint64(i+1), 20, now)); err != nil {
			t.Fatal(err)
		}
		a.trim(now)
		sum := 0
		for _, p := range a.partitions {
			sum += p.folder.Keys()
		}
		if sum > o.Keys {
			t.Fatalf("%d rows, of %d", sum, o.Keys)
		}
	}
	if n := busy.folder.Keys(); n <= o.Limits.Keys {
		t.Errorf("the busy partition has %d rows, no more than its share", n)
	}
}

// manyPeers is a batch of n requests, each of a client never seen before.
func manyPeers(sequence uint64, n int, now time.Time) []byte {
	var enc event.Encoder
	for i := range n {
		at := int(sequence)*n + i
		e := event.Event{Direction: event.Inbound, Protocol: event.HTTP1, Status: 200, GRPCStatus: event.NoGRPCStatus, Method: "GET", Path: "/",
			Start: now.UnixMicro() - 10, Duration: 10, Latency: 5, Connection: uint64(at + 1), Stream: 1}
		e.Peer.Addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(at >> 8), byte(at)}), 1)
		enc.Add(&e)
	}
	return enc.Encode(nil, &event.Header{
		Source:   event.Source{Workload: event.Workload{Namespace: "ns", Kind: "deploy", Name: "web"}, Pod: "web-0"},
		Instance: 1, Sequence: sequence, Sent: now.UnixMicro(),
	})
}
