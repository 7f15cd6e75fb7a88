package event_test

import (
	"context"
	"fmt"
	"net/netip"
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

// at is an element of a column; 0 where the column is absent.
func (m message) at(name string, i int) uint64 {
	list := m.get(name).List()
	if list.Len() == 0 {
		return 0
	}
	switch v := list.Get(i).Interface().(type) {
	case int64:
		return uint64(v)
	case uint32:
		return uint64(v)
	default:
		return v.(uint64)
	}
}

func (m message) length(name string) int { return m.get(name).List().Len() }

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

	batch := message{dynamicpb.NewMessage(compile(t))}
	if err := proto.Unmarshal(encode(events), batch.Interface()); err != nil {
		t.Fatal(err)
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

func eventsOf(b message) []event.Event {
	routes, conns, outcomes, rows := b.part("routes"), b.part("connections"), b.part("outcomes"), b.part("events")
	text := func(m message, column string, i int) string {
		return b.get("strings").List().Get(int(m.at(column, i))).String()
	}
	var addrs []netip.Addr
	peers, ips := b.part("peers"), b.part("peers").get("ip").Bytes()
	for i := range peers.length("ip_length") {
		n := peers.at("ip_length", i)
		addr, _ := netip.AddrFromSlice(ips[:n])
		addrs, ips = append(addrs, addr), ips[n:]
	}
	var ids, streams []uint64
	for i := range conns.length("id") {
		id := conns.at("id", i)
		if i > 0 {
			id += ids[i-1]
		}
		ids, streams = append(ids, id), append(streams, conns.at("stream", i))
	}
	request, response := make([]uint64, routes.length("kind")), make([]uint64, routes.length("kind"))
	var end int64
	events := make([]event.Event, rows.get("count").Uint())
	for i := range events {
		r, c, o := int(rows.at("route", i)), int(rows.at("connection", i)), int(rows.at("outcome", i))
		p := int(conns.at("peer", c))
		request[r] += rows.at("request_bytes", i)
		response[r] += rows.at("response_bytes", i)
		streams[c] += rows.at("stream", i)
		end += int64(rows.at("end", i))
		duration := rows.at("latency", i) + rows.at("tail", i)
		events[i] = event.Event{
			Direction: event.Direction(routes.at("kind", r) % 4), Protocol: event.Protocol(routes.at("kind", r) / 4),
			Method: text(routes, "method", r), Authority: text(routes, "authority", r), Path: text(routes, "path", r),
			Connection: ids[c], Security: event.Security(conns.at("security", c)),
			SecurityReason: text(conns, "security_reason", c), Stream: uint32(streams[c]),
			Detection: event.Detection(conns.at("detection", c)), DetectionTime: uint32(conns.at("detection_time", c)),
			Peer: event.Peer{
				Workload: event.Workload{
					Cluster: text(peers, "cluster", p), Namespace: text(peers, "namespace", p),
					Kind: text(peers, "kind", p), Name: text(peers, "name", p),
				},
				Pod: text(peers, "pod", p), Identity: text(peers, "identity", p), Meshed: peers.at("flags", p)&1 != 0,
				Addr: netip.AddrPortFrom(addrs[p], uint16(conns.at("port", c))),
			},
			Kind: event.Kind(outcomes.at("kind", o)), Status: uint16(outcomes.at("status", o)),
			GRPCStatus: int16(outcomes.at("grpc_status", o)) - 1, Error: text(outcomes, "error", o),
			Fate: event.Fate(outcomes.at("fate", o)), Attempt: uint8(outcomes.at("attempt", o)),
			Latency: rows.at("latency", i), Duration: duration, Start: end - int64(duration),
			RequestBytes: request[r], ResponseBytes: response[r],
		}
		streams[c]++
	}
	row, traces := uint64(0), rows.get("trace_id").Bytes()
	for i := range rows.length("trace_row") {
		row += rows.at("trace_row", i)
		if copy(events[row].TraceID[:], traces[16*i:]) != 16 {
			panic(fmt.Sprintf("trace id %d is cut", i))
		}
	}
	return events
}
