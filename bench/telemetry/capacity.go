package main

import (
	"bytes"
	"fmt"
	"math"

	"github.com/weirmesh/weir/bench/measure"
)

// A price is what one message takes: a pod's second with so many events.
type price struct {
	events          float64
	bytes, stored   float64
	rollups         float64
	bus, aggregator float64 // s of CPU
	memory          float64 // of the aggregators, bytes a pod
}

// prices are those of the steps in which time was not compressed.
func prices(all []simulated) (list []price) {
	for _, s := range all {
		if s.speed != 1 || s.messages == 0 {
			continue
		}
		list = append(list, price{
			events: s.rate, bytes: s.bytes / s.messages, stored: s.stored / s.messages, rollups: s.rollups / s.messages,
			bus: s.bus / s.messages, aggregator: s.aggregator / s.messages, memory: float64(s.aggregatorRSS) / float64(s.pods),
		})
	}
	return list
}

func writePrices(w *bytes.Buffer, list []price) {
	fmt.Fprintf(w, "\n### What a message takes\n\nA message is a pod's second. From the steps above in which time is not compressed.\n\n"+
		"| events in it | bytes to the bus (`B`) | bytes of the stream's files (`D`) | bytes of rollups (`R`) | bus, µs CPU (`Cb`) | aggregators, µs CPU (`Ca`) |\n|---|---|---|---|---|---|\n")
	for _, p := range list {
		fmt.Fprintf(w, "| %g | %.0f | %.0f | %.0f | %.0f | %.0f |\n", p.events, p.bytes, p.stored, p.rollups, p.bus*1e6, p.aggregator*1e6)
	}
}

// What the clusters' figures assume beside the prices.
const (
	busyShare      = 0.5 // of a core, lest a burst or the loss of a member is felt
	eventRetention = 3600.0
	rollupSeconds  = 900.0
	partitions     = 16
	eventBytes     = 4 << 30
)

// A need is what a cluster takes.
type need struct {
	events, bytes                 float64 // a second
	busCores, aggregatorCores     float64
	aggregators                   int
	perPartition                  float64 // cores of the busiest if all are alike
	eventDisk, rollupDisk, memory float64 // bytes
	reach                         float64 // s that the default bound of the stream holds
}

// need works out what a cluster of so many pods takes that send a message a
// second each.
func (p price) need(pods float64) need {
	n := need{events: pods * p.events, bytes: pods * p.bytes, busCores: pods * p.bus, aggregatorCores: pods * p.aggregator}
	n.aggregators = max(int(math.Ceil(n.aggregatorCores/busyShare)), 2)
	n.perPartition = n.aggregatorCores / partitions
	n.eventDisk, n.rollupDisk, n.memory = pods*p.stored*eventRetention, pods*p.rollups*rollupSeconds, pods*p.memory
	if p.stored > 0 {
		n.reach = min(eventBytes/(pods*p.stored), eventRetention)
	}
	return n
}

func writeClusters(w *bytes.Buffer, list []price) {
	fmt.Fprintf(w, "\n### What clusters need\n\nBy the formulas above, without replicas; cores of this machine. Aggregators are counted at one core each, %.0f %% busy, two at least.\n\n"+
		"| pods | events a second a pod | events a second | MB/s into the bus | bus, cores | aggregators, cores | aggregators | cores a partition | events on disk, 1 h | 4 GiB reach back, min | rollups on disk, 15 min | memory of the aggregators |\n"+
		"|---|---|---|---|---|---|---|---|---|---|---|---|\n", busyShare*100)
	for _, pods := range []float64{1000, 10_000, 100_000} {
		for _, p := range list {
			n := p.need(pods)
			fmt.Fprintf(w, "| %s | %g | %s | %.1f | %.2f | %.2f | %d | %.2f | %s | %.1f | %s | %s |\n", measure.Thousands(pods), p.events, measure.Thousands(n.events),
				n.bytes/1e6, n.busCores, n.aggregatorCores, n.aggregators, n.perPartition, gigabytes(n.eventDisk), n.reach/60, gigabytes(n.rollupDisk), gigabytes(n.memory))
		}
	}
}

func gigabytes(bytes float64) string { return fmt.Sprintf("%.1f GB", bytes/1e9) }
