package api

import (
	"context"
	"sync"
	"time"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/api/wire"
	"google.golang.org/grpc/status"
)

// Bounds of what is shared.
const (
	// shareFor is how old an answer may be, from when its question was put: an
	// event that was late is seen that much later, at most.
	shareFor = time.Second
	// maxShared answers are under way or kept at a time; who asks beyond that
	// asks alone.
	maxShared = 8
)

// answer is the aggregators' merged reply. Nobody changes it once it has been
// made: several may be reading it.
type answer struct {
	*query.Reply
	// answered is how many aggregators it is of.
	answered int
	// window is what was asked for.
	window window
	// shown are the rows of a stat; or written, as they are sent, where there are
	// many: then shown and Rows are nil.
	shown   []shownRow
	written []byte
}

// write writes the rows, where there are many: what nobody here looks at needs no
// messages, nor to be written for each who has the answer.
func (a *answer) write() {
	if len(a.shown) < portion {
		return
	}
	_, w := coverage(a.window, a.Reply, a.answered)
	written := wire.SetRows(&weirpb.StatResponse{}, len(a.shown), func() func(int) *weirpb.StatRow {
		var room statRoom
		return func(i int) *weirpb.StatRow { return statRow(&room, a.shown[i], w.seconds()) }
	})
	if written != nil {
		a.written, a.shown, a.Rows = written, nil, nil
	}
}

// giveRows gives out the rows; seconds is the window's length.
func (a *answer) giveRows(out *weirpb.StatResponse, seconds float64) {
	if a.written != nil {
		wire.SetWritten(out, a.written)
		return
	}
	out.Rows = make([]*weirpb.StatRow, len(a.shown))
	for i, r := range a.shown {
		out.Rows[i] = statRow(&statRoom{}, r, seconds)
	}
}

// complete tells whether each partition is in the answer once: then it is the
// whole truth about its window, whoever owns the partitions by now.
func (a *answer) complete() bool {
	missing, duplicate := query.Missing(a.Reply)
	return len(missing) == 0 && len(duplicate) == 0
}

// shared gives those who ask the same, at the same time or just after, one
// answer: many who watch a dashboard cost as much as one. It is safe for
// concurrent use.
type shared struct {
	mu      sync.Mutex
	flights map[string]*flight
	stopped bool
}

// flight is an answer under way, or kept.
type flight struct {
	began time.Time
	// done is closed once answer is set: nil where there is none to share.
	done   chan struct{}
	answer *answer
	// forget ends a kept answer.
	forget *time.Timer
}

// do gives an answer to a question that is not older than shareFor: another's, or
// that of ask.
func (s *shared) do(ctx context.Context, question string, ask func() (*answer, error)) (*answer, error) {
	f, mine := s.join(question)
	switch {
	case f == nil:
		return ask()
	case mine:
		var found *answer
		defer func() { s.land(question, f, found) }()
		got, err := ask()
		if err == nil && got.complete() {
			found = got
		}
		return got, err
	}
	select {
	case <-f.done:
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	if f.answer != nil {
		return f.answer, nil
	}
	// Whoever asked gave up, or got no whole answer.
	return ask()
}

// join gives the flight of a question, and tells whether it is the caller's to
// make; or nil, where there are too many.
func (s *shared) join(question string) (f *flight, mine bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if f := s.flights[question]; f != nil && now.Sub(f.began) < shareFor {
		return f, false
	}
	if s.stopped || len(s.flights) >= maxShared {
		return nil, false
	}
	if s.flights == nil {
		s.flights = map[string]*flight{}
	}
	f = &flight{began: now, done: make(chan struct{})}
	s.flights[question] = f
	return f, true
}

// land ends a flight, and keeps what it found for the rest of its time.
func (s *shared) land(question string, f *flight, found *answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.answer = found
	close(f.done)
	if s.flights[question] != f {
		return // it took too long, and another has begun
	}
	left := shareFor - time.Since(f.began)
	if found == nil || left <= 0 || s.stopped {
		delete(s.flights, question)
		return
	}
	f.forget = time.AfterFunc(left, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.flights[question] == f {
			delete(s.flights, question)
		}
	})
}

// stop forgets all and keeps nothing from now on.
func (s *shared) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	for _, f := range s.flights {
		if f.forget != nil {
			f.forget.Stop()
		}
	}
	s.flights = nil
}
