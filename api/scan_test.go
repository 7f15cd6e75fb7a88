package api_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/api/apitest"
	"github.com/weirmesh/weir/api/client"
	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/event"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func scanned(t *testing.T, c *client.Client, req *weirpb.ScanRequest) (*weirpb.ScanResult, error) {
	t.Helper()
	stream, err := c.Scan(t.Context(), req)
	if err != nil {
		return nil, err
	}
	var result *weirpb.ScanResult
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return result, nil
		}
		if err != nil {
			return nil, err
		}
		if r.GetResult() != nil {
			result = r.GetResult()
		}
	}
}

func TestScan(t *testing.T) {
	b := &apitest.Backend{}
	_, c := start(t, b)
	at := time.Now().Add(-10 * time.Minute).Truncate(time.Minute)
	for i := range uint64(30) {
		h := webHeader(i + 1)
		h.Sent = at.Add(time.Duration(i) * time.Second).UnixMicro()
		slow := func(e *event.Event) { e.Start, e.Latency, e.Duration = h.Sent-300_000, 300_000, 300_000 }
		b.Publish(h, tapEvent("/fast", 200, func(e *event.Event) { e.Start = h.Sent - 7 }), tapEvent(fmt.Sprint("/slow/", i%3), 503, slow),
			tapEvent("/db", 200, func(e *event.Event) { slow(e); e.Direction = event.Outbound }))
	}
	window := &weirpb.Window{Since: timestamppb.New(at.Add(10 * time.Second)), Until: timestamppb.New(at.Add(20 * time.Second))}
	r, err := scanned(t, c, &weirpb.ScanRequest{Resource: &weirpb.Resource{Namespace: "x", Kind: "deploy", Name: "web"}, By: []string{"path", "status"},
		Filter: &weirpb.Filter{Where: "latency > 250ms"}, Window: window, Top: 2})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, row := range r.GetRows() {
		got = append(got, fmt.Sprint(row.GetValues(), row.GetStats().GetRequests(), row.GetStats().GetRps(), row.GetMissing()))
	}
	// Batches 10 to 19: /slow/1 0 1 times each third.
	if fmt.Sprint(got) != "[[/slow/1 503] 4 0.4 0 [/slow/0 503] 3 0.3 0]" {
		t.Error(got)
	}
	if r.GetOther().GetStats().GetRequests() != 3 || r.GetOthers() != 1 || r.GetTotal().GetRequests() != 10 || r.GetTotal().GetFailures() != 10 ||
		r.GetDirection() != "inbound" || r.GetProgress().GetMatched() != 20 || len(r.GetGaps()) != 0 {
		t.Errorf("%v", r)
	}
	if p99 := r.GetTotal().GetLatencyMs().GetP99(); p99 < 297 || p99 > 303 {
		t.Errorf("p99 %v ms", p99)
	}
	r, err = scanned(t, c, &weirpb.ScanRequest{Filter: &weirpb.Filter{Direction: "outbound"}, Window: window, By: []string{"path"}})
	if err != nil || len(r.GetRows()) != 1 || r.GetRows()[0].GetValues()[0] != "/db" || r.GetDirection() != "outbound" || r.GetOther() != nil {
		t.Errorf("%v, %v", err, r)
	}
	// What is before the stream's beginning is said.
	r, err = scanned(t, c, &weirpb.ScanRequest{Window: &weirpb.Window{Since: timestamppb.New(at.Add(-time.Hour)), Until: window.GetUntil()}})
	if err != nil || r.GetCoverage().GetSince().AsTime().Before(at) || r.GetTotal().GetRequests() != 40 {
		t.Errorf("%v, %v", err, r)
	}
}

func TestScanRefusals(t *testing.T) {
	_, c := start(t, &apitest.Backend{})
	f := func(want string, req *weirpb.ScanRequest) {
		t.Helper()
		if _, err := scanned(t, c, req); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v; want %q", req, err, want)
		}
	}
	f(`by: there is no field "pth"; did you mean path`, &weirpb.ScanRequest{By: []string{"pth"}})
	f(`by: "path" is given twice`, &weirpb.ScanRequest{By: []string{"path", "status", "path"}})
	f("by: 9 fields", &weirpb.ScanRequest{By: strings.Split("path path path path path path path path path", " ")})
	f("top: 1001 rows", &weirpb.ScanRequest{Top: 1001})
	f("filter.where: at character", &weirpb.ScanRequest{Filter: &weirpb.Filter{Where: "("}})
	f("resource.kind", &weirpb.ScanRequest{Resource: &weirpb.Resource{Kind: "x"}})
	f("window.since", &weirpb.ScanRequest{Window: &weirpb.Window{Since: timestamppb.New(time.Now().Add(time.Hour))}})
}
