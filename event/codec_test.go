package event_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"unsafe"

	"pgregory.net/rapid"

	"github.com/weirmesh/weir/event"
)

// TestSize reports how long batches are, all in, and holds them to a bound.
func TestSize(t *testing.T) {
	f := func(n int, most float64) {
		t.Helper()
		data := encode(traffic(n))
		each := float64(len(data)) / float64(n)
		t.Logf("batch of %6d: %7d bytes, %5.2f an event", n, len(data), each)
		if each > most {
			t.Errorf("batch of %d takes %.2f bytes an event, want at most %.2f", n, each, most)
		}
	}
	f(100, 32)
	f(1000, 13)
	f(10_000, 10)
}

// decode reads a batch and fails unless it is h and events.
func decode(t rapid.TB, d *event.Decoder, data []byte, h event.Header, events []event.Event) {
	t.Helper()
	if err := d.Reset(data); err != nil {
		t.Fatal(err)
	}
	if *d.Header() != h || d.Len() != len(events) {
		t.Fatalf("header %+v of %d events, want %+v of %d", *d.Header(), d.Len(), h, len(events))
	}
	var e event.Event
	for i := range events {
		if !d.Next(&e) || e != events[i] {
			t.Fatalf("event %d: got %+v, want %+v", i, e, events[i])
		}
	}
	if d.Next(&e) || d.Err() != nil {
		t.Fatal("more events than were added")
	}
}

func TestRoundTripTraffic(t *testing.T) {
	var d event.Decoder
	for _, n := range []int{5000, 1, 0, 100} {
		events := traffic(n)
		decode(t, &d, encode(events), header, events)
	}
}

func TestRoundTripAny(t *testing.T) {
	var enc event.Encoder
	var d event.Decoder
	rapid.Check(t, func(t *rapid.T) {
		h, events := anyHeader().Draw(t, "header"), anyEvents().Draw(t, "events")
		enc.Reset()
		for i := range events {
			enc.Add(&events[i])
		}
		if enc.Len() != len(events) {
			t.Fatalf("Len is %d, want %d", enc.Len(), len(events))
		}
		data := enc.Encode([]byte("before"), &h)
		if string(data[:6]) != "before" {
			t.Fatal("Encode does not append")
		}
		decode(t, &d, data[6:], h, events)
		if again := enc.Encode(nil, &h); string(again) != string(data[6:]) {
			t.Fatal("encoding again gives other bytes")
		}
		if size, most := enc.Size(), len(data)-6; size > most {
			t.Fatalf("Size is %d, of %d bytes", size, most)
		}
	})
}

// TestIndexes: equal numbers mean equal fields, and different ones different.
func TestIndexes(t *testing.T) {
	events := traffic(2000)
	var d event.Decoder
	if err := d.Reset(encode(events)); err != nil {
		t.Fatal(err)
	}
	type route struct{ method, authority, path string }
	type outcome struct {
		status uint16
		error  string
	}
	routes, conns, outcomes := map[route]int{}, map[uint64]int{}, map[outcome]int{}
	nr, nc, no := d.Counts()
	var e event.Event
	for d.Next(&e) {
		r, c, o := d.Indexes()
		same(t, routes, route{e.Method, e.Authority, e.Path}, r, nr)
		same(t, conns, e.Connection, c, nc)
		same(t, outcomes, outcome{e.Status, e.Error}, o, no)
	}
	if len(routes) != nr || len(conns) != nc || len(outcomes) != no {
		t.Errorf("%d, %d, %d entries were used of %d, %d, %d", len(routes), len(conns), len(outcomes), nr, nc, no)
	}
}

func same[K comparable](t *testing.T, seen map[K]int, key K, n, count int) {
	t.Helper()
	if before, ok := seen[key]; ok && before != n || n < 0 || n >= count {
		t.Fatalf("%v is number %d of %d, and was %d", key, n, count, before)
	}
	seen[key] = n
}

// TestSanitised: what cannot be told as it is, is told as documented.
func TestSanitised(t *testing.T) {
	f := func(what string, in, want event.Event) {
		t.Helper()
		in.Connection, want.Connection = 1, 1
		var enc event.Encoder
		enc.Add(&in)
		enc.Add(&in)
		var d event.Decoder
		decode(t, &d, enc.Encode(nil, &header), header, []event.Event{want, want})
		if r, c, o := d.Counts(); r != 1 || c != 1 || o != 1 {
			t.Errorf("%s: equal events take %d routes, %d connections, %d outcomes", what, r, c, o)
		}
	}
	long := strings.Repeat("é", event.MaxStringBytes)
	f("invalid UTF-8", event.Event{Path: "/a\xff\xc3b", Error: "\x80"}, event.Event{Path: "/a\uFFFD\uFFFDb", Error: "\uFFFD"})
	f("long string", event.Event{Path: "x" + long}, event.Event{Path: "x" + long[:event.MaxStringBytes-2]})
	f("4 in 6", event.Event{Peer: event.Peer{Addr: netip.MustParseAddrPort("[::ffff:10.0.0.1]:80")}},
		event.Event{Peer: event.Peer{Addr: netip.MustParseAddrPort("10.0.0.1:80")}})
	f("zone", event.Event{Peer: event.Peer{Addr: netip.MustParseAddrPort("[fe80::1%eth0]:80")}},
		event.Event{Peer: event.Peer{Addr: netip.MustParseAddrPort("[fe80::1]:80")}})
	f("direction", event.Event{Direction: 9}, event.Event{})
	f("grpc status", event.Event{GRPCStatus: -7}, event.Event{GRPCStatus: event.NoGRPCStatus})

	bad := header
	bad.Version, bad.Source.Pod = "v\xff", long
	var enc event.Encoder
	data := enc.Encode(nil, &bad)
	bad.Version, bad.Source.Pod = "v\uFFFD", long[:event.MaxStringBytes]
	decode(t, new(event.Decoder), data, bad, nil)
}

// TestAddCopies: events' strings may be overwritten after Add.
func TestAddCopies(t *testing.T) {
	var enc event.Encoder
	var events []event.Event
	buffer := make([]byte, 6)
	for _, text := range []string{"/first", "/other", "/first"} {
		copy(buffer, text)
		shared := unsafe.String(&buffer[0], len(buffer))
		fill := func(s string) event.Event {
			return event.Event{
				Path: s, Error: s, SecurityReason: s, Connection: 1,
				Peer: event.Peer{Pod: s, Identity: s, Workload: event.Workload{Name: s}},
			}
		}
		e := fill(shared)
		enc.Add(&e)
		events = append(events, fill(text))
	}
	decode(t, new(event.Decoder), enc.Encode(nil, &header), header, events)
}

// TestFull: an encoder that is sealed when it says so never passes the bounds,
// even with the longest strings.
func TestFull(t *testing.T) {
	var enc event.Encoder
	var d event.Decoder
	h := header
	h.Version = strings.Repeat("v", event.MaxStringBytes)
	h.Source.Pod, h.Source.Node = h.Version, h.Version
	for i := range 200 {
		text := func(field string) string {
			return fmt.Sprint(field, i) + strings.Repeat("x", event.MaxStringBytes)
		}
		e := event.Event{
			Method: text("m"), Authority: text("a"), Path: text("p"), Error: text("e"), SecurityReason: text("r"),
			Connection: uint64(i) << 50, Latency: 1 << 63, Duration: 1 << 62, Start: -1, Stream: 1 << 31,
			RequestBytes: 1 << 63, ResponseBytes: 1 << 63, TraceID: [16]byte{1},
			Peer: event.Peer{
				Pod: text("o"), Identity: text("i"),
				Workload: event.Workload{Cluster: text("c"), Namespace: text("n"), Kind: text("k"), Name: text("w")},
				Addr:     netip.AddrPortFrom(netip.IPv6Unspecified(), 65535),
			},
		}
		before := enc.Size()
		enc.Add(&e)
		if grown := enc.Size() - before; grown > event.MaxEventBytes {
			t.Fatalf("an event added %d bytes, more than MaxEventBytes", grown)
		}
		if enc.Full() {
			if err := d.Reset(enc.Encode(nil, &h)); err != nil {
				t.Fatal(err)
			}
			enc.Reset()
		}
	}
	e := event.Event{Connection: 1}
	for !enc.Full() {
		enc.Add(&e)
	}
	if enc.Len() > event.MaxEvents {
		t.Errorf("%d events, more than MaxEvents", enc.Len())
	}
}

func TestCodecAllocations(t *testing.T) {
	events := traffic(1000)
	var enc event.Encoder
	var d event.Decoder
	var e event.Event
	var out []byte
	once := func() {
		for i := range events {
			enc.Add(&events[i])
		}
		out = enc.Encode(out[:0], &header)
		enc.Reset()
		if d.Reset(out) != nil {
			t.Fatal("cannot read back")
		}
		for d.Next(&e) {
		}
	}
	if n := testing.AllocsPerRun(20, once); n != 0 {
		t.Errorf("a batch takes %v allocations in the steady state", n)
	}
}

// TestUnknownFieldsSkipped: a later version's fields, in the batch and in its
// messages, are no error.
func TestUnknownFieldsSkipped(t *testing.T) {
	events := traffic(3)
	data := encode(events)
	data = append(data, 16<<3&0x7f|2|0x80, 1, 3, 'n', 'e', 'w') // field 16, bytes
	data = append(data, 0xf8, 0x01, 42)                         // field 31, a number
	decode(t, new(event.Decoder), data, header, events)
}

// TestDecoderRejects: what is wrong is named, and nothing is left to read.
func TestDecoderRejects(t *testing.T) {
	message := func(field byte, fields ...string) string {
		body := strings.Join(fields, "")
		return string(binary.AppendUvarint([]byte{field<<3 | 2}, uint64(len(body)))) + body
	}
	column := func(field byte, values ...byte) string { return message(field, string(values)) }
	dictionaries := message(11, column(1, 5)) + message(12, column(1, 0)) + message(13, column(1, 2)) + message(14, column(1, 0))
	f := func(data, want string) {
		t.Helper()
		var d event.Decoder
		var e event.Event
		err := d.Reset([]byte(data))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want an error with %q", data, err, want)
		}
		if d.Len() != 0 || d.Next(&e) || *d.Header() != (event.Header{}) {
			t.Errorf("%q: there is something to read", data)
		}
	}
	one := "\x08\x01" // count: 1
	var d event.Decoder
	if err := d.Reset([]byte(dictionaries + message(15, one))); err != nil || d.Len() != 1 {
		t.Fatalf("the least batch is refused: %v", err)
	}
	f(string(make([]byte, event.MaxBatchBytes+1)), "bytes, and more than")
	f("\x09\x01", "cannot read")
	f("\x08\x01", "field 1 is not of its type")
	f("\x10\x01\x10\x01", "field 2 comes twice")
	f(message(10, "x"), "number 0 is not empty")
	f(message(10)+message(10, "\xff"), "UTF-8")
	f(message(10)+message(10, strings.Repeat("x", event.MaxStringBytes+1)), "longer than")
	f(message(9, message(1, "\xff")), "source: field 1")
	f(message(11, "\x08\x01"), "routes: field 1 is not of its type (columns are packed)")
	f(message(11, column(1, 5), column(2, 1)), "routes: method of entry 0 is 1, and must be below 1")
	f(message(11, column(1, 5), column(2, 0, 0)), "routes: method has 2 values, want 1")
	f(message(11, column(1, 0xff)), "routes: kind holds what is no varint")
	f(message(12, column(1, 5)), "peers: ip_length of entry 0 is 5")
	f(message(12, column(1, 4), message(2, "abc")), "with 3 bytes of ip left")
	f(message(12, column(1, 4), message(2, "abcde")), "peers: 1 bytes of ip are no peer's")
	f(message(13, column(1, 2)), "connections: there are no peers")
	f(message(14, column(1, 0), column(6, 0x80, 2)), "outcomes: attempt of entry 0 is 256")
	f(message(15, one), "events: there are no routes")
	f(dictionaries+message(15, "\x08\x81\x80\x04"), "events: count is 65537")
	f(dictionaries+message(15, one, column(3, 1)), "events: route of entry 0 is 1, and must be below 1")
	f(dictionaries+message(15, one, column(6, 1, 2)), "events: latency has 2 values, want 1")
	f(dictionaries+message(15, one, column(6, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2)), "latency holds what is no varint")
	f(dictionaries+message(15, one, column(11, 0), message(12, "short")), "no multiple of 16")
	f(dictionaries+message(15, one, column(11, 1), message(12, strings.Repeat("x", 16))), "trace_row of entry 0 is 1")
	f(dictionaries+message(15, one, column(11, 0, 0), message(12, strings.Repeat("x", 32))), "trace_row 0 is not above")
	f(dictionaries+message(15, one, message(12, strings.Repeat("x", 16))), "trace_row is absent")
}
