package event_test

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/weirmesh/weir/event"
)

// summed is a summary and what its events have in common.
type summed struct {
	of event.Event
	s  event.Summary
}

// summaries are some of requests, connections and progress, of two peers.
func summaries() []summed {
	out := []summed{}
	add := func(e event.Event, s event.Summary) {
		e.GRPCStatus, e.Path = event.NoGRPCStatus, event.CoalescedPath
		s.Second += start / 1e6
		out = append(out, summed{e, s})
	}
	a, b := record([]uint64{1, 2, 300}).AppendBinary(nil), record([]uint64{5, 6, 1 << 50}).AppendBinary(nil)
	ok := event.Event{Direction: event.Inbound, Protocol: event.HTTP2, Status: 200, Peer: peer(1), Security: event.Mutual}
	add(ok, event.Summary{Events: 3, RequestBytes: 10, ResponseBytes: 1 << 40, Latency: a, Duration: b})
	add(ok, event.Summary{Second: 1, Events: 3, Latency: b, Duration: b})
	failed := event.Event{Direction: event.Outbound, Protocol: event.HTTP1, Status: 503, Error: event.ErrServerReset, Peer: peer(2), SecurityReason: "not meshed"}
	add(failed, event.Summary{Second: 1, Events: 3, RequestBytes: 7, Latency: a, Duration: a})
	add(event.Event{Direction: event.Inbound, Protocol: event.TCP}, event.Summary{Second: -5, Events: 9, RequestBytes: 1<<64 - 1})
	add(event.Event{Direction: event.Inbound, Protocol: event.HTTP1, Kind: event.Progress}, event.Summary{Events: 1})
	return out
}

func encodeSummaries(events []event.Event, sums []summed) []byte {
	var e event.Encoder
	for i := range events {
		e.Add(&events[i])
	}
	for i := range sums {
		e.AddSummary(&sums[i].of, &sums[i].s)
	}
	return e.Encode(nil, &header)
}

// checkSummaries reads the batch that d has and compares.
func checkSummaries(t *testing.T, d *event.Decoder, want []summed) {
	t.Helper()
	if d.Summaries() != len(want) {
		t.Fatalf("%d summaries, want %d", d.Summaries(), len(want))
	}
	var s event.Summary
	for i, w := range want {
		if !d.NextSummary(&s) {
			t.Fatalf("no summary %d", i)
		}
		var e event.Event
		d.Describe(s.Exchange, s.Connection, &e)
		if e != w.of {
			t.Errorf("summary %d is of %+v, want %+v", i, e, w.of)
		}
		if s.Second != w.s.Second || s.Events != w.s.Events || s.RequestBytes != w.s.RequestBytes || s.ResponseBytes != w.s.ResponseBytes ||
			!bytes.Equal(s.Latency, w.s.Latency) || !bytes.Equal(s.Duration, w.s.Duration) {
			t.Errorf("summary %d: got %+v, want %+v", i, s, w.s)
		}
	}
	if d.NextSummary(&s) {
		t.Error("there is one summary more")
	}
}

func TestSummaries(t *testing.T) {
	var d event.Decoder
	f := func(events []event.Event, sums []summed) {
		t.Helper()
		decode(t, &d, encodeSummaries(events, sums), header, events)
		checkSummaries(t, &d, sums)
	}
	f(nil, summaries())
	f(traffic(100), summaries())
	f(traffic(100), nil)
	f(nil, summaries()[3:])
}

// TestSummariesProto reads summaries with protobuf-go and event.proto alone.
func TestSummariesProto(t *testing.T) {
	want := summaries()
	batch := message{dynamicpb.NewMessage(compile(t))}
	if err := proto.Unmarshal(encodeSummaries(traffic(9), want), batch.Interface()); err != nil {
		t.Fatal(err)
	}
	if unknown := batch.GetUnknown(); len(unknown) > 0 {
		t.Errorf("%d bytes are not in event.proto", len(unknown))
	}
	m, x, fill := batch.part("summaries"), batch.part("exchanges"), describe(batch)
	n := m.count()
	if n != len(want) {
		t.Fatalf("%d summaries, want %d", n, len(want))
	}
	routes, outcomes := x.column("route", x.count()), x.column("outcome", x.count())
	columns := map[string][]uint64{}
	for _, name := range []string{"second", "exchange", "connection", "events", "request_bytes", "response_bytes", "latency", "duration"} {
		columns[name] = m.column(name, n)
	}
	histograms := m.get("histograms").Bytes()
	for i, w := range want {
		var e event.Event
		fill(&e, routes[columns["exchange"][i]], columns["connection"][i], outcomes[columns["exchange"][i]])
		a, b := columns["latency"][i], columns["duration"][i]
		if e != w.of || int64(columns["second"][i]) != w.s.Second || columns["events"][i] != w.s.Events ||
			columns["request_bytes"][i] != w.s.RequestBytes || columns["response_bytes"][i] != w.s.ResponseBytes ||
			!bytes.Equal(histograms[:a], w.s.Latency) || !bytes.Equal(histograms[a:a+b], w.s.Duration) {
			t.Errorf("summary %d of %+v differs", i, e)
		}
		histograms = histograms[a+b:]
	}
}

// A histogram that does not say what the summary says is refused.
func TestSummariesRejected(t *testing.T) {
	f := func(name string, change func(*summed)) {
		t.Helper()
		sums := summaries()
		change(&sums[0])
		var d event.Decoder
		if err := d.Reset(encodeSummaries(nil, sums)); err == nil || d.Summaries() != 0 {
			t.Errorf("%s: accepted", name)
		}
	}
	f("fewer requests", func(s *summed) { s.s.Events-- })
	f("no histogram", func(s *summed) { s.s.Latency = nil })
	f("another form", func(s *summed) { s.s.Duration = append([]byte{2}, s.s.Duration[1:]...) })
	f("connections with latencies", func(s *summed) { s.of.Protocol = event.TCP })
	f("more than anybody counts", func(s *summed) { s.of.Protocol, s.s.Latency, s.s.Duration, s.s.Events = event.TCP, nil, nil, 1<<48 })
}
