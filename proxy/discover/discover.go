// Package discover knows what is behind the addresses that a workload connects
// to: the endpoints of services, who each must prove to be, and what they speak.
//
// A [Resolver] asks the control plane about an address once, when it is first
// connected to, and is told of changes from then on. What it knows it goes on
// with while the control plane or the bus is away; when they are back it asks
// again about all of it.
package discover

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/balance"
)

// Reasons for plain connections, as events state them, beside those that the
// control plane gives.
const (
	// ReasonUnknown: nobody in the cluster has the address.
	ReasonUnknown = "not_in_cluster"
	// ReasonUnavailable: the control plane could not be asked.
	ReasonUnavailable = "discovery_unavailable"
	// ReasonUnmeshed is of an endpoint of which the control plane says no more.
	ReasonUnmeshed = "peer_not_meshed"
)

// Defaults of Options, and bounds.
const (
	DefaultMax = 2048
	// askTimeout bounds a question, and so how long a first connection waits.
	askTimeout = time.Second
	// Answers are asked for again when they are used after so long: changes are
	// told, so that is a precaution; but nobody tells of an address that was
	// nobody's, and what failed is worth another try soon.
	ttlKnown   = 5 * time.Minute
	ttlUnknown = 30 * time.Second
	ttlFailed  = time.Second
	// askers ask again, beside connections.
	askers = 4
	// watchDelay is waited before a watch that failed is begun again.
	watchDelay = time.Second
)

// Source is the control plane. Its methods are safe for concurrent use.
type Source interface {
	// Resolve asks what is behind an address.
	Resolve(ctx context.Context, r *control.ResolveRequest) (*control.Destination, error)
	// Watch calls fn, one call at a time, with each change of a destination, until
	// ctx ends. missed is called in between where changes may have been missed.
	Watch(ctx context.Context, fn func(*control.Destination), missed func()) error
}

// Options of a Resolver; Source is required.
type Options struct {
	Source Source
	// Cluster is the name of the cluster, as in events; Namespace the asking
	// pod's.
	Cluster, Namespace string
	// Max bounds the destinations that are known; default DefaultMax.
	Max int
	// Logger; default slog.Default().
	Logger *slog.Logger
}

// Resolver knows destinations. Its methods are safe for concurrent use.
type Resolver struct {
	o   Options
	log *slog.Logger
	// stale are destinations to be asked for again.
	stale chan *Destination

	asked, failed, changes, evicted atomic.Uint64

	mu    sync.Mutex // guards what follows, and what Destination says
	known map[netip.AddrPort]*Destination
}

// Stats is what a Resolver counted since its start.
type Stats struct {
	// Known is how many destinations it knows now.
	Known int
	// Asked counts questions, Failed those without an answer, Changes what it was
	// told of destinations that it knows, Evicted those that it forgot.
	Asked, Failed, Changes, Evicted uint64
}

// Stats returns the counters.
func (r *Resolver) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Stats{Known: len(r.known), Asked: r.asked.Load(), Failed: r.failed.Load(), Changes: r.changes.Load(), Evicted: r.evicted.Load()}
}

// New makes a Resolver. It is told of changes while Run runs.
func New(o Options) *Resolver {
	if o.Max <= 0 {
		o.Max = DefaultMax
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Resolver{o: o, log: o.Logger, stale: make(chan *Destination, o.Max), known: make(map[netip.AddrPort]*Destination)}
}

// Run follows changes until ctx ends.
func (r *Resolver) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for range askers {
		wg.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case d := <-r.stale:
					r.ask(ctx, d)
				}
			}
		})
	}
	for ctx.Err() == nil {
		err := r.o.Source.Watch(ctx, r.change, r.missed)
		if ctx.Err() != nil {
			break
		}
		r.log.Warn("cannot follow changes of endpoints; trying on", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(watchDelay):
		}
	}
	wg.Wait()
	r.mu.Lock()
	var all []*Destination
	for _, d := range r.known {
		all = append(all, d)
	}
	clear(r.known)
	r.mu.Unlock()
	for _, d := range all {
		d.end()
	}
}

// Resolve returns what is known of an address; where that is nothing yet it
// asks, for a second at most. The Destination must be released.
func (r *Resolver) Resolve(ctx context.Context, addr netip.AddrPort) *Destination {
	now := time.Now()
	r.mu.Lock()
	d, first := r.known[addr], false
	if d == nil {
		gone := r.makeRoom()
		d = newDestination(r, addr)
		if len(r.known) < r.o.Max {
			r.known[addr] = d
		}
		first = true
		if gone != nil {
			defer gone.end()
		}
	}
	d.refs++
	d.used = now
	asking := d.asking
	switch old := now.Sub(d.asked); {
	case first:
	case asking != nil:
		if d.answered {
			asking = nil // what is known will do
		}
	case d.failing && !d.answered && old > ttlFailed:
		first = true
	case d.failing && old > ttlFailed, !d.failing && !d.known && old > ttlUnknown, old > ttlKnown:
		d.requeue()
	}
	if first {
		d.asking = make(chan struct{})
	}
	r.mu.Unlock()
	switch {
	case first:
		r.askNow(ctx, d)
	case asking != nil:
		select {
		case <-asking:
		case <-ctx.Done():
		}
	}
	return d
}

// makeRoom forgets the destination that nobody uses and was not used for the
// longest time, where there are too many. mu is held.
func (r *Resolver) makeRoom() *Destination {
	if len(r.known) < r.o.Max {
		return nil
	}
	var oldest *Destination
	for _, d := range r.known {
		if d.refs == 0 && (oldest == nil || d.used.Before(oldest.used)) {
			oldest = d
		}
	}
	if oldest != nil {
		delete(r.known, oldest.addr)
		oldest.gone = true
		r.evicted.Add(1)
	}
	return oldest
}

// ask asks again about a destination.
func (r *Resolver) ask(ctx context.Context, d *Destination) {
	r.mu.Lock()
	d.queued = false
	if d.asking != nil || d.gone {
		d.again = d.asking != nil // its answer may be older than what this is about
		r.mu.Unlock()
		return
	}
	d.asking = make(chan struct{})
	r.mu.Unlock()
	r.askNow(ctx, d)
}

// askNow asks; whoever calls it has set d.asking.
func (r *Resolver) askNow(ctx context.Context, d *Destination) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	r.asked.Add(1)
	r.mu.Lock()
	before := d.applied
	r.mu.Unlock()
	answer, err := r.o.Source.Resolve(ctx, &control.ResolveRequest{Addr: d.addr, Namespace: r.o.Namespace})
	if err == nil && answer.Error != nil {
		err = answer.Error
	}
	r.mu.Lock()
	d.asked = time.Now()
	d.failing = err != nil
	switch {
	case err != nil:
		r.failed.Add(1)
		r.log.Debug("cannot ask what is behind an address", "address", d.addr, "error", err)
	case d.applied == before || newer(answer, d.state):
		// A change that was told while the question was under way may be later.
		d.apply(answer)
	}
	close(d.asking)
	d.asking = nil
	if d.again {
		d.again = false
		d.requeue()
	}
	r.mu.Unlock()
}

// newer tells whether a was said after b. What different controllers say has no
// order but that in which it comes.
func newer(a, b *control.Destination) bool {
	return b == nil || a.Epoch != b.Epoch || a.Newer(b)
}

// change takes what the control plane tells.
func (r *Resolver) change(c *control.Destination) {
	if c.Error != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, addr := range c.Addrs {
		if addr.Port() == 0 {
			// Something about the whole IP address: ask, where it is of interest.
			for known, d := range r.known {
				if known.Addr() == addr.Addr() {
					r.changes.Add(1)
					d.requeue()
				}
			}
			continue
		}
		if d := r.known[addr]; d != nil && newer(c, d.state) {
			r.changes.Add(1)
			d.failing = false
			d.apply(c)
		}
	}
}

// missed has all destinations asked for again.
func (r *Resolver) missed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range r.known {
		d.requeue()
	}
}

// protocols are those that the control plane may name.
var protocols = map[string]event.Protocol{
	"http/1": event.HTTP1, "http/2": event.HTTP2, "grpc": event.HTTP2, "tcp": event.TCP,
}

// endpoint is an endpoint as the balancer and the dialler know it.
func (r *Resolver) endpoint(e *control.Endpoint) balance.Endpoint {
	b := balance.Endpoint{Addr: e.Addr.String(), Pod: e.Pod, Identity: e.Identity, Reason: e.Reason}
	if e.Name != "" {
		b.Workload = event.Workload{Cluster: r.o.Cluster, Namespace: e.Namespace, Kind: e.Kind, Name: e.Name}
	}
	if b.Identity == "" && b.Reason == "" {
		b.Reason = ReasonUnmeshed
	}
	return b
}
