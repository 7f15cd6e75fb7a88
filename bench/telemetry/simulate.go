package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/weirmesh/weir/bench/measure"
)

// podsPerWorkload is how many pods share a workload in a simulated cluster.
const podsPerWorkload = 10

// A simStep is one load of the simulated cluster: events a second of each pod,
// and how much faster than in a cluster time passes.
type simStep struct{ rate, speed float64 }

var simSteps = []simStep{{1, 1}, {10, 1}, {10, 2}, {100, 1}}

// A simulated step is what was measured in it.
type simulated struct {
	simStep
	pods                    int
	seconds                 float64
	messages, events, bytes float64 // a second
	bus, aggregator         float64 // cores
	busRSS, aggregatorRSS   uint64
	stored                  float64 // bytes a second of the stream's files, as they grow
	rollups                 float64 // bytes a second of rollups
	series                  float64
	late                    float64
}

// simulate plays the proxies of a cluster for real bus and aggregators, step by
// step, and works out what clusters need.
func simulate(ctx context.Context) error {
	o, err := readOptions()
	if err != nil {
		return err
	}
	if err := o.checkPrograms("weir"); err != nil {
		return err
	}
	machine, began := measure.DescribeMachine(), time.Now()
	l, err := newLab(o)
	if err != nil {
		return err
	}
	defer l.close()
	var all []simulated
	for _, step := range simSteps {
		s, err := simulateStep(ctx, l, step)
		if err != nil {
			return err
		}
		measure.Note("%d pods, %.0f events a second each, time × %.0f: %.0f messages/s, %.0f events/s, bus %.2f and aggregators %.2f cores",
			s.pods, s.rate, s.speed, s.messages, s.events, s.bus, s.aggregator)
		all = append(all, s)
	}
	var w bytes.Buffer
	fmt.Fprintf(&w, "%s. %s, %s. Load average at the start: %s. The run took %s.\n%s\n\n    make simulate SIM_PODS=%d SIM_SECONDS=%d\n\n",
		began.UTC().Format(time.DateOnly), machine.CPU, machine.Kernel, machine.Load, time.Since(began).Round(time.Second), machine.Quiet(), o.pods, int(o.simulate.Seconds()))
	writeSimulated(&w, all)
	list := prices(all)
	writePrices(&w, list)
	writeClusters(&w, list)
	if _, err := os.Stdout.Write(w.Bytes()); err != nil {
		return err
	}
	return measure.SectionOf("simulate").Write(o.simulationDocs, w.Bytes())
}

func simulateStep(ctx context.Context, l *lab, step simStep) (simulated, error) {
	s := simulated{simStep: step, pods: l.o.pods}
	m, err := l.startMesh(ctx, 2, placement{})
	defer m.close()
	if err != nil {
		return s, err
	}
	before, err := m.processorTime()
	if err != nil {
		return s, err
	}
	r, err := m.generate(ctx, "", order{Prefix: "sim", Proxies: l.o.pods, Workloads: max(l.o.pods/podsPerWorkload, 1), Rate: step.rate, Speed: step.speed,
		Seconds: l.o.simulate.Seconds(), Workers: 16, Links: 4})
	if err != nil {
		return s, err
	}
	if err := m.awaitCounted(ctx, r.Events, 0, countPatience); err != nil {
		return s, err
	}
	if err := sleepUntil(ctx, time.Now().Add(settle)); err != nil {
		return s, err
	}
	after, err := m.processorTime()
	if err != nil {
		return s, err
	}
	s.seconds, s.late = r.seconds(), r.Late
	s.messages, s.events, s.bytes = float64(r.Batches)/s.seconds, float64(r.Events)/s.seconds, float64(r.Wire)/s.seconds
	used := after.since(before)
	s.bus, s.aggregator = used.bus.Seconds()/s.seconds, used.aggregator.Seconds()/s.seconds
	return s, s.look(ctx, m)
}

// look reads what is left after a step: memory, files, rollups.
func (s *simulated) look(ctx context.Context, m *mesh) (err error) {
	if s.busRSS, err = measure.Resident([]*measure.Process{m.bus}); err != nil {
		return err
	}
	if s.aggregatorRSS, err = measure.Resident(m.aggregatorProcs()); err != nil {
		return err
	}
	rollups, err := m.sum(ctx, "weir_aggregator_rollup_bytes_total")
	if err != nil {
		return err
	}
	s.rollups = rollups / s.seconds
	if s.series, err = m.sum(ctx, "weir_aggregator_stored_keys"); err != nil {
		return err
	}
	streams, err := filepath.Glob(filepath.Join(m.data, "*", "*", "streams", "WEIR_EVENTS"))
	if err == nil && len(streams) != 1 {
		err = fmt.Errorf("want one folder of the stream WEIR_EVENTS below the bus's data, found %d", len(streams))
	}
	if err != nil {
		return err
	}
	s.stored = float64(diskBytes(streams[0])) / s.seconds
	return nil
}

func writeSimulated(w *bytes.Buffer, all []simulated) {
	fmt.Fprintf(w, "### Simulated\n\n%s virtual pods of %s workloads, each with 64 routes by Zipf's law, 32 connections and 8 peers, and a number of\n"+
		"batches of its own; a real bus with file storage and two real aggregators, which counted every event. Cores are seconds of CPU a second\n"+
		"of load, also where the aggregators came to the last events only after the load.\n\n",
		measure.Thousands(float64(all[0].pods)), measure.Thousands(float64(max(all[0].pods/podsPerWorkload, 1))))
	fmt.Fprintf(w, "| |")
	for _, s := range all {
		title := measure.Plural(int(s.rate), "event") + " a second a pod"
		if s.speed > 1 {
			title += fmt.Sprintf(", time × %g", s.speed)
		}
		fmt.Fprintf(w, " %s |", title)
	}
	fmt.Fprintf(w, "\n|---|")
	for range all {
		fmt.Fprintf(w, "---|")
	}
	fmt.Fprintln(w)
	for _, row := range []struct {
		name string
		of   func(s simulated) string
	}{
		{"messages a second", func(s simulated) string { return measure.Thousands(s.messages) }},
		{"events a second", func(s simulated) string { return measure.Thousands(s.events) }},
		{"MB a second to the bus", func(s simulated) string { return fmt.Sprintf("%.1f", s.bytes/1e6) }},
		{"bytes a message, which is a pod's second", func(s simulated) string { return measure.Thousands(s.bytes / s.messages) }},
		{"bytes an event", func(s simulated) string { return fmt.Sprintf("%.1f", s.bytes/s.events) }},
		{"bus, cores", func(s simulated) string { return fmt.Sprintf("%.2f", s.bus) }},
		{"aggregators, cores", func(s simulated) string { return fmt.Sprintf("%.2f", s.aggregator) }},
		{"bus, µs CPU a message", func(s simulated) string { return fmt.Sprintf("%.1f", s.bus*1e6/s.messages) }},
		{"aggregators, µs CPU a message", func(s simulated) string { return fmt.Sprintf("%.1f", s.aggregator*1e6/s.messages) }},
		{"bus, VmRSS, MB", func(s simulated) string { return measure.Megabytes(s.busRSS) }},
		{"aggregators, VmRSS, MB", func(s simulated) string { return measure.Megabytes(s.aggregatorRSS) }},
		{"aggregators, KB a pod", func(s simulated) string { return fmt.Sprintf("%.1f", float64(s.aggregatorRSS)/1e3/float64(s.pods)) }},
		{"files of WEIR_EVENTS, MB a second", func(s simulated) string { return fmt.Sprintf("%.1f", s.stored/1e6) }},
		{"rollups, MB a second", func(s simulated) string { return fmt.Sprintf("%.1f", s.rollups/1e6) }},
		{"series", func(s simulated) string { return measure.Thousands(s.series) }},
		{"a batch was late by at most, s", func(s simulated) string { return fmt.Sprintf("%.2f", s.late) }},
	} {
		fmt.Fprintf(w, "| %s |", row.name)
		for _, s := range all {
			fmt.Fprintf(w, " %s |", row.of(s))
		}
		fmt.Fprintln(w)
	}
}
