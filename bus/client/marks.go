package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A bus that dies with its machine loses what came last of a stream and was not
// synchronised with the disk, and gives the sequences again. Who goes on after a
// sequence then may leave out what has it and those before it now. So a reader
// remembers some marks with the time that the stream noted for them: where that
// is another, the message is another.
const (
	// markEvery is how far marks are apart, marksKept how many are remembered:
	// more than the bus takes to synchronise its files.
	markEvery = time.Second
	marksKept = 64
)

// mark is a message that was read: its sequence, and when the stream got it, Unix
// ns.
type mark struct {
	sequence uint64
	stored   int64
}

// marks are some that a reader was given, oldest first. One goroutine at a time
// uses them.
type marks struct {
	last mark
	some []mark
}

// note remembers a message that was read.
func (p *marks) note(m *message) {
	p.last = mark{m.sequence, m.stored.UnixNano()}
	if n := len(p.some); n > 0 && time.Duration(p.last.stored-p.some[n-1].stored).Abs() < markEvery {
		return
	}
	if len(p.some) == marksKept {
		p.some = slices.Delete(p.some, 0, 1)
	}
	p.some = append(p.some, p.last)
}

// settle returns where to go on in a stream of which what came up to after was
// read: there, or where the stream has other messages than those that were read,
// the newest mark before that; 0: at the beginning. What comes after was partly
// read before then.
func (p *marks) settle(ctx context.Context, stream jetstream.Stream, after uint64) (uint64, error) {
	if p.last.sequence == 0 {
		return after, nil
	}
	state := stream.CachedInfo().State
	same, err := p.last.holds(ctx, stream, &state)
	if same || err != nil {
		return after, err
	}
	for n := len(p.some) - 1; n >= 0; n-- {
		same, err = p.some[n].holds(ctx, stream, &state)
		switch {
		case err != nil:
			return after, err
		case same:
			p.last = p.some[n]
			return min(after, p.last.sequence), nil
		}
		p.some = p.some[:n]
	}
	p.last = mark{}
	return 0, nil
}

// holds tells whether the stream has this message at its mark, or is past it.
func (p mark) holds(ctx context.Context, stream jetstream.Stream, state *jetstream.StreamState) (bool, error) {
	switch {
	case p.sequence < state.FirstSeq:
		return true, nil
	case p.sequence > state.LastSeq:
		return false, nil
	}
	m, err := stream.GetMsg(ctx, p.sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot look up message %d of the stream: %w", p.sequence, err)
	}
	return m.Time.UnixNano() == p.stored, nil
}

// allMarks are those of partitions, while nobody reads them.
type allMarks struct {
	mu   sync.Mutex
	kept map[int]*marks
}

// take hands over the marks of a partition.
func (a *allMarks) take(partition int) *marks {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.kept[partition]
	if p == nil {
		return new(marks)
	}
	delete(a.kept, partition)
	return p
}

// put takes them back.
func (a *allMarks) put(partition int, p *marks) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.kept == nil {
		a.kept = make(map[int]*marks)
	}
	a.kept[partition] = p
}
