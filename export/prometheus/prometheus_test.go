package prometheus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weirmesh/weir/bus/bustest"
	"github.com/weirmesh/weir/bus/client"
	"github.com/weirmesh/weir/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errDead = errors.New("the process is dead")

// process is what an exporter sees of the bus, until it is killed.
type process struct {
	*client.Client
	dead atomic.Bool
}

func (p *process) StoreExport(ctx context.Context, exporter, part string, data []byte, expectLast uint64) (uint64, error) {
	if p.dead.Load() {
		return 0, errDead
	}
	return p.Client.StoreExport(ctx, exporter, part, data, expectLast)
}

// proxy is a source of batches.
type proxy struct {
	source   event.Source
	instance uint64
	sequence uint64
	produced uint64
	// open is its gauge of connections, final that it ends.
	open  uint64
	final bool
}

func (p *proxy) batch(events ...event.Event) []byte {
	var enc event.Encoder
	for i := range events {
		enc.Add(&events[i])
	}
	p.sequence++
	p.produced += uint64(len(events))
	return enc.Encode(nil, &event.Header{
		Source: p.source, Instance: p.instance, Sequence: p.sequence, Produced: p.produced, Sent: time.Now().UnixMicro(),
		OpenConnections: p.open, Final: p.final,
	})
}

func newProxy(name string, n int) *proxy {
	return &proxy{
		source: event.Source{
			Workload: event.Workload{Cluster: "east", Namespace: "shop", Kind: "deploy", Name: name},
			Pod:      fmt.Sprintf("%s-%d", name, n),
		},
		instance: rand.Uint64() | 1,
	}
}

func call(authority string, status uint16, latency uint64) event.Event {
	return event.Event{
		Direction: event.Inbound, Protocol: event.HTTP1, Method: "GET", Authority: authority, Path: "/",
		Status: status, GRPCStatus: event.NoGRPCStatus, Latency: latency, Duration: latency, Start: time.Now().UnixMicro(),
		RequestBytes: 10, ResponseBytes: 100, Connection: 7, Stream: 1, SecurityReason: "no_identity",
		Peer: event.Peer{Addr: netip.MustParseAddrPort("10.0.0.1:1234")},
	}
}

func options(stream *process) Options {
	return Options{Stream: stream, Store: stream, Every: 20 * time.Millisecond, Lease: 60 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)}
}

// start runs an exporter; stop ends it, by kill or by request.
func start(t *testing.T, c *client.Client, change func(*Options)) (stop func(kill bool)) {
	t.Helper()
	p := &process{Client: c}
	o := options(p)
	if change != nil {
		change(&o)
	}
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = e.Run(ctx) })
	once := sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
	t.Cleanup(once)
	return func(kill bool) {
		p.dead.Store(kill)
		once()
	}
}

// scrape returns the samples, by name and labels.
func scrape(t *testing.T, h http.Handler) (samples map[string]float64, text string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("a scrape is answered %d: %s", w.Code, w.Body)
	}
	samples = map[string]float64{}
	for l := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(l, "#") {
			continue
		}
		i := strings.LastIndexByte(l, ' ')
		v, err := strconv.ParseFloat(strings.TrimSpace(l[i+1:]), 64)
		if err != nil {
			t.Fatalf("%q: %v", l, err)
		}
		if _, twice := samples[l[:i]]; twice {
			t.Fatalf("%s is there twice", l[:i])
		}
		samples[l[:i]] = v
	}
	return samples, w.Body.String()
}

// sum adds up the samples of a metric whose labels hold all of some.
func sum(samples map[string]float64, name string, with ...string) (total float64) {
next:
	for key, v := range samples {
		if key != name && !strings.HasPrefix(key, name+"{") {
			continue
		}
		for _, w := range with {
			if !strings.Contains(key, w) {
				continue next
			}
		}
		total += v
	}
	return total
}

func eventually(t *testing.T, check func() error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func publish(t *testing.T, c *client.Client, p *proxy, sequence uint64, batch []byte) {
	t.Helper()
	// Under another's message id, so that the stream keeps repetitions.
	if err := c.Publish(t.Context(), p.source.Workload, rand.Uint64(), sequence, batch); err != nil {
		t.Fatal(err)
	}
}

// TestExactThroughKills: batches come, some twice and some out of order, while
// exporters are killed and replaced; counters never go back and are right in the
// end.
func TestExactThroughKills(t *testing.T) {
	s := bustest.Run(t)
	c := bustest.Connect(t, s)
	h := NewHandler(options(&process{Client: c}))
	proxies := []*proxy{newProxy("web", 0), newProxy("web", 1), newProxy("voting", 0), newProxy("emoji", 0)}
	random := rand.New(rand.NewPCG(1, 2))
	sent, failed := 0, 0
	last := map[string]float64{}
	never := func() {
		samples, _ := scrape(t, h)
		for key, v := range last {
			if now, ok := samples[key]; strings.Contains(key, "_total") && (!ok || now < v) {
				t.Fatalf("%s went from %v to %v", key, v, now)
			}
		}
		last = samples
	}
	for round := range 12 {
		stop := start(t, c, nil)
		for range 40 {
			p := proxies[random.IntN(len(proxies))]
			var batches [][]byte
			for range 1 + random.IntN(3) {
				events := make([]event.Event, 1+random.IntN(20))
				for i := range events {
					events[i] = call("web.shop", 200, uint64(random.IntN(60e6)))
					if random.IntN(10) == 0 {
						events[i].Status = 503
						failed++
					}
				}
				sent += len(events)
				batches = append(batches, p.batch(events...))
			}
			random.Shuffle(len(batches), func(i, j int) { batches[i], batches[j] = batches[j], batches[i] })
			for _, b := range batches {
				publish(t, c, p, 1, b)
				if random.IntN(4) == 0 {
					publish(t, c, p, 1, b)
				}
			}
		}
		never()
		time.Sleep(time.Duration(random.IntN(100)) * time.Millisecond)
		stop(round%3 != 0)
		never()
	}
	_ = start(t, c, nil)
	_ = start(t, c, nil) // a second one waits
	want := func() error {
		never()
		for name, n := range map[string]int{"request_total": sent, "response_total": sent, "response_latency_ms_count": sent, "export_events_total": sent} {
			if got := sum(last, name); got != float64(n) {
				return fmt.Errorf("%s is %v; want %d", name, got, n)
			}
		}
		if got := sum(last, "response_total", `classification="failure"`, `status_code="503"`); got != float64(failed) {
			return fmt.Errorf("%v failures; want %d", got, failed)
		}
		if got := sum(last, "tcp_write_bytes_total", `peer="src"`); got != float64(100*sent) {
			return fmt.Errorf("%v bytes; want %d", got, 100*sent)
		}
		if lag := last["export_lag_seconds"]; lag != 0 {
			return fmt.Errorf("lag is %v", lag)
		}
		return nil
	}
	eventually(t, want)
	time.Sleep(200 * time.Millisecond) // what is counted twice would show by now
	if err := want(); err != nil {
		t.Error(err)
	}
	if last["export_lost_batches"] != 0 || last["export_duplicate_batches_total"] == 0 {
		t.Errorf("%v batches are lost, %v were repeated", last["export_lost_batches"], last["export_duplicate_batches_total"])
	}
}

func TestMetricsAreLinkerds(t *testing.T) {
	c := bustest.Connect(t, bustest.Run(t))
	web := newProxy("web", 0)
	grpc := call("voting.shop:8080", 200, 5_001_000)
	grpc.Direction, grpc.Protocol, grpc.GRPCStatus = event.Outbound, event.GRPC, 2
	grpc.Peer.Workload = event.Workload{Cluster: "east", Namespace: "back", Kind: "sts", Name: "voting"}
	grpc.Peer.Pod = "voting-0"
	grpc.Security, grpc.SecurityReason = event.Mutual, ""
	hostile := call("a\"b\\c\nd\xff"+strings.Repeat("x", 300), 0, 5_000_000)
	hostile.Error = event.ErrServerClosed
	progress := call("", 0, 0)
	progress.Protocol, progress.Kind, progress.Connection = event.TCP, event.Progress, 99
	ended := progress
	ended.Kind, ended.Duration = event.End, 20e6
	short := ended
	short.Connection, short.Duration, short.Error = 100, 1000, event.ErrClientReset
	for _, b := range [][]byte{web.batch(grpc, hostile), web.batch(progress), web.batch(progress), web.batch(ended, short), web.batch(progress)} {
		publish(t, c, web, 1, b)
	}
	stop := start(t, c, nil)
	h := NewHandler(options(&process{Client: c}))
	var samples map[string]float64
	var text string
	eventually(t, func() error {
		if samples, text = scrape(t, h); samples["export_events_total"] != 7 {
			return fmt.Errorf("%v events", samples["export_events_total"])
		}
		return nil
	})
	stop(false)
	const pod = `direction="outbound",cluster="east",namespace="shop",deployment="web",pod="web-0",dst_namespace="back",dst_statefulset="voting",authority="voting.shop:8080",tls="true"`
	const dst = `,dst_pod="voting-0"`
	const own = `direction="inbound",cluster="east",namespace="shop",deployment="web",pod="web-0",tls="no_identity",no_tls_reason="no_identity"`
	for key, want := range map[string]float64{
		"request_total{" + pod + dst + "}": 1,
		"response_total{" + pod + `,status_code="200",grpc_status="2",classification="failure"` + dst + "}": 1,
		"response_latency_ms_bucket{" + pod + `,status_code="200"` + dst + `,le="5000"}`:                    0,
		"response_latency_ms_bucket{" + pod + `,status_code="200"` + dst + `,le="10000"}`:                   1,
		"response_latency_ms_bucket{" + pod + `,status_code="200"` + dst + `,le="+Inf"}`:                    1,
		"response_latency_ms_sum{" + pod + `,status_code="200"` + dst + `}`:                                 5001,
		"tcp_open_total{" + own + `,peer="src"}`:                                                            2,
		"tcp_close_total{" + own + `,peer="src"}`:                                                           1,
		"tcp_close_total{" + own + `,error="client_reset",peer="src"}`:                                      1,
	} {
		if got, ok := samples[key]; !ok || got != want {
			t.Errorf("%s is %v, %v; want %v", key, got, ok, want)
		}
	}
	if got := sum(samples, "response_latency_ms_bucket", `le="5000"`); got != 1 {
		t.Errorf("5 s is in the bucket to 5 s %v times; want 1", got)
	}
	if got := sum(samples, "response_total", `error="server_closed"`, `classification="failure"`); got != 1 {
		t.Errorf("the response that did not come is there %v times", got)
	}
	checkMetrics(t, text)
}

// checkMetrics asks promtool, where there is one; the end-to-end tests always do.
func checkMetrics(t *testing.T, text string) {
	t.Helper()
	tool, err := exec.LookPath("promtool")
	if err != nil {
		t.Log("promtool is not installed: only our own reading of the format is checked")
		return
	}
	cmd := exec.CommandContext(t.Context(), tool, "check", "metrics")
	cmd.Stdin = strings.NewReader(text)
	out, _ := cmd.CombinedOutput() // its verdict is what it says
	for l := range bytes.Lines(out) {
		if !bytes.Contains(l, []byte("response_latency_ms")) || !bytes.Contains(l, []byte("unit")) {
			t.Errorf("promtool: %s", l)
		}
	}
}

func TestBounds(t *testing.T) {
	c := bustest.Connect(t, bustest.Run(t))
	sent := 0
	hostile, good := newProxy("hostile", 0), newProxy("good", 0)
	var events []event.Event
	for i := range 3000 {
		events = append(events, call(fmt.Sprintf("host-%d", i), uint16(200+i%300), 1000))
	}
	sent += len(events) + 1
	publish(t, c, hostile, 1, hostile.batch(events...))
	for n := range 100 { // pods that come and go
		p := newProxy("hostile", n+1)
		publish(t, c, p, 1, p.batch(call("x", 200, 1)))
		sent++
	}
	publish(t, c, good, 1, good.batch(call("good", 200, 1000)))
	_ = start(t, c, func(o *Options) { o.Series = 400 })
	h := NewHandler(options(&process{Client: c}))
	eventually(t, func() error {
		samples, _ := scrape(t, h)
		if got := sum(samples, "request_total"); got != float64(sent) {
			return fmt.Errorf("%v requests; want %d", got, sent)
		}
		if got := sum(samples, "response_total", `classification="success"`); got == 0 || got+sum(samples, "response_total", `classification="failure"`) != float64(sent) {
			return fmt.Errorf("%v of %d succeeded", got, sent)
		}
		if rows := samples["export_series"]; rows > 500 {
			t.Fatalf("%v sets of labels; at most 500 are allowed", rows)
		}
		if sum(samples, "request_total", `deployment="good"`, `authority="good"`) != 1 {
			t.Fatal("one workload took the room of another")
		}
		if sum(samples, "request_total", `deployment="hostile"`, `pod="(other)"`) == 0 {
			t.Fatal("nothing is counted as other")
		}
		return nil
	})
}

func TestSummariesCount(t *testing.T) {
	var latency event.Histogram
	latency.RecordN(900, 3)
	latency.RecordN(70_000_000, 2)
	e := call("", 200, 0)
	e.Path = event.CoalescedPath
	tcp := e
	tcp.Protocol, tcp.Status = event.TCP, 0
	var enc event.Encoder
	data := latency.AppendBinary(nil)
	enc.AddSummary(&e, &event.Summary{Second: 1, Events: 5, RequestBytes: 50, ResponseBytes: 500, Latency: data, Duration: data})
	empty := new(event.Histogram).AppendBinary(nil)
	enc.AddSummary(&tcp, &event.Summary{Second: 1, Events: 7, RequestBytes: 1, Latency: empty, Duration: empty})
	web := newProxy("web", 0)
	web.sequence = 1
	batch := enc.Encode(nil, &event.Header{Source: web.source, Instance: web.instance, Sequence: 1, Produced: 12, Shed: 12, Sent: time.Now().UnixMicro()})

	c := bustest.Connect(t, bustest.Run(t))
	publish(t, c, web, 1, batch)
	_ = start(t, c, nil)
	h := NewHandler(options(&process{Client: c}))
	eventually(t, func() error {
		samples, text := scrape(t, h)
		for name, want := range map[string]float64{
			"export_events_total": 12, "export_shed_events_total": 12, "request_total": 5, "response_total": 5, "response_latency_ms_count": 5,
			"response_latency_ms_sum": 140_002.7, "tcp_open_total": 7, "tcp_close_total": 7, "tcp_read_bytes_total": 51, "tcp_write_bytes_total": 500,
		} {
			if got := sum(samples, name); got != want {
				return fmt.Errorf("%s is %v; want %v\n%s", name, got, want, text)
			}
		}
		if got := sum(samples, "response_latency_ms_bucket", `le="1"`); got != 3 {
			t.Fatalf("%v took up to 1 ms; want 3", got)
		}
		return nil
	})
}

func TestAuthoritiesAreBounded(t *testing.T) {
	p := newProxy("web", 0)
	var events []event.Event
	for i := range 1000 {
		events = append(events, call(fmt.Sprintf("host-%d", i), 200, 1000))
	}
	var d event.Decoder
	if err := d.Reset(p.batch(events...)); err != nil {
		t.Fatal(err)
	}
	table := newTable(&budget{limit: 50_000})
	table.fold(&d, 1)
	var other, total uint64
	for _, r := range table.rows {
		if r.family == requests {
			total += r.n[countTotal]
			if r.labels[labelAuthority] == otherName {
				other += r.n[countTotal]
			}
		}
	}
	if total != 1000 || other != 1000-maxAuthorities {
		t.Errorf("%d requests, %d of them of other authorities", total, other)
	}
}

func TestSeriesOfPodsThatAreGoneExpire(t *testing.T) {
	c := bustest.Connect(t, bustest.Run(t))
	gone, here := newProxy("gone", 0), newProxy("here", 0)
	publish(t, c, gone, 1, gone.batch(call("x", 200, 1)))
	publish(t, c, here, 1, here.batch(call("x", 200, 1)))
	_ = start(t, c, func(o *Options) { o.Expire = 2 * time.Second })
	h := NewHandler(options(&process{Client: c}))
	seen := false
	eventually(t, func() error {
		publish(t, c, here, 1, here.batch()) // a heartbeat
		samples, _ := scrape(t, h)
		if sum(samples, "request_total", `deployment="gone"`) == 1 {
			seen = true
			return errors.New("still there")
		}
		if !seen {
			return errors.New("not there yet")
		}
		if sum(samples, "request_total", `deployment="here"`) != 1 {
			t.Fatal("the series of a live pod went")
		}
		return nil
	})
}

func TestStateRoundTrip(t *testing.T) {
	s := &state{owner: "a", written: 5, position: 9, marks: []byte("marks"), open: map[connectionID]int64{
		{direction: event.Outbound, connection: 1 << 63}: 77,
	}, totals: totals{1, 2, 3, 4, 5, 6}}
	for i := range 3 {
		r := &row{family: family(i + 1), used: int64(i)}
		r.labels[labelDirection], r.labels[labelError] = "inbound", strconv.Itoa(i)
		for k := range r.n {
			r.n[k] = uint64(k*i) << 40
		}
		s.rows = append(s.rows, r)
	}
	data := s.encode()
	got, err := decodeState(data)
	if err != nil || got.owner != "a" || got.position != 9 || string(got.marks) != "marks" || got.totals != s.totals || len(got.open) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	for i, r := range got.rows {
		if *r != *s.rows[i] {
			t.Errorf("row %d is %+v; want %+v", i, r, s.rows[i])
		}
	}
	for cut := range data {
		_, _ = decodeState(data[:cut]) // must not panic
		bad := bytes.Clone(data)
		bad[cut] ^= 0x55
		_, _ = decodeState(bad)
	}
	if _, err := decodeState(nil); err == nil {
		t.Error("nothing is taken for a state")
	}
}

func TestBuckets(t *testing.T) {
	for latency, want := range map[uint64]int{0: 0, 1000: 0, 1001: 1, 5000: 4, 5001: 5, 50_000_000: 24, 50_000_001: 25, 1 << 60: 25} {
		if got := bucket(latency); got != want {
			t.Errorf("%d µs is in bucket %d; want %d", latency, got, want)
		}
	}
}

func TestNoBusIsNoAnswer(t *testing.T) {
	s := bustest.Run(t)
	h := NewHandler(options(&process{Client: bustest.Connect(t, s)}))
	if _, text := scrape(t, h); !strings.Contains(text, "export_events_total 0\n") {
		t.Errorf("before anything was counted:\n%s", text)
	}
	s.Close()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("without a bus a scrape is answered %d: %s", w.Code, w.Body)
	}
}

// BenchmarkFold is the cost of one event of a batch of a busy second.
func BenchmarkFold(b *testing.B) {
	p := newProxy("web", 0)
	random := rand.New(rand.NewPCG(5, 6))
	var events []event.Event
	for range 10_000 {
		e := call(fmt.Sprintf("host-%d", random.IntN(4)), uint16(200+100*random.IntN(4)), uint64(random.IntN(1e6)))
		e.Connection, e.Path = uint64(1+random.IntN(32)), fmt.Sprintf("/%d", random.IntN(16))
		events = append(events, e)
	}
	data := p.batch(events...)
	table := newTable(&budget{limit: 50_000})
	var d event.Decoder
	b.ReportAllocs()
	for n := 0; n < b.N; n += len(events) {
		if err := d.Reset(data); err != nil {
			b.Fatal(err)
		}
		table.fold(&d, 1)
	}
}
