// Command telemetry measures Weir's telemetry pipeline beside the OpenTelemetry
// Collector's span_metrics connector, in one run on one machine, and simulates
// clusters. `make bench-telemetry` and `make simulate` build what it needs, run
// it and have it write its tables into docs/benchmarks.md and docs/capacity.md.
//
// # How it measures
//
// The pipeline is what users run: `weir bus` with its streams in files, `weir
// aggregator` and `weir api`, each a process of its own. A generator, another
// process, plays proxies: it encodes batches as proxies do (package event) and
// publishes them through the same client (package bus/client). The Collector is
// built from its released modules, with an OTLP receiver, the connector and the
// prometheus exporter; it gets the same exchanges as OTLP spans over gRPC.
//
// CPU is user and system time of a process alone, as the kernel counts it, read
// a while after the last event so that what follows (rollups) is counted too.
// Contenders take turns in rounds; figures are medians of the rounds.
//
// This is a Go module of its own, so that the Collector's dependencies are none
// of Weir's.
//
// # Settings
//
// From the environment: BENCH_ROUNDS (3), BENCH_SECONDS (10, of each step of
// load), BENCH_EVENTS (3000000, a round's of the parts that measure rates),
// BENCH_CPU_EVENTS (15000000, a round's of the part cpu: a quarter of it in the
// least batches, a tenth of it for the Collector), BENCH_SUSTAIN (30, seconds)
// and BENCH_SUSTAIN_RATE (3200000, events a second offered), BENCH_ONLY (names
// of parts, separated by commas), BENCH_BIN (bin), BENCH_DOC (docs/benchmarks.md,
// written only by a run of all parts). SIM_PODS (10000), SIM_SECONDS (20, of
// each step) and SIM_DOC (docs/capacity.md) for the simulation.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// Roles of this program, by its first argument.
const (
	roleCompare  = "compare"
	roleSimulate = "simulate"
	// The others are started by the first two.
	roleGenerate = "generate"
	roleSpans    = "spans"
	rolePin      = "pin"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-telemetry:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) == 1 && args[0] == roleCompare:
		return compare(ctx)
	case len(args) == 1 && args[0] == roleSimulate:
		return simulate(ctx)
	case len(args) == 2 && args[0] == roleGenerate:
		return generate(ctx, args[1], os.Stdout)
	case len(args) == 3 && args[0] == roleSpans:
		return sendSpans(ctx, args[1], args[2], os.Stdout)
	case len(args) > 2 && args[0] == rolePin:
		return pin(args[1], args[2:])
	}
	return errors.New("usage: bench-telemetry compare|simulate; settings come from the environment (see bench/telemetry/main.go)")
}
