package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/api/apitest"
	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/event"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// tapEvent is the JSON of an inbound request of web.
func tapEvent(path string, code uint16, change func(*event.Event)) []byte {
	h := event.Header{Source: event.Source{Workload: event.Workload{Cluster: "c", Namespace: "x", Kind: "deploy", Name: "web"}, Pod: "web-1"}, Instance: 0xabc, Sequence: 3}
	e := event.Event{
		Direction: event.Inbound, Protocol: event.HTTP1, Status: code, GRPCStatus: event.NoGRPCStatus,
		Method: "GET", Authority: "web:80", Path: path, Start: 1e15, Latency: 5, Duration: 7, Connection: 1, Stream: 1,
		Peer: event.Peer{Workload: event.Workload{Cluster: "c", Namespace: "x", Kind: "deploy", Name: "bot"}},
	}
	if change != nil {
		change(&e)
	}
	return event.AppendJSON(nil, &h, 0, &e)
}

func waitTaps(t *testing.T, b *apitest.Backend, n int) []event.Workload {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	w, err := b.WaitTaps(ctx, n)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestTapFilters(t *testing.T) {
	ok := tapEvent("/api/list", 200, nil)
	failed := tapEvent("/api/vote", 503, func(e *event.Event) { e.Method = "POST" })
	sent := tapEvent("/db", 200, func(e *event.Event) { e.Direction = event.Outbound; e.Peer.Workload.Name = "db" })
	f := func(req *weirpb.TapRequest, subject event.Workload, want ...string) {
		t.Helper()
		b := &apitest.Backend{}
		_, c := start(t, b)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stream, err := c.Tap(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		if got := waitTaps(t, b, 1)[0]; got != subject {
			t.Errorf("subscribed to %+v, want %+v", got, subject)
		}
		for _, data := range [][]byte{ok, failed, sent} {
			b.Publish(data)
		}
		var got []string
		for range want {
			r, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, r.GetEvent().GetPath())
		}
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%v: got %v, want %v", req, got, want)
		}
		cancel() // the consumer goes
		waitTaps(t, b, 0)
	}
	r := func(kind, name string) *weirpb.Resource {
		return &weirpb.Resource{Namespace: "x", Kind: kind, Name: name}
	}
	deploy := event.Workload{Namespace: "x", Kind: "deploy", Name: "web"}
	inNS := event.Workload{Namespace: "x"}
	f(&weirpb.TapRequest{Resource: r("deploy", "web")}, deploy, "/api/list", "/api/vote", "/db")
	f(&weirpb.TapRequest{Resource: r("deploy", "web"), Status: "5xx"}, deploy, "/api/vote")
	f(&weirpb.TapRequest{Resource: r("deploy", "web"), Status: "200", Direction: "inbound"}, deploy, "/api/list")
	f(&weirpb.TapRequest{Resource: r("deploy", "web"), Method: "post"}, deploy, "/api/vote")
	f(&weirpb.TapRequest{Resource: r("deploy", "web"), Path: "/api", Authority: "WEB:80"}, deploy, "/api/list", "/api/vote")
	f(&weirpb.TapRequest{Resource: r("deploy", "web"), To: r("deploy", "db")}, deploy, "/db")
	f(&weirpb.TapRequest{Resource: r("deploy", "web"), From: r("", "bot")}, deploy, "/api/list", "/api/vote")
	f(&weirpb.TapRequest{Resource: r("pod", "web-1")}, inNS, "/api/list", "/api/vote", "/db")
	f(&weirpb.TapRequest{Resource: &weirpb.Resource{Kind: "ns", Name: "x"}, Direction: "outbound"}, inNS, "/db")
}

func TestTapLimitEnds(t *testing.T) {
	b := &apitest.Backend{}
	_, c := start(t, b)
	stream, err := c.Tap(t.Context(), &weirpb.TapRequest{Limit: 2})
	if err != nil {
		t.Fatal(err)
	}
	waitTaps(t, b, 1)
	for range 5 {
		b.Publish(tapEvent("/a", 200, nil))
	}
	n := 0
	for {
		if _, err = stream.Recv(); err != nil {
			break
		}
		n++
	}
	if n != 2 || err != io.EOF {
		t.Errorf("%d events, then %v; want 2, then EOF", n, err)
	}
	waitTaps(t, b, 0)
}

func TestTapCountsWhatMaxRPSKeepsBack(t *testing.T) {
	b := &apitest.Backend{}
	_, c := start(t, b)
	stream, err := c.Tap(t.Context(), &weirpb.TapRequest{MaxRps: 0.001})
	if err != nil {
		t.Fatal(err)
	}
	waitTaps(t, b, 1)
	for range 10 {
		b.Publish(tapEvent("/a", 200, nil))
	}
	events, skipped := 0, uint64(0)
	for events == 0 || skipped < 9 {
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if r.GetEvent() != nil {
			events++
		} else if skipped += r.GetGap().GetSkipped(); r.GetGap().GetReason() != "max_rps" {
			t.Errorf("gap %v", r.GetGap())
		}
	}
	if events != 1 || skipped != 9 {
		t.Errorf("%d events and %d skipped, want 1 and 9", events, skipped)
	}
}

// A consumer that does not read loses events, is told how many, and costs no
// more memory than the queue.
func TestTapSlowConsumerGetsGaps(t *testing.T) {
	b := &apitest.Backend{}
	_, c := start(t, b)
	stream, err := c.Tap(t.Context(), &weirpb.TapRequest{})
	if err != nil {
		t.Fatal(err)
	}
	waitTaps(t, b, 1)
	const published, lost = 30000, 123
	data := tapEvent("/"+strings.Repeat("a", 1000), 200, nil)
	for range published {
		b.Publish(data)
	}
	b.Drop(100)
	b.Drop(lost)
	var events, skipped uint64
	for events+skipped < published+lost {
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if r.GetEvent() != nil {
			events++
		} else if skipped += r.GetGap().GetSkipped(); r.GetGap().GetReason() != "slow_consumer" {
			t.Errorf("gap %v", r.GetGap())
		}
	}
	if events+skipped != published+lost || skipped <= lost {
		t.Errorf("%d events + %d skipped, want %d together and more than %d skipped", events, skipped, published+lost, lost)
	}
}

func TestTapIgnoresHostileMessages(t *testing.T) {
	b := &apitest.Backend{}
	s, c := start(t, b)
	stream, err := c.Tap(t.Context(), &weirpb.TapRequest{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	waitTaps(t, b, 1)
	for _, data := range []string{"", "{", "[]", "\xff\xff", `{"path": 1}`} {
		b.Publish([]byte(data))
	}
	b.Publish(tapEvent("/\xff", 200, nil))
	r, err := stream.Recv()
	if err != nil || !strings.HasPrefix(r.GetEvent().GetPath(), "/") {
		t.Errorf("got %v, %v", r, err)
	}
	if _, _, body := get(t, s, "/metrics"); !strings.Contains(body, "weir_api_tap_malformed_total 5") {
		t.Error("malformed messages are not counted")
	}
}

func TestTapOverHTTP(t *testing.T) {
	b := &apitest.Backend{}
	s, _ := start(t, b)
	// The head comes before any event.
	resp, err := http.Get("http://" + s.HTTPAddr() + "/api/v1/tap?resource.kind=deploy&resource.name=web&limit=2")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || got != "application/x-ndjson" {
		t.Errorf("%s, %s", resp.Status, got)
	}
	waitTaps(t, b, 1)
	lines := bufio.NewScanner(resp.Body)
	for _, path := range []string{"/a", "/b"} {
		b.Publish(tapEvent(path, 200, nil))
		if !lines.Scan() {
			t.Fatal(lines.Err())
		}
		var got struct {
			Result struct {
				Event struct {
					Path      string
					LatencyUS string `json:"latency_us"`
				}
			}
		}
		if err := json.Unmarshal(lines.Bytes(), &got); err != nil || got.Result.Event.Path != path || got.Result.Event.LatencyUS != "5" {
			t.Errorf("%v: %s", err, lines.Text())
		}
	}
	if lines.Scan() {
		t.Errorf("more than the limit: %s", lines.Text())
	}
	if code, _, body := get(t, s, "/api/v1/tap?status=nonsense"); code != http.StatusBadRequest || !strings.Contains(body, "status") {
		t.Errorf("%d %s", code, body)
	}
}

func TestCloseEndsTapsWithAReason(t *testing.T) {
	b := &apitest.Backend{}
	s, c := start(t, b)
	stream, err := c.Tap(t.Context(), &weirpb.TapRequest{})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get("http://" + s.HTTPAddr() + "/api/v1/tap")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	waitTaps(t, b, 2)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err = stream.Recv(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "stops") {
		t.Errorf("gRPC: %v", err)
	}
	if body, _ := io.ReadAll(resp.Body); !strings.Contains(string(body), "stops") {
		t.Errorf("HTTP: %s", body)
	}
}
