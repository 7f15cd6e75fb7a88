package main

import (
	"context"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/weirmesh/weir/bench/measure"
)

// versions names what took part, with versions.
func versions(ctx context.Context, o options) []string {
	return []string{
		measure.FirstLine(ctx, filepath.Join(o.bin, "weir-proxy"), "--version"),
		strings.Replace(measure.FirstLine(ctx, "nginx", "-v"), "nginx version: nginx/", "nginx ", 1),
		strings.Replace(measure.FirstLine(ctx, "haproxy", "-v"), "HAProxy version", "haproxy", 1),
		"Go " + strings.TrimPrefix(runtime.Version(), "go"),
		measure.FirstLine(ctx, "wrk", "-v"),
		measure.FirstLine(ctx, "h2load", "--version"),
	}
}
