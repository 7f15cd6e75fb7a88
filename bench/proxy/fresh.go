package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/weirmesh/weir/bench/measure"
)

// renew replaces the processes of all contenders that have some by new ones,
// and warms those: where connections fall on a proxy's threads by chance, and
// stay, each round of a load draws anew. Contenders whose cells failed are left
// as they are.
func (l *lab) renew(ctx context.Context, ld *load, cells []*cell, contenders []*contender) error {
	for i, c := range contenders {
		if len(c.procs) == 0 || cells[i].err != nil {
			continue
		}
		if err := l.replace(ctx, c); err != nil {
			return err
		}
		if _, err := ld.run(ctx, l, c, time.Second); err != nil {
			cells[i].err = err
			measure.Note("%s, %s: %v", ld.name, c.name, err)
		}
	}
	return pause(ctx, settlePatience) // lest that be counted
}

// replace stops a contender's processes and starts new ones.
func (l *lab) replace(ctx context.Context, c *contender) error {
	var counts []eventCount
	for i, address := range c.admin {
		if c.name == weirOff {
			break // it counts nothing
		}
		n, err := c.counted(ctx, i, address)
		if err != nil {
			return err
		}
		counts = append(counts, n)
	}
	for _, p := range c.procs {
		p.Stop()
	}
	l.procs = slices.DeleteFunc(l.procs, func(p *measure.Process) bool { return slices.Contains(c.procs, p) })
	next, err := l.contender(ctx, c.name)
	if err != nil {
		return err
	}
	*c = *next
	c.before = counts
	return nil
}

// counted is what a weir-proxy of a contender, the i-th, and those that stood in
// its place before say that they recorded.
func (c *contender) counted(ctx context.Context, i int, address string) (eventCount, error) {
	requests, err := measure.Metric(ctx, address, "weir_proxy_requests_total")
	if err != nil {
		return eventCount{}, err
	}
	events, err1 := measure.Metric(ctx, address, "weir_proxy_events_total")
	shed, err2 := measure.Metric(ctx, address, "weir_proxy_events_shed_total")
	n := eventCount{c.name, requests, events, shed}
	if i < len(c.before) {
		n.requests += c.before[i].requests
		n.events += c.before[i].events
		n.shed += c.before[i].shed
	}
	return n, errors.Join(err1, err2)
}
