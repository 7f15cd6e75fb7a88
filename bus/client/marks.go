package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirmesh/weir/event"
)

// A bus that dies with its machine loses what came last of a stream and was not
// synchronised with the disk, and gives the sequences again. Who goes on after a
// sequence then may leave out what has it and those before it now. So a reader
// remembers some marks: where the stream's message is another, it goes on from an
// earlier one that is not.
const (
	// markEvery is how far the marks are apart that are remembered of what is read,
	// marksKept how many there are: far more than the bus takes to synchronise its
	// files.
	markEvery = time.Second
	marksKept = 256
)

// marks are some of the messages that a reader was given. One goroutine at a time
// uses them.
type marks struct {
	// last is where to go on, if it is what was read.
	last event.Mark
	// some are what was read before, oldest first, and perhaps last.
	some []event.Mark
}

// marksOf are those of a reader that was given these before, oldest first.
func marksOf(read []event.Mark) *marks {
	p := new(marks)
	for _, m := range read {
		p.last = m
		if m.Sequence > 0 && m.Stored != 0 {
			p.some = append(p.some, m)
		}
	}
	return p
}

// note remembers a message that was read.
func (p *marks) note(m event.Mark) {
	p.last = m
	n := len(p.some)
	if n > 0 && time.Duration(m.Stored-p.some[n-1].Stored).Abs() < markEvery {
		return
	}
	if n >= marksKept {
		p.some = slices.Delete(p.some, 0, n-marksKept+1)
	}
	p.some = append(p.some, m)
}

// settle returns after which sequence to go on in the stream: the last that was read,
// or where the stream has another message there, an earlier one that it still has as
// it was read; 0: at the beginning. What comes after was partly read before then.
//
// What was found out is kept where it fails, so that it can be tried again.
func (p *marks) settle(ctx context.Context, stream jetstream.Stream) (uint64, error) {
	state := &stream.CachedInfo().State
	for back := 1; p.last.Sequence > 0; back *= 2 {
		same, err := holds(ctx, stream, state, p.last)
		if same || err != nil {
			return p.last.Sequence, err
		}
		p.retreat(back)
	}
	return 0, nil
}

// retreat goes back by so many marks, as far as there are. Who goes twice as far each
// time needs few look-ups, and reads again no more than was lost.
func (p *marks) retreat(back int) {
	n := len(p.some)
	if n > 0 && p.some[n-1] == p.last {
		n--
	}
	if n == 0 {
		p.last, p.some = event.Mark{}, nil
		return
	}
	p.some = p.some[:max(n-back+1, 1)]
	p.last = p.some[len(p.some)-1]
}

// holds tells whether the stream has the message that was read, or only later ones:
// then none is left out.
func holds(ctx context.Context, stream jetstream.Stream, state *jetstream.StreamState, m event.Mark) (bool, error) {
	switch {
	case m.Sequence < state.FirstSeq:
		return true, nil
	case m.Sequence > state.LastSeq:
		return false, nil
	case m.Stored == 0:
		return true, nil // nobody can tell
	}
	message, err := stream.GetMsg(ctx, m.Sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot look up message %d of the stream: %w", m.Sequence, err)
	}
	return message.Time.UnixNano() == m.Stored, nil
}
