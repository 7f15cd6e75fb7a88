package event_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/weirmesh/weir/event"
)

var update = flag.Bool("update", false, "write golden files instead of comparing with them")

// TestJSONGolden compares with testdata/events.ndjson; -update rewrites it.
func TestJSONGolden(t *testing.T) {
	inbound := traffic(1)[0]
	inbound.TraceID = [16]byte{0x4b, 0xf9, 15: 0x36}
	outbound := inbound
	outbound.Direction, outbound.Protocol, outbound.Method = event.Outbound, event.GRPC, "POST"
	outbound.Path, outbound.GRPCStatus = "/emojivoto.v1.VotingService/VoteDoughnut", 2
	outbound.Fate, outbound.Attempt = event.Retried|event.TimedOut, 1
	progress := event.Event{
		Kind: event.Progress, Direction: event.Inbound, Protocol: event.TCP, GRPCStatus: event.NoGRPCStatus,
		Start: start, Latency: 5, Duration: 10_000_000, SecurityReason: "not meshed", Connection: 1, Stream: 1,
		Peer: event.Peer{Addr: netip.MustParseAddrPort("[2001:db8::1]:443")}, RequestBytes: 1 << 63,
	}
	odd := event.Event{
		Direction: event.Inbound, GRPCStatus: 0, Path: "/\"\\\n\r\t\x00\x1f\x7f<ü日\xff\xc3(\u2028", Error: event.ErrMalformed,
		Protocol: 77, Fate: event.Refused, Connection: 1<<64 - 1,
	}
	var out []byte
	for i, e := range []event.Event{inbound, outbound, progress, odd} {
		out = append(event.AppendJSON(out, &header, i, &e), '\n')
	}
	golden := filepath.Join("testdata", "events.ndjson")
	if *update {
		if err := os.WriteFile(golden, out, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if string(out) != string(want) {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
}

// TestJSONAny: whatever the event, what is written is JSON and reads back.
func TestJSONAny(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := anyHeader().Draw(t, "header")
		for i, e := range anyEvents().Draw(t, "events") {
			line := event.AppendJSON(nil, &h, i, &e)
			got, err := event.ParseJSON(line)
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			checkJSON(t, &got, &h, i, &e)
			if strings.ContainsAny(string(line), "\n\r") {
				t.Fatalf("%q is not one line", line)
			}
		}
	})
}

func checkJSON(t *rapid.T, got *event.JSONEvent, h *event.Header, index int, e *event.Event) {
	peer, own := &got.Source, &got.Destination
	if e.Direction == event.Outbound {
		peer, own = own, peer
	}
	for name, ok := range map[string]bool{
		"number":     got.Sequence == h.Sequence && got.Index == index && got.Instance == fmt.Sprintf("%016x", h.Instance),
		"names":      got.Event == e.Kind.String() && got.Direction == e.Direction.String() && got.Protocol == e.Protocol.String(),
		"times":      got.Start == e.Start && got.Latency == e.Latency && got.Duration == e.Duration,
		"route":      got.Method == e.Method && got.Authority == e.Authority && got.Path == e.Path,
		"status":     got.Status == e.Status && (got.GRPCStatus == nil) == (e.GRPCStatus == -1),
		"success":    (got.Success == nil) == (e.Kind != event.End) && (got.Success == nil || *got.Success == e.Success()),
		"outcome":    got.Error == e.Error && strings.Join(got.Fate, ",") == e.Fate.String() && got.Attempt == e.Attempt,
		"bytes":      got.RequestBytes == e.RequestBytes && got.ResponseBytes == e.ResponseBytes,
		"peer":       peer.Workload() == e.Peer.Workload && peer.Pod == e.Peer.Pod && peer.Identity == e.Peer.Identity,
		"address":    peer.Port == e.Peer.Addr.Port() && (peer.IP == "") == !e.Peer.Addr.Addr().IsValid(),
		"own":        own.Workload() == h.Source.Workload && own.Pod == h.Source.Pod && own.IP == "",
		"security":   got.Meshed == e.Peer.Meshed && got.Security == e.Security.String() && got.SecurityReason == e.SecurityReason,
		"connection": got.Connection == fmt.Sprintf("%016x", e.Connection) && got.Stream == e.Stream,
		"trace":      (got.TraceID == "") == (e.TraceID == [16]byte{}) && (got.TraceID == "" || got.TraceID == fmt.Sprintf("%x", e.TraceID)),
	} {
		if !ok {
			t.Errorf("%s: got %+v of %+v", name, *got, *e)
		}
	}
}

func TestParseJSONRejects(t *testing.T) {
	good := string(event.AppendJSON(nil, &header, 0, &traffic(1)[0]))
	f := func(data, want string) {
		t.Helper()
		if _, err := event.ParseJSON([]byte(data)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", data[:min(len(data), 80)], err, want)
		}
	}
	f("", "cannot read event")
	f("{}", "instance \"\" is not 16")
	f(strings.Replace(good, `"index":0`, `"index":-1`, 1), "index is -1")
	f(strings.Replace(good, `"end"`, `""`, 1), "event, direction")
	f(strings.Replace(good, `"stream":`, `"trace_id":"XY","stream":`, 1), "trace_id \"XY\"")
	f(strings.Repeat(" ", event.MaxBatchBytes+1), "more than")
	later := strings.Replace(good, `{`, `{"new":[1,{}],`, 1)
	if _, err := event.ParseJSON([]byte(later)); err != nil {
		t.Errorf("a later version's key: %v", err)
	}
}

func TestJSONAllocations(t *testing.T) {
	events := traffic(100)
	out := make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(20, func() {
		for i := range events {
			out = event.AppendJSON(out[:0], &header, i, &events[i])
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if !json.Valid(out) {
		t.Error("no JSON")
	}
}
