package scan

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirmesh/weir/aggregator/match"
	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/event"
)

// Bounds of a grouping.
const (
	// MaxBy is how many dimensions there may be.
	MaxBy = 8
	// MaxTop is how many rows there may be.
	MaxTop = 1000
	// MaxGroups is how many are told apart while the events are read.
	MaxGroups = 8192
	// maxGaps is how many gaps are listed.
	maxGaps = 100
	// progressEvery is how often Grouping.Progress is called.
	progressEvery = 250 * time.Millisecond
)

// Grouping says how to sum up the events of a question.
type Grouping struct {
	// By are the dimensions; none: one row for all.
	By []*match.Field
	// Top is how many rows to give, those with the most requests; the rest is
	// (other).
	Top int
	// Direction is which events count. Zero: those that the resource got, or
	// where it got none within the time of the question, those that it sent.
	// So no request counts twice.
	Direction event.Direction
	// Groups is how many are told apart, at most MaxGroups; 0: MaxGroups.
	Groups int
	// Progress, where not nil, is called now and then, one call at a time.
	Progress func(Progress)
}

// Result is the answer to a Grouping.
type Result struct {
	// Rows in order of their requests and connections, the most first.
	Rows []Row
	// Other is the sum of all that has no row, Total that of everything: it is
	// exact whatever was evicted.
	Other, Total query.Stats
	// Others is how many groups Other has at least.
	Others int
	// Direction is which events count: Inbound or Outbound.
	Direction event.Direction
	// Oldest is the time of the oldest message of the stream; zero: it has none.
	Oldest time.Time
	// Progress at the end.
	Progress Progress
	// Gaps are the first hundred of what was missing, Missing the events of all
	// gaps as far as known, and MissingBatches the batches.
	Gaps                    []Gap
	Missing, MissingBatches uint64
}

// Group reads the events of a question, which must have an end, and sums them
// up. One goroutine reads the stream; as many as there are processors decode
// and sum up, each for itself.
func Group(ctx context.Context, s Source, q *Question, g *Grouping) (*Result, error) {
	if g.Groups == 0 {
		c := *g
		c.Groups, g = MaxGroups, &c
	}
	workers := runtime.GOMAXPROCS(0)
	c := &counter{question: q, grouping: g, tracker: newTracker(), batches: make(chan batch, 2*workers)}
	var wg sync.WaitGroup
	for range workers {
		w := newWorker(c, g.Groups/workers)
		c.workers = append(c.workers, w)
		wg.Go(w.run)
	}
	var oldest time.Time
	opened := func(x event.Extent) {
		oldest = x.Oldest
		c.total = x.Waiting
	}
	err := read(ctx, s, q, opened, c.hand(ctx))
	close(c.batches)
	wg.Wait()
	if err != nil {
		return nil, err
	}
	c.note(c.tracker.overdue(true)...)
	return c.result(oldest), nil
}

// batch is one message on its way to a worker.
type batch struct {
	from   event.Workload
	stored time.Time
	data   []byte
}

// counter is one Group under way.
type counter struct {
	question *Question
	grouping *Grouping
	batches  chan batch
	workers  []*worker

	// The reader's own.
	total, handed uint64
	stored        time.Time

	events, matched atomic.Uint64

	mu sync.Mutex
	// The rest is guarded by mu until the workers are done.
	tracker        *tracker
	gaps           []Gap
	missing        uint64
	missingBatches uint64
}

// hand returns what passes each batch on to the workers.
func (c *counter) hand(ctx context.Context) func(uint64, event.Workload, time.Time, []byte) error {
	last := time.Now()
	return func(_ uint64, from event.Workload, stored time.Time, data []byte) error {
		select {
		case c.batches <- batch{from, stored, data}:
		case <-ctx.Done():
			return ctx.Err()
		}
		c.handed++
		c.stored = stored
		if c.grouping.Progress != nil && time.Since(last) >= progressEvery {
			last = time.Now()
			c.grouping.Progress(c.progress())
		}
		return nil
	}
}

func (c *counter) progress() Progress {
	return Progress{Stored: c.stored, Batches: c.handed, Total: max(c.total, c.handed), Events: c.events.Load(), Matched: c.matched.Load()}
}

// admit takes a batch into account, and tells whether to count its events.
func (c *counter) admit(h *event.Header, n int, stored time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	fresh, shed := c.tracker.note(h, n, stored)
	if shed > 0 {
		c.note(Gap{Source: cloneSource(h.Source), Instance: h.Instance, From: h.Sequence, To: h.Sequence, Events: shed, Reason: Shed})
	}
	return fresh
}

// note keeps gaps; c.mu is held, or the workers are done.
func (c *counter) note(gaps ...Gap) {
	for _, g := range gaps {
		c.missing += g.Events
		if g.Reason == Lost {
			c.missingBatches += g.To - g.From + 1
		}
		if len(c.gaps) < maxGaps {
			c.gaps = append(c.gaps, g)
		}
	}
}

func (c *counter) result(oldest time.Time) *Result {
	first := c.workers[0]
	for _, w := range c.workers[1:] {
		first.got = first.got || w.got
		first.inbound.merge(w.inbound)
		first.outbound.merge(w.outbound)
	}
	out := &Result{Oldest: oldest, Direction: c.grouping.Direction, Gaps: c.gaps, Missing: c.missing, MissingBatches: c.missingBatches}
	if out.Direction == 0 {
		out.Direction = event.Inbound
		if !first.got {
			out.Direction = event.Outbound
		}
	}
	t := first.inbound
	if out.Direction == event.Outbound {
		t = first.outbound
	}
	out.Rows, out.Other, out.Total, out.Others = t.rows(c.grouping.Top)
	out.Progress = c.progress()
	return out
}

// worker counts some of the batches.
type worker struct {
	*counter
	reader *reader
	// got tells that the resource got any event at all.
	got               bool
	inbound, outbound *table
}

func newWorker(c *counter, groups int) *worker {
	groups = max(groups, 2)
	return &worker{counter: c, reader: newReader(c.question), inbound: newTable(c.grouping.By, groups), outbound: newTable(c.grouping.By, groups)}
}

func (w *worker) run() {
	for b := range w.batches {
		w.count(&b)
	}
}

func (w *worker) count(b *batch) {
	r := w.reader
	h, ok := r.begin(b.from, b.stored, b.data)
	if !ok {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.note(Gap{Source: event.Source{Workload: b.from}, Reason: Unreadable})
		return
	}
	if !r.selected(h) || !w.admit(h, r.decoder.Len(), b.stored) {
		return
	}
	var events, matched uint64
	for e := &r.event; r.decoder.Next(e); {
		if !r.within() || e.Direction != event.Inbound && e.Direction != event.Outbound {
			continue
		}
		events++
		inbound := e.Direction == event.Inbound
		w.got = w.got || inbound
		if w.grouping.Direction != 0 && w.grouping.Direction != e.Direction || !r.matches(h) {
			continue
		}
		matched++
		if inbound {
			w.inbound.add(h, e)
		} else {
			w.outbound.add(h, e)
		}
	}
	w.events.Add(events)
	w.matched.Add(matched)
}
