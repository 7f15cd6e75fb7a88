package main

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/weirmesh/weir/event"
)

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-9*max(1, math.Abs(b)) }

func TestPrices(t *testing.T) {
	step := simulated{simStep: simStep{10, 1}, pods: 500, messages: 100, events: 1000, bytes: 50_000, stored: 60_000, rollups: 1000, bus: 0.5, aggregator: 0.25, aggregatorRSS: 5000}
	fast := step
	fast.speed = 2
	got := prices([]simulated{step, fast, {simStep: simStep{1, 1}}})
	want := price{events: 10, bytes: 500, stored: 600, rollups: 10, bus: 0.005, aggregator: 0.0025, memory: 10}
	if len(got) != 1 || got[0] != want {
		t.Errorf("got %+v, want %+v alone", got, want)
	}
}

func TestNeed(t *testing.T) {
	p := price{events: 100, bytes: 1100, stored: 2200, rollups: 150, bus: 2e-5, aggregator: 2e-4, memory: 1000}
	n := p.need(1000)
	if n.events != 100_000 || !near(n.bytes, 1.1e6) || !near(n.busCores, 0.02) || !near(n.aggregatorCores, 0.2) {
		t.Errorf("got %+v", n)
	}
	if n.aggregators != 2 || !near(n.perPartition, 0.2/16) || !near(n.memory, 1e6) {
		t.Errorf("got %+v", n)
	}
	if !near(n.eventDisk, 2.2e6*3600) || !near(n.rollupDisk, 150_000*900) || !near(n.reach, (4<<30)/2.2e6) {
		t.Errorf("got %+v", n)
	}
	if big := p.need(100_000); big.aggregators != 40 {
		t.Errorf("20 cores at half a core each are %d aggregators, want 40", big.aggregators)
	}
}

func TestHistogramQuantile(t *testing.T) {
	// 10 values to 1, 20 to 2, 70 to 5, none above.
	all := []bucket{{1, 10}, {2, 30}, {5, 100}, {math.Inf(1), 100}}
	for q, want := range map[float64]float64{0.05: 0.5, 0.1: 1, 0.2: 1.5, 0.3: 2, 0.65: 3.5, 1: 5} {
		if got := histogramQuantile(q, all); !near(got, want) {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if got := histogramQuantile(0.5, []bucket{{1, 0}, {15, 0}, {math.Inf(1), 10}}); got != 15 {
		t.Errorf("beyond the last bound: got %v, want it", got)
	}
	if got := histogramQuantile(0.5, nil); !math.IsNaN(got) {
		t.Errorf("of nothing: %v", got)
	}
}

func TestBuckets(t *testing.T) {
	const text = `# HELP x y
traces_span_metrics_duration_milliseconds_bucket{job="a",service_name="web",span_name="GET /x",le="2"} 3
traces_span_metrics_duration_milliseconds_bucket{job="a",service_name="web",span_name="GET /x",le="+Inf"} 5
traces_span_metrics_duration_milliseconds_bucket{job="a",service_name="web",span_name="GET /y",le="2"} 1
traces_span_metrics_duration_milliseconds_bucket{job="a",service_name="web",span_name="GET /y",le="+Inf"} 1 1700000000
traces_span_metrics_duration_milliseconds_bucket{job="a",service_name="other",span_name="GET /x",le="2"} 9
traces_span_metrics_duration_milliseconds_count{service_name="web"} 6
`
	got, err := buckets(text, "web")
	if err != nil || len(got) != 2 || got[0] != (bucket{2, 4}) || got[1] != (bucket{math.Inf(1), 6}) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := buckets(durationMetric+`{service_name="web",le="x"} 1`, "web"); err == nil {
		t.Error("no error from a bound that is no number")
	}
}

func TestExactQuantile(t *testing.T) {
	sorted := []uint64{10, 20, 30, 40}
	for q, want := range map[float64]float64{0.25: 10, 0.26: 20, 0.5: 20, 0.75: 30, 0.99: 40, 1: 40} {
		if got := exactQuantile(sorted, q); got != want {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
}

func TestMemoryGrowth(t *testing.T) {
	flat := make([]memorySample, 20)
	growing := make([]memorySample, 20)
	for i := range flat {
		flat[i] = memorySample{100, 50}
		growing[i] = memorySample{uint64(100 * (i + 1)), 0}
	}
	if got := memoryGrowth(flat); got != 1 {
		t.Errorf("flat memory grows by %v", got)
	}
	if got := memoryGrowth(growing); !near(got, 2) {
		t.Errorf("got %v, want 2", got)
	}
	if got := memoryGrowth(flat[:3]); got != 1 {
		t.Errorf("too few samples say %v", got)
	}
}

// TestSeal reads back what a virtual proxy says.
func TestSeal(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	s := sealer{ring: newRing(1, false)}
	p := newProxy(rng, 7, 5, "x")
	const since, until = 1_790_000_000_000_000, 1_790_000_001_000_000
	var d event.Decoder
	for batch := uint64(1); batch <= 12; batch++ {
		if err := d.Reset(s.seal(p, 1000, since, until)); err != nil {
			t.Fatal(err)
		}
		if h := d.Header(); h.Sequence != batch || h.Produced != 1000*batch || h.Instance != p.instance || h.Source != p.source {
			t.Fatalf("batch %d has header %+v", batch, h)
		}
		n, last := 0, int64(since)
		var e event.Event
		for d.Next(&e) {
			end := e.Start + int64(e.Duration)
			if end < last || end > until {
				t.Fatalf("event %d ends at %d, after %d and within %d–%d", n, end, last, since, until)
			}
			if !strings.HasPrefix(e.Path, "/api/v1/") || !e.IsRequest() || e.Connection == 0 || e.Stream == 0 {
				t.Fatalf("event %d is %+v", n, e)
			}
			n, last = n+1, end
		}
		if n != 1000 {
			t.Fatalf("batch %d has %d events, want 1000", batch, n)
		}
	}
	if p.source.Workload.Name != "x-2" {
		t.Errorf("pod 7 of 5 workloads belongs to %s, want x-2", p.source.Workload.Name)
	}
}

// TestCarries: of proxies with an event every ten turns, a tenth has one in each turn,
// spread over all of it.
func TestCarries(t *testing.T) {
	const proxies, rate, parts = 625, 0.1, 10
	carry := carries(proxies, rate, 0.3)
	for turn := range 30 {
		sent, of := 0, [parts]int{}
		for i := range carry {
			if carry[i] += rate; carry[i] >= 1 {
				carry[i]--
				sent++
				of[i*parts/proxies]++
			}
		}
		if sent < 60 || sent > 65 || slices.Min(of[:]) < 4 || slices.Max(of[:]) > 9 {
			t.Errorf("turn %d: %d proxies sent, by tenth of the turn %v", turn, sent, of)
		}
	}
	for _, c := range carries(proxies, 1, 0.3) {
		if c != 0 {
			t.Fatal("who has an event a turn has a part of another")
		}
	}
}

func TestUniformRoutes(t *testing.T) {
	counts := map[string]int{}
	r := newRing(1, true)
	r.span(640, func(i int, _ float64) { counts[r.events[i].Path]++ })
	if len(counts) != routeCount {
		t.Fatalf("%d routes, want %d", len(counts), routeCount)
	}
	for path, n := range counts {
		if n != 10 {
			t.Errorf("%s came %d times, want 10", path, n)
		}
	}
}

func TestEncodeSpans(t *testing.T) {
	requests, err := encodeSpans(&order{Prefix: "x", Workloads: 3, Batch: 128, Uniform: true})
	if err != nil || len(requests) != 3 {
		t.Fatalf("%d requests, %v, want one a workload", len(requests), err)
	}
	for _, request := range requests {
		got := ptraceotlp.NewExportRequest()
		if err := got.UnmarshalProto(request); err != nil {
			t.Fatal(err)
		}
		if n := got.Traces().SpanCount(); n != 128 {
			t.Errorf("%d spans, want 128", n)
		}
	}
}

func TestTally(t *testing.T) {
	a := tally{Events: 10, Batches: 1, Payload: 90, Wire: 100, Began: 1_000_000, Ended: 3_000_000, Late: 1}
	a.add(tally{Events: 30, Batches: 2, Payload: 250, Wire: 300, Late: 0.5})
	if a.bytesPerEvent() != 10 || a.seconds() != 2 || a.Batches != 3 || a.Payload != 340 || a.Late != 1 {
		t.Errorf("got %+v", a)
	}
}

func TestProcessorTime(t *testing.T) {
	used := processorTime{bus: 7 * time.Second, aggregator: 12 * time.Second}.since(processorTime{bus: 4 * time.Second, aggregator: 2 * time.Second})
	if used != (processorTime{3 * time.Second, 10 * time.Second}) {
		t.Errorf("got %+v", used)
	}
	if got := perEvent(used.aggregator, 100_000_000); got != 100 {
		t.Errorf("10 s for 100 million events are %v ns an event, want 100", got)
	}
}

func TestRounds(t *testing.T) {
	t.Setenv("BENCH_CPU_EVENTS", "")
	o, err := readOptions()
	if err != nil {
		t.Fatal(err)
	}
	if got := []int{roundEvents(o.cpuEvents, 100), roundEvents(o.cpuEvents, 1000), roundEvents(o.cpuEvents, 10_000), roundSpans(o.cpuEvents)}; !slices.Equal(got, []int{3_750_000, 15_000_000, 15_000_000, 1_500_000}) {
		t.Errorf("rounds are of %v", got)
	}
	t.Setenv("BENCH_CPU_EVENTS", "1")
	if o, err = readOptions(); err != nil || roundEvents(o.cpuEvents, 100) < roundWorkers || roundSpans(o.cpuEvents) < roundWorkers {
		t.Errorf("a worker of a round of %+v has nothing to send, %v", o, err)
	}
	if !strings.Contains(o.command(), " BENCH_CPU_EVENTS=1 ") {
		t.Errorf("%q does not say how many events", o.command())
	}
	t.Setenv("BENCH_CPU_EVENTS", "none")
	if _, err := readOptions(); err == nil || !strings.Contains(err.Error(), "BENCH_CPU_EVENTS") {
		t.Errorf("no number gives %v", err)
	}
}

// TestReportSustained looks for what the run took each process.
func TestReportSustained(t *testing.T) {
	var f findings
	g := ran{tally: tally{Events: 1_000_000, Wire: 6_500_000, Began: 1, Ended: 1_000_001}, cpu: 250 * time.Millisecond}
	reportSustained(&f, g, 1e6, 1, processorTime{bus: 60 * time.Millisecond, aggregator: 90 * time.Millisecond}, nil, 0, 100)
	for _, want := range []string{"| generator, ns CPU an event | 250 |\n", "| bus, ns CPU an event | 60 |\n", "| aggregator, ns CPU an event | 90 |\n"} {
		if !strings.Contains(f.text.String(), want) {
			t.Errorf("no %q in\n%s", want, f.text.String())
		}
	}
}

func TestParts(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range parts() {
		if p.name == "" || p.title == "" || p.run == nil || seen[p.name] {
			t.Errorf("part %q is incomplete or there twice", p.name)
		}
		seen[p.name] = true
	}
	t.Setenv("BENCH_ONLY", "cpu,nothing")
	if _, err := readOptions(); err == nil || !strings.Contains(err.Error(), "nothing") {
		t.Errorf("a part that is none gives %v", err)
	}
	t.Setenv("BENCH_ONLY", "cpu queries")
	o, err := readOptions()
	if err != nil || !o.selected("cpu") || !o.selected("queries") || o.selected("memory") {
		t.Errorf("got %+v, %v", o, err)
	}
}
