package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/bench/measure"
)

// memorySample is the memory of the two at a time.
type memorySample struct{ bus, aggregator uint64 }

// measureSustained runs generator, bus and aggregator together for a while at
// the rate that is asked for, and checks that nothing is lost.
func measureSustained(ctx context.Context, l *lab, f *findings) error {
	m, err := l.startMesh(ctx, 1, placement{})
	defer m.close()
	if err != nil {
		return err
	}
	const perProxy = 10_000
	proxies := max(l.o.sustainRate/perProxy, 1)
	type done struct {
		ran
		err error
	}
	before, err := m.processorTime()
	if err != nil {
		return err
	}
	began := time.Now()
	generated := make(chan done, 1)
	go func() {
		r, err := m.generate(ctx, "", order{Prefix: "sustained", Proxies: proxies, Workloads: max(proxies/2, 1), Rate: perProxy,
			Seconds: l.o.sustain.Seconds(), Workers: 8, Links: 4})
		generated <- done{r, err}
	}()
	var samples []memorySample
	var g done
	for running := true; running; {
		select {
		case g = <-generated:
			running = false
		case <-time.After(time.Second):
			var s memorySample
			var err1, err2 error
			s.bus, err1 = measure.Resident([]*measure.Process{m.bus})
			s.aggregator, err2 = measure.Resident(m.aggregatorProcs())
			if err1 != nil || err2 != nil {
				return fmt.Errorf("cannot read memory: %w, %w", err1, err2)
			}
			samples = append(samples, s)
		}
	}
	if g.err != nil {
		return g.err
	}
	if err := m.awaitCounted(ctx, g.Events, 0, countPatience); err != nil {
		return err
	}
	// From the first event to the last that is counted: what lags behind counts
	// against the rate.
	took := float64(time.Now().UnixMicro()-g.Began) / 1e6
	rate := float64(g.Events) / took
	used, err := m.processorTime()
	if err != nil {
		return err
	}
	if err := sustainedTotals(ctx, m, began, g.Events); err != nil {
		return err
	}
	disk := diskBytes(m.data)
	cpu := used.since(before)
	measure.Note("sustained %s events a second for %.0f s: aggregator %.0f ns, bus %.0f ns, generator %.0f ns an event", measure.Thousands(rate), took,
		perEvent(cpu.aggregator, g.Events), perEvent(cpu.bus, g.Events), perEvent(g.cpu, g.Events))
	reportSustained(f, g.ran, rate, took, cpu, samples, disk, proxies)
	return nil
}

// sustainedTotals compares what stat says with what was sent. An aggregator
// answers for more than the run as long as that is shorter than its retention.
func sustainedTotals(ctx context.Context, m *mesh, began time.Time, events uint64) error {
	var counted, lost, shed uint64
	err := m.await(ctx, time.Minute, fmt.Sprintf("%d requests to be in stat", events), func() (bool, error) {
		r, err := m.client.Stat(ctx, &weirpb.StatRequest{Resource: &weirpb.Resource{Kind: "deploy"}, Window: &weirpb.Window{Since: timestamppb.New(began.Add(-2 * time.Second))}})
		counted, lost, shed = 0, 0, 0
		for _, row := range r.GetRows() {
			if row.GetDirection() == "outbound" {
				continue
			}
			counted += row.GetStats().GetRequests()
			lost += row.GetLostBatches()
			shed += row.GetShed()
		}
		return counted >= events, err
	})
	if counted != events || lost != 0 || shed != 0 {
		return errors.Join(err, fmt.Errorf("%d requests were sent; stat counts %d, %d batches lost, %d shed", events, counted, lost, shed))
	}
	return err
}

func reportSustained(f *findings, g ran, rate, took float64, used processorTime, samples []memorySample, disk int64, proxies int) {
	f.printf("%s proxies at 10,000 requests a second each; the rate, and bus's and aggregator's CPU, are from the first event to the last one's\n"+
		"being counted. `stat` counts every one of them: none lost, none shed, none twice. The proxies send throughout each second, where real ones do in\n"+
		"its first half; two of a workload are a sixth of a second apart.\n\n"+
		"| | |\n|---|---|\n| events | %s |\n| seconds | %.1f |\n| events a second | %s |\n| bytes an event on the bus | %.1f |\n| bytes a second on the bus | %s MB |\n"+
		"| files of the bus at the end | %s MB |\n| generator, ns CPU an event | %.0f |\n"+
		"| bus, ns CPU an event | %.0f |\n| aggregator, ns CPU an event | %.0f |\n",
		measure.Thousands(float64(proxies)), measure.Thousands(float64(g.Events)), took, measure.Thousands(rate), g.bytesPerEvent(),
		measure.Megabytes(uint64(float64(g.Wire)/g.seconds())), measure.Megabytes(uint64(disk)), perEvent(g.cpu, g.Events), perEvent(used.bus, g.Events), perEvent(used.aggregator, g.Events))
	for _, q := range []struct {
		name string
		part float64
	}{{"a quarter", 0.25}, {"half", 0.5}, {"three quarters", 0.75}, {"the end", 1}} {
		if len(samples) > 0 {
			s := samples[int(q.part*float64(len(samples)-1))]
			f.printf("| VmRSS at %s of it: bus, aggregator | %s, %s MB |\n", q.name, measure.Megabytes(s.bus), measure.Megabytes(s.aggregator))
		}
	}
	f.goal(measure.Goal{What: fmt.Sprintf("sustained for %.0f s, nothing lost", took), Bound: 3, AtLeast: true, Unit: " M events/s", Measured: rate / 1e6})
	f.goal(measure.Goal{What: "memory of bus and aggregator in the last quarter, × that in the second", Bound: 1.1, Measured: memoryGrowth(samples)})
}

// memoryGrowth is the greatest sum in the last quarter of the samples over that
// in the second; 1 where there are too few.
func memoryGrowth(samples []memorySample) float64 {
	n := len(samples)
	if n < 8 {
		return 1
	}
	most := func(part []memorySample) float64 {
		m := slices.MaxFunc(part, func(a, b memorySample) int { return int(int64(a.bus+a.aggregator) - int64(b.bus+b.aggregator)) })
		return float64(m.bus + m.aggregator)
	}
	return most(samples[3*n/4:]) / most(samples[n/4:n/2])
}
