package scan

import (
	"math"
	"slices"
	"strings"
	"time"

	"github.com/weirmesh/weir/event"
)

// Reasons of a [Gap].
const (
	// Lost: batches that are missing in a proxy's numbering.
	Lost = "lost"
	// Shed: the proxy itself gave up the detail of events, and says so.
	Shed = "shed"
	// Unreadable: a message that is no batch, or not of the workload on whose
	// subject it came.
	Unreadable = "unreadable"
)

// Gap is what a reader of a source's events did not get.
type Gap struct {
	Source event.Source
	// Instance of the proxy; 0 where it is not known.
	Instance uint64
	// From and To are the first and last batch that is missing; for Shed, the
	// batch that says so.
	From, To uint64
	// Events that are missing; 0 where nobody can tell.
	Events uint64
	// Reason is one of the constants above.
	Reason string
}

// patience is how long, by the stream's clock, a missing batch may still come:
// a proxy sends again what was not acknowledged, and later ones may overtake.
const patience = 10 * time.Second

// Bounds of what a tracker remembers.
const (
	maxInstances = 1 << 16
	maxHoles     = 256
	forgetAfter  = 10 * time.Minute
)

// tracker finds repetitions and gaps in the numbering of batches, in whatever
// order they come. It is not safe for concurrent use.
type tracker struct {
	instances map[instanceID]*instance
	// open has the instances with holes that were not reported yet.
	open map[*instance]struct{}
	// newest is the latest time of storage seen.
	newest time.Time
}

type instanceID struct {
	instance uint64
	workload event.Workload
}

type instance struct {
	id     instanceID
	source event.Source
	// first and high are the least and greatest number seen, and opening is the one
	// seen first.
	first, high, opening uint64
	// carried counts the events in batches up to high, shed those given up.
	carried, shed uint64
	seen          time.Time
	// holes are the ranges between first and high that did not come, in order.
	holes []hole
}

type hole struct {
	from, to uint64
	// before and after are the events carried up to from-1, and up to `to`.
	before, after uint64
	since         time.Time
	// quiet holes are not reported, or were already.
	quiet bool
}

func newTracker() *tracker {
	return &tracker{instances: map[instanceID]*instance{}, open: map[*instance]struct{}{}}
}

// note takes a batch of n events into account, and tells whether it is new. shed
// is what the batch says to have been given up since the one before.
func (t *tracker) note(h *event.Header, n int, stored time.Time) (fresh bool, shed uint64) {
	if stored.After(t.newest) {
		t.newest = stored
	}
	carried := h.Produced - min(h.Produced, h.Shed)
	s := t.instances[instanceID{h.Instance, h.Source.Workload}]
	if s == nil {
		s = t.adopt(h)
		if s == nil {
			return true, 0
		}
		s.carried, s.shed, s.seen = carried, h.Shed, stored
		if h.Sequence == 1 {
			shed = h.Shed
		}
		return true, shed
	}
	s.seen = stored
	switch {
	case h.Sequence > s.high:
		if h.Sequence > s.high+1 {
			t.miss(s, hole{from: s.high + 1, to: h.Sequence - 1, before: s.carried, after: carried - min(carried, uint64(n)), since: stored})
		}
		if h.Shed > s.shed {
			shed = h.Shed - s.shed
		}
		s.high, s.carried, s.shed = h.Sequence, carried, max(s.shed, h.Shed)
		return true, shed
	case h.Sequence < s.first:
		// What lies between was not asked for, perhaps.
		if h.Sequence+1 < s.first {
			s.holes = slices.Insert(s.holes, 0, hole{from: h.Sequence + 1, to: s.first - 1, quiet: true})
		}
		s.first = h.Sequence
		return true, 0
	}
	return s.fill(h.Sequence, carried, uint64(n)), 0
}

// knows tells whether note can say for certain if a batch is new, however long ago
// it may have come before.
func (t *tracker) knows(h *event.Header) bool {
	s := t.instances[instanceID{h.Instance, h.Source.Workload}]
	return s != nil && h.Sequence >= s.opening
}

func (t *tracker) adopt(h *event.Header) *instance {
	if len(t.instances) >= maxInstances {
		for id, s := range t.instances {
			if t.newest.Sub(s.seen) > forgetAfter {
				delete(t.instances, id)
				delete(t.open, s)
			}
		}
		if len(t.instances) >= maxInstances {
			return nil
		}
	}
	s := &instance{source: cloneSource(h.Source), first: h.Sequence, high: h.Sequence, opening: h.Sequence}
	s.id = instanceID{h.Instance, s.source.Workload}
	t.instances[s.id] = s
	return s
}

// miss notes a hole.
func (t *tracker) miss(s *instance, h hole) {
	if len(s.holes) >= maxHoles {
		// The oldest is given up: it was reported by now, or never will be
		// filled.
		s.first = s.holes[0].to + 1
		s.holes = slices.Delete(s.holes, 0, 1)
	}
	s.holes = append(s.holes, h)
	t.open[s] = struct{}{}
}

// fill takes a batch out of the holes, and tells whether it was in one.
func (s *instance) fill(sequence, carried, n uint64) bool {
	for i := range s.holes {
		h := s.holes[i]
		if sequence < h.from || sequence > h.to {
			continue
		}
		left, right := h, h
		left.to, left.after = sequence-1, carried-min(carried, n)
		right.from, right.before = sequence+1, carried
		var parts []hole
		for _, p := range []hole{left, right} {
			if p.from <= p.to {
				parts = append(parts, p)
			}
		}
		s.holes = slices.Replace(s.holes, i, i+1, parts...)
		return true
	}
	return false
}

// overdue gives the gaps that were not filled in time; with all, those that
// might still be, too.
func (t *tracker) overdue(all bool) []Gap {
	var out []Gap
	for s := range t.open {
		waiting := false
		for i := range s.holes {
			h := &s.holes[i]
			switch {
			case h.quiet:
			case all || t.newest.Sub(h.since) >= patience:
				h.quiet = true
				out = append(out, Gap{Source: s.source, Instance: s.id.instance, From: h.from, To: h.to, Events: h.after - min(h.after, h.before), Reason: Lost})
			default:
				waiting = true
			}
		}
		if !waiting {
			delete(t.open, s)
		}
	}
	slices.SortFunc(out, func(a, b Gap) int {
		if c := strings.Compare(a.Source.Workload.String()+a.Source.Pod, b.Source.Workload.String()+b.Source.Pod); c != 0 {
			return c
		}
		return int(min(a.From, math.MaxInt32)) - int(min(b.From, math.MaxInt32))
	})
	return out
}

func cloneSource(s event.Source) event.Source {
	return event.Source{Workload: cloneWorkload(s.Workload), Pod: strings.Clone(s.Pod), Node: strings.Clone(s.Node)}
}

func cloneWorkload(w event.Workload) event.Workload {
	return event.Workload{
		Cluster:   strings.Clone(w.Cluster),
		Namespace: strings.Clone(w.Namespace),
		Kind:      strings.Clone(w.Kind),
		Name:      strings.Clone(w.Name),
	}
}
