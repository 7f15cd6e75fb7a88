package main

import (
	"fmt"
	"io"

	"github.com/weirmesh/weir/bench/measure"
)

// A goal is a bound on what weir-proxy may take.
type goal struct {
	what string
	// bound is the greatest value allowed, or with atLeast the least.
	bound   float64
	atLeast bool
	unit    string
	// value measures it; ok is false if the run has no such figures.
	value func(r *report) (v float64, ok bool)
}

// goals are the budget of the data plane, with telemetry on.
func goals() []goal {
	const addedP99 = 1 // of quantiles
	return []goal{
		{"HTTP/1.1, 32 connections, 128 B: CPU, × nginx", 1, false, "", cpuOver("h1-32", weirIn, nginx)},
		{"HTTP/1.1, 32 connections, 128 B: CPU, × haproxy", 1, false, "", cpuOver("h1-32", weirIn, haproxy)},
		{"HTTP/1.1, 32 connections, 128 B: CPU, × ReverseProxy", 0.3, false, "", cpuOver("h1-32", weirIn, reverseProxy)},
		{"HTTP/2, 32 streams: CPU, × haproxy", 0.6, false, "", cpuOver("h2-32", weirIn, haproxy)},
		{"HTTP/2, 1 stream: CPU, × haproxy", 1.2, false, "", cpuOver("h2-1", weirIn, haproxy)},
		{"outbound (balancing) HTTP/2, 32 streams: CPU, × haproxy", 1.2, false, "", cpuOver("h2-32", weirOut, haproxy)},
		{"HTTP/1.1, 32 connections, 64 KiB: throughput, × haproxy", 1, true, "", rateOver("h1-32-64k", weirIn, haproxy)},
		{"TCP: throughput, × haproxy", 1, true, "", rateOver("tcp", weirIn, haproxy)},
		{"latency added by a pair at 1,000 requests a second: p99", 1000, false, " µs", func(r *report) (float64, bool) {
			pair, base := r.find(latencyName, weirPair), r.find(latencyName, direct)
			if pair == nil || base == nil {
				return 0, false
			}
			return pair.quantiles()[addedP99] - base.quantiles()[addedP99], true
		}},
		{"VmRSS, idle", 10, false, " MB", memoryIs(func(m memoryOf) uint64 { return m.idle })},
		{"VmRSS, 100 busy connections", 16, false, " MB", memoryIs(func(m memoryOf) uint64 { return m.busy100 })},
		{"VmRSS, 10,000 idle connections", 120, false, " MB", memoryIs(func(m memoryOf) uint64 { return m.idle10k })},
		{"VmRSS, a minute after 1,000 busy connections closed", 16, false, " MB", memoryIs(func(m memoryOf) uint64 { return m.after })},
	}
}

func cpuOver(load, contender, base string) func(*report) (float64, bool) {
	return quotient(load, contender, base, sample.microsPerUnit)
}

func rateOver(load, contender, base string) func(*report) (float64, bool) {
	return quotient(load, contender, base, sample.rate)
}

func quotient(load, contender, base string, of func(sample) float64) func(*report) (float64, bool) {
	return func(r *report) (float64, bool) {
		a, b := r.find(load, contender), r.find(load, base)
		if a == nil || b == nil {
			return 0, false
		}
		return a.spread(of).Median / b.spread(of).Median, true
	}
}

func memoryIs(of func(memoryOf) uint64) func(*report) (float64, bool) {
	return func(r *report) (float64, bool) {
		for _, m := range r.memory {
			if m.name == weirIn {
				return float64(of(m)) / 1e6, true
			}
		}
		return 0, false
	}
}

// writeGoals writes the budget beside what was measured.
func (r *report) writeGoals(w io.Writer) {
	fmt.Fprintf(w, "### The budget\n\nweir-proxy inbound, telemetry on.\n\n")
	var judged []measure.Goal
	for _, g := range goals() {
		if v, ok := g.value(r); ok {
			judged = append(judged, measure.Goal{What: g.what, Bound: g.bound, AtLeast: g.atLeast, Unit: g.unit, Measured: v})
		}
	}
	measure.WriteGoals(w, judged)
}
