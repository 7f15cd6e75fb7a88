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
		if size, most := len(data)-6, enc.Size()+8*enc.Len()+event.MaxHeaderBytes; size > most {
			t.Fatalf("%d bytes, and Size is %d", size, enc.Size())
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
	if n := testing.AllocsPerRun(20, once); n != 1 {
		t.Errorf("a batch takes %v allocations in the steady state, want that of the decoder's strings", n)
	}
}

// TestUnknownFieldsSkipped: a later version's fields, in the batch and in its
// messages, are no error.
func TestUnknownFieldsSkipped(t *testing.T) {
	events := traffic(3)
	data := encode(events)
	data = append(data, 0x92, 0x01, 3, 'n', 'e', 'w') // field 18, bytes
	data = append(data, 0xf8, 0x01, 42)               // field 31, a number
	decode(t, new(event.Decoder), data, header, events)
}

// section is a field of a batch, whose own fields are given.
func section(field byte, fields ...string) string {
	body := strings.Join(fields, "")
	tag := binary.AppendUvarint(nil, uint64(field)<<3|2)
	return string(binary.AppendUvarint(tag, uint64(len(body)))) + body
}

// packedColumn is a column of numbers: its width, whether there is a base, or
// differences; and the rest.
func packedColumn(field, width, flags byte, rest ...byte) string {
	head := binary.AppendUvarint(nil, uint64(width)<<2|uint64(flags))
	return section(field, string(head)+string(rest))
}

// rejected fails unless a batch is refused for what is wanted, and nothing is
// left to read.
func rejected(t *testing.T, data, want string) {
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

// TestDecoderRejectsJoined: what is wrong with joined strings is named.
func TestDecoderRejectsJoined(t *testing.T) {
	const base, one = 1, "\x08\x01"
	column := packedColumn
	f := func(data, want string) { t.Helper(); rejected(t, data, want) }
	word := column(3, 8, 0, 1) + section(4, "x")
	f(section(10, one, word, section(5, one, column(2, 8, 0, 2))), "strings: joined: head of entry 0 is 2, and must be below 2")
	f(section(10, one, word, section(5, one, column(3, 8, 0, 2))), "strings: joined: tail of entry 0 is 2, and must be below 2")
	f(section(10, one, word, section(5, "\x08\x80\x80\x04")), "strings: joined: count is 65536, and more than")
	f(section(10, one, word, section(5, one, section(2, "\xff"))), "strings: joined: head holds what is no varint")
	long := column(3, 0, base, 0x82, 0x10) + section(4, strings.Repeat("x", 1025))
	f(section(10, one, long, section(5, one, column(2, 8, 0, 1), column(3, 8, 0, 1))), "strings: joined number 0 has 2050 bytes")
	half := section(10, one, column(3, 8, 0, 100)+section(4, strings.Repeat("x", 100)), section(5, "\x08\xe8\x07", column(2, 0, base, 2), column(3, 0, base, 2)))
	f(half, "strings: joined number")
}

// TestDecoderRejects: what is wrong is named, and nothing is left to read.
func TestDecoderRejects(t *testing.T) {
	const base, delta = 1, 2
	column := packedColumn
	f := func(data, want string) { t.Helper(); rejected(t, data, want) }
	count := func(n byte) string { return "\x08" + string(n) }
	dictionaries := section(11, count(1), column(2, 8, 0, 5)) + section(12, count(1)) + section(13, count(1), column(2, 8, 0, 2)) +
		section(14, count(1)) + section(15, count(1))
	one := count(1)
	var d event.Decoder
	if err := d.Reset([]byte(dictionaries + section(16, one))); err != nil || d.Len() != 1 {
		t.Fatalf("the least batch is refused: %v", err)
	}
	f(string(make([]byte, event.MaxBatchBytes+1)), "bytes, and more than")
	f("\x09\x01", "cannot read")
	f("\x08\x01", "field 1 is not of its type")
	f("\x10\x01\x10\x01", "field 2 comes twice")
	f("\x50\x01", "field 10 is not of its type")
	f(section(9, section(1, "\xff")), "source: field 1")
	f(section(9, section(1, strings.Repeat("x", event.MaxStringBytes+1))), "or longer than")

	f(section(10, one, column(3, 8, 0, 1), section(4, "\xff")), "strings: number 1 is no valid UTF-8")
	f(section(10, one, column(2, 8, 0, 1)), "strings: number 1 shares 1 bytes with the 0 before it")
	f(section(10, one, column(3, 8, 0, 2), section(4, "x")), "goes on with 2 of 1 that are left")
	f(section(10, one, column(3, 0, base, 0x82, 0x20), section(4, strings.Repeat("x", 3000))), "strings: length of entry 0 is 2049")
	f(section(10, one, section(4, "x")), "1 bytes of text are no string's")
	bomb := column(2, 0, base, 0x80, 0x20, 0, 0xff, 0x1f) + column(3, 0, 0, 0, 0x80, 0x20)
	f(section(10, "\x08\x80\x08", bomb, section(4, strings.Repeat("x", 2048))), "strings: they have more than")

	f(section(11, "\x08\x80\x80\x01"), "routes: count is 16384, and more than")
	f(section(11, one, "\x10\x01"), "routes: field 2 is not of its type")
	f(section(11, one, one), "routes: field 1 comes twice")
	f(section(11, one, column(3, 8, 0, 1)), "routes: method of entry 0 is 1, and must be below 1")
	f(section(11, count(2), column(3, 8, 0, 0)), "routes: method is cut short")
	f(section(11, one, section(2, "\xff")), "routes: kind holds what is no varint")
	f(section(11, one, column(2, 65, 0)), "routes: kind has numbers of more than 64 bits")
	f(section(11, one, column(2, 8, base)), "routes: kind holds what is no varint")
	f(section(11, one, column(2, 8, 0, 1, 0)), "routes: kind holds what is no varint")
	f(section(11, one, column(2, 8, 0, 1, 1, 0)), "routes: kind has a patch for a row")
	f(section(11, count(3), column(2, 0, 0, 1, 2, 0, 2)), "routes: kind has a patch for a row")
	f(section(12, one, column(2, 8, 0, 5)), "peers: ip_length of entry 0 is 5")
	f(section(12, one, column(2, 8, 0, 16), section(10, "abc")), "with 3 bytes of ip left")
	f(section(12, one, column(2, 8, 0, 4), section(10, "a")), "peers: 1 bytes of ip are no peer's")
	f(section(12, one, column(2, 8, 0, 4), column(11, 33, 0, 0, 0, 0, 0, 1)), "peers: ipv4 of entry 0 is 4294967296")
	f(section(13, one), "connections: there are no peers")
	f(section(14, one, column(7, 16, 0, 0, 1)), "outcomes: attempt of entry 0 is 256")
	f(section(15, one), "exchanges: there are no routes or outcomes")
	f(dictionaries[:len(dictionaries)-4]+section(15, one, column(2, 8, 0, 1)), "exchanges: route of entry 0 is 1")
	f(section(16, one), "events: there are no exchanges or connections")
	f(dictionaries+section(16, "\x08\x81\x80\x04"), "events: count is 65537")
	f(dictionaries+section(16, one, column(3, 1, 0, 1)), "events: exchange of entry 0 is 1, and must be below 1")
	f(dictionaries+section(16, count(2), column(4, 0, base|delta, 2)), "events: connection of entry 0 is 1, and must be below 1")
	f(dictionaries+section(16, count(2), column(5, 7, 0, 1)), "events: latency is cut short")
	f(dictionaries+section(16, one, section(11, "short")), "no multiple of 16")
	f(dictionaries+section(16, one, section(11, strings.Repeat("x", 32))), "or more than events")
	f(dictionaries+section(16, one, column(10, 1, 0, 1), section(11, strings.Repeat("x", 16))), "trace_row of entry 0 is 1")
	f(dictionaries+section(16, count(2), section(11, strings.Repeat("x", 32))), "trace_row 0 is not above")
}

// TestRows: rows tell the same as events, and Fill may be left out.
func TestRows(t *testing.T) {
	events := traffic(1000)
	events[300].TraceID, events[301].TraceID = [16]byte{1}, [16]byte{2}
	var d event.Decoder
	if err := d.Reset(encode(events)); err != nil {
		t.Fatal(err)
	}
	var r event.Row
	for i := range events {
		if !d.NextRow(&r) {
			t.Fatal("too few rows")
		}
		want := &events[i]
		if r.End != want.Start+int64(want.Duration) || r.Latency != want.Latency || r.Duration != want.Duration ||
			r.RequestBytes != want.RequestBytes || r.ResponseBytes != want.ResponseBytes {
			t.Fatalf("row %d is %+v, of event %+v", i, r, *want)
		}
		var e event.Event
		d.Describe(r.Exchange, r.Connection, &e)
		if e.Path != want.Path || e.Status != want.Status || e.Error != want.Error || e.Peer != want.Peer || e.Connection != want.Connection {
			t.Fatalf("row %d is described as %+v, want %+v", i, e, *want)
		}
		route, conn, outcome := d.Indexes()
		if at, ended := d.Exchange(r.Exchange); route != at || outcome != ended || conn != r.Connection || r.Exchange >= d.Exchanges() {
			t.Fatalf("row %d has numbers %d, %d, %d, and %d, %d", i, route, conn, outcome, at, ended)
		}
		if i%3 == 0 {
			if d.Fill(&e); e != *want {
				t.Fatalf("row %d is filled as %+v, want %+v", i, e, *want)
			}
		}
	}
	if d.NextRow(&r) {
		t.Error("too many rows")
	}
}

// TestEncoderGivesBack: what many different exchanges took is kept while they
// come, and given back when batches have had few for a while; what is encoded is
// the same.
func TestEncoderGivesBack(t *testing.T) {
	var enc event.Encoder
	var d event.Decoder
	many := traffic(500)
	for i := range many {
		many[i].Path = fmt.Sprintf("/users/%d", i)
	}
	add := func(events []event.Event) (bytes uint64) {
		bytes = allocated(func() {
			for i := range events {
				enc.Add(&events[i])
			}
		})
		decode(t, &d, enc.Encode(nil, &header), header, events)
		enc.Reset()
		return bytes
	}
	first := add(many)
	for range 20 {
		add(many[:1])
	}
	if bytes := add(many); bytes > first/10 {
		t.Errorf("many exchanges again take %d bytes, %d the first time", bytes, first)
	}
	for range 50 {
		add(many[:1])
	}
	if bytes := add(many); bytes < first/2 {
		t.Errorf("many exchanges much later take %d bytes, %d the first time: their memory was kept", bytes, first)
	}
}
