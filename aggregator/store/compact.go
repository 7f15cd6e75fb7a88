package store

// fullEvery is how often Compact looks at all blocks, seconds.
const fullEvery = 10

// Compact is as the store's.
func (s *shelf[K]) Compact(now int64) error {
	failed := s.failed
	s.failed = nil
	work := workUnit
	for i := range s.tiers {
		var err error
		if work, err = s.build(&s.tiers[i], now, work); err != nil {
			failed = err
		}
	}
	if s.lean {
		s.close(&s.tiers[0], now-arrived)
	}
	if now-s.full < fullEvery {
		return failed
	}
	s.full = now
	for i := range s.tiers {
		t := &s.tiers[i]
		if from := s.beginning(i, now-t.Keep); from > t.from {
			s.age(i, from)
		}
		s.close(t, now-settled)
	}
	s.findOldest()
	return failed
}

// age lets a tier begin at from: the next has what is older.
func (s *shelf[K]) age(i int, from int64) {
	t := &s.tiers[i]
	t.from = from
	for start, b := range t.blocks {
		if start >= from {
			continue
		}
		s.release(b)
		delete(t.blocks, start)
		if i+1 == len(s.tiers) {
			s.forgot = max(s.forgot, from)
		} else if i+1 >= s.have {
			s.loaded = max(s.loaded, from) // the next tier does not have it yet
		}
	}
	s.forget(t)
}

func (s *shelf[K]) findOldest() {
	s.oldest = 0
	for i := range s.tiers {
		t := &s.tiers[i]
		for _, blocks := range []map[int64]*block{t.blocks, t.late, t.folding} {
			for start := range blocks {
				s.begins(i, start)
			}
		}
	}
}

// close makes blocks of a tier small that end at until or before.
func (s *shelf[K]) close(t *tier, until int64) {
	for start, b := range t.blocks {
		if !b.sorted && start+t.span(start) <= until {
			// With what is wasted: so much room a block needs while it is young.
			usual := guess{1, len(b.data), len(b.entries)}
			packed := b.close()
			s.count(b)
			if start > t.learnt {
				t.learnt, t.usual, t.wasteful = start, usual, packed
			}
		}
	}
}

// bytes is as Bytes.
func (s *shelf[K]) bytes() int { return keyBytes*len(s.keys) + 8*len(s.changes.last) + s.blockBytes }

// keyBytes is what a key takes, with its strings and what leads to it, as measured
// with those of package rollup.
const keyBytes = 600
