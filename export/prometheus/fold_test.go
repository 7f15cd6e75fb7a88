package prometheus

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/weirmesh/weir/event"
)

// foldAll counts batches in a table with room for all.
func foldAll(t *testing.T, batches [][]byte) *table {
	t.Helper()
	table := newTable(&budget{limit: 1 << 20})
	var d event.Decoder
	for _, b := range batches {
		if err := d.Reset(b); err != nil {
			t.Fatal(err)
		}
		table.fold(&d, 1)
	}
	return table
}

// TestFoldIsTheSumOfEvents: batches of mixed events, more classes and peers than
// have an index, count as each event in a batch of its own does in a new table.
func TestFoldIsTheSumOfEvents(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	whole, single := newProxy("web", 0), newProxy("web", 0)
	single.instance = whole.instance
	var batches, apart [][]byte
	total := 0
	for range 4 {
		var events []event.Event
		for i := range 3000 {
			e := call(fmt.Sprintf("host-%d", random.IntN(90)), uint16(200+100*random.IntN(4)), random.Uint64()>>(24+random.IntN(40)))
			e.RequestBytes, e.ResponseBytes = random.Uint64N(1e6), random.Uint64N(1e6)
			e.Connection = uint64(1 + i%500)
			if random.IntN(2) == 0 {
				e.Direction = event.Outbound
				e.Connection += 1000
				e.Peer.Workload = event.Workload{Namespace: "shop", Kind: "deploy", Name: fmt.Sprintf("to-%d", e.Connection%100)}
				e.Peer.Pod = fmt.Sprintf("pod-%d", e.Connection%100)
			}
			switch random.IntN(8) {
			case 0:
				e.Protocol, e.GRPCStatus = event.GRPC, int16(random.IntN(4))
			case 1:
				e.Protocol, e.Status, e.Connection = event.TCP, 0, e.Connection+5000
				e.Kind = event.Progress
				if e.Duration = e.Latency; random.IntN(2) == 0 {
					e.Kind, e.Error = event.End, event.ErrClientReset
				}
			}
			events = append(events, e)
			apart = append(apart, single.batch(e))
		}
		total += len(events)
		batches = append(batches, whole.batch(events...))
	}
	got := foldAll(t, batches)
	want := newTable(&budget{limit: 1 << 20})
	var d event.Decoder
	for _, b := range apart {
		if err := d.Reset(b); err != nil {
			t.Fatal(err)
		}
		want.memory.forget()
		want.fold(&d, 1)
	}
	if got.events != uint64(total) || want.events != uint64(total) {
		t.Errorf("%d and %d of %d events are counted", got.events, want.events, total)
	}
	if len(got.batch.classes.of) <= denseClasses || len(got.batch.peers.of) <= densePeers {
		t.Fatalf("%d classes and %d peers do not go beyond the index", len(got.batch.classes.of), len(got.batch.peers.of))
	}
	if !maps.Equal(counts(got), counts(want)) {
		t.Error("the counters of batches differ from those of their events")
	}
}

// counts are the counters of all rows.
func counts(t *table) map[string][counters]uint64 {
	all := map[string][counters]uint64{}
	for id, r := range t.rows {
		all[id] = r.n
	}
	return all
}

// TestMemoryIsBounded: what a table remembers of ever new pods, authorities and
// peers has a bound, and a sweep lets rows that had no room have one.
func TestMemoryIsBounded(t *testing.T) {
	table := newTable(&budget{limit: 100})
	var d event.Decoder
	for n := range 20 {
		p := newProxy("web", n)
		var events []event.Event
		for i := range 2000 {
			e := call(fmt.Sprintf("host-%d-%d", n, i), 200, 1000)
			e.SecurityReason = fmt.Sprintf("reason-%d-%d", n, i)
			e.Connection = uint64(i + 1)
			events = append(events, e)
		}
		if err := d.Reset(p.batch(events...)); err != nil {
			t.Fatal(err)
		}
		table.fold(&d, 1)
		m := &table.memory
		if most := max(len(m.origins), len(m.classes), len(m.peers), len(m.pairs)); most > maxRemembered+2000 {
			t.Fatalf("%d pairs are remembered", most)
		}
	}
	if table.events != 20*2000 {
		t.Errorf("%d events are counted", table.events)
	}
	table.sweep(func(*labels) bool { return false }, 2, 2)
	late := newProxy("late", 0)
	if err := d.Reset(late.batch(call("late", 200, 1))); err != nil {
		t.Fatal(err)
	}
	table.fold(&d, 3)
	for _, r := range table.rows {
		if r.family == requests && r.labels[labelAuthority] == "late" && r.n[countTotal] == 1 {
			return
		}
	}
	t.Error("after a sweep there is no room for a new row")
}
