package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// options are the settings of a run.
type options struct {
	rounds      int
	step        time.Duration // of each step of load
	events      int           // of a round
	cpuEvents   int           // of a round of the part cpu
	sustain     time.Duration
	sustainRate int
	only        []string // parts; none: all
	bin         string
	doc         string

	pods           int
	simulate       time.Duration // of each step
	simulationDocs string
}

// readOptions reads the environment.
func readOptions() (options, error) {
	o := options{bin: text("BENCH_BIN", "bin"), doc: text("BENCH_DOC", "docs/benchmarks.md"), simulationDocs: text("SIM_DOC", "docs/capacity.md")}
	var step, sustain, simulated int
	for _, n := range []struct {
		name     string
		into     *int
		standard int
	}{
		{"BENCH_ROUNDS", &o.rounds, 3},
		{"BENCH_SECONDS", &step, 10},
		{"BENCH_EVENTS", &o.events, 3_000_000},
		{"BENCH_CPU_EVENTS", &o.cpuEvents, 15_000_000},
		{"BENCH_SUSTAIN", &sustain, 30},
		{"BENCH_SUSTAIN_RATE", &o.sustainRate, 3_200_000},
		{"SIM_PODS", &o.pods, 10_000},
		{"SIM_SECONDS", &simulated, 20},
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
	o.step, o.sustain, o.simulate = time.Duration(step)*time.Second, time.Duration(sustain)*time.Second, time.Duration(simulated)*time.Second
	var err error
	if o.bin, err = filepath.Abs(o.bin); err != nil {
		return o, err
	}
	o.only = strings.FieldsFunc(os.Getenv("BENCH_ONLY"), func(r rune) bool { return r == ',' || r == ' ' })
	for _, name := range o.only {
		if !slices.ContainsFunc(parts(), func(p part) bool { return p.name == name }) {
			return o, fmt.Errorf("BENCH_ONLY names %q, which is no part; there are: %s", name, partNames())
		}
	}
	return o, nil
}

// checkPrograms looks whether programs are there that make builds.
func (o *options) checkPrograms(names ...string) error {
	for _, name := range names {
		file := filepath.Join(o.bin, name)
		if _, err := os.Stat(file); err != nil {
			return fmt.Errorf("cannot find %s: run this through make, which builds it", file)
		}
	}
	return nil
}

func text(name, standard string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return standard
}

func (o *options) selected(name string) bool {
	return len(o.only) == 0 || slices.Contains(o.only, name)
}

// command is what to type for the same run.
func (o *options) command() string {
	return fmt.Sprintf("make bench-telemetry BENCH_ROUNDS=%d BENCH_SECONDS=%d BENCH_EVENTS=%d BENCH_CPU_EVENTS=%d BENCH_SUSTAIN=%d BENCH_SUSTAIN_RATE=%d",
		o.rounds, int(o.step.Seconds()), o.events, o.cpuEvents, int(o.sustain.Seconds()), o.sustainRate)
}
