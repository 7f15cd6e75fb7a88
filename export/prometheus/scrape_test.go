package prometheus

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/bus/bustest"
	"github.com/weirmesh/weir/bus/client"
	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/export"
)

// storeMesh keeps the states of a mesh of so many workloads, each of which has a
// pod that is called and calls two others, and returns how many requests they
// count.
func storeMesh(tb testing.TB, c *client.Client, workloads, series int) (requests int) {
	tb.Helper()
	b := &budget{limit: int64(series)}
	var parts []*partition
	// To make all takes its time, after which they must still be live.
	at := time.Now().Add(5 * time.Minute)
	for n := range bus.Partitions {
		p := &partition{e: &Exporter{budget: b, id: "test"}, number: n, table: newTable(b), intake: export.NewIntake(n, 0, time.Time{})}
		var d event.Decoder
		for i := n; i < workloads; i += bus.Partitions {
			w := newProxy(fmt.Sprintf("workload-%05d", i), 0)
			w.open = 1
			var events []event.Event
			for k := range 2 {
				in, out := call(w.source.Workload.Name+".shop:8080", uint16(200+300*k), 1500), call("", 200, 12_000)
				out.Direction, out.Connection = event.Outbound, uint64(10+k)
				out.Peer.Workload = event.Workload{Cluster: "east", Namespace: "shop", Kind: "deploy", Name: fmt.Sprintf("workload-%05d", (i+k+1)%workloads)}
				out.Authority, out.Peer.Pod = out.Peer.Workload.Name+".shop:8080", out.Peer.Workload.Name+"-0"
				events = append(events, in, out)
			}
			batch := w.batch(events...)
			if got, err := p.intake.Take(event.Mark{Sequence: uint64(i + 1)}, bus.EventsSubject(w.source.Workload), batch, at); err != nil || got == nil {
				tb.Fatalf("a batch is not taken: %v", err)
			}
			if err := d.Reset(batch); err != nil {
				tb.Fatal(err)
			}
			p.table.fold(&d, time.Now().Unix())
			requests += len(events)
		}
		parts = append(parts, p)
	}
	for _, p := range parts {
		if _, err := c.StoreExport(tb.Context(), "prometheus", p.part(), p.snapshot().encode(), 0); err != nil {
			tb.Fatal(err)
		}
	}
	return requests
}

// TestScrapeOfTenThousandWorkloads: all requests are in the answer, also where most
// find no room for labels of their own, and promtool accepts it.
func TestScrapeOfTenThousandWorkloads(t *testing.T) {
	const workloads, series = 10_000, 5_000
	c := bustest.Connect(t, bustest.Run(t))
	sent := storeMesh(t, c, workloads, series)
	h := NewHandler(options(&process{Client: c}))
	samples, text := scrape(t, h)
	t.Logf("%d samples, %d bytes", len(samples), len(text))
	for _, name := range []string{"request_total", "response_total", "response_latency_ms_count"} {
		if got := sum(samples, name); got != float64(sent) {
			t.Errorf("%s is %v; want %d", name, got, sent)
		}
	}
	if got := sum(samples, "tcp_open_connections"); got != workloads {
		t.Errorf("%v connections are open; want %d", got, workloads)
	}
	// A quarter more for the others of workloads, and everyone's of each partition.
	if got := samples["export_series"]; got > float64(series*5/4+bus.Partitions*12) {
		t.Errorf("%v sets of labels; the bound is %d", got, series)
	}
	checkMetrics(t, text)
}

// TestNoSampleComesTwice: rows of several partitions that are written with the same
// labels are one, and what is stored stays as it is.
func TestNoSampleComesTwice(t *testing.T) {
	c := bustest.Connect(t, bustest.Run(t))
	for n, kind := range []string{"deployment", "workload", "daemonset"} {
		s := &state{written: time.Now().UnixMicro()}
		for f := requests; f <= closes; f++ {
			r := &row{family: f}
			r.labels[labelDirection], r.labels[labelNamespace], r.labels[labelKind], r.labels[labelDstKind] = "outbound", otherName, kind, kind
			r.n[0] = uint64(n + 1)
			s.rows = append(s.rows, r)
		}
		if _, err := c.StoreExport(t.Context(), "prometheus", fmt.Sprint(n), s.encode(), 0); err != nil {
			t.Fatal(err)
		}
	}
	h := NewHandler(options(&process{Client: c}))
	for range 2 {
		samples, _ := scrape(t, h) // fails where a sample comes twice
		for _, name := range []string{"request_total", "response_total", "response_latency_ms_count", "tcp_open_total", "tcp_close_total"} {
			if got := sum(samples, name); got != 6 {
				t.Errorf("%s is %v; want 6", name, got)
			}
		}
	}
}

// BenchmarkScrape is one scrape of 10,000 workloads, unchanged since the last or
// all anew.
func BenchmarkScrape(b *testing.B) {
	c := bustest.Connect(b, bustest.Run(b))
	storeMesh(b, c, 10_000, 50_000)
	for _, kind := range []string{"changed", "same"} {
		for _, encoding := range []string{"", "gzip"} {
			b.Run(strings.TrimSpace(kind+" "+encoding), func(b *testing.B) {
				h := NewHandler(options(&process{Client: c}))
				r := httptest.NewRequest(http.MethodGet, "/", nil)
				r.Header.Set("Accept-Encoding", encoding)
				b.ReportAllocs()
				for range b.N {
					if kind == "changed" {
						clear(h.parts[:])
					}
					w := &discard{header: http.Header{}}
					h.ServeHTTP(w, r)
					b.ReportMetric(float64(w.n), "bytes")
				}
				var m runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&m)
				b.ReportMetric(float64(m.HeapAlloc)/1e6, "MB-after")
				runtime.KeepAlive(h)
			})
		}
	}
}

// discard counts what is written.
type discard struct {
	header http.Header
	n      int
}

func (d *discard) Header() http.Header { return d.header }
func (d *discard) WriteHeader(int)     {}
func (d *discard) Write(p []byte) (int, error) {
	d.n += len(p)
	return len(p), nil
}
