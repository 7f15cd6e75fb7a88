package event_test

import (
	"bytes"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/weirmesh/weir/event"
)

// within moves events so that all end within the second of start, in their order.
func within(events []event.Event) []event.Event {
	const begin = start / 1_000_000 * 1_000_000
	first := events[0].Start + int64(events[0].Duration)
	last := events[len(events)-1].Start + int64(events[len(events)-1].Duration)
	for i := range events {
		e := &events[i]
		e.Start += int64(e.Duration)
		e.Start = begin + int64(float64(e.Start-first)*999_999/float64(max(last-first, 1))) - int64(e.Duration)
	}
	return events
}

// sumKey is what the events of a sum have in common.
type sumKey struct {
	direction         event.Direction
	request, grpc     bool
	route, peer       bool
	method, path      string
	authority, reason string
	protocol          event.Protocol
	client            event.Peer
	security          event.Security
}

// sumValue is a sum, worked out in the plainest way.
type sumValue struct {
	requests, responses uint64
	latency, duration   event.Histogram
	outcomes            map[string]uint64
}

func outcomeText(e *event.Event) string {
	return fmt.Sprint(e.Kind, e.Status, e.GRPCStatus, e.Error, e.Fate, e.Attempt)
}

func keyOf(e *event.Event, route, peer bool) sumKey {
	k := sumKey{direction: e.Direction, request: e.IsRequest(), grpc: e.Protocol == event.GRPC, route: route, peer: peer}
	if route {
		k.method, k.path, k.authority, k.protocol = e.Method, e.Path, e.Authority, e.Protocol
	}
	if peer {
		k.client, k.security, k.reason = e.Peer, e.Security, e.SecurityReason
		k.client.Addr = addrOf(e)
	}
	return k
}

func wantSums(events []event.Event) map[sumKey]*sumValue {
	all := map[sumKey]*sumValue{}
	for i := range events {
		e := &events[i]
		keys := []sumKey{keyOf(e, true, true)}
		if e.Direction == event.Inbound {
			keys = []sumKey{keyOf(e, true, false), keyOf(e, false, true)}
		}
		for _, k := range keys {
			if all[k] == nil {
				all[k] = &sumValue{outcomes: map[string]uint64{}}
			}
			v := all[k]
			v.requests += e.RequestBytes
			v.responses += e.ResponseBytes
			v.outcomes[outcomeText(e)]++
			if e.IsRequest() {
				v.latency.Record(e.Latency)
				v.duration.Record(e.Duration)
			}
		}
	}
	return all
}

// checkSums reads the sums of a batch and compares; it returns how many there are.
func checkSums(t *testing.T, data []byte, events []event.Event) int {
	t.Helper()
	var d event.Decoder
	decode(t, &d, data, header, events)
	if _, sums := d.Sums(); len(sums) > 0 {
		t.Fatal("sums were read, and nobody asked for them")
	}
	d.ReadSums(true)
	decode(t, &d, data, header, events)
	second, sums := d.Sums()
	if len(sums) == 0 {
		return 0
	}
	if want := (events[0].Start + int64(events[0].Duration)) / 1e6; second != want {
		t.Errorf("second %d, want %d", second, want)
	}
	want := wantSums(events)
	for i := range sums {
		s := &sums[i]
		var e event.Event
		d.Describe(s.Exchange, s.Connection, &e)
		v := want[keyOf(&e, s.OfRoute, s.OfPeer)]
		if v == nil {
			t.Fatalf("sum %d: there are no such events: %+v", i, e)
		}
		delete(want, keyOf(&e, s.OfRoute, s.OfPeer))
		if s.RequestBytes != v.requests || s.ResponseBytes != v.responses {
			t.Errorf("sum %d: %d and %d bytes, want %d and %d", i, s.RequestBytes, s.ResponseBytes, v.requests, v.responses)
		}
		for o, n := range s.Outcomes {
			d.DescribeOutcome(o, &e)
			if v.outcomes[outcomeText(&e)] != n {
				t.Errorf("sum %d: %d of %s, want %d", i, n, outcomeText(&e), v.outcomes[outcomeText(&e)])
			}
		}
		for name, f := range map[string]struct {
			counts []event.BucketCount
			m      event.Moments
			want   *event.Histogram
		}{"latency": {s.LatencyBuckets, s.Latency, &v.latency}, "duration": {s.DurationBuckets, s.Duration, &v.duration}} {
			var tally event.Tally
			tally.AddCounts(f.counts)
			if got := tally.AppendBinary(nil, &f.m); string(got) != string(f.want.AppendBinary(nil)) {
				t.Errorf("sum %d: %s is %x, want %x", i, name, got, f.want.AppendBinary(nil))
			}
		}
	}
	if len(want) > 0 {
		t.Errorf("%d sums are missing", len(want))
	}
	return len(sums)
}

// TestSums: they say what the events say, of traffic of every kind.
func TestSums(t *testing.T) {
	f := func(name string, n, least int, change func(i int, e *event.Event)) {
		t.Helper()
		events := within(trafficAt(n, n))
		for i := range events {
			change(i, &events[i])
		}
		if got := checkSums(t, encode(events), events); got < least || least == 0 && got > 0 {
			t.Errorf("%s: %d sums, want %d or more, or none for 0", name, got, least)
		}
	}
	f("as it comes", 10_000, 72, func(int, *event.Event) {})
	f("few events for 64 routes", 1000, 0, func(int, *event.Event) {})
	f("one route", 2000, 9, func(_ int, e *event.Event) { e.Path = "/" })
	f("65,536 alike", event.MaxEvents, 2, func(_ int, e *event.Event) {
		e.Path, e.Peer, e.Status, e.Error, e.RequestBytes = "/", peer(1), 200, "", 0
		e.Start += int64(e.Duration) - 2_000_000
		e.Latency, e.Duration = 1_000_000, 2_000_000
	})
	f("outbound and inbound", 10_000, 8*2+2, func(i int, e *event.Event) {
		e.Path = "/" + string(rune('a'+i%2))
		e.Direction = event.Direction(1 + i%3/2)
	})
	f("of all protocols", 10_000, 20, func(i int, e *event.Event) {
		e.Path, e.Protocol = "/"+string(rune('a'+i%2)), event.Protocol(i%7)
		if i%11 == 0 {
			e.Kind = event.Progress
		}
		if e.Protocol == event.GRPC {
			e.GRPCStatus = int16(i % 5 / 2)
		}
	})
	f("security", 5000, 17, func(i int, e *event.Event) {
		e.Path, e.Security, e.SecurityReason = "/", event.Security(i%2), []string{"", "not meshed"}[i%2]
	})
	f("wide times", 5000, 9, func(i int, e *event.Event) {
		e.Path, e.Start = "/", e.Start+int64(e.Duration)
		e.Latency = uint64(1) << (i % 31)
		e.Duration = e.Latency + uint64(i%1000)
		e.Start -= int64(e.Duration)
	})
	f("times of more than 32 bits", 1000, 0, func(i int, e *event.Event) {
		if e.Path = "/"; i == 700 {
			e.Start -= 1 << 33
			e.Duration += 1 << 33
		}
	})
	f("many bytes", 1000, 0, func(i int, e *event.Event) {
		if e.Path = "/"; i == 700 {
			e.ResponseBytes = math.MaxUint64
		}
	})
	f("two seconds", 1000, 0, func(i int, e *event.Event) {
		if e.Path = "/"; i > 990 {
			e.Start += 1_000_000
		}
	})
	f("no direction", 1000, 0, func(i int, e *event.Event) {
		if e.Path = "/"; i == 50 {
			e.Direction = 0
		}
	})
	f("a connection each", 1000, 0, func(i int, e *event.Event) { e.Path, e.Connection = "/", uint64(i) })
	f("a path each", 5000, 0, func(i int, e *event.Event) { e.Path = fmt.Sprint("/", i) })
	f("an outcome each", 5000, 0, func(i int, e *event.Event) { e.Path, e.Status = "/", uint16(i) })
}

// TestSumsAgain: an encoder that is used again writes what a new one does.
func TestSumsAgain(t *testing.T) {
	var enc event.Encoder
	for _, n := range []int{10_000, 100, 4000, 20_000, 300} {
		events := within(trafficAt(n, n))
		for i := range events {
			if n < 10_000 {
				events[i].Path = "/"
			}
			enc.Add(&events[i])
		}
		if data := enc.Encode(nil, &header); !slices.Equal(data, encode(events)) {
			t.Errorf("%d events are encoded otherwise", n)
		}
		checkSums(t, enc.Encode(nil, &header), events)
		enc.Reset()
	}
}

// TestSumsAreShort holds what they take to a bound.
func TestSumsAreShort(t *testing.T) {
	f := func(n, routes int, most float64) {
		t.Helper()
		events := within(trafficAt(n, n))
		for i := range events {
			events[i].Path = fmt.Sprint("/", len(events[i].Path)*int(events[i].RequestBytes)%routes)
		}
		with := len(encode(events))
		events[0].Start -= 1_000_000 // so that there are none
		without := len(encode(events))
		each := float64(with-without) / float64(n)
		t.Logf("%d events of %d routes: sums take %.2f bytes an event beside %.2f", n, routes, each, float64(without)/float64(n))
		if each > most {
			t.Errorf("%d events of %d routes: sums take %.2f bytes an event, want at most %.2f", n, routes, each, most)
		}
	}
	f(1000, 1, 0) // eight peers: there are none
	f(2000, 1, 1)
	f(5000, 5, 0.75)
	f(10_000, 64, 0.95)
}

func addrOf(e *event.Event) netip.AddrPort { return netip.AddrPortFrom(e.Peer.Addr.Addr(), 0) }

// bitsOf reads bits, the lowest of a byte first.
type bitsOf struct {
	data []byte
	at   int
}

func (b *bitsOf) take(n uint64) (v uint64) {
	for i := range n {
		v |= uint64(b.data[b.at/8]>>(b.at%8)&1) << i
		b.at++
	}
	return v
}

func (b *bitsOf) rice(k uint64) uint64 {
	n := uint64(0)
	for b.take(1) == 0 {
		n++
	}
	return n<<k | b.take(k)
}

// histogram reads a histogram's buckets as event.proto says.
func (b *bitsOf) histogram(n uint64) (counts []event.BucketCount) {
	j, k := b.take(4), b.take(5)
	for at, first := uint64(0), true; n > 0; first = false {
		if !first {
			at += b.rice(j) + 1
		}
		count := b.rice(k) + 1
		counts = append(counts, event.BucketCount(count<<12|at)) // less the first's bucket
		n -= count
	}
	return counts
}

// TestSumsProto reads sums by event.proto alone.
func TestSumsProto(t *testing.T) {
	events := within(trafficAt(8000, 8000))
	for i := range events {
		events[i].Path = "/" + string(rune('a'+i%4))
		if events[i].Direction = event.Inbound; i%4 == 0 {
			events[i].Direction = event.Outbound
		}
		if i%50 == 1 {
			events[i].Kind = event.Progress
		}
	}
	data := encode(events)
	batch := message{dynamicpb.NewMessage(compile(t))}
	if err := proto.Unmarshal(data, batch.Interface()); err != nil {
		t.Fatal(err)
	}
	var d event.Decoder
	d.ReadSums(true)
	decode(t, &d, data, header, events)
	_, want := d.Sums()
	sums := batch.part("sums")
	n, outcomes := sums.count(), batch.part("outcomes").count()
	if n != len(want) || n < 8+3 {
		t.Fatalf("%d sums, want %d", n, len(want))
	}
	column := map[string][]uint64{"events": sums.column("events", n*outcomes)}
	for _, name := range []string{"part", "exchange", "connection", "request_bytes", "response_bytes", "latency_least",
		"latency_spread", "latency_rest", "tail_least", "tail_spread", "tail_rest"} {
		column[name] = sums.column(name, n)
	}
	bits := bitsOf{data: sums.get("buckets").Bytes()}
	for i := range want {
		w := &want[i]
		total := uint64(0)
		for _, of := range column["events"][i*outcomes : (i+1)*outcomes] {
			total += of
		}
		if part := column["part"][i]; total != w.Events || part&1 != 0 != w.OfRoute || part&2 != 0 != w.OfPeer ||
			column["exchange"][i] != uint64(w.Exchange) || column["connection"][i] != uint64(w.Connection) ||
			column["request_bytes"][i] != w.RequestBytes || column["response_bytes"][i] != w.ResponseBytes {
			t.Errorf("sum %d is of %d events, want %+v", i, total, w)
		}
		if w.Latency.Count() == 0 {
			continue
		}
		least, spread, rest := column["latency_least"][i], column["latency_spread"][i], column["latency_rest"][i]
		check := func(m *event.Moments, counts []event.BucketCount) {
			t.Helper()
			if m.Min() != least || m.Max() != least+spread || m.Sum() != total*least+rest {
				t.Errorf("sum %d: %d to %d, %d together, want %+v", i, least, least+spread, total*least+rest, m)
			}
			got := bits.histogram(total)
			for k := range got {
				got[k] += event.BucketCount(counts[0].Bucket())
			}
			if !slices.Equal(got, counts) {
				t.Errorf("sum %d: buckets %v, want %v", i, got, counts)
			}
		}
		check(&w.Latency, w.LatencyBuckets)
		least, spread, rest = least+column["tail_least"][i], spread+column["tail_spread"][i], rest+column["tail_rest"][i]
		check(&w.Duration, w.DurationBuckets)
	}
	if left := len(bits.data) - (bits.at+7)/8; left != 0 {
		t.Errorf("%d bytes of buckets are left", left)
	}
}

// TestSumsRejected: sums that are not possible are refused, and the batch with
// them, whatever byte of theirs is another.
func TestSumsRejected(t *testing.T) {
	events := within(trafficAt(1000, 1000))
	for i := range events {
		events[i].Path, events[i].Peer = "/", peer(1)
	}
	data := encode(events)
	var d event.Decoder
	d.ReadSums(true)
	batch := message{dynamicpb.NewMessage(compile(t))}
	if err := proto.Unmarshal(data, batch.Interface()); err != nil {
		t.Fatal(err)
	}
	sums := batch.part("sums")
	buckets := sums.get("buckets").Bytes()
	at := bytes.Index(data, buckets)
	if checkSums(t, data, events) != 2 || len(buckets) < 100 || at < 0 {
		t.Fatalf("there are %d bytes of buckets", len(buckets))
	}
	refused := 0
	for i := range buckets {
		for bit := range 8 {
			data[at+i] ^= 1 << bit
			if err := d.Reset(data); err != nil {
				refused++
			} else if _, sums := d.Sums(); sums[0].Events+sums[1].Events != 2000 {
				t.Fatalf("%d and %d events", sums[0].Events, sums[1].Events)
			}
			data[at+i] ^= 1 << bit
		}
	}
	t.Logf("%d of %d changes were refused", refused, 8*len(buckets))
	f := func(name string, change func(m protoreflect.Message, field func(string) protoreflect.FieldDescriptor)) {
		t.Helper()
		one := message{proto.Clone(batch.Interface()).ProtoReflect()}
		m := one.Mutable(one.Descriptor().Fields().ByName("sums")).Message()
		change(m, func(name string) protoreflect.FieldDescriptor {
			return m.Descriptor().Fields().ByName(protoreflect.Name(name))
		})
		changed, err := proto.Marshal(one.Interface())
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Reset(changed); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if _, sums := d.Sums(); len(sums) > 0 {
			t.Errorf("%s: refused, and there are sums", name)
		}
	}
	for _, name := range []string{"part", "events", "latency_least", "latency_spread", "buckets"} {
		f("without "+name, func(m protoreflect.Message, field func(string) protoreflect.FieldDescriptor) { m.Clear(field(name)) })
	}
	bytesOf := func(name string, data ...byte) {
		t.Helper()
		f(fmt.Sprintf("%s %x", name, data), func(m protoreflect.Message, field func(string) protoreflect.FieldDescriptor) {
			m.Set(field(name), protoreflect.ValueOfBytes(data))
		})
	}
	bytesOf("part", 8, 0b1111)          // both of both, of what is inbound
	bytesOf("part", 4, 0b11)            // two of a route
	bytesOf("exchange", 32, 200, 200)   // that is not there
	bytesOf("connection", 32, 200, 200) // likewise
	bytesOf("tail_spread", 1, 255, 255) // below 0
	bytesOf("buckets", append(buckets, 0)...)
	bytesOf("buckets", buckets[:len(buckets)-1]...)
	f("more", func(m protoreflect.Message, field func(string) protoreflect.FieldDescriptor) {
		m.Set(field("count"), protoreflect.ValueOfUint32(event.MaxSums+1))
	})
	f("none", func(m protoreflect.Message, field func(string) protoreflect.FieldDescriptor) {
		m.Set(field("count"), protoreflect.ValueOfUint32(0))
	})
}
