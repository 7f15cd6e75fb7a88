package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/api/apitest"
	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/event"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// webHeader is of a batch of web's proxy.
func webHeader(sequence uint64) event.Header {
	return event.Header{Source: event.Source{Workload: event.Workload{Cluster: "c", Namespace: "x", Kind: "deploy", Name: "web"}, Pod: "web-1"}, Instance: 0xabc, Sequence: sequence}
}

// tapEvent is an inbound request of web.
func tapEvent(path string, code uint16, change func(*event.Event)) event.Event {
	e := event.Event{
		Direction: event.Inbound, Protocol: event.HTTP1, Status: code, GRPCStatus: event.NoGRPCStatus,
		Method: "GET", Authority: "web:80", Path: path, Start: 1e15, Latency: 5, Duration: 7, Connection: 1, Stream: 1,
		Peer: event.Peer{Workload: event.Workload{Cluster: "c", Namespace: "x", Kind: "deploy", Name: "bot"}},
	}
	if change != nil {
		change(&e)
	}
	return e
}

// next is the next event of a tap.
func next(t *testing.T, stream grpc.ServerStreamingClient[weirpb.TapResponse]) *weirpb.TapEvent {
	t.Helper()
	for {
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e := r.GetEvent(); e != nil {
			return e
		}
	}
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
		b.Publish(webHeader(1), ok, failed, sent)
		var got []string
		for range want {
			got = append(got, next(t, stream).GetPath())
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
	f(&weirpb.TapRequest{Resource: r("deploy", "web"), Filter: &weirpb.Filter{Status: ">=500"}}, deploy, "/api/vote")
	f(&weirpb.TapRequest{Resource: r("deploy", "web"), Method: "POST", Filter: &weirpb.Filter{Status: "5xx", Where: `latency < 1ms`}}, deploy, "/api/vote")
	f(&weirpb.TapRequest{Resource: r("deploy", "web"), Filter: &weirpb.Filter{Status: "5xx", Not: true}}, deploy, "/api/list", "/db")
	f(&weirpb.TapRequest{Resource: r("deploy", "web"), Filter: &weirpb.Filter{To: r("deploy", "db")}}, deploy, "/db")
}

func TestTapLimitEnds(t *testing.T) {
	b := &apitest.Backend{}
	_, c := start(t, b)
	stream, err := c.Tap(t.Context(), &weirpb.TapRequest{Limit: 2})
	if err != nil {
		t.Fatal(err)
	}
	waitTaps(t, b, 1)
	for i := range 5 {
		b.Publish(webHeader(uint64(i+1)), tapEvent("/a", 200, nil))
	}
	n := 0
	for {
		r, err := stream.Recv()
		if err != nil {
			if n != 2 || err != io.EOF {
				t.Errorf("%d events, then %v; want 2, then EOF", n, err)
			}
			break
		}
		if r.GetEvent() != nil {
			n++
		}
	}
	waitTaps(t, b, 0)
}

// The true rate is told beside what max_rps keeps back.
func TestTapCountsWhatMaxRPSKeepsBack(t *testing.T) {
	b := &apitest.Backend{}
	_, c := start(t, b)
	stream, err := c.Tap(t.Context(), &weirpb.TapRequest{MaxRps: 0.001})
	if err != nil {
		t.Fatal(err)
	}
	waitTaps(t, b, 1)
	for i := range 10 {
		b.Publish(webHeader(uint64(i+1)), tapEvent("/a", 200, nil))
	}
	events, skipped := 0, uint64(0)
	for {
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if r.GetEvent() != nil {
			events++
		}
		if g := r.GetGap(); g != nil {
			if skipped += g.GetSkipped(); g.GetReason() != "max_rps" {
				t.Errorf("gap %v", g)
			}
		}
		if p := r.GetProgress(); p.GetMatched() == 10 {
			if p.GetMatchedRps() <= 0 || p.GetEvents() != 10 || p.GetBatches() != 10 {
				t.Errorf("progress %v", p)
			}
			break
		}
	}
	if events != 1 || skipped != 9 {
		t.Errorf("%d events and %d skipped, want 1 and 9", events, skipped)
	}
}

// A consumer that does not read for a while loses nothing: the stream waits.
func TestTapSlowConsumerLosesNothing(t *testing.T) {
	b := &apitest.Backend{}
	_, c := start(t, b)
	stream, err := c.Tap(t.Context(), &weirpb.TapRequest{})
	if err != nil {
		t.Fatal(err)
	}
	waitTaps(t, b, 1)
	const batches, each = 300, 100
	events := make([]event.Event, each)
	for i := range events {
		events[i] = tapEvent("/"+strings.Repeat("a", 1000), 200, nil)
	}
	for i := range batches {
		b.Publish(webHeader(uint64(i+1)), events...)
	}
	for i := range batches * each {
		if got, want := next(t, stream).GetId(), fmt.Sprintf("0000000000000abc-%d-%d", i/each+1, i%each); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	}
}

// What is missing in a proxy's numbering is named.
func TestTapNamesGaps(t *testing.T) {
	b := &apitest.Backend{}
	s, c := start(t, b)
	at := time.Now().Add(-10 * time.Minute)
	publish := func(sequence uint64, after time.Duration, shed uint64, path string) {
		h := webHeader(sequence)
		h.Sent, h.Shed = at.Add(after).UnixMicro(), shed
		b.Publish(h, tapEvent(path, 200, func(e *event.Event) { e.Start = h.Sent }))
	}
	publish(1, 0, 0, "/1")
	publish(2, time.Second, 5, "/2")
	publish(6, 2*time.Second, 5, "/6")
	web := webHeader(1).Source.Workload
	b.PublishRaw(web, at.Add(3*time.Second), []byte("\xff"))
	b.PublishRaw(event.Workload{Cluster: "c", Namespace: "x", Kind: "deploy", Name: "other"}, at.Add(3*time.Second), []byte{})
	stream, err := c.Tap(t.Context(), &weirpb.TapRequest{Resource: &weirpb.Resource{Namespace: "x"}, Since: timestamppb.New(at.Add(-time.Minute))})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for {
		r, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if g := r.GetGap(); g != nil {
			got = append(got, fmt.Sprintf("%s %s %s %d-%d", g.GetReason(), g.GetSource().GetName(), g.GetInstance(), g.GetFrom(), g.GetTo()))
		} else if e := r.GetEvent(); e != nil {
			got = append(got, e.GetPath())
		}
	}
	want := "[/1 shed web 0000000000000abc 2-2 /2 /6 unreadable web  0-0 unreadable other  0-0 lost web 0000000000000abc 3-5]"
	if fmt.Sprint(got) != want {
		t.Errorf("got %v\nwant %s", got, want)
	}
	if _, _, body := get(t, s, "/metrics"); !strings.Contains(body, "weir_api_tap_malformed_total 2") {
		t.Error("malformed messages are not counted")
	}
}

// The past, its end, and the past with what comes then.
func TestTapOfThePast(t *testing.T) {
	b := &apitest.Backend{}
	_, c := start(t, b)
	now := time.Now()
	publish := func(sequence uint64, ago time.Duration, path string) {
		h := webHeader(sequence)
		h.Sent = now.Add(-ago).UnixMicro()
		b.Publish(h, tapEvent(path, 200, func(e *event.Event) { e.Start = h.Sent }))
	}
	for i := range uint64(10) {
		publish(i+1, time.Duration(10-i)*time.Minute, fmt.Sprint("/", i))
	}
	ago := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(-d)) }
	f := func(req *weirpb.TapRequest, want string) {
		t.Helper()
		stream, err := c.Tap(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		got, last := "", &weirpb.TapProgress{}
		for {
			r, err := stream.Recv()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got += r.GetEvent().GetPath()
			if r.GetProgress() != nil {
				last = r.GetProgress()
			}
		}
		if got != want {
			t.Errorf("%v: %s; want %s", req, got, want)
		}
		if last.GetOldest().AsTime().UnixMicro() != now.Add(-10*time.Minute).UnixMicro() || last.GetMatched() != uint64(len(want)/2) {
			t.Errorf("%v: at the end %v", req, last)
		}
	}
	f(&weirpb.TapRequest{Since: ago(150 * time.Second)}, "/8/9")
	f(&weirpb.TapRequest{Since: ago(9*time.Minute + 30*time.Second), Until: ago(6*time.Minute + 30*time.Second)}, "/1/2/3")
	f(&weirpb.TapRequest{Since: ago(time.Hour), Filter: &weirpb.Filter{Where: `path in ["/3", "/5"]`}}, "/3/5")

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := c.Tap(ctx, &weirpb.TapRequest{Since: ago(150 * time.Second), Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	got := next(t, stream).GetPath() + next(t, stream).GetPath()
	publish(11, 0, "/a")
	publish(11, 0, "/a")
	publish(12, 0, "/b")
	if got += next(t, stream).GetPath() + next(t, stream).GetPath(); got != "/8/9/a/b" {
		t.Errorf("followed %s", got)
	}
	if n := b.Announced(webHeader(1).Source.Workload); n == 0 {
		t.Error("the proxies were not told that they are tapped")
	}
	cancel()
	waitTaps(t, b, 0)
}

func TestTapRefusals(t *testing.T) {
	b := &apitest.Backend{}
	_, c := start(t, b)
	now := timestamppb.Now()
	f := func(want string, req *weirpb.TapRequest) {
		t.Helper()
		stream, err := c.Tap(t.Context(), req)
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v; want %q", req, err, want)
		}
	}
	f("filter.where: at character 1: there is no field \"latencyy\"; did you mean latency?", &weirpb.TapRequest{Filter: &weirpb.Filter{Where: "latencyy > 1s"}})
	f("filter.latency: ", &weirpb.TapRequest{Filter: &weirpb.Filter{Latency: "soon"}})
	f("filter.to.kind: ", &weirpb.TapRequest{Filter: &weirpb.Filter{To: &weirpb.Resource{Kind: "what"}}})
	f("status: ", &weirpb.TapRequest{Status: "x"})
	f("direction: ", &weirpb.TapRequest{Direction: "up"})
	f("max_rps: ", &weirpb.TapRequest{MaxRps: -1})
	f("until: is given without since", &weirpb.TapRequest{Until: now})
	f("until: cannot be given beside follow", &weirpb.TapRequest{Since: now, Until: now, Follow: true})
	f("is not after since", &weirpb.TapRequest{Since: now, Until: now})
	f("since: ", &weirpb.TapRequest{Since: timestamppb.New(time.Now().Add(time.Hour))})
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
	if !lines.Scan() || !strings.Contains(lines.Text(), `"progress"`) {
		t.Errorf("%v: %s", lines.Err(), lines.Text())
	}
	for i, path := range []string{"/a", "/b"} {
		b.Publish(webHeader(uint64(i+1)), tapEvent(path, 200, nil))
		for lines.Scan() && !strings.Contains(lines.Text(), `"event":{`) {
		}
		if lines.Err() != nil {
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
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "stops") {
		t.Errorf("gRPC: %v", err)
	}
	if body, _ := io.ReadAll(resp.Body); !strings.Contains(string(body), "stops") {
		t.Errorf("HTTP: %s", body)
	}
}

// A tap tells the proxies that it is about as soon as it reads, before any event
// has come, and no others.
func TestTapIsAnnouncedAtOnce(t *testing.T) {
	workload := func(name string, live bool) query.Workload {
		return query.Workload{Resource: query.Selector{Cluster: "c", Namespace: "x", Kind: "deploy", Name: name}, Pods: []query.Pod{{Name: name + "-1", Live: live}}}
	}
	f := func(sel *weirpb.Resource, want, unwanted []string) {
		t.Helper()
		b := &apitest.Backend{}
		b.Answer(query.MethodWorkloads, query.Reply{Members: 1, Workloads: []query.Workload{workload("web", true), workload("db", true), workload("gone", false)}})
		_, c := start(t, b)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if _, err := c.Tap(ctx, &weirpb.TapRequest{Resource: sel}); err != nil {
			t.Fatal(err)
		}
		times := func(name string) int {
			return b.Announced(event.Workload{Cluster: "c", Namespace: "x", Kind: "deploy", Name: name})
		}
		for _, name := range want {
			for times(name) == 0 {
				if ctx.Err() != nil {
					t.Fatalf("%v: %s was not told", sel, name)
				}
				time.Sleep(time.Millisecond)
			}
		}
		for _, name := range unwanted {
			if times(name) > 0 {
				t.Errorf("%v: %s was told", sel, name)
			}
		}
	}
	f(&weirpb.Resource{Kind: "ns", Name: "x"}, []string{"web", "db"}, []string{"gone"})
	f(&weirpb.Resource{Namespace: "x", Kind: "deploy", Name: "web"}, []string{"web"}, []string{"db", "gone"})
	f(&weirpb.Resource{Namespace: "x", Kind: "pod", Name: "db-1"}, []string{"db"}, []string{"web", "gone"})
}
