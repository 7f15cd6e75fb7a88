package main

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/bench/measure"
	busclient "github.com/weirmesh/weir/bus/client"
)

// A distribution draws latencies in µs.
type distribution struct {
	name, title string
	draw        func(rng *rand.Rand) float64
}

// distributions are those that histograms with fixed buckets, or sketches, get
// wrong most easily.
func distributions() []distribution {
	return []distribution{
		{"second", "exactly 1.0 s", func(*rand.Rand) float64 { return 1_000_000 }},
		{"timeout", "exactly 5,001 ms", func(*rand.Rand) float64 { return 5_001_000 }},
		{"bimodal", "bimodal, 2 ms and 900 ms", func(rng *rand.Rand) float64 {
			if rng.IntN(100) < 3 {
				return 900_000 + 20_000*rng.Float64()
			}
			return 2000 + 300*rng.Float64()
		}},
		{"pareto", "heavy tail (Pareto, α = 1.1, from 1 ms)", func(rng *rand.Rand) float64 {
			return min(1000/math.Pow(1-rng.Float64(), 1/1.1), 3.6e9)
		}},
		{"lognormal", "log-normal, median 20 ms, σ = 1", func(rng *rand.Rand) float64 { return 20_000 * math.Exp(rng.NormFloat64()) }},
		{"uniform", "uniform, 0 to 100 ms", func(rng *rand.Rand) float64 { return 100_000 * rng.Float64() }},
		{"fast", "all below 1 ms", func(rng *rand.Rand) float64 { return 50 + 900*rng.Float64() }},
		{"border", "1 µs over a bucket's border", func(rng *rand.Rand) float64 { return float64(uint64(1)<<(8+rng.IntN(12))) + 1 }},
	}
}

// quantilesAsked are those that both sides can tell.
var quantilesAsked = []float64{0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999}

const (
	quantileValues  = 100_000
	quantileProxies = 4
)

// measureQuantiles has both sides tell quantiles of values whose order is known.
func measureQuantiles(ctx context.Context, l *lab, f *findings) error {
	m, err := l.startMesh(ctx, 2, placement{})
	defer m.close()
	if err != nil {
		return err
	}
	c, err := l.startCollector(ctx, "", connectorSettings{flush: time.Second})
	defer c.close()
	if err != nil {
		return err
	}
	bus, err := busclient.Connect(ctx, busclient.Options{URL: m.url, Name: "bench-quantiles", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer bus.Close()
	if err := bus.WaitConnected(ctx); err != nil {
		return err
	}
	conn, err := grpc.NewClient(c.otlp, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing more is sent

	all := distributions()
	exact := make([][]uint64, len(all))
	began := time.Now().Add(-30 * time.Second)
	for i, d := range all {
		rng := rand.New(rand.NewPCG(7, uint64(i)))
		for range quantileValues {
			exact[i] = append(exact[i], uint64(d.draw(rng)))
		}
		if err := tellBoth(ctx, rng, d.name, exact[i], bus, conn); err != nil {
			return err
		}
		slices.Sort(exact[i])
	}
	if err := m.awaitCounted(ctx, uint64(len(all)*quantileValues), 0, countPatience); err != nil {
		return err
	}
	if err := sleepUntil(ctx, time.Now().Add(3*time.Second)); err != nil {
		return err
	}
	scraped, err := c.scrape(ctx)
	if err != nil {
		return err
	}
	f.printf("Greatest relative error over p50, p75, p90, p95, p99, p99.9 and p99.99 of %s values, told by %d proxies in batches of\n"+
		"random order, merged by two aggregators; the Collector by what `histogram_quantile` makes of its buckets.\n\n"+
		"| distribution | Weir | Collector |\n|---|---|---|\n", measure.Thousands(quantileValues), quantileProxies)
	worst := 0.0
	for i, d := range all {
		told, err := weirQuantiles(ctx, m, d.name, began)
		if err != nil {
			return err
		}
		service, err := buckets(scraped, "quantiles-"+d.name)
		if err != nil {
			return err
		}
		var ours, theirs float64
		for j, q := range quantilesAsked {
			want := exactQuantile(exact[i], q)
			ours = max(ours, relative(told[j]*1e3, want))
			theirs = max(theirs, relative(histogramQuantile(q, service)*1e3, want))
		}
		if math.IsNaN(theirs) {
			return fmt.Errorf("the Collector has no histogram of %s", d.name)
		}
		measure.Note("quantiles, %s: %.2f %% and %.0f %%", d.name, 100*ours, 100*theirs)
		worst = max(worst, ours)
		f.printf("| %s | %.2f %% | %.4g %% |\n", d.title, 100*ours, 100*theirs)
	}
	f.goal(measure.Goal{What: "quantile error, worst distribution", Bound: 1, Unit: " %", Measured: 100 * worst})
	return nil
}

// tellBoth sends values, in random order, to the bus and to the Collector.
func tellBoth(ctx context.Context, rng *rand.Rand, name string, values []uint64, bus *busclient.Client, conn *grpc.ClientConn) error {
	shuffled := slices.Clone(values)
	rng.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	s := sealer{ring: newRing(3, false)}
	var proxies []*virtualProxy
	for range quantileProxies {
		proxies = append(proxies, newProxy(rng, 0, 1, "quantiles-"+name))
	}
	const batch = 1000
	for n := 0; len(shuffled) > 0; n++ {
		part := shuffled[:min(batch, len(shuffled))]
		shuffled = shuffled[len(part):]
		p := proxies[rng.IntN(len(proxies))]
		p.source.Workload.Name = "quantiles-" + name
		spans := newSpans(p)
		for i, v := range part {
			j := (s.ring.at + i) % ringEvents
			e := &s.ring.events[j]
			e.Latency, e.Duration = v, v
			e.Status, e.Error = 200, ""
			spans.add(rng, e)
		}
		now := time.Now().UnixMicro()
		data := s.seal(p, len(part), now-1_000_000, now)
		if err := bus.Publish(ctx, p.source.Workload, p.instance, p.sequence, data); err != nil {
			return err
		}
		request, err := spans.encode()
		if err != nil {
			return err
		}
		if err := export(ctx, conn, request); err != nil {
			return fmt.Errorf("cannot send spans to the Collector: %w", err)
		}
	}
	return nil
}

// weirQuantiles asks the API for those of a workload, ms.
func weirQuantiles(ctx context.Context, m *mesh, name string, since time.Time) ([]float64, error) {
	r, err := m.client.Stat(ctx, &weirpb.StatRequest{Resource: &weirpb.Resource{Kind: "deploy", Name: "quantiles-" + name},
		Window: &weirpb.Window{Since: timestamppb.New(since)}})
	if err != nil {
		return nil, err
	}
	if n := len(r.GetRows()); n != 1 {
		return nil, fmt.Errorf("stat of quantiles-%s has %d rows, want 1", name, n)
	}
	stats := r.GetRows()[0].GetStats()
	if stats.GetRequests() != quantileValues {
		return nil, fmt.Errorf("stat of quantiles-%s counts %d requests, want %d", name, stats.GetRequests(), quantileValues)
	}
	q := stats.GetLatencyMs()
	return []float64{q.GetP50(), q.GetP75(), q.GetP90(), q.GetP95(), q.GetP99(), q.GetP999(), q.GetP9999()}, nil
}

// exactQuantile is the value at rank ⌈q·n⌉ of sorted values.
func exactQuantile(sorted []uint64, q float64) float64 {
	rank := int(math.Ceil(q*float64(len(sorted)) - 1e-9))
	return float64(sorted[min(max(rank, 1), len(sorted))-1])
}

func relative(got, want float64) float64 { return math.Abs(got-want) / want }
