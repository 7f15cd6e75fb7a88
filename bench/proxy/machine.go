package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// machine is what the figures depend on most.
type machine struct {
	cpu, kernel, load string
}

// describeMachine looks at the machine before any load.
func describeMachine() machine {
	m := machine{cpu: "unknown CPU", kernel: "unknown kernel", load: "unknown"}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				m.cpu = strings.TrimSpace(value)
				break
			}
		}
	}
	m.cpu = fmt.Sprintf("%s of %s (%s)", plural(runtime.NumCPU(), "core"), m.cpu, runtime.GOARCH)
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		m.kernel = "Linux " + unix.ByteSliceToString(name.Release[:])
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		if fields := strings.Fields(string(text)); len(fields) > 2 {
			m.load = strings.Join(fields[:3], " ")
		}
	}
	return m
}

// versions names what took part, with versions.
func versions(ctx context.Context, o options) []string {
	return []string{
		firstLine(ctx, filepath.Join(o.bin, "weir-proxy"), "--version"),
		strings.Replace(firstLine(ctx, "nginx", "-v"), "nginx version: nginx/", "nginx ", 1),
		strings.Replace(firstLine(ctx, "haproxy", "-v"), "HAProxy version", "haproxy", 1),
		"Go " + strings.TrimPrefix(runtime.Version(), "go"),
		firstLine(ctx, "wrk", "-v"),
		firstLine(ctx, "h2load", "--version"),
	}
}

// firstLine is the beginning of what a program says of its version.
func firstLine(ctx context.Context, argv ...string) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	// Its exit code says nothing: wrk has none for this.
	out, _ := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	for _, noise := range []string{" - http", " [", " Copyright"} {
		line, _, _ = strings.Cut(line, noise)
	}
	if line == "" {
		return filepath.Base(argv[0]) + " of unknown version"
	}
	return line
}
