package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// settlePatience is how long after a load a proxy is done with what the load
// left it to do: weir-proxy publishes once a second.
const settlePatience = 1200 * time.Millisecond

// A sample is what one round of a load measured for one contender.
type sample struct {
	result
	cpu time.Duration // of the proxy
}

// A cell is all rounds of a load for one contender.
type cell struct {
	load      *load
	contender string
	samples   []sample
	err       error // why there are none
}

// compare runs what the environment asks for and reports it.
func compare(ctx context.Context) error {
	o, err := readOptions()
	if err != nil {
		return err
	}
	machine := describeMachine()
	l, err := newLab(ctx, o)
	defer l.close()
	if err != nil {
		return err
	}
	l.versions = versions(ctx, o)
	r := &report{lab: l, machine: machine, began: time.Now()}
	note("%s; load average %s", machine.cpu, machine.load)
	if err := r.measureLoads(ctx); err != nil {
		return err
	}
	if o.selected(memoryName) {
		if r.memory, err = measureMemory(ctx, l); err != nil {
			return err
		}
	}
	return r.publish()
}

// measureLoads runs the selected loads.
func (r *report) measureLoads(ctx context.Context) error {
	contenders := map[string]*contender{}
	for _, ld := range loads() {
		if !r.lab.o.selected(ld.name) {
			continue
		}
		var taking []*contender
		for _, name := range ld.contenders {
			if contenders[name] == nil {
				c, err := r.lab.contender(ctx, name)
				if err != nil {
					return err
				}
				contenders[name] = c
			}
			taking = append(taking, contenders[name])
		}
		cells, err := r.lab.measure(ctx, ld, taking)
		if err != nil {
			return err
		}
		r.cells = append(r.cells, cells...)
	}
	for _, name := range []string{weirIn, weirOut, weirPair} {
		if c := contenders[name]; c != nil {
			if err := r.countEvents(ctx, c); err != nil {
				return err
			}
		}
	}
	return nil
}

// measure runs one load in rounds, the contenders taking turns.
func (l *lab) measure(ctx context.Context, ld *load, contenders []*contender) ([]*cell, error) {
	cells := make([]*cell, len(contenders))
	for i, c := range contenders {
		cells[i] = &cell{load: ld, contender: c.name}
		err := check(ctx, ld.group, c)
		if err == nil {
			// Connections, pages and pools are made before anything counts.
			_, err = ld.run(ctx, l, c, time.Second)
		}
		if err != nil {
			cells[i].err = err
			note("%s, %s: %v", ld.name, c.name, err)
		}
		if err := errors.Join(ctx.Err(), alive(l.procs)); err != nil {
			return nil, err
		}
	}
	settle := func() error { return nil } // reads the CPU of who was loaded last
	for round := range l.o.rounds {
		for i := range contenders {
			i = (i + round) % len(contenders)
			if cells[i].err != nil {
				continue
			}
			next, err := l.once(ctx, cells[i], contenders[i])
			if err = errors.Join(err, settle(), ctx.Err(), alive(l.procs)); err != nil {
				return nil, err
			}
			settle = next
		}
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(settlePatience):
	}
	if err := settle(); err != nil {
		return nil, err
	}
	for _, c := range cells {
		note("%s", c)
	}
	return cells, nil
}

// once measures one contender once. What it returns completes the sample with
// the CPU; it is to be called a while later.
func (l *lab) once(ctx context.Context, at *cell, c *contender) (settle func() error, err error) {
	nothing := func() error { return nil }
	before, err := cpuTime(c.procs)
	if err != nil {
		return nothing, err
	}
	res, err := at.load.run(ctx, l, c, l.o.duration)
	if err != nil {
		at.err = err
		note("%s, %s: %v", at.load.name, c.name, err)
		return nothing, nil
	}
	if res.units == 0 {
		at.err = errors.New("nothing was carried")
		return nothing, nil
	}
	return func() error {
		after, err := cpuTime(c.procs)
		at.samples = append(at.samples, sample{res, after - before})
		return err
	}, nil
}

// countEvents asks weir-proxies how many events they recorded and shed: figures
// with telemetry on are worth nothing if it was not.
func (r *report) countEvents(ctx context.Context, c *contender) error {
	for _, address := range c.admin {
		requests, err := metric(ctx, address, "weir_proxy_requests_total")
		if err != nil {
			return err
		}
		events, err1 := metric(ctx, address, "weir_proxy_events_total")
		shed, err2 := metric(ctx, address, "weir_proxy_events_shed_total")
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		r.events = append(r.events, eventCount{c.name, requests, events, shed})
		note("%s recorded %.0f requests and %.0f events, %.0f shed", c.name, requests, events, shed)
		if events == 0 {
			return fmt.Errorf("%s published no event: is the bus up?", c.name)
		}
	}
	return nil
}

// metric is the sum of a metric over all its labels.
func metric(ctx context.Context, address, name string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return 0, err
	}
	var sum float64
	found := false
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if key, _, _ = strings.Cut(key, "{"); key != name {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, fmt.Errorf("cannot read metric %s: %w", name, err)
		}
		sum += v
		found = true
	}
	if !found {
		return 0, fmt.Errorf("%s has no metric %s", address, name)
	}
	return sum, nil
}

// String is the cell in one line, for who watches.
func (c *cell) String() string {
	if c.err != nil {
		return fmt.Sprintf("%-12s %-36s FAILED: %v", c.load.name, c.contender, c.err)
	}
	cpu := c.spread(sample.microsPerUnit)
	return fmt.Sprintf("%-12s %-36s %8.2f µs CPU (%.2f–%.2f)  %10.0f/s", c.load.name, c.contender,
		cpu.median, cpu.least, cpu.greatest, c.spread(sample.rate).median)
}

// microsPerUnit is CPU in µs for a request, call or MiB.
func (s sample) microsPerUnit() float64 { return float64(s.cpu.Nanoseconds()) / 1e3 / s.units }

// rate is requests, calls or MiB a second.
func (s sample) rate() float64 { return s.units / s.elapsed.Seconds() }

// A spread is the median of some values, between the least and the greatest.
type spread struct{ least, median, greatest float64 }

func (c *cell) spread(of func(sample) float64) spread {
	var values []float64
	for _, s := range c.samples {
		values = append(values, of(s))
	}
	return spreadOf(values)
}

func spreadOf(values []float64) spread {
	n := len(values)
	if n == 0 {
		return spread{}
	}
	slices.Sort(values)
	return spread{values[0], (values[(n-1)/2] + values[n/2]) / 2, values[n-1]}
}

// note tells who watches how it goes.
func note(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
