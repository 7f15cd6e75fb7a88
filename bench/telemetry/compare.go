package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"path/filepath"

	"github.com/weirmesh/weir/bench/measure"
)

// A part is one question of the comparison.
type part struct {
	name, title string
	run         func(ctx context.Context, l *lab, f *findings) error
}

// parts are all questions, in the order of the report.
func parts() []part {
	return []part{
		{"cpu", "CPU and bytes an event", measureCPU},
		{"cores", "Events a second on one core and on two", measureCores},
		{"growth", "1, 10 and 100 times the load", measureGrowth},
		{"memory", "Memory", measureMemory},
		{"quantiles", "Quantiles against an exact sort", measureQuantiles},
		{"queries", "Questions at 10,000 workloads", measureQueries},
		{"takeover", "Takeover", measureTakeover},
		{"sustained", "Sustained", measureSustained},
	}
}

func partNames() string {
	var names []string
	for _, p := range parts() {
		names = append(names, p.name)
	}
	return strings.Join(names, ", ")
}

// findings are what a run found: what was asked for, and tables.
type findings struct {
	goals []measure.Goal
	text  bytes.Buffer
}

func (f *findings) goal(g measure.Goal) { f.goals = append(f.goals, g) }

func (f *findings) printf(format string, args ...any) { fmt.Fprintf(&f.text, format, args...) }

// compare runs what the environment asks for and reports it.
func compare(ctx context.Context) error {
	o, err := readOptions()
	if err != nil {
		return err
	}
	if err := o.checkPrograms("weir", "weir-proxy", "bench-collector"); err != nil {
		return err
	}
	machine, began := measure.DescribeMachine(), time.Now()
	l, err := newLab(o)
	if err != nil {
		return err
	}
	defer l.close()
	f := &findings{}
	failed := 0
	for _, p := range parts() {
		if !o.selected(p.name) {
			continue
		}
		measure.Note("%s: %s", p.name, p.title)
		f.printf("\n### %s\n\n", p.title)
		if err := p.run(ctx, l, f); err != nil {
			if ctx.Err() != nil {
				return err
			}
			failed++
			measure.Note("FAILED: %s: %v", p.name, err)
			f.printf("Failed: %v\n", err)
		}
	}
	text := render(ctx, &o, machine, began, f)
	if _, err := os.Stdout.Write(text); err != nil {
		return err
	}
	switch {
	case failed > 0:
		return fmt.Errorf("%s failed; %s is left as it was", measure.Plural(failed, "part"), o.doc)
	case len(o.only) > 0:
		measure.Note("%s is left as it was: BENCH_ONLY chose some parts", o.doc)
		return nil
	}
	return measure.SectionOf("bench-telemetry").Write(o.doc, text)
}

// render is the whole section.
func render(ctx context.Context, o *options, m measure.Machine, began time.Time, f *findings) []byte {
	var w bytes.Buffer
	fmt.Fprintf(&w, "## The telemetry pipeline beside the OpenTelemetry Collector\n\n")
	fmt.Fprintf(&w, "%s. %s, %s. Load average at the start: %s. The run took %s.\n%s\n\n    %s\n\n", began.UTC().Format(time.DateOnly),
		m.CPU, m.Kernel, m.Load, time.Since(began).Round(time.Second), m.Quiet(), o.command())
	fmt.Fprintf(&w, "%s; OpenTelemetry Collector and span_metrics connector %s; Go %s.\n\n",
		strings.Replace(measure.FirstLine(ctx, filepath.Join(o.bin, "weir"), "version", "--client"), "Client version:", "weir", 1), collectorVersion, strings.TrimPrefix(runtime.Version(), "go"))
	fmt.Fprintf(&w, "Traffic: %d routes by Zipf's law, %d connections of %d meshed peers, a failure in 50. Weir: a generator that encodes and\n"+
		"publishes as proxies do, `weir bus` with its streams in files, `weir aggregator --memory %s`, `weir api`. The Collector: OTLP over gRPC, spans with\n"+
		"three attributes, span_metrics with its defaults, prometheus exporter. Everything is on 127.0.0.1 of one machine; contenders take\n"+
		"turns. CPU is user and system time of the process alone. Medians, with the least and the greatest in brackets.\n\n",
		routeCount, connectionCount, peerCount, aggregatorMemory)
	if len(f.goals) > 0 {
		fmt.Fprintf(&w, "### The telemetry budget\n\n")
		measure.WriteGoals(&w, f.goals)
	}
	w.Write(f.text.Bytes())
	w.WriteString("\n")
	return w.Bytes()
}
