package main

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// options are the settings of a run.
type options struct {
	rounds   int
	duration time.Duration // of one measurement
	wait     time.Duration // from a burst to the look at memory
	only     []string      // patterns of loads' names; none: all
	bin      string        // folder of weir and weir-proxy
	doc      string        // file that takes the tables
}

// readOptions reads the environment.
func readOptions() (options, error) {
	o := options{bin: "bin", doc: "docs/benchmarks.md"}
	var seconds, wait int
	for _, n := range []struct {
		name     string
		into     *int
		standard int
	}{
		{"BENCH_ROUNDS", &o.rounds, 5},
		{"BENCH_SECONDS", &seconds, 2},
		{"BENCH_WAIT", &wait, 60},
	} {
		*n.into = n.standard
		v := os.Getenv(n.name)
		if v == "" {
			continue
		}
		i, err := strconv.Atoi(v)
		if err != nil || i < 1 {
			return o, fmt.Errorf("%s is %q, want a whole number of at least 1", n.name, v)
		}
		*n.into = i
	}
	o.duration = time.Duration(seconds) * time.Second
	o.wait = time.Duration(wait) * time.Second
	if v := os.Getenv("BENCH_BIN"); v != "" {
		o.bin = v
	}
	if v := os.Getenv("BENCH_DOC"); v != "" {
		o.doc = v
	}
	o.only = strings.FieldsFunc(os.Getenv("BENCH_ONLY"), func(r rune) bool { return r == ',' || r == ' ' })
	for _, pattern := range o.only {
		known := false
		for _, c := range append(loads(), &load{name: memoryName}) {
			known = known || matches(pattern, c.name)
		}
		if !known {
			return o, fmt.Errorf("BENCH_ONLY names %q, which is no load; there are: %s", pattern, loadNames())
		}
	}
	for _, program := range []string{"weir", "weir-proxy"} {
		file := filepath.Join(o.bin, program)
		if _, err := os.Stat(file); err != nil {
			return o, fmt.Errorf("cannot find %s: build it with `make build`", file)
		}
	}
	return o, nil
}

// selected tells whether the load is to be run.
func (o *options) selected(name string) bool {
	for _, pattern := range o.only {
		if matches(pattern, name) {
			return true
		}
	}
	return len(o.only) == 0
}

func matches(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}

// command is what to type for the same run.
func (o *options) command() string {
	return fmt.Sprintf("make bench-proxy BENCH_ROUNDS=%d BENCH_SECONDS=%d BENCH_WAIT=%d",
		o.rounds, int(o.duration.Seconds()), int(o.wait.Seconds()))
}
