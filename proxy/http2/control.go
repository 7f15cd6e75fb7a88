package http2

import (
	"context"
	"time"

	"github.com/weirmesh/weir/event"
)

const (
	// drainDelay is between the GOAWAY that announces a drain and the one
	// that names the last stream: time for streams under way to arrive.
	drainDelay = 250 * time.Millisecond
	// answerIdle is how long a client without a server may be silent.
	answerIdle = time.Second
)

// control does what no byte of a peer causes: the hard stop, the drain,
// progress events. It returns when the session stops.
func (s *session) control(ctx context.Context) {
	drain := s.c.Drain
	var final, idle <-chan time.Time
	if s.answering {
		idle = time.After(answerIdle)
	}
	for {
		select {
		case <-s.done:
			return
		case <-ctx.Done():
			s.stop(&cause{reason: event.ErrGoAway, fate: event.Drained, hard: true})
		case <-drain:
			drain = nil
			_ = s.toClient.inject(appendGoAway(nil, s.lastStream(), codeNone, "draining"))
			final = time.After(drainDelay)
		case <-final:
			s.drain()
		case now := <-s.ticker.C:
			s.progress(now)
			s.stop(s.overdue(now))
		case <-idle:
			idle = time.After(s.checkIdle())
		}
	}
}

// lastStream is the last stream that may be answered, as far as the client has
// been told: no GOAWAY may name a later one.
func (s *session) lastStream() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return min(s.goAway, s.refuseAbove)
}

// drained is the cause where no stream is left and none is taken any more.
func drained() *cause { return &cause{linger: true} }

// drain names the last stream that is still carried, and stops if there is
// none.
func (s *session) drain() {
	s.mu.Lock()
	if s.refuseAbove == maxStreamID {
		s.refuseFrom(event.ErrGoAway, event.Drained)
	}
	last, empty := s.refuseAbove, s.streams.count == 0
	s.mu.Unlock()
	_ = s.toClient.inject(appendGoAway(nil, last, codeNone, "draining"))
	if empty {
		s.stop(drained())
	}
}
