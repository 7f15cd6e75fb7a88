package main

import (
	"bytes"
	"fmt"
	"math"

	"github.com/weirmesh/weir/bench/measure"
)

// A line is a figure that grows with messages and with events: so much a
// message, and so much an event.
type line struct{ message, event float64 }

func (l line) at(messages, events float64) float64 { return l.message*messages + l.event*events }

// fitLine finds the line whose relative errors have the least squares. Neither
// of its parts is negative.
func fitLine(messages, events, values []float64) line {
	var mm, me, ee, mv, ev float64
	for i, v := range values {
		if v == 0 {
			continue
		}
		m, e := messages[i]/v, events[i]/v
		mm, me, ee, mv, ev = mm+m*m, me+m*e, ee+e*e, mv+m, ev+e
	}
	// Where one part would be negative it is none, and the other alone fits.
	d := mm*ee - me*me
	l := line{}
	if d > 0 {
		l = line{(mv*ee - ev*me) / d, (ev*mm - mv*me) / d}
	}
	switch {
	case d <= 0 && ee > 0, l.message < 0:
		l = line{0, ev / ee}
	case l.event < 0:
		l = line{mv / mm, 0}
	}
	return l
}

// A model is what messages and events take, of one second.
type model struct {
	bytes, stored   line // bytes
	bus, aggregator line // s of CPU
	rollups         line // bytes
	// podMemory is bytes of an aggregator a pod, of the steps the most.
	podMemory float64
}

// fit makes a model of the steps.
func fit(all []simulated) model {
	of := func(value func(s simulated) float64) line {
		var messages, events, values []float64
		for _, s := range all {
			messages, events, values = append(messages, s.messages), append(events, s.events), append(values, value(s))
		}
		return fitLine(messages, events, values)
	}
	m := model{
		bytes:      of(func(s simulated) float64 { return s.bytes }),
		stored:     of(func(s simulated) float64 { return s.stored }),
		bus:        of(func(s simulated) float64 { return s.bus }),
		aggregator: of(func(s simulated) float64 { return s.aggregator }),
		rollups:    of(func(s simulated) float64 { return s.rollups }),
	}
	for _, s := range all {
		m.podMemory = max(m.podMemory, float64(s.aggregatorRSS)/float64(s.pods))
	}
	return m
}

func (m model) write(w *bytes.Buffer) {
	fmt.Fprintf(w, "\n### What a message and an event take\n\nFitted to the steps above (least squares of the relative errors).\n\n"+
		"| | a message | an event |\n|---|---|---|\n")
	for _, row := range []struct {
		name     string
		l        line
		scale    float64
		decimals int
	}{
		{"bytes to the bus (`B`)", m.bytes, 1, 1},
		{"bytes of the stream's files (`D`)", m.stored, 1, 1},
		{"bytes of rollups (`R`)", m.rollups, 1, 1},
		{"bus, µs CPU (`Cb`)", m.bus, 1e6, 3},
		{"aggregators, µs CPU (`Ca`)", m.aggregator, 1e6, 3},
	} {
		fmt.Fprintf(w, "| %s | %.*f | %.*f |\n", row.name, row.decimals, row.l.message*row.scale, row.decimals, row.l.event*row.scale)
	}
	fmt.Fprintf(w, "\nMemory of the aggregators: %.0f KB a pod.\n", m.podMemory/1e3)
}

// What the clusters' figures assume beside the model.
const (
	busyShare      = 0.5 // of a core, lest a burst or the loss of a member is felt
	eventRetention = 3600.0
	rollupSeconds  = 900.0
	partitions     = 16
	eventBytes     = 4 << 30
)

// A need is what a cluster takes.
type need struct {
	messages, events, bytes       float64 // a second
	busCores, aggregatorCores     float64
	aggregators                   int
	perPartition                  float64 // cores of the busiest if all are alike
	eventDisk, rollupDisk, memory float64 // bytes
	reach                         float64 // s that the default bound of the stream holds
}

// need works out what a cluster of so many pods takes, each with so many events
// a second, a message a second each.
func (m model) need(pods, rate float64) need {
	n := need{messages: pods, events: pods * rate}
	n.bytes = m.bytes.at(n.messages, n.events)
	n.busCores, n.aggregatorCores = m.bus.at(n.messages, n.events), m.aggregator.at(n.messages, n.events)
	n.aggregators = max(int(math.Ceil(n.aggregatorCores/busyShare)), 2)
	n.perPartition = n.aggregatorCores / partitions
	stored := m.stored.at(n.messages, n.events)
	n.eventDisk, n.rollupDisk = stored*eventRetention, m.rollups.at(n.messages, n.events)*rollupSeconds
	n.memory = m.podMemory * pods
	if stored > 0 {
		n.reach = min(eventBytes/stored, eventRetention)
	}
	return n
}

func (m model) writeClusters(w *bytes.Buffer) {
	fmt.Fprintf(w, "\n### What clusters need\n\nBy the formulas below, without replicas; cores of this machine. Aggregators are counted at one core each, %.0f %% busy, two at least.\n\n"+
		"| pods | events a second a pod | events a second | MB/s into the bus | bus, cores | aggregators, cores | aggregators | cores a partition | events on disk, 1 h | 4 GiB reach back | rollups on disk, 15 min | memory of the aggregators |\n"+
		"|---|---|---|---|---|---|---|---|---|---|---|---|\n", busyShare*100)
	for _, pods := range []float64{1000, 10_000, 100_000} {
		for _, rate := range []float64{1, 10, 100} {
			n := m.need(pods, rate)
			fmt.Fprintf(w, "| %s | %g | %s | %.1f | %.2f | %.2f | %d | %.2f | %s | %.0f min | %s | %s |\n", measure.Thousands(pods), rate, measure.Thousands(n.events),
				n.bytes/1e6, n.busCores, n.aggregatorCores, n.aggregators, n.perPartition, gigabytes(n.eventDisk), n.reach/60, gigabytes(n.rollupDisk), gigabytes(n.memory))
		}
	}
}

func gigabytes(bytes float64) string { return fmt.Sprintf("%.1f GB", bytes/1e9) }
