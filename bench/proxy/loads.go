package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/weirmesh/weir/bench/measure"
)

const (
	smallBody = 128
	largeBody = 64 << 10

	memoryName  = "memory"
	latencyName = "latency"
)

// Groups of loads: each is a table.
const (
	groupHTTP1   = "HTTP/1.1"
	groupHTTP2   = "HTTP/2"
	groupGRPC    = "gRPC"
	groupTCP     = "TCP"
	groupLatency = "Latency at 1,000 requests a second"
)

// A result is what a load measured.
type result struct {
	units   float64       // requests, calls or MiB that were carried
	elapsed time.Duration // in which they were
	mean    time.Duration // latencies; 0: not measured
	p50     time.Duration
	p99     time.Duration
	p999    time.Duration
}

// A load is one way of using a proxy.
type load struct {
	name  string // in BENCH_ONLY
	group string
	title string
	// run loads a contender for about d.
	run func(ctx context.Context, l *lab, c *contender, d time.Duration) (result, error)
	// contenders names who takes part, in the order of the table.
	contenders []string
	// fresh: each round has processes of its own (see renew).
	fresh bool
}

// loads are all but that of memory, in the order of the tables.
func loads() []*load {
	var all []*load
	for _, size := range []struct{ suffix, path, title string }{
		{"", "/128", "128 B"},
		{"-64k", "/64k", "64 KiB"},
	} {
		for _, connections := range []int{1, 32, 256} {
			all = append(all, &load{
				name:  fmt.Sprintf("h1-%d%s", connections, size.suffix),
				group: groupHTTP1,
				title: fmt.Sprintf("%s, %s", measure.Plural(connections, "connection"), size.title),
				run: func(ctx context.Context, _ *lab, c *contender, d time.Duration) (result, error) {
					return runWrk(ctx, connections, "http://"+c.at.HTTP1+size.path, d)
				},
				contenders: proxies(connections == 32 && size.suffix == ""),
			})
		}
	}
	for _, shape := range []struct{ connections, streams int }{{32, 1}, {8, 32}, {8, 100}} {
		all = append(all, &load{
			name:  fmt.Sprintf("h2-%d", shape.streams),
			group: groupHTTP2,
			title: fmt.Sprintf("%d connections of %s, 128 B", shape.connections, measure.Plural(shape.streams, "stream")),
			run: func(ctx context.Context, _ *lab, c *contender, d time.Duration) (result, error) {
				return runH2load(ctx, shape.connections, shape.streams, "http://"+c.at.HTTP2+"/128", d)
			},
			contenders: proxies(shape.streams == 32),
			fresh:      true,
		})
	}
	for _, call := range []struct{ name, path, title string }{
		{"grpc-unary", grpcUnary, "unary calls, 128 B both ways"},
		{"grpc-stream", grpcStream, fmt.Sprintf("calls that stream %d messages of 128 B", streamMessages)},
	} {
		all = append(all, &load{
			name:  call.name,
			group: groupGRPC,
			title: "8 connections of 32 streams, " + call.title,
			run: func(ctx context.Context, l *lab, c *contender, d time.Duration) (result, error) {
				return runH2load(ctx, 8, 32, "http://"+c.at.GRPC+call.path, d,
					"-d", l.message(), "-H", "content-type: application/grpc", "-H", "te: trailers")
			},
			contenders: proxies(false),
		})
	}
	return append(all,
		&load{
			name: "tcp", group: groupTCP, title: "4 connections, client to server",
			run: func(ctx context.Context, _ *lab, c *contender, d time.Duration) (result, error) {
				return sendTCP(ctx, c.at.TCP, 4, d)
			},
			contenders: []string{direct, weirIn, weirOut, nginx, haproxy},
		},
		&load{
			name: latencyName, group: groupLatency, title: "128 B, open loop",
			run: func(ctx context.Context, _ *lab, c *contender, d time.Duration) (result, error) {
				return openLoop(ctx, c.at.HTTP1, 1000, 3*d)
			},
			contenders: []string{direct, weirPair, nginxPair, haproxyPair},
		})
}

// proxies are the contenders of most loads. What telemetry costs is measured
// under some only, for the sake of time.
func proxies(withoutTelemetry bool) []string {
	if withoutTelemetry {
		return []string{direct, weirIn, weirOff, weirOut, nginx, haproxy, reverseProxy}
	}
	return []string{direct, weirIn, weirOut, nginx, haproxy, reverseProxy}
}

func loadNames() string {
	var names []string
	for _, l := range loads() {
		names = append(names, l.name)
	}
	return strings.Join(append(names, memoryName), ", ")
}
