package event_test

import (
	"net/netip"
	"runtime"
	"testing"

	"github.com/weirmesh/weir/event"
)

// allocated is how many bytes f allocates, about.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// slack is what the runtime and the fuzzer may allocate beside.
const slack = 64 << 10

// FuzzDecoder: whatever the bytes, no panic, no more memory than documented;
// and what is accepted can be encoded and read again, with the same events.
func FuzzDecoder(f *testing.F) {
	f.Add([]byte{})
	f.Add(encode(nil))
	f.Add(encode(traffic(1)))
	events := traffic(40)
	events[3].TraceID, events[9].Path, events[12].Start = [16]byte{1}, "/\xff", -1<<63
	f.Add(encode(events))
	f.Add(encodeSummaries(events[:2], summaries()))
	alike := within(trafficAt(300, 300))
	for i := range alike {
		alike[i].Path, alike[i].Peer = "/", peer(1)
	}
	f.Add(encode(alike))
	f.Fuzz(func(t *testing.T, data []byte) {
		var d event.Decoder
		d.ReadSums(true)
		var err error
		bytes := allocated(func() { err = d.Reset(data) })
		if most := event.DecoderFactor*uint64(len(data)) + 2*slack; bytes > most {
			t.Fatalf("%d bytes made the decoder allocate %d, more than %d", len(data), bytes, most)
		}
		if err != nil && d.Len() != 0 {
			t.Fatal("a batch is refused, and has events")
		}
		checkTotals(t, &d)
		var enc event.Encoder
		var events []event.Event
		var e event.Event
		for d.Next(&e) {
			events = append(events, e)
			enc.Add(&e)
		}
		if len(events) != d.Len() {
			t.Fatalf("%d events of %d", len(events), d.Len())
		}
		var sums []summed
		var s event.Summary
		for d.NextSummary(&s) {
			e = event.Event{}
			d.Describe(s.Exchange, s.Connection, &e)
			e.Connection, e.RequestBytes, e.ResponseBytes = 0, 0, 0
			sums = append(sums, summed{e, s})
			enc.AddSummary(&e, &s)
		}
		var again event.Decoder
		if len(events)+len(sums) > 1000 {
			return // may pass MaxBatchBytes
		}
		if err := again.Reset(enc.Encode(nil, d.Header())); err != nil {
			t.Fatal(err)
		}
		if *again.Header() != *d.Header() {
			t.Fatal("another header")
		}
		for i := range events {
			want := events[i]
			want.Peer.Addr = netip.AddrPortFrom(want.Peer.Addr.Addr().Unmap(), want.Peer.Addr.Port())
			if !again.Next(&e) || e != want {
				t.Fatalf("event %d: got %+v, want %+v", i, e, want)
			}
		}
		for i := range sums {
			addr := &sums[i].of.Peer.Addr
			*addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
		}
		checkSummaries(t, &again, sums)
	})
}

// checkTotals holds sums to what they must be of, whatever the batch.
func checkTotals(t *testing.T, d *event.Decoder) {
	t.Helper()
	_, sums := d.Sums()
	var routes, peers uint64
	for i := range sums {
		s := &sums[i]
		if s.OfRoute {
			routes += s.Events
		}
		if s.OfPeer {
			peers += s.Events
		}
		for _, h := range []struct {
			m      *event.Moments
			counts []event.BucketCount
		}{{&s.Latency, s.LatencyBuckets}, {&s.Duration, s.DurationBuckets}} {
			var tally event.Tally
			tally.AddCounts(h.counts)
			var back event.Histogram
			if err := back.UnmarshalBinary(tally.AppendBinary(nil, h.m)); err != nil || back.Count() != h.m.Count() {
				t.Fatalf("sum %d: %v; %d values of %d", i, err, back.Count(), h.m.Count())
			}
		}
	}
	if n := uint64(d.Len()); len(sums) > 0 && (routes != n || peers != n) {
		t.Fatalf("%d events of routes and %d of peers, want %d", routes, peers, n)
	}
}

// FuzzHistogramBinary: what is accepted is canonical, and every question about
// it has an answer.
func FuzzHistogramBinary(f *testing.F) {
	f.Add([]byte{})
	f.Add(record([]uint64{0}).AppendBinary(nil))
	f.Add(record([]uint64{1, 1000, 1000, 1 << 39, 1 << 63}).AppendBinary(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		var h event.Histogram
		var err error
		if bytes := allocated(func() { err = h.UnmarshalBinary(data) }); bytes > slack {
			t.Fatalf("%d bytes made it allocate %d", len(data), bytes)
		}
		if err != nil {
			return
		}
		if got := h.AppendBinary(nil); string(got) != string(data) {
			t.Fatalf("%x was accepted, and is written as %x", data, got)
		}
		for _, q := range quantiles {
			if v := h.Quantile(q); v < float64(h.Min()) || v > float64(h.Max()) {
				t.Fatalf("quantile %v is %v, outside %d to %d", q, v, h.Min(), h.Max())
			}
		}
	})
}

// FuzzParseJSON: no panic, and memory in proportion to the input.
func FuzzParseJSON(f *testing.F) {
	f.Add([]byte("{}"))
	f.Add([]byte(`{"fate":["a","b"],"source":{"port":70000}}`))
	for i, e := range traffic(3) {
		f.Add(event.AppendJSON(nil, &header, i, &e))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var err error
		var e event.JSONEvent
		if bytes := allocated(func() { e, err = event.ParseJSON(data) }); bytes > 64*uint64(len(data))+slack {
			t.Fatalf("%d bytes made it allocate %d", len(data), bytes)
		}
		if err == nil && (len(e.Instance) != 16 || len(e.Connection) != 16 || e.Protocol == "") {
			t.Fatalf("accepted %+v", e)
		}
	})
}
