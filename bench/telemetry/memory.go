package main

import (
	"context"
	"time"

	"github.com/weirmesh/weir/bench/measure"
)

// seriesCounts are workloads of 64 routes each: about 1,000 and 50,000 series.
var seriesCounts = []int{16, 782}

// measureMemory measures resident memory with few and with many series: a
// workload's route is one for both contenders.
func measureMemory(ctx context.Context, l *lab, f *findings) error {
	f.printf("VmRSS in MB (10⁶ bytes) after %s of events for every series. A series is a route of a workload; the\n"+
		"aggregator keeps it second by second, with histograms, the Collector as one cumulative histogram of 16 buckets.\n\n"+
		"| series | aggregator | Collector |\n|---|---|---|\n", l.o.step)
	for _, workloads := range seriesCounts {
		weir, err := weirMemory(ctx, l, workloads)
		if err != nil {
			return err
		}
		collector, err := collectorMemory(ctx, l, workloads)
		if err != nil {
			return err
		}
		measure.Note("%d workloads: aggregator %s MB, Collector %s MB", workloads, measure.Megabytes(weir), measure.Megabytes(collector))
		f.printf("| %s | %s | %s |\n", measure.Thousands(float64(workloads*routeCount)), measure.Megabytes(weir), measure.Megabytes(collector))
	}
	return nil
}

func weirMemory(ctx context.Context, l *lab, workloads int) (uint64, error) {
	m, err := l.startMesh(ctx, 1, placement{})
	defer m.close()
	if err != nil {
		return 0, err
	}
	r, err := m.generate(ctx, "", order{Prefix: "memory", Proxies: workloads, Workloads: workloads, Rate: float64(routeCount), Seconds: l.o.step.Seconds(),
		Uniform: true, Workers: 8, Links: 2})
	if err != nil {
		return 0, err
	}
	if err := m.awaitCounted(ctx, r.Events, 0, countPatience); err != nil {
		return 0, err
	}
	if err := sleepUntil(ctx, time.Now().Add(settle)); err != nil {
		return 0, err
	}
	return measure.Resident(m.aggregatorProcs())
}

func collectorMemory(ctx context.Context, l *lab, workloads int) (uint64, error) {
	c, err := l.startCollector(ctx, "", connectorSettings{flush: time.Second})
	defer c.close()
	if err != nil {
		return 0, err
	}
	// As many spans as the aggregator got events, a request a workload in turn.
	events := workloads * routeCount * int(l.o.step.Seconds())
	if _, err := c.send(ctx, "", order{Prefix: "memory", Proxies: workloads, Workloads: workloads, Batch: routeCount, Events: events, Uniform: true, Workers: 8}); err != nil {
		return 0, err
	}
	if err := sleepUntil(ctx, time.Now().Add(2*time.Second)); err != nil {
		return 0, err
	}
	// Somebody scrapes it, as somebody does; with very many series the exporter
	// may give up on its own answer, which is its affair.
	if _, err := c.scrape(ctx); err != nil {
		measure.Note("the Collector's answer to a scrape of %d series broke off: %v", workloads*routeCount, err)
	}
	return measure.Resident([]*measure.Process{c.proc})
}
