package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weirmesh/weir/bench/measure"
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
	machine := measure.DescribeMachine()
	l, err := newLab(ctx, o)
	defer l.close()
	if err != nil {
		return err
	}
	l.versions = versions(ctx, o)
	r := &report{lab: l, machine: machine, began: time.Now()}
	measure.Note("%s; load average %s", machine.CPU, machine.Load)
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
		if err == nil && !ld.fresh {
			// Connections, pages and pools are made before anything counts.
			_, err = ld.run(ctx, l, c, time.Second)
		}
		if err != nil {
			cells[i].err = err
			measure.Note("%s, %s: %v", ld.name, c.name, err)
		}
		if err := errors.Join(ctx.Err(), measure.Alive(l.procs)); err != nil {
			return nil, err
		}
	}
	settle := func() error { return nil } // reads the CPU of who was loaded last
	for round := range l.o.rounds {
		if ld.fresh {
			if err := errors.Join(pause(ctx, settlePatience), settle()); err != nil {
				return nil, err
			}
			settle = func() error { return nil }
			if err := l.renew(ctx, ld, cells, contenders); err != nil {
				return nil, err
			}
		}
		for i := range contenders {
			i = (i + round) % len(contenders)
			if cells[i].err != nil {
				continue
			}
			next, err := l.once(ctx, cells[i], contenders[i])
			if err = errors.Join(err, settle(), ctx.Err(), measure.Alive(l.procs)); err != nil {
				return nil, err
			}
			settle = next
		}
	}
	if err := errors.Join(pause(ctx, settlePatience), settle()); err != nil {
		return nil, err
	}
	for _, c := range cells {
		measure.Note("%s", c)
	}
	return cells, nil
}

// once measures one contender once. What it returns completes the sample with
// the CPU; it is to be called a while later.
func (l *lab) once(ctx context.Context, at *cell, c *contender) (settle func() error, err error) {
	nothing := func() error { return nil }
	before, err := measure.CPUTime(c.procs)
	if err != nil {
		return nothing, err
	}
	res, err := at.load.run(ctx, l, c, l.o.duration)
	if err != nil {
		at.err = err
		measure.Note("%s, %s: %v", at.load.name, c.name, err)
		return nothing, nil
	}
	if res.units == 0 {
		at.err = errors.New("nothing was carried")
		return nothing, nil
	}
	return func() error {
		after, err := measure.CPUTime(c.procs)
		at.samples = append(at.samples, sample{res, after - before})
		return err
	}, nil
}

// countEvents asks weir-proxies how many events they recorded and shed: figures
// with telemetry on are worth nothing if it was not.
func (r *report) countEvents(ctx context.Context, c *contender) error {
	for i, address := range c.admin {
		n, err := c.counted(ctx, i, address)
		if err != nil {
			return err
		}
		r.events = append(r.events, n)
		measure.Note("%s recorded %.0f requests and %.0f events, %.0f shed", c.name, n.requests, n.events, n.shed)
		if n.events == 0 {
			return fmt.Errorf("%s published no event: is the bus up?", c.name)
		}
	}
	return nil
}

// String is the cell in one line, for who watches.
func (c *cell) String() string {
	if c.err != nil {
		return fmt.Sprintf("%-12s %-36s FAILED: %v", c.load.name, c.contender, c.err)
	}
	cpu := c.spread(sample.microsPerUnit)
	return fmt.Sprintf("%-12s %-36s %8.2f µs CPU (%.2f–%.2f)  %10.0f/s", c.load.name, c.contender,
		cpu.Median, cpu.Least, cpu.Greatest, c.spread(sample.rate).Median)
}

// microsPerUnit is CPU in µs for a request, call or MiB.
func (s sample) microsPerUnit() float64 { return float64(s.cpu.Nanoseconds()) / 1e3 / s.units }

// rate is requests, calls or MiB a second.
func (s sample) rate() float64 { return s.units / s.elapsed.Seconds() }

// spread is the median of what of says of the rounds.
func (c *cell) spread(of func(sample) float64) measure.Spread {
	var values []float64
	for _, s := range c.samples {
		values = append(values, of(s))
	}
	return measure.SpreadOf(values)
}
