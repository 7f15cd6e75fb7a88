package rollup_test

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/event"
)

// word is a name without any digit, another one for each number.
func word(i int) string {
	b := []byte("w")
	for ; i > 0; i /= 16 {
		b = append(b, "bcdfghjklmnpqrst"[i%16])
	}
	return string(b)
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// rows lists the paths of a folder's routes with their requests.
func rows(f *rollup.Folder, d event.Direction) map[string]uint64 {
	all := map[string]uint64{}
	f.Scan(0, 1<<60, func(k rollup.Key) func(int64, *rollup.Cell) {
		if k.Dimension != rollup.ByRoute || k.Direction != d {
			return nil
		}
		path := f.Canonical(&k).Path
		return func(_ int64, c *rollup.Cell) { all[path] += c.Requests }
	})
	return all
}

// TestMillionOfEach folds a million distinct paths, authorities, methods and
// peers: sums stay exact, memory bounded, and it is told who did it.
func TestMillionOfEach(t *testing.T) {
	n := 1_000_000
	if testing.Short() {
		n = 100_000
	}
	before := heap()
	f := rollup.NewFolder(rollup.Limits{})
	offences := map[string]uint64{}
	var requests, bytes uint64
	for i, sequence := 0, uint64(1); i < n; sequence++ {
		var enc event.Encoder
		for range 5000 {
			e := request(event.Outbound, t0, "/"+word(i)+"/"+word(i*7919%n)+"/x")
			e.Authority, e.Method = word(i)+".example", "M"+word(i)
			e.Peer.Workload = event.Workload{}
			e.Peer.Addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 80)
			e.Connection = uint64(i + 1)
			enc.Add(&e)
			i++
		}
		now := t0 + int64(sequence)*second/10
		h := header(3, sequence, now)
		if _, err := fold(f, enc.Encode(nil, &h), now); err != nil {
			t.Fatal(err)
		}
		if sequence%10 == 0 {
			requests, bytes = take(t, f, requests, bytes)
		}
		for _, o := range f.Offences() {
			if o.Workload != web || o.Example == "" {
				t.Fatalf("offence %+v", o)
			}
			offences[o.Kind] += o.Count
		}
	}
	requests, bytes = take(t, f, requests, bytes)
	if requests != uint64(n) || bytes != uint64(10*n) {
		t.Errorf("%d requests of %d bytes, want %d of %d", requests, bytes, n, 10*n)
	}
	for _, kind := range []string{rollup.OffencePeer, rollup.OffenceMethod, rollup.OffenceAuthority} {
		if offences[kind] < uint64(n)*9/10 {
			t.Errorf("%d offences of kind %s", offences[kind], kind)
		}
	}
	if grown := heap() - before; grown > 32<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
	if f.Keys() > 2000 {
		t.Errorf("%d keys", f.Keys())
	}
	runtime.KeepAlive(f)
}

// take checks that all marginals have the same sum and adds it up.
func take(t *testing.T, f *rollup.Folder, requests, bytes uint64) (uint64, uint64) {
	t.Helper()
	var decoder rollup.Decoder
	sums := map[rollup.Dimension]*rollup.Cell{}
	d := f.Take(false)
	for i := range d.Items {
		k := &d.Items[i].Key
		if sums[k.Dimension] == nil {
			sums[k.Dimension] = &rollup.Cell{}
		}
		if err := decoder.Add(sums[k.Dimension], d.Items[i].Sums); err != nil {
			t.Fatal(err)
		}
	}
	total := sums[rollup.Total]
	if total == nil {
		return requests, bytes
	}
	for _, dimension := range []rollup.Dimension{rollup.ByPod, rollup.ByPeer, rollup.ByRoute, rollup.ByPeerRoute} {
		if s := sums[dimension]; s == nil || s.Requests != total.Requests || s.RequestBytes != total.RequestBytes || s.Latency.Count() != total.Latency.Count() {
			t.Fatalf("dimension %d differs from the total of %d requests: %+v", dimension, total.Requests, s)
		}
	}
	return requests + total.Requests, bytes + total.RequestBytes
}

// TestForgedProcesses: who makes up a process for each batch can't make us
// forget anyone else's, and all that is counted is counted once.
func TestForgedProcesses(t *testing.T) {
	f := rollup.NewFolder(rollup.Limits{Sources: 1000})
	anyone := func(event.Workload) bool { return true }
	put := func(w event.Workload, instance, sequence uint64, now int64) rollup.Result {
		t.Helper()
		h := header(instance, sequence, now)
		h.Source.Workload = w
		r, err := f.Fold(rollup.Message{Sequence: f.Position() + 1, Now: now, Arrived: now, Matches: anyone,
			Data: encode(h, request(event.Inbound, now, "/a"))})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	honest := func(sequence uint64, now int64) {
		t.Helper()
		for pod := range 50 {
			if r := put(voting, uint64(1_000_000+pod), sequence, now); r.Duplicate || r.Lost != 0 {
				t.Fatalf("honest pod %d, batch %d: %+v", pod, sequence, r)
			}
		}
		// One of the offender's own, with a history.
		if r := put(web, 999_999, sequence, now); r.Duplicate || r.Lost != 0 {
			t.Fatalf("the offender's own process, batch %d: %+v", sequence, r)
		}
	}
	const forged, rounds = 5000, 4
	now := t0
	honest(1, now)
	honest(2, now)
	for round := range uint64(rounds) {
		for i := range uint64(forged) {
			put(web, 1+round*forged+i, 1, now)
			now += 10 * second / forged
		}
		honest(3+round, now)
		if n := f.SourceCount(); n > 1200 {
			t.Fatalf("%d sources", n)
		}
	}
	for pod := range 50 { // what is repeated is known, however long ago
		for sequence := range uint64(rounds + 2) {
			if r := put(voting, uint64(1_000_000+pod), sequence+1, now); !r.Duplicate {
				t.Fatalf("batch %d of honest pod %d counts twice", sequence+1, pod)
			}
		}
	}
	if lost := f.Tick(now/second + 60); lost != 0 {
		t.Errorf("%d batches are lost", lost)
	}
	if n := sums(f)[[2]int{int(rollup.Total), 1}].Requests; n != rounds*forged+51*(rounds+2) {
		t.Errorf("%d requests", n)
	}
	found := false
	for _, o := range f.Offences() {
		if o.Kind == rollup.OffenceSource {
			found = found || o.Workload == web && o.Count > forged
			if o.Workload == voting {
				t.Errorf("an honest workload is blamed: %+v", o)
			}
		}
	}
	if !found {
		t.Error("nobody is blamed")
	}
}

// TestSequenceJumps: from everywhere to everywhere, no lost batch is made up and
// nothing overflows.
func TestSequenceJumps(t *testing.T) {
	const far = uint64(1) << 63
	for _, test := range []struct {
		from, to uint64
		refused  bool
		lost     int64
	}{
		{1, far, true, 0},
		{1, 1<<64 - 1, true, 0},
		{1, 1 << 21, true, 0},
		{1, 1 << 20, false, 1<<20 - 2},
		{far, far + 1, false, 0},
		{far, far + 11, false, 10},
		{far, 1<<64 - 1, true, 0},
		{1<<64 - 2, 1<<64 - 1, false, 0},
		{far, 1, false, 0}, // from before what we know
		{0, far, false, 0},
	} {
		f := rollup.NewFolder(rollup.Limits{})
		if test.from > 0 {
			if _, err := fold(f, encode(header(1, test.from, t0), request(event.Inbound, t0, "/a")), t0); err != nil {
				t.Fatal(err)
			}
		}
		_, err := fold(f, encode(header(1, test.to, t0), request(event.Inbound, t0, "/a")), t0)
		var r *rollup.Refusal
		if refused := errors.As(err, &r) && r.Reason == rollup.WrongSequence; refused != test.refused {
			t.Errorf("%d after %d: %v", test.to, test.from, err)
		}
		if lost := f.Tick(t0/second + 60); lost != test.lost {
			t.Errorf("%d after %d: %d lost, want %d", test.to, test.from, lost, test.lost)
		}
	}
}

// TestReplay: the same bytes count once, also after the source's state went
// through a rollup.
func TestReplay(t *testing.T) {
	f := rollup.NewFolder(rollup.Limits{})
	var batches [][]byte
	for i := range uint64(20) {
		batches = append(batches, encode(header(5, i+1, t0), request(event.Inbound, t0, "/a")))
	}
	count := func() uint64 { return sums(f)[[2]int{int(rollup.Total), 1}].Requests }
	for range 3 {
		for _, data := range batches {
			if _, err := fold(f, data, t0); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := count(); n != 20 {
		t.Fatalf("%d requests, want 20", n)
	}
	next := rollup.NewFolder(rollup.Limits{})
	sources := map[rollup.SourceID]rollup.Source{}
	readBack(t, f.Take(true)).Apply(sources)
	next.Restore(f.Mark(), sources)
	for _, data := range batches {
		if r, err := fold(next, data, t0); err != nil || !r.Duplicate {
			t.Fatalf("after a takeover: %+v, %v", r, err)
		}
	}
}

// readBack is what is read of a delta that was written.
func readBack(t *testing.T, d *rollup.Delta) *rollup.Delta {
	t.Helper()
	var groups rollup.Assembler
	var out *rollup.Delta
	for _, data := range rollup.Encode(d, rollup.Meta{}, 4096) {
		p, err := rollup.Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		out = groups.Add(p, len(data))
	}
	if out == nil {
		t.Fatal("the group has no end")
	}
	return out
}

// TestClocksNeverCountFarAhead: whatever times a batch claims, nothing counts in
// a second more than two minutes ahead of us, and the source is named.
func TestClocksNeverCountFarAhead(t *testing.T) {
	const hour = 3600 * second
	for _, sent := range []int64{t0 + 3*hour, t0 + 100_000*hour, 1<<63 - 1, -1 << 63, 0, t0 - 3*hour, t0 - 100_000*hour} {
		for _, start := range []int64{sent, t0 + 5*hour, 1<<62 - 1, 0, -1 << 62, t0 - 5*hour} {
			for _, arrived := range []int64{t0, 0} {
				f := rollup.NewFolder(rollup.Limits{})
				e := request(event.Inbound, start, "/a")
				_, err := f.Fold(rollup.Message{Sequence: 1, Now: t0, Arrived: arrived,
					Matches: func(event.Workload) bool { return true }, Data: encode(header(1, 1, sent), e)})
				if err != nil {
					continue // refused as a whole
				}
				f.Scan(0, 1<<60, func(k rollup.Key) func(int64, *rollup.Cell) {
					return func(at int64, c *rollup.Cell) {
						if at > t0/second+120 || at < t0/second-5*3600 {
							t.Errorf("sent %d, start %d: counts in second %d, %d from now", sent, start, at, at-t0/second)
						}
					}
				})
				all := f.Offences()
				if sent > t0+2*hour && (len(all) != 1 || all[0].Kind != rollup.OffenceClock || all[0].Workload != web || all[0].Example != "web-0") {
					t.Errorf("sent %d: offences %+v", sent, all)
				}
			}
		}
	}
}

// TestKeysCap: workloads that are many and wide together stay below a bound.
func TestKeysCap(t *testing.T) {
	f := rollup.NewFolder(rollup.Limits{Keys: 500})
	for i := range 200 {
		var events []event.Event
		for j := range 50 {
			events = append(events, request(event.Inbound, t0, "/"+word(j)))
		}
		h := header(uint64(i+1), 1, t0)
		h.Source.Workload.Name = fmt.Sprintf("w%d", i)
		if _, err := f.Fold(rollup.Message{Sequence: uint64(i + 1), Now: t0, Arrived: t0,
			Matches: func(event.Workload) bool { return true }, Data: encode(h, events...)}); err != nil {
			t.Fatal(err)
		}
	}
	all := sums(f)
	for _, d := range []rollup.Dimension{rollup.Total, rollup.ByPod, rollup.ByPeer, rollup.ByRoute} {
		if n := all[[2]int{int(d), 1}].Requests; n != 200*50 {
			t.Errorf("dimension %d: %d requests", d, n)
		}
	}
	if n := f.Keys(); n > 500+200*5 {
		t.Errorf("%d keys", n)
	}
}
