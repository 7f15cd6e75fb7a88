package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/weirmesh/weir/bench/measure"
)

// report is what a run found.
type report struct {
	lab     *lab
	machine measure.Machine
	began   time.Time
	cells   []*cell
	events  []eventCount
	memory  []memoryOf
}

// eventCount is what a weir-proxy says it recorded.
type eventCount struct {
	contender              string
	requests, events, shed float64
}

// publish prints the report on stdout and, after a run of everything, writes it
// into the document. It fails if a load failed.
func (r *report) publish() error {
	var out bytes.Buffer
	r.write(&out)
	if _, err := os.Stdout.Write(out.Bytes()); err != nil {
		return err
	}
	failed := 0
	for _, c := range r.cells {
		if c.err != nil {
			failed++
			measure.Note("FAILED: %s, %s: %v", c.load.name, c.contender, c.err)
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d measurements failed; %s is left as it was", failed, r.lab.o.doc)
	}
	if len(r.lab.o.only) > 0 {
		measure.Note("%s is left as it was: BENCH_ONLY chose some loads", r.lab.o.doc)
		return nil
	}
	return measure.SectionOf("bench-proxy").Write(r.lab.o.doc, out.Bytes())
}

func (r *report) write(w io.Writer) {
	o := r.lab.o
	fmt.Fprintf(w, "## The proxy beside others\n\n")
	fmt.Fprintf(w, "%s. %s, %s. Load average at the start: %s. The run took %s.\n\n    %s\n\n", r.began.UTC().Format(time.DateOnly),
		r.machine.CPU, r.machine.Kernel, r.machine.Load, time.Since(r.began).Round(time.Second), o.command())
	fmt.Fprintf(w, "%s.\n\n", strings.Join(r.lab.versions, "; "))
	fmt.Fprintf(w, "Load, proxy and server share the machine, on 127.0.0.1; contenders take turns; medians of %s of %s, with\n"+
		"the least and the greatest in brackets. CPU is user and system time of the proxy's processes alone. Every proxy has two\n"+
		"threads or workers, keeps connections to the server and writes no log; weir-proxy publishes an event for each request\n"+
		"to a bus, except where it says otherwise. Configurations: [`bench/proxy`](../bench/proxy).\n\n",
		measure.Plural(o.rounds, "round"), o.duration)
	r.writeGoals(w)
	group := ""
	for i, c := range r.cells {
		if c.load.group != group {
			group = c.load.group
			r.beginTable(w, group)
		}
		first := i == 0 || r.cells[i-1].load != c.load
		if group == groupLatency {
			r.writeLatency(w, c)
		} else {
			r.writeRow(w, c, first)
		}
	}
	r.writeMemory(w)
	r.writeEvents(w)
	fmt.Fprintln(w)
}

func (r *report) beginTable(w io.Writer, group string) {
	fmt.Fprintf(w, "\n### %s\n\n", group)
	header := "| load | | CPU µs a request | × nginx | × haproxy | requests a second |"
	switch group {
	case groupHTTP1:
		header += " p50, ms | p99, ms |"
	case groupHTTP2:
		fmt.Fprintf(w, "nginx speaks HTTP/1.1 to the server: it has no other way. All proxies are started anew before each round: how the few\n"+
			"connections fall on a proxy's threads is chance, lasts as long as they do, and changes what a request costs: 6 to 11 µs\n"+
			"were seen of one haproxy. So each round draws anew, and the medians are of %s.\n\n", measure.Plural(r.lab.o.rounds, "draw"))
		header += " mean, ms |"
	case groupGRPC:
		header = "| load | | CPU µs a call | × nginx | × haproxy | calls a second | mean, ms |"
	case groupTCP:
		header = "| load | | CPU µs a MiB | × nginx | × haproxy | MiB a second |"
	case groupLatency:
		fmt.Fprintf(w, "128 B over HTTP/1.1, %d connections, open loop: measured from the time at which each request was to be sent.\n"+
			"Added: less what the same takes without proxies. Two proxies stand one behind the other, as on a meshed hop; plain,\n"+
			"without TLS.\n\n", openConnections)
		header = "| | p50, µs | p99, µs | p99.9, µs | added p50 | added p99 | added p99.9 |"
	}
	fmt.Fprintln(w, header)
	fmt.Fprintln(w, strings.Repeat("|---", strings.Count(header, "|")-1)+"|")
}

// writeRow writes a line of a table of loads.
func (r *report) writeRow(w io.Writer, c *cell, first bool) {
	title := ""
	if first {
		title = fmt.Sprintf("`%s`: %s", c.load.name, c.load.title)
	}
	if c.err != nil || len(c.samples) == 0 {
		fmt.Fprintf(w, "| %s | %s | failed | | | |\n", title, c.contender)
		return
	}
	cpu, rate := c.spread(sample.microsPerUnit), c.spread(sample.rate)
	cost := "–"
	if c.contender != direct {
		cost = fmt.Sprintf("%.1f (%.1f–%.1f)", cpu.Median, cpu.Least, cpu.Greatest)
	}
	fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s |", title, c.contender, cost,
		r.ratio(c, nginx), r.ratio(c, haproxy), measure.Thousands(rate.Median))
	if s := c.samples[0]; s.p50 > 0 {
		fmt.Fprintf(w, " %s | %s |", millis(c, func(s sample) time.Duration { return s.p50 }),
			millis(c, func(s sample) time.Duration { return s.p99 }))
	} else if s.mean > 0 {
		fmt.Fprintf(w, " %s |", millis(c, func(s sample) time.Duration { return s.mean }))
	}
	fmt.Fprintln(w)
}

// ratio is c's CPU over that of the named contender under the same load.
func (r *report) ratio(c *cell, name string) string {
	base := r.find(c.load.name, name)
	if base == nil || c.contender == direct || len(c.samples) == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f", c.spread(sample.microsPerUnit).Median/base.spread(sample.microsPerUnit).Median)
}

// find is the cell of a load and a contender, nil if it has no samples.
func (r *report) find(name, contender string) *cell {
	for _, c := range r.cells {
		if c.load.name == name && c.contender == contender && len(c.samples) > 0 {
			return c
		}
	}
	return nil
}

// quantiles are those of a latency table, in µs.
func (c *cell) quantiles() [3]float64 {
	return [3]float64{
		c.spread(func(s sample) float64 { return micros(s.p50) }).Median,
		c.spread(func(s sample) float64 { return micros(s.p99) }).Median,
		c.spread(func(s sample) float64 { return micros(s.p999) }).Median,
	}
}

func (r *report) writeLatency(w io.Writer, c *cell) {
	if len(c.samples) == 0 {
		fmt.Fprintf(w, "| %s | failed | | | | | |\n", c.contender)
		return
	}
	q := c.quantiles()
	fmt.Fprintf(w, "| %s | %.0f | %.0f | %.0f |", c.contender, q[0], q[1], q[2])
	base := r.find(c.load.name, direct)
	for i := range q {
		if base == nil || base == c {
			fmt.Fprint(w, " – |")
			continue
		}
		fmt.Fprintf(w, " %.0f |", q[i]-base.quantiles()[i])
	}
	fmt.Fprintln(w)
}

func (r *report) writeMemory(w io.Writer) {
	if len(r.memory) == 0 {
		return
	}
	fmt.Fprintf(w, "\n### Memory\n\n"+
		"VmRSS in MB (10⁶ bytes), the sum over a proxy's processes, pages that they share counted for each; HTTP/1.1. Busy: the most that\n"+
		"was seen. Idle connections have each made a request before.\n\n"+
		"| | idle | 100 busy connections | 1,000 busy | %s after those closed | %s idle connections |\n|---|---|---|---|---|---|\n",
		r.lab.o.wait, measure.Thousands(float64(r.memory[0].connections)))
	for _, m := range r.memory {
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s |\n", m.name, measure.Megabytes(m.idle), measure.Megabytes(m.busy100),
			measure.Megabytes(m.burst), measure.Megabytes(m.after), measure.Megabytes(m.idle10k))
	}
	if n := r.memory[0].connections; n < 10000 {
		fmt.Fprintf(w, "\n%s instead of 10,000 idle connections: this machine lets a process have %s files open, and a connection\n"+
			"through a proxy is two.\n", measure.Thousands(float64(n)), measure.Thousands(float64(r.lab.files)))
	}
}

func (r *report) writeEvents(w io.Writer) {
	if len(r.events) == 0 {
		return
	}
	fmt.Fprintf(w, "\n### Events\n\nWhat the weir-proxies with telemetry on recorded under all these loads but that of memory.\n\n"+
		"| | requests | events | shed |\n|---|---|---|---|\n")
	for _, e := range r.events {
		fmt.Fprintf(w, "| %s | %s | %s | %s |\n", e.contender, measure.Thousands(e.requests), measure.Thousands(e.events), measure.Thousands(e.shed))
	}
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

func millis(c *cell, of func(sample) time.Duration) string {
	return fmt.Sprintf("%.2f", c.spread(func(s sample) float64 { return micros(of(s)) / 1e3 }).Median)
}
