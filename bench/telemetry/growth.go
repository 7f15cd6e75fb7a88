package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/bench/measure"
)

// A stage is what was measured under one load.
type stage struct {
	rate                  float64 // offered, events a second
	got                   float64
	aggregator, bus       float64 // ns an event
	aggregatorRSS, busRSS uint64
	wire                  float64
	freshP50, freshP99    float64 // s, in an answer up to the present
	shownP50, shownP99    float64 // s, as stat is usually asked
	tapP50, tapP99        float64 // ms
	statP50, statP99      float64 // ms
	scanned, scanSeconds  float64
}

// loadFactors are 1, 10 and 100 times the load: 100 proxies of so many
// requests a second.
var loadFactors = []float64{100, 1000, 10_000}

const growthProxies = 100

// measureGrowth measures everything under 1, 10 and 100 times the load.
func measureGrowth(ctx context.Context, l *lab, f *findings) error {
	var stages []stage
	for _, rate := range loadFactors {
		s, err := measureStage(ctx, l, rate)
		if err != nil {
			return err
		}
		measure.Note("%.0f/s: %+v", s.rate, s)
		stages = append(stages, s)
	}
	f.printf("%d proxies that flush once a second, and one real `weir-proxy` whose requests are followed through: from a\n"+
		"request's end until `stat` counts it, and until the API's tap shows it, while all the others go on.\n\n", growthProxies)
	f.printf("| events a second |")
	for _, s := range stages {
		f.printf(" %s |", measure.Thousands(s.rate))
	}
	f.printf("\n|---|---|---|---|\n")
	for _, row := range []struct {
		name string
		of   func(stage) string
	}{
		{"carried", func(s stage) string { return measure.Thousands(s.got) }},
		{"aggregator, ns CPU an event", func(s stage) string { return fmt.Sprintf("%.0f", s.aggregator) }},
		{"bus, ns CPU an event", func(s stage) string { return fmt.Sprintf("%.0f", s.bus) }},
		{"bytes an event", func(s stage) string { return fmt.Sprintf("%.1f", s.wire) }},
		{"aggregator, VmRSS, MB", func(s stage) string { return measure.Megabytes(s.aggregatorRSS) }},
		{"bus, VmRSS, MB", func(s stage) string { return measure.Megabytes(s.busRSS) }},
		{"shown by `stat` as it is usually asked, p50 and p99, s", func(s stage) string { return fmt.Sprintf("%.2f, %.2f", s.shownP50, s.shownP99) }},
		{"counted in an answer up to the present, p50 and p99, s", func(s stage) string { return fmt.Sprintf("%.2f, %.2f", s.freshP50, s.freshP99) }},
		{"live tap, p50 and p99, ms", func(s stage) string { return fmt.Sprintf("%.0f, %.0f", s.tapP50, s.tapP99) }},
		{"`stat` of one workload, p50 and p99, ms", func(s stage) string { return fmt.Sprintf("%.1f, %.1f", s.statP50, s.statP99) }},
		{"events scanned by `stat --by path,status`", func(s stage) string { return measure.Thousands(s.scanned) }},
		{"scan, M events a second", func(s stage) string { return fmt.Sprintf("%.1f", s.scanned/s.scanSeconds/1e6) }},
	} {
		f.printf("| %s |", row.name)
		for _, s := range stages {
			f.printf(" %s |", row.of(s))
		}
		f.printf("\n")
	}
	worst := stage{}
	for _, s := range stages {
		worst.shownP99, worst.tapP99 = max(worst.shownP99, s.shownP99), max(worst.tapP99, s.tapP99)
	}
	f.goal(measure.Goal{What: "freshness: request's end until `stat` shows it, p99, worst of the three loads", Bound: 2, Unit: " s", Measured: worst.shownP99})
	f.goal(measure.Goal{What: "live tap, p99, worst of the three loads", Bound: 500, Unit: " ms", Measured: worst.tapP99})
	f.printf("\nThe scan reads all that the stream holds of %s workloads, a minute at most.\n", measure.Thousands(growthProxies/2))
	return nil
}

func measureStage(ctx context.Context, l *lab, rate float64) (s stage, err error) {
	s.rate = rate * growthProxies
	m, err := l.startMesh(ctx, 1, placement{})
	defer m.close()
	if err != nil {
		return s, err
	}
	p, err := startProbe(ctx, m)
	defer p.close()
	if err != nil {
		return s, err
	}
	type done struct {
		ran
		err error
	}
	length := 3*l.o.step + 4*time.Second
	generated := make(chan done, 1)
	go func() {
		r, err := m.generate(ctx, "", order{Prefix: "growth", Proxies: growthProxies, Workloads: growthProxies / 2, Rate: rate, Seconds: length.Seconds(), Workers: 8, Links: 2})
		generated <- done{r, err}
	}()
	err = s.follow(ctx, l, m, p)
	g := <-generated
	if err == nil {
		err = g.err
	}
	if err != nil {
		return s, err
	}
	s.got, s.wire = float64(g.Events)/g.seconds(), g.bytesPerEvent()
	if err := m.awaitCounted(ctx, g.Events+p.sent.Load(), probeExtra, countPatience); err != nil {
		return s, err
	}
	return s, s.scan(ctx, m)
}

// follow follows the probe's requests while the load goes on: to stat, then to
// tap; then it looks at memory and asks for statistics.
func (s *stage) follow(ctx context.Context, l *lab, m *mesh, p *probe) error {
	if err := sleepUntil(ctx, time.Now().Add(2*time.Second)); err != nil {
		return err
	}
	if err := s.account(ctx, m, l.o.step); err != nil {
		return err
	}
	fresh, err := p.freshness(ctx, l.o.step)
	if err != nil {
		return err
	}
	tapped, err := p.tap(ctx, l.o.step/2)
	if err != nil {
		return err
	}
	s.freshP50, s.freshP99 = measure.Quantile(fresh.counted, 0.5), measure.Quantile(fresh.counted, 0.99)
	s.shownP50, s.shownP99 = measure.Quantile(fresh.shown, 0.5), measure.Quantile(fresh.shown, 0.99)
	s.tapP50, s.tapP99 = 1e3*measure.Quantile(tapped, 0.5), 1e3*measure.Quantile(tapped, 0.99)
	if s.aggregatorRSS, err = measure.Resident(m.aggregatorProcs()); err != nil {
		return err
	}
	if s.busRSS, err = measure.Resident([]*measure.Process{m.bus}); err != nil {
		return err
	}
	times, err := timed(ctx, 200, askPause, func() error {
		_, err := m.client.Stat(ctx, &weirpb.StatRequest{Resource: &weirpb.Resource{Kind: "deploy", Namespace: "growth-ns-0", Name: "growth-1"}})
		return err
	})
	s.statP50, s.statP99 = measure.Quantile(times, 0.5), measure.Quantile(times, 0.99)
	return err
}

// account measures CPU for a while in which nobody asks anything.
func (s *stage) account(ctx context.Context, m *mesh, length time.Duration) error {
	look := func() (events float64, used processorTime, err error) {
		if events, err = m.sum(ctx, "weir_aggregator_events_total"); err == nil {
			used, err = m.processorTime()
		}
		return events, used, err
	}
	events, before, err := look()
	if err != nil {
		return err
	}
	if err := sleepUntil(ctx, time.Now().Add(length)); err != nil {
		return err
	}
	events1, after, err := look()
	if err != nil {
		return err
	}
	if events1 == events {
		return fmt.Errorf("no event was counted in %v", length)
	}
	used, counted := after.since(before), uint64(events1-events)
	s.aggregator, s.bus = perEvent(used.aggregator, counted), perEvent(used.bus, counted)
	return nil
}

// scan asks a question that only the raw events can answer.
func (s *stage) scan(ctx context.Context, m *mesh) error {
	began := time.Now()
	stream, err := m.client.Scan(ctx, &weirpb.ScanRequest{Resource: &weirpb.Resource{Kind: "deploy"}, By: []string{"path", "status"},
		Window: &weirpb.Window{Length: durationpb.New(time.Minute)}})
	if err != nil {
		return err
	}
	for {
		r, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("cannot scan: %w", err)
		}
		if result := r.GetResult(); result != nil {
			s.scanned, s.scanSeconds = float64(result.GetProgress().GetEvents()), time.Since(began).Seconds()
			if s.scanned == 0 {
				return fmt.Errorf("a scan of a minute of load saw no event")
			}
			return nil
		}
	}
}

// timed calls fn so many times, one after the other, and gives each one's time,
// ms.
func timed(ctx context.Context, n int, pause time.Duration, fn func() error) ([]float64, error) {
	var times []float64
	for range n {
		began := time.Now()
		if err := fn(); err != nil {
			return nil, err
		}
		times = append(times, float64(time.Since(began).Nanoseconds())/1e6)
		if err := sleepUntil(ctx, time.Now().Add(pause)); err != nil {
			return nil, err
		}
	}
	return times, nil
}
