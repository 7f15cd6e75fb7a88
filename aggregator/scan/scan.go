// Package scan reads raw events back from the stream and answers from them what
// was decided only now: which of them match a filter ([Follow]), and the
// statistics of those that match by any of their fields ([Group]).
//
// A reading is complete, and proves it: each source numbers its batches and says
// how many events they carry, so that what is missing is found, counted and
// named ([Gap]), and what comes twice is taken once.
package scan

import (
	"context"
	"math"
	"time"

	"github.com/weirmesh/weir/aggregator/match"
	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/event"
)

// Source is the stream of events. Package bus/client has one. It must be safe
// for concurrent use.
type Source interface {
	// ReadEvents calls fn with every batch of the workloads that match w, whose
	// empty fields match all, in the order of the stream: those stored at since
	// or later (zero: that come from now on), and ends before until or, where it
	// is zero, with ctx. from is whose subject the batch came on; data is fn's to
	// keep. sequence is its number in the stream. opened is called once before,
	// with what the stream holds.
	ReadEvents(ctx context.Context, w event.Workload, since, until time.Time, opened func(event.Extent),
		fn func(sequence uint64, from event.Workload, stored time.Time, data []byte) error) error
}

// Question says which events to read.
type Question struct {
	// Resource is whose proxies' events.
	Resource query.Selector
	// Match tells which of them; nil: all.
	Match *match.Matcher
	// Since and Until are when an event ended, [Since, Until). A zero Since:
	// what is stored from now on, whenever it ended. A zero Until: no end.
	Since, Until time.Time
	// After, where not nil, leaves out all up to there, which an earlier reading
	// that asked the same has had. Only [Follow] knows it.
	After *Position
}

const (
	// skew is how far a proxy's clock may be ahead of the stream's: batches
	// that were stored so long before a window may have events of it.
	skew = 2 * time.Minute
	// lateness is how long after a window its events may still have come: a
	// proxy keeps them while the bus is away.
	lateness = 10 * time.Minute
	// backlog is how long a batch may have waited; a clock that is further
	// behind is wrong.
	backlog = 3 * time.Hour
	// warmUp is how long before the place to go on from batches are looked at, to
	// know which are missing in their numbering, or come again.
	warmUp = patience + 5*time.Second
)

// read is Source.ReadEvents for a question.
func read(ctx context.Context, s Source, q *Question, opened func(event.Extent), fn func(sequence uint64, from event.Workload, stored time.Time, data []byte) error) error {
	since, until := q.Since, q.Until
	if !since.IsZero() {
		since = since.Add(-skew)
	}
	if q.After != nil {
		since = q.After.Stored.Add(-warmUp)
	}
	if !until.IsZero() {
		until = until.Add(lateness)
	}
	return s.ReadEvents(ctx, subject(q.Resource), since, until, opened, fn)
}

// subject is whose events to read; what it cannot say, the events are asked.
func subject(sel query.Selector) event.Workload {
	w := event.Workload{Cluster: sel.Cluster, Namespace: sel.Namespace}
	if sel.Kind != query.KindPod && sel.Kind != query.KindNamespace {
		w.Kind, w.Name = sel.Kind, sel.Name
	}
	return w
}

// reader decodes batches for one goroutine.
type reader struct {
	question *Question
	decoder  event.Decoder
	event    event.Event
	// since and until, µs since 1970, and shift, what to add to the times of the
	// batch at hand because its clock is wrong.
	since, until, shift int64
	// end is when the event at hand did.
	end int64
}

func newReader(q *Question) *reader {
	r := &reader{question: q, since: math.MinInt64, until: math.MaxInt64}
	if !q.Since.IsZero() {
		r.since = q.Since.UnixMicro()
	}
	if !q.Until.IsZero() {
		r.until = q.Until.UnixMicro()
	}
	return r
}

// begin reads a batch's header; false where it is none, or another's.
func (r *reader) begin(from event.Workload, stored time.Time, data []byte) (*event.Header, bool) {
	if err := r.decoder.Reset(data); err != nil {
		return nil, false
	}
	h := r.decoder.Header()
	if h.Source.Workload != from || h.Instance == 0 || h.Sequence == 0 {
		return nil, false
	}
	r.shift = 0
	if late := stored.UnixMicro() - h.Sent; late < -skew.Microseconds() || late > backlog.Microseconds() {
		r.shift = late
	}
	return h, true
}

// within tells whether the event at hand is of the question's time.
func (r *reader) within() bool {
	e := &r.event
	e.Start += r.shift
	r.end = e.Start + int64(min(e.Duration, math.MaxInt64/4))
	return r.end >= r.since && r.end < r.until
}

// matches tells whether the event at hand is asked for.
func (r *reader) matches(h *event.Header) bool {
	return r.question.Match == nil || r.question.Match.Match(h, &r.event)
}

// selected tells whether a batch is the question's resource's.
func (r *reader) selected(h *event.Header) bool {
	return match.Selects(r.question.Resource, &h.Source.Workload, h.Source.Pod)
}

// Visitor is told what a reading finds, one call at a time. What it is given is
// valid during the call only. An error that it returns ends the reading.
type Visitor struct {
	// Opened is called once, first, with what the stream holds, and the place in
	// it that the reading begins at.
	Opened func(x event.Extent, at Position)
	// Event is called with each event that matches, its place in its batch, and
	// the batch's in the stream.
	Event func(sequence uint64, h *event.Header, index int, e *event.Event) error
	// Gap is called with what is missing.
	Gap func(Gap) error
	// Batch is called after each batch with what was read so far.
	Batch func(h *event.Header, p Progress) error
}

// Progress is how far a reading is.
type Progress struct {
	// Stored is when the batch read last was stored.
	Stored time.Time
	// Batches read, of Total where the reading has an end; Events that were
	// looked at, and Matched.
	Batches, Total, Events, Matched uint64
	// Sequence is the number in the stream of the batch read last.
	Sequence uint64
	// First and Last are the earliest and the latest end, µs since 1970, of the
	// events that were looked at; 0 before the first. Only [Follow] tells.
	First, Last int64
}
