package event_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/weirmesh/weir/event"
)

// message reads a protobuf message by names, as any language could.
type message struct{ protoreflect.Message }

func (m message) get(name string) protoreflect.Value {
	f := m.Descriptor().Fields().ByName(protoreflect.Name(name))
	if f == nil {
		panic("event.proto has no field " + name)
	}
	return m.Get(f)
}

func (m message) part(name string) message { return message{m.get(name).Message()} }

func (m message) count() int { return int(m.get("count").Uint()) }

// column reads n whole numbers as event.proto says.
func (m message) column(name string, n int) []uint64 {
	data, values := m.get(name).Bytes(), make([]uint64, n)
	if len(data) == 0 {
		return values
	}
	varint := func() uint64 {
		v, size := binary.Uvarint(data)
		data = data[size:]
		return v
	}
	signed := func() uint64 {
		v := varint()
		return v>>1 ^ -(v & 1)
	}
	head, base := varint(), uint64(0)
	width := int(head / 4)
	if head&1 != 0 {
		base = signed()
	}
	for i := range values {
		for bit := range width {
			at := i*width + bit
			values[i] |= uint64(data[at/8]>>(at%8)&1) << bit
		}
		values[i] += base
	}
	data = data[(n*width+7)/8:]
	for row := uint64(0); len(data) > 0; {
		row += varint()
		values[row] += signed() << width
	}
	if head&2 != 0 {
		for i := 1; i < n; i++ {
			values[i] += values[i-1]
		}
	}
	return values
}

func compile(t *testing.T) protoreflect.MessageDescriptor {
	t.Helper()
	compiler := protocompile.Compiler{Resolver: &protocompile.SourceResolver{}}
	files, err := compiler.Compile(context.Background(), "event.proto")
	if err != nil {
		t.Fatal(err)
	}
	return files[0].Messages().ByName("Batch")
}

// TestProto reads a batch with protobuf-go and event.proto alone, and rebuilds
// the events as the comments there say.
func TestProto(t *testing.T) {
	events := traffic(500)
	events[7].TraceID = [16]byte{1, 15: 2}
	events[8].TraceID = [16]byte{3}
	events[499].TraceID = [16]byte{4}
	events[20].Protocol, events[20].GRPCStatus = event.GRPC, 14
	events[21].Kind, events[21].Fate, events[21].Attempt = event.Progress, event.Retried|event.Drained, 2
	events[22].Security, events[22].SecurityReason = event.Plain, "not meshed"
	events[23].Stream, events[24].Connection, events[25].Peer = 1<<32-1, 1<<64-1, event.Peer{}
	events[26].RequestBytes, events[26].Latency, events[26].Duration = 1<<64-1, 9, 5
	events[27].Peer.Addr = netip.MustParseAddrPort("[2001:db8::1]:443")
	events[28].Path, events[28].Start = "/日本", -1
	for i := range 200 {
		// Paths of which a batch has the parts.
		events[100+i].Path = fmt.Sprintf("/shop/%s/%s", strings.Repeat("collection", 1+i%7), strings.Repeat("operation", i/7%6))
	}
	events[300].Path, events[301].Path, events[302].Path = "", "/", "*"

	batch := message{dynamicpb.NewMessage(compile(t))}
	if err := proto.Unmarshal(encode(events), batch.Interface()); err != nil {
		t.Fatal(err)
	}
	if joined := batch.part("strings").part("joined").count(); joined < 42 {
		t.Errorf("%d strings are joined, want those of all paths", joined)
	}
	if unknown := batch.GetUnknown(); len(unknown) > 0 {
		t.Errorf("%d bytes are not in event.proto", len(unknown))
	}
	if got := headerOf(batch); got != header {
		t.Errorf("header %+v, want %+v", got, header)
	}
	for i, got := range eventsOf(batch) {
		if got != events[i] {
			t.Fatalf("event %d: got %+v, want %+v", i, got, events[i])
		}
	}
	// The other way: what protobuf-go writes, whatever its order, is read.
	again, err := proto.MarshalOptions{Deterministic: true}.Marshal(batch.Interface())
	if err != nil {
		t.Fatal(err)
	}
	decode(t, new(event.Decoder), again, header, events)
}

func headerOf(b message) event.Header {
	s := b.part("source")
	text := func(name string) string { return s.get(name).String() }
	return event.Header{
		Source: event.Source{
			Workload: event.Workload{
				Cluster: text("cluster"), Namespace: text("namespace"), Kind: text("kind"), Name: text("name"),
			},
			Pod: text("pod"), Node: text("node"),
		},
		Instance: b.get("instance").Uint(), Sequence: b.get("sequence").Uint(), Sent: b.get("sent").Int(),
		Produced: b.get("produced").Uint(), Shed: b.get("shed").Uint(), OpenConnections: b.get("open_connections").Uint(),
		Final: b.get("final").Bool(), Version: b.get("version").String(),
	}
}

// words are the strings of the batch by number.
func words(b message) []string {
	s := b.part("strings")
	n, text, all := s.count(), s.get("text").Bytes(), []string{""}
	shared, length := s.column("shared", n), s.column("length", n)
	for i := range n {
		all = append(all, all[i][:shared[i]]+string(text[:length[i]]))
		text = text[length[i]:]
	}
	joined := s.part("joined")
	heads, tails := joined.column("head", joined.count()), joined.column("tail", joined.count())
	for i, head := range heads {
		all = append(all, all[head]+all[tails[i]])
	}
	return all
}

func peersOf(b message) []event.Peer {
	m, all := b.part("peers"), words(b)
	n := m.count()
	peers := make([]event.Peer, n)
	text := func(name string, put func(*event.Peer) *string) {
		for i, v := range m.column(name, n) {
			*put(&peers[i]) = all[v]
		}
	}
	text("cluster", func(p *event.Peer) *string { return &p.Workload.Cluster })
	text("namespace", func(p *event.Peer) *string { return &p.Workload.Namespace })
	text("kind", func(p *event.Peer) *string { return &p.Workload.Kind })
	text("name", func(p *event.Peer) *string { return &p.Workload.Name })
	text("pod", func(p *event.Peer) *string { return &p.Pod })
	text("identity", func(p *event.Peer) *string { return &p.Identity })
	ips, v4, flags := m.get("ip").Bytes(), m.column("ipv4", n), m.column("flags", n)
	for i, length := range m.column("ip_length", n) {
		ip := binary.BigEndian.AppendUint32(nil, uint32(v4[i]))
		if length == 16 {
			ip, ips = ips[:16], ips[16:]
		}
		addr, _ := netip.AddrFromSlice(ip[:length])
		peers[i].Addr, peers[i].Meshed = netip.AddrPortFrom(addr, 0), flags[i]&1 != 0
	}
	return peers
}

// describe sets what the entries of the dictionaries say of an event.
func describe(b message) func(e *event.Event, route, conn, outcome uint64) {
	all, peers := words(b), peersOf(b)
	table := func(m message, names ...string) map[string][]uint64 {
		columns := map[string][]uint64{}
		for _, name := range names {
			columns[name] = m.column(name, m.count())
		}
		return columns
	}
	routes := table(b.part("routes"), "kind", "method", "authority", "path")
	conns := table(b.part("connections"), "id", "peer", "port", "security", "security_reason", "detection", "detection_time")
	last := map[uint64]uint64{}
	for i, peer := range conns["peer"] {
		last[peer] += conns["id"][i]
		conns["id"][i] = last[peer]
	}
	outcomes := table(b.part("outcomes"), "kind", "status", "grpc_status", "error", "fate", "attempt")
	return func(e *event.Event, r, c, o uint64) {
		e.Direction, e.Protocol = event.Direction(routes["kind"][r]%4), event.Protocol(routes["kind"][r]/4)
		e.Method, e.Authority, e.Path = all[routes["method"][r]], all[routes["authority"][r]], all[routes["path"][r]]
		e.Peer, e.Connection = peers[conns["peer"][c]], conns["id"][c]
		e.Peer.Addr = netip.AddrPortFrom(e.Peer.Addr.Addr(), uint16(conns["port"][c]))
		e.Security, e.SecurityReason = event.Security(conns["security"][c]), all[conns["security_reason"][c]]
		e.Detection, e.DetectionTime = event.Detection(conns["detection"][c]), uint32(conns["detection_time"][c])
		e.Kind, e.Status = event.Kind(outcomes["kind"][o]), uint16(outcomes["status"][o])
		e.GRPCStatus, e.Error = int16(outcomes["grpc_status"][o])-1, all[outcomes["error"][o]]
		e.Fate, e.Attempt = event.Fate(outcomes["fate"][o]), uint8(outcomes["attempt"][o])
	}
}

func eventsOf(b message) []event.Event {
	x, rows := b.part("exchanges"), b.part("events")
	routes, outcomes := x.column("route", x.count()), x.column("outcome", x.count())
	request, response := x.column("request_bytes", x.count()), x.column("response_bytes", x.count())
	streams := b.part("connections").column("stream", b.part("connections").count())
	n, fill := rows.count(), describe(b)
	columns := map[string][]uint64{}
	for _, name := range []string{
		"end", "exchange", "connection", "latency", "tail", "request_bytes", "response_bytes", "stream",
	} {
		columns[name] = rows.column(name, n)
	}
	events := make([]event.Event, n)
	for i := range events {
		x, c := columns["exchange"][i], columns["connection"][i]
		request[x] += columns["request_bytes"][i]
		response[x] += columns["response_bytes"][i]
		streams[c] += columns["stream"][i]
		duration := columns["latency"][i] + columns["tail"][i]
		events[i] = event.Event{
			Latency: columns["latency"][i], Duration: duration,
			Start:        b.get("sent").Int() + int64(columns["end"][i]-duration),
			RequestBytes: request[x], ResponseBytes: response[x], Stream: uint32(streams[c]),
		}
		fill(&events[i], routes[x], c, outcomes[x])
		streams[c]++
	}
	traces := rows.get("trace_id").Bytes()
	for i, row := range rows.column("trace_row", len(traces)/16) {
		copy(events[row].TraceID[:], traces[16*i:])
	}
	return events
}
