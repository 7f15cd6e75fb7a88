package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/weirmesh/weir/bench/measure"
)

// collectorVersion is that of the modules in go.mod.
const collectorVersion = "v0.155.0"

// A peer is the OpenTelemetry Collector as it runs in a part.
type peer struct {
	lab         *lab
	proc        *measure.Process
	otlp, stats string
}

// connectorSettings are those of the connector that differ from its defaults.
type connectorSettings struct {
	// flush is how often it hands its metrics on; 0 is its default, 60 s.
	flush time.Duration
	// like has it tell what Weir tells of the same requests, as far as their spans
	// say it, as often: by pod and status too, with exponential histograms, every
	// second. It tells of no peers, and keeps no history.
	like bool
}

// startCollector starts a Collector.
func (l *lab) startCollector(ctx context.Context, cores string, settings connectorSettings) (*peer, error) {
	c := &peer{lab: l}
	var err error
	if c.otlp, err = l.address(); err != nil {
		return c, err
	}
	if c.stats, err = l.address(); err != nil {
		return c, err
	}
	l.made++
	file := filepath.Join(l.dir, fmt.Sprintf("collector-%d.yaml", l.made))
	if err := os.WriteFile(file, []byte(collectorConfig(c.otlp, c.stats, settings)), 0o600); err != nil {
		return c, err
	}
	argv := l.pinned(cores, filepath.Join(l.o.bin, "bench-collector"), "--config", file)
	if c.proc, err = measure.Start("collector", argv...); err != nil {
		return c, err
	}
	if err := c.proc.AwaitPort(ctx, c.otlp); err != nil {
		return c, err
	}
	return c, c.proc.AwaitPort(ctx, c.stats)
}

func collectorConfig(otlp, stats string, settings connectorSettings) string {
	more := ""
	if settings.like {
		settings.flush = time.Second
		more = `
    dimensions:
      - name: http.response.status_code
      - name: k8s.pod.name
    histogram:
      exponential:
        max_size: 160`
	}
	if settings.flush > 0 {
		more += "\n    metrics_flush_interval: " + settings.flush.String()
	}
	return `receivers:
  otlp:
    protocols:
      grpc:
        endpoint: ` + otlp + `
connectors:
  span_metrics:
    aggregation_temporality: AGGREGATION_TEMPORALITY_CUMULATIVE` + more + `
exporters:
  prometheus:
    endpoint: ` + stats + `
service:
  telemetry:
    metrics:
      level: none
    logs:
      level: error
  pipelines:
    traces:
      receivers: [otlp]
      exporters: [span_metrics]
    metrics:
      receivers: [span_metrics]
      exporters: [prometheus]
`
}

func (c *peer) close() {
	if c.proc != nil {
		c.proc.Stop()
	}
}

// send runs a sender of spans until it has done the order.
func (c *peer) send(ctx context.Context, cores string, o order) (ran, error) {
	return c.lab.runTally(ctx, cores, o, roleSpans, c.otlp)
}

// scrape reads what the prometheus exporter serves.
func (c *peer) scrape(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.stats+"/metrics", nil)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

// A bucket is one of a cumulative histogram: how many values are at most le.
type bucket struct{ le, count float64 }

// durationMetric is how the exporter names the connector's histogram.
const durationMetric = "traces_span_metrics_duration_milliseconds_bucket"

// buckets reads a service's histogram from a Prometheus text, summed over its
// spans' names and statuses.
func buckets(text, service string) ([]bucket, error) {
	sums := map[float64]float64{}
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if !strings.HasPrefix(line, durationMetric+"{") || !strings.Contains(line, `service_name="`+service+`"`) {
			continue
		}
		_, rest, _ := strings.Cut(line, `le="`)
		bound, rest, ok := strings.Cut(rest, `"`)
		_, value, ok2 := strings.Cut(rest, "} ")
		if !ok || !ok2 {
			return nil, fmt.Errorf("cannot read a bucket: %q", line)
		}
		le, err := strconv.ParseFloat(bound, 64)
		if err != nil {
			return nil, fmt.Errorf("cannot read a bucket's bound: %w", err)
		}
		value, _, _ = strings.Cut(value, " ")
		count, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, fmt.Errorf("cannot read a bucket's count: %w", err)
		}
		sums[le] += count
	}
	all := make([]bucket, 0, len(sums))
	for le, count := range sums {
		all = append(all, bucket{le, count})
	}
	sort.Slice(all, func(i, j int) bool { return all[i].le < all[j].le })
	return all, lines.Err()
}

// histogramQuantile is what Prometheus's function of that name makes of
// cumulative buckets: linear within the one that the rank falls into, and the
// greatest finite bound where it falls beyond.
func histogramQuantile(q float64, all []bucket) float64 {
	if len(all) < 2 || all[len(all)-1].count == 0 {
		return math.NaN()
	}
	rank := q * all[len(all)-1].count
	i := sort.Search(len(all)-1, func(i int) bool { return all[i].count >= rank })
	if i == len(all)-1 {
		return all[i-1].le
	}
	low, before := 0.0, 0.0
	if i > 0 {
		low, before = all[i-1].le, all[i-1].count
	}
	return low + (all[i].le-low)*(rank-before)/(all[i].count-before)
}
