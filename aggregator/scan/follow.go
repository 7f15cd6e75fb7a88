package scan

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/weirmesh/weir/event"
)

// Position is a place in the stream of events, from which a reading goes on that
// ended there.
type Position struct {
	// Stream is when the stream was made, as event.Extent's Created.
	Stream time.Time
	// Sequence is the number of a batch, and Events how many of its first events
	// lie before the place; 0: all.
	Sequence uint64
	Events   int
	// Stored is when that batch was stored, or one before it.
	Stored time.Time
}

// Missed tells whether the stream has no longer all that came after the place, or
// is another.
func (p *Position) Missed(x *event.Extent) bool {
	return !p.in(x) || x.First > p.Sequence+1
}

// in tells whether a place is one in that stream.
func (p *Position) in(x *event.Extent) bool {
	return p.Stream.Equal(x.Created) && x.Last >= p.Sequence
}

// read is how many of a batch's first events lie before the place.
func (p *Position) read(sequence uint64) int {
	switch {
	case p == nil || sequence > p.Sequence:
		return 0
	case sequence == p.Sequence && p.Events > 0:
		return p.Events
	}
	return math.MaxInt
}

// Follow reads the events of a question in the order of the stream until its
// end, or ctx's, whose error it returns.
func Follow(ctx context.Context, s Source, q *Question, v *Visitor) error {
	f := &follower{question: q, visitor: v, reader: newReader(q), tracker: newTracker(), after: q.After}
	f.lookBack = func(from event.Workload, since, until time.Time, fn func(data []byte) error) error {
		return s.ReadEvents(ctx, from, since, until, func(event.Extent) {}, func(_ uint64, _ event.Workload, _ time.Time, data []byte) error { return fn(data) })
	}
	err := read(ctx, s, q, f.opened, f.batch)
	if err != nil {
		return err
	}
	return f.gaps(true)
}

// follower is one Follow under way.
type follower struct {
	question *Question
	visitor  *Visitor
	reader   *reader
	tracker  *tracker
	after    *Position
	progress Progress
	// lookBack reads a workload's batches that were stored in a time.
	lookBack func(from event.Workload, since, until time.Time, fn func(data []byte) error) error
}

func (f *follower) opened(x event.Extent) {
	if f.after != nil && !f.after.in(&x) {
		f.after = nil
	}
	f.progress.Total = x.Waiting
	f.visitor.Opened(x, f.begin(&x))
}

// begin is the place that the reading begins at.
func (f *follower) begin(x *event.Extent) Position {
	switch q := f.question; {
	case f.after != nil:
		return *f.after
	case q.After != nil:
		return Position{Stream: x.Created, Sequence: max(x.First, 1) - 1, Stored: q.After.Stored}
	case !q.Since.IsZero():
		return Position{Stream: x.Created, Sequence: max(x.First, 1) - 1, Stored: q.Since.Add(-skew)}
	case x.Newest.IsZero():
		return Position{Stream: x.Created, Sequence: x.Last, Stored: time.Now()}
	}
	return Position{Stream: x.Created, Sequence: x.Last, Stored: x.Newest}
}

func (f *follower) batch(sequence uint64, from event.Workload, stored time.Time, data []byte) error {
	f.progress.Batches++
	f.progress.Stored = stored
	f.progress.Sequence = sequence
	// What was read before is looked at for the numbering's sake only.
	read := f.after.read(sequence)
	h, ok := f.reader.begin(from, stored, data)
	switch {
	case !ok && read > 0:
		return nil
	case !ok:
		return f.visitor.Gap(Gap{Source: event.Source{Workload: from}, Reason: Unreadable})
	case !f.reader.selected(h):
		return nil
	}
	if read == 0 {
		if repeated, err := f.repeated(from, h); err != nil || repeated {
			return err
		}
	}
	fresh, shed := f.tracker.note(h, f.reader.decoder.Len(), stored)
	if !fresh {
		return nil
	}
	if read > 0 {
		f.tracker.overdue(false)
		if read >= f.reader.decoder.Len() {
			return nil
		}
	} else {
		if shed > 0 {
			if err := f.visitor.Gap(Gap{Source: h.Source, Instance: h.Instance, From: h.Sequence, To: h.Sequence, Events: shed, Reason: Shed}); err != nil {
				return err
			}
		}
		if err := f.gaps(false); err != nil {
			return err
		}
	}
	if err := f.events(sequence, h, read); err != nil {
		return err
	}
	return f.visitor.Batch(h, f.progress)
}

// errRepeated ends a look back.
var errRepeated = errors.New("the batch had come before")

// repeated tells whether a batch that comes after the place to go on from had come
// so long before it that nothing else tells of it. The stream itself is asked, so
// that this takes no memory; it is rarely to be asked, for the bus keeps most
// repetitions out, and of the others most were seen.
func (f *follower) repeated(from event.Workload, h *event.Header) (bool, error) {
	if f.after == nil {
		return false, nil
	}
	// When what was looked at before the place begins, and when it had been sealed,
	// or later, where its clock was ahead.
	until, since := f.after.Stored.Add(-warmUp), time.UnixMicro(h.Sent+f.reader.shift).Add(-skew)
	if !since.Before(until) || f.tracker.knows(h) {
		return false, nil
	}
	var decoder event.Decoder
	err := f.lookBack(from, since, until, func(data []byte) error {
		if err := decoder.Reset(data); err != nil {
			return nil // it was reported when it was read
		}
		if e := decoder.Header(); e.Instance == h.Instance && e.Sequence == h.Sequence && e.Source.Workload == from {
			return errRepeated
		}
		return nil
	})
	if errors.Is(err, errRepeated) {
		return true, nil
	}
	return false, err
}

// gaps reports the gaps that were not filled in time; with all, those that might
// still be, too.
func (f *follower) gaps(all bool) error {
	for _, gap := range f.tracker.overdue(all) {
		if err := f.visitor.Gap(gap); err != nil {
			return err
		}
	}
	return nil
}

// events visits the events of a batch that match, but for those that were read.
func (f *follower) events(sequence uint64, h *event.Header, read int) error {
	r, p := f.reader, &f.progress
	for index := 0; r.decoder.Next(&r.event); index++ {
		if index < read || !r.within() {
			continue
		}
		if p.Events++; p.Events == 1 {
			p.First, p.Last = r.end, r.end
		}
		p.First, p.Last = min(p.First, r.end), max(p.Last, r.end)
		if !r.matches(h) {
			continue
		}
		p.Matched++
		if err := f.visitor.Event(sequence, h, index, &r.event); err != nil {
			return err
		}
	}
	return nil
}
