package main

import (
	"context"
	"fmt"
	"time"

	"github.com/weirmesh/weir/bench/measure"
)

// settle is how long after the last event a process is done with what it left
// to do: rollups are published once a second.
const settle = 1500 * time.Millisecond

// countPatience bounds the wait for the aggregators.
const countPatience = 5 * time.Minute

// batchSizes are what a proxy at so many requests a second flushes, with the
// bytes an event that are asked for.
var batchSizes = []struct {
	events int
	bytes  float64
}{{100, 18}, {1000, 10}, {10_000, 8}}

// spanBatch bounds an OTLP request: gRPC servers take 4 MiB.
const spanBatch = 8192

// roundWorkers send a round, the same number of events each.
const roundWorkers = 8

// A cost is what one size of batches takes, ns and bytes an event, one value a
// round.
type cost struct {
	generator, bus, aggregator, wire []float64
	collector, like, spanBytes       []float64
}

// processorTime is the user and system time that the two took so far.
type processorTime struct{ bus, aggregator time.Duration }

func (m *mesh) processorTime() (t processorTime, err error) {
	if t.bus, err = measure.CPUTime([]*measure.Process{m.bus}); err != nil {
		return t, err
	}
	t.aggregator, err = measure.CPUTime(m.aggregatorProcs())
	return t, err
}

// since is what was taken after an earlier time.
func (t processorTime) since(before processorTime) processorTime {
	return processorTime{t.bus - before.bus, t.aggregator - before.aggregator}
}

// perEvent is ns an event.
func perEvent(t time.Duration, events uint64) float64 {
	return float64(t.Nanoseconds()) / float64(events)
}

// measureCPU measures what an event takes each process, with batches of three
// sizes, the Collector beside.
func measureCPU(ctx context.Context, l *lab, f *findings) error {
	m, err := l.startMesh(ctx, 1, placement{})
	defer m.close()
	if err != nil {
		return err
	}
	c, err := l.startCollector(ctx, "", connectorSettings{})
	defer c.close()
	if err != nil {
		return err
	}
	like, err := l.startCollector(ctx, "", connectorSettings{like: true})
	defer like.close()
	if err != nil {
		return err
	}
	costs := make([]cost, len(batchSizes))
	var sent uint64
	// Round 0 warms up.
	for round := range l.o.rounds + 1 {
		for i := range batchSizes {
			at := &costs[i]
			if round == 0 {
				at = &cost{}
			}
			if err := at.weir(ctx, m, batchSizes[i].events, &sent); err != nil {
				return err
			}
			if err := at.peer(ctx, c, "Collector", &at.collector, batchSizes[i].events); err != nil {
				return err
			}
			if err := at.peer(ctx, like, "Collector that tells as much as often", &at.like, batchSizes[i].events); err != nil {
				return err
			}
		}
	}
	reportCPU(f, &l.o, costs)
	return nil
}

// weir adds a round of the pipeline. sent counts all events of the mesh.
func (at *cost) weir(ctx context.Context, m *mesh, batch int, sent *uint64) error {
	before, err := m.processorTime()
	if err != nil {
		return err
	}
	r, err := m.generate(ctx, "", order{Prefix: "cpu", Proxies: 32, Workloads: 16, Batch: batch, Events: roundEvents(m.lab.o.cpuEvents, batch), Workers: roundWorkers, Links: 2})
	if err != nil {
		return err
	}
	*sent += r.Events
	if err := m.awaitCounted(ctx, *sent, 0, countPatience); err != nil {
		return err
	}
	if err := sleepUntil(ctx, time.Now().Add(settle)); err != nil {
		return err
	}
	after, err := m.processorTime()
	if err != nil {
		return err
	}
	used := after.since(before)
	at.generator = append(at.generator, perEvent(r.cpu, r.Events))
	at.bus = append(at.bus, perEvent(used.bus, r.Events))
	at.aggregator = append(at.aggregator, perEvent(used.aggregator, r.Events))
	at.wire = append(at.wire, r.bytesPerEvent())
	measure.Note("weir, batches of %d: aggregator %.0f ns, bus %.0f ns, generator %.0f ns, %.1f bytes an event",
		batch, last(at.aggregator), last(at.bus), last(at.generator), last(at.wire))
	return nil
}

// peer adds a round of a Collector to what into has of it.
func (at *cost) peer(ctx context.Context, c *peer, name string, into *[]float64, batch int) error {
	procs := []*measure.Process{c.proc}
	before, err := measure.CPUTime(procs)
	if err != nil {
		return err
	}
	batch = min(batch, spanBatch)
	r, err := c.send(ctx, "", order{Prefix: "cpu", Proxies: 32, Workloads: 16, Batch: batch, Events: roundSpans(c.lab.o.cpuEvents), Workers: roundWorkers})
	if err != nil {
		return err
	}
	if err := sleepUntil(ctx, time.Now().Add(settle)); err != nil {
		return err
	}
	after, err := measure.CPUTime(procs)
	if err != nil {
		return err
	}
	*into = append(*into, perEvent(after-before, r.Events))
	at.spanBytes = append(at.spanBytes, r.bytesPerEvent())
	measure.Note("%s, batches of %d: %.0f ns, %.0f bytes a span", name, batch, last(*into), last(at.spanBytes))
	return nil
}

// roundEvents is how many events a round of the pipeline has, of those asked
// for: fewer in small batches, which take several times as long.
func roundEvents(events, batch int) int {
	if batch < 1000 {
		events /= 4
	}
	return max(events, roundWorkers)
}

// roundSpans is how many spans a round of the Collector has: each takes it ten
// times as long.
func roundSpans(events int) int { return max(events/10, roundWorkers) }

func last(values []float64) float64 { return values[len(values)-1] }

func reportCPU(f *findings, o *options, costs []cost) {
	f.printf("ns of CPU an event. Aggregator: from JetStream's delivery to the rollup that is published, all that its process does.\n"+
		"A round is %s events, %s in batches of 100, %s spans for the Collector, and the %v after them, with what both do by\n"+
		"the second and not by the event.\n\n"+
		"| events a batch | aggregator | bus, file storage | generator: event to acknowledged batch | Collector | × | Collector, like | × | bytes an event | bytes a span | × |\n"+
		"|---|---|---|---|---|---|---|---|---|---|---|\n",
		measure.Thousands(float64(o.cpuEvents)), measure.Thousands(float64(roundEvents(o.cpuEvents, 100))), measure.Thousands(float64(roundSpans(o.cpuEvents))), settle)
	for i, c := range costs {
		aggregator, collector, like := measure.SpreadOf(c.aggregator), measure.SpreadOf(c.collector), measure.SpreadOf(c.like)
		wire, spans := measure.SpreadOf(c.wire).Median, measure.SpreadOf(c.spanBytes).Median
		f.printf("| %s | %s | %s | %s | %s | %.0f | %s | %.0f | %.1f | %.0f | %.0f |\n", measure.Thousands(float64(batchSizes[i].events)), aggregator.Format(0),
			measure.SpreadOf(c.bus).Format(0), measure.SpreadOf(c.generator).Format(0), collector.Format(0),
			collector.Median/aggregator.Median, like.Format(0), like.Median/aggregator.Median, wire, spans, spans/wire)
		f.goal(measure.Goal{What: fmt.Sprintf("bytes an event at %s requests a second, all in", measure.Thousands(float64(batchSizes[i].events))),
			Bound: batchSizes[i].bytes, Unit: " B", Measured: wire})
		if batchSizes[i].events >= 1000 {
			size := measure.Thousands(float64(batchSizes[i].events))
			f.goal(measure.Goal{What: "CPU of the aggregator an event, batches of " + size, Bound: 100, Unit: " ns", Measured: aggregator.Median})
			f.goal(measure.Goal{What: "CPU of the span_metrics Collector, × the aggregator's, batches of " + size, Bound: 30, AtLeast: true,
				Measured: collector.Median / aggregator.Median})
			f.goal(measure.Goal{What: "the same, where the Collector tells as much as often, batches of " + size, Bound: 30, AtLeast: true,
				Measured: like.Median / aggregator.Median})
		}
	}
	f.printf("\nCollector: with the connector's defaults, by service, span and failure, in 16 buckets, once in 60 s. Like: by pod and status too, in\n" +
		"exponential histograms of 160 buckets, every second, which is nearest to what Weir tells of the same requests; it tells of no peers.\n")
	f.printf("\nAll in: subject, header, source, dictionaries. A span is the encoded OTLP request and its method's name; OTLP requests have\n"+
		"%s spans at most, for a gRPC server takes 4 MiB.\n", measure.Thousands(spanBatch))
}

// measureCores measures rates: with each contender on one core and its source
// on the other, and with everything on one core, or on two.
func measureCores(ctx context.Context, l *lab, f *findings) error {
	f.printf("Events a second. Alone on a core: what it depends on has the other one; the aggregator then catches up with what the bus holds.\n\n" +
		"| | aggregator | Collector |\n|---|---|---|\n")
	backlog, err := rates(l.o.rounds, func() (float64, error) {
		return backlogRate(ctx, l, placement{bus: "1", aggregator: "0", generator: "1"})
	})
	if err != nil {
		return err
	}
	alone, err := rates(l.o.rounds, func() (float64, error) { return spanRate(ctx, l, "0", "1") })
	if err != nil {
		return err
	}
	f.printf("| alone on one core | %s | %s |\n", measure.Thousands(backlog.Median), measure.Thousands(alone.Median))
	for _, on := range []struct{ title, cores string }{{"everything, the source too, on one core", "0"}, {"everything on two cores", "0,1"}} {
		weir, err := rates(l.o.rounds, func() (float64, error) { return flowRate(ctx, l, placement{on.cores, on.cores, on.cores}) })
		if err != nil {
			return err
		}
		spans, err := rates(l.o.rounds, func() (float64, error) { return spanRate(ctx, l, on.cores, on.cores) })
		if err != nil {
			return err
		}
		f.printf("| %s | %s | %s |\n", on.title, measure.Thousands(weir.Median), measure.Thousands(spans.Median))
	}
	f.printf("\nWeir's source encodes every event; the Collector's sends requests that were encoded beforehand.\n")
	return nil
}

func rates(rounds int, one func() (float64, error)) (measure.Spread, error) {
	var values []float64
	for range rounds {
		v, err := one()
		if err != nil {
			return measure.Spread{}, err
		}
		values = append(values, v)
		measure.Note("%s events a second", measure.Thousands(v))
	}
	return measure.SpreadOf(values), nil
}

var fullSpeed = order{Prefix: "rate", Proxies: 64, Workloads: 32, Batch: 1000, Workers: 16, Links: 4}

// backlogFactor makes a backlog long enough for the first look at it not to
// matter.
const backlogFactor = 3

// backlogRate fills a bus and then measures how fast an aggregator reads it.
func backlogRate(ctx context.Context, l *lab, at placement) (float64, error) {
	m, err := l.startBus(ctx, at)
	defer m.close()
	if err != nil {
		return 0, err
	}
	o := fullSpeed
	o.Events = backlogFactor * l.o.events
	r, err := m.generate(ctx, "", o)
	if err != nil {
		return 0, err
	}
	if err := m.addAggregator(ctx, at); err != nil {
		return 0, err
	}
	// It reads from when it owns partitions; the first events say that it does.
	var first float64
	var began time.Time
	err = m.await(ctx, time.Minute, "the first event", func() (bool, error) {
		var err error
		first, err = m.sum(ctx, "weir_aggregator_events_total")
		began = time.Now()
		return first > 0, err
	})
	if err != nil {
		return 0, err
	}
	if err := m.awaitCounted(ctx, r.Events, 0, countPatience); err != nil {
		return 0, err
	}
	return (float64(r.Events) - first) / time.Since(began).Seconds(), nil
}

// flowRate measures how fast events go from the generator to the rollup.
func flowRate(ctx context.Context, l *lab, at placement) (float64, error) {
	m, err := l.startMesh(ctx, 1, at)
	defer m.close()
	if err != nil {
		return 0, err
	}
	o := fullSpeed
	o.Events = l.o.events
	r, err := m.generate(ctx, at.generator, o)
	if err != nil {
		return 0, err
	}
	if err := m.awaitCounted(ctx, r.Events, 0, countPatience); err != nil {
		return 0, err
	}
	return float64(r.Events) / (float64(time.Now().UnixMicro()-r.Began) / 1e6), nil
}

// spanRate measures how fast a Collector takes spans.
func spanRate(ctx context.Context, l *lab, cores, sender string) (float64, error) {
	c, err := l.startCollector(ctx, cores, connectorSettings{})
	defer c.close()
	if err != nil {
		return 0, err
	}
	o := fullSpeed
	o.Events = l.o.events / 10
	r, err := c.send(ctx, sender, o)
	if err != nil {
		return 0, err
	}
	return float64(r.Events) / r.seconds(), nil
}
