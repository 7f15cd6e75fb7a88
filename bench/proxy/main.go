// Command proxy compares weir-proxy with nginx, haproxy and Go's
// httputil.ReverseProxy, in one run on one machine: the CPU that a proxy takes
// for a request, throughput, latency and memory. `make bench-proxy` builds what
// it needs, runs it and has it write its tables into docs/benchmarks.md.
//
// # How it measures
//
// Everything is on 127.0.0.1 and all contenders run from the beginning to the
// end; those that carry nothing cost nothing. Only HTTP/2 has new processes in
// each round: its few connections fall on a proxy's threads by chance, by which
// figures differ more than by anything else. In each round each contender
// carries the same load, one after the other, beginning with another one each
// time, so that what else the machine does falls on all alike. Figures are
// medians of the rounds, with the least and the greatest beside them.
//
// CPU is user and system time of the proxy's own processes as the kernel counts
// it, the kernel's work on its sockets included. It is read when the next
// contender's load is over, so that what a proxy does a moment later (encoding
// and publishing events) is counted too.
//
// # Settings
//
// From the environment: BENCH_ROUNDS (5), BENCH_SECONDS (2, a measurement's
// length), BENCH_ONLY (names of loads, separated by commas; "h1-*" for all that
// begin so), BENCH_WAIT (60, seconds from a burst to the look at memory),
// BENCH_BIN (bin, where weir and weir-proxy are), BENCH_DOC
// (docs/benchmarks.md, written only by a run of all loads).
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-proxy:", err)
		os.Exit(1)
	}
}

// run is the comparison, or one of the programs that it starts: this program
// under another name.
func run(ctx context.Context, args []string) error {
	switch {
	case len(args) == 0:
		return compare(ctx)
	case args[0] == roleBackend && len(args) == 3:
		return serveBackend(ctx, args[1], args[2])
	case args[0] == roleReverseProxy && len(args) == 7:
		return serveReverseProxy(ctx, [3]route{{args[1], args[2]}, {args[3], args[4]}, {args[5], args[6]}})
	}
	return errors.New("no arguments, please: settings come from the environment (BENCH_ROUNDS, BENCH_SECONDS, BENCH_ONLY, BENCH_WAIT)")
}
