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
	// overlap is for how long after a second has settled who asks for a window
	// that ends now is content with what ends a second earlier, while the newer
	// is under way.
	overlap = 300 * time.Millisecond
	// often is how many must have asked for an answer for it to be given out then:
	// who asks once a second waits, and always has the newest.
	often = 4
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
// answer: many who watch a dashboard cost as much as one. And it gives who
// watches what moves with the time, as many others do, the answer of the second
// before, for a moment, while the new one is made for all, where that takes a
// while for there are many rows: see overlap. It is safe for concurrent use.
type shared struct {
	mu      sync.Mutex
	flights map[string]*flight
	stopped bool
	// ctx ends, by cancel, flights that nobody waits for; group waits for them.
	ctx    context.Context
	cancel context.CancelFunc
	group  sync.WaitGroup
}

// question tells what is asked from other questions.
type question struct {
	key string
	// before is the same question a second earlier, "" where the window does not
	// move; content: its answer will do, while that of key is under way.
	before  string
	content bool
}

// flight is an answer under way, or kept.
type flight struct {
	began time.Time
	// done is closed once answer is set: nil where there is none to share.
	done   chan struct{}
	answer *answer
	// asked is how many have asked for it; guarded by shared.mu.
	asked int
	// forget ends a kept answer.
	forget *time.Timer
}

// landed is the flight's answer, if there is one by now.
func (f *flight) landed() *answer {
	select {
	case <-f.done:
		return f.answer
	default:
		return nil
	}
}

// do gives an answer to a question that is not older than shareFor: another's, or
// that of ask.
func (s *shared) do(ctx context.Context, q question, ask func(context.Context) (*answer, error)) (*answer, error) {
	f, old, mine := s.join(q, ask)
	switch {
	case f == nil:
		return ask(ctx)
	case mine:
		return s.fly(ctx, q, f, ask)
	case old != nil && f.landed() == nil:
		return old, nil
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
	return ask(ctx)
}

// fly makes a flight.
func (s *shared) fly(ctx context.Context, q question, f *flight, ask func(context.Context) (*answer, error)) (*answer, error) {
	var found *answer
	defer func() { s.land(q, f, found) }()
	got, err := ask(ctx)
	if err == nil && got.complete() {
		found = got
	}
	return got, err
}

// join gives the flight of a question, and tells whether it is the caller's to
// make; or nil, where there are too many. old is an answer of the second before
// that will do meanwhile: then the flight is under way without the caller.
func (s *shared) join(q question, ask func(context.Context) (*answer, error)) (f *flight, old *answer, mine bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if before := s.flights[q.before]; before != nil && q.content && before.asked >= often {
		if landed := before.landed(); landed != nil && landed.written != nil {
			old = landed // few rows are there in no time
		}
	}
	now := time.Now()
	if f := s.flights[q.key]; f != nil && now.Sub(f.began) < shareFor {
		f.asked++
		return f, old, false
	}
	if s.stopped || !s.room(now) {
		return nil, nil, false
	}
	if s.flights == nil {
		s.flights = map[string]*flight{}
		s.ctx, s.cancel = context.WithCancel(context.Background())
	}
	f = &flight{began: now, done: make(chan struct{}), asked: 1}
	s.flights[q.key] = f
	if old == nil {
		return f, nil, true
	}
	s.group.Go(func() {
		ctx, cancel := context.WithTimeout(s.ctx, gatherTimeout)
		defer cancel()
		_, _ = s.fly(ctx, q, f, ask) // who waits for it asks again, and hears why
	})
	return f, old, false
}

// room tells whether there may be one more flight. One that is kept for who is
// content with it makes room. mu is held.
func (s *shared) room(now time.Time) bool {
	if len(s.flights) < maxShared {
		return true
	}
	for key, f := range s.flights {
		if f.landed() != nil && now.Sub(f.began) >= shareFor {
			s.forget(key, f)
			return true
		}
	}
	return false
}

// forget ends a kept answer. mu is held.
func (s *shared) forget(key string, f *flight) {
	if f.forget != nil {
		f.forget.Stop()
	}
	if s.flights[key] == f {
		delete(s.flights, key)
	}
}

// land ends a flight, and keeps what it found for as long as somebody may want
// it.
func (s *shared) land(q question, f *flight, found *answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.answer = found
	close(f.done)
	if s.flights[q.key] != f {
		return // it took too long, and another has begun
	}
	left := shareFor - time.Since(f.began)
	if q.before != "" {
		left += overlap
	}
	if found == nil || left <= 0 || s.stopped {
		delete(s.flights, q.key)
		return
	}
	if before := s.flights[q.before]; before != nil && before.landed() != nil {
		s.forget(q.before, before) // nobody asks for it any more
	}
	f.forget = time.AfterFunc(left, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.forget(q.key, f)
	})
}

// stop forgets all and keeps nothing from now on. It ends what nobody waits for,
// and waits for that.
func (s *shared) stop() {
	s.mu.Lock()
	s.stopped = true
	for key, f := range s.flights {
		s.forget(key, f)
	}
	if s.cancel != nil {
		s.cancel()
	}
	s.mu.Unlock()
	s.group.Wait()
}
