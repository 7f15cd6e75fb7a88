package telemetry

import (
	"sync"

	"github.com/weirmesh/weir/event"
)

// second is one of the wall clock, µs.
const second = 1_000_000

// Statistics are of seconds, and an aggregator tells what a batch added to each
// of them: so a batch that has the end of one second and the beginning of the next
// makes it do everything twice. What ends in a new second therefore goes into
// another buffer, and the one before waits for its flush, in the first half of that
// second. Where that cannot be, for no flush came or there is no buffer, a batch has
// several seconds: it is counted all the same. Nor does a shard turn whose batches
// are full of names, as distinct paths make them: they are sealed many times a second
// anyway, and the names would take memory in one buffer more.

// seconds is the part of a shard that is about them; it has its lock.
type seconds struct {
	// until is when the second ends that the first event of the current buffer
	// is of, µs since 1970; valid while there is one.
	until int64
	// next is from when on an event wants another buffer.
	next int64
	// older holds events of the second before; its enc is nil where there are
	// none.
	older buffer
	// olderLarge: the flusher was told that older is large.
	olderLarge bool
	// crowded: a batch of this second was sealed for what it names.
	crowded bool
}

// turn has s, whose lock is held, ready for an event that ended at a time: where
// its second has not begun before, with an empty buffer.
func (p *Pipeline) turn(s *shard, end int64) {
	if s.enc.Len() > 0 && end < s.next {
		return
	}
	ends, crowded := end-end%second+second, s.crowded
	if ends > s.next {
		s.crowded = false
	}
	s.next = ends
	if s.enc.Len() > 0 {
		if s.older.enc != nil || crowded {
			return
		}
		b, ok := p.spares.take()
		if !ok {
			return
		}
		s.older, s.olderLarge = s.buffer, s.signaled
		s.buffer, s.signaled = b, false
	}
	s.until = s.next
}

// takeOlder takes the buffer of the second before if it is to be sealed, with all
// or because the shard is large. The shard's lock is held.
func (s *shard) takeOlder(all bool) (b buffer) {
	if all || s.olderLarge || s.signaled {
		b, s.older, s.olderLarge = s.older, buffer{}, false
	}
	return b
}

// due tells whether the second is over that the current buffer has events of.
// Where it is far from now the clock was set, and nothing waits for it.
func (s *shard) due(now int64) bool { return now >= s.until || s.until-now > second }

// spares are empty buffers for shards that turn to a new second. There are only
// as many as were wanted at a time: a proxy with nothing to tell has none.
type spares struct {
	mu     sync.Mutex // taken after a shard's
	free   []buffer
	made   int
	most   int
	wanted bool
	// used: those that are free hold memory.
	used bool
}

func (s *spares) take() (b buffer, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.free)
	if n == 0 {
		s.wanted = true
		return buffer{}, false
	}
	b, s.free = s.free[n-1], s.free[:n-1]
	return b, true
}

func (s *spares) put(b buffer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free, s.used = append(s.free, b), true
}

// shrink gives the memory back that free buffers hold, which nobody will want
// soon.
func (s *spares) shrink(work *event.Workspace) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.used {
		return
	}
	s.used = false
	for i := range s.free {
		s.free[i].enc = new(event.Encoder)
		s.free[i].enc.Use(work)
	}
}

// lacks tells whether one more is to be made, and that it will be.
func (s *spares) lacks() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	lacks := s.wanted && s.made < s.most
	s.wanted = false
	if lacks {
		s.made++
	}
	return lacks
}

// moreSpares makes one where there was none when it was wanted. The sealer's lock
// is held.
func (p *Pipeline) moreSpares() {
	if !p.spares.lacks() {
		return
	}
	journal := 0
	if spool := p.sealer.spool; spool != nil {
		if err := spool.addJournal(); err != nil {
			// There will be batches of several seconds.
			spool.complain(err)
			return
		}
		journal = len(spool.journals) - 1
	}
	p.spares.put(p.newBuffer(journal))
}
