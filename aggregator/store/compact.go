package store

import "slices"

// fullEvery is how often Compact looks at all blocks, seconds.
const fullEvery = 10

// Compact forgets what is too old and puts the rest in order. now is in Unix
// seconds. To be called every second or so. It fails where a value was not
// valid, which is then gone.
func (s *Store[K]) Compact(now int64) error {
	var failed error
	work := workUnit
	for i := range s.tiers {
		var err error
		if work, err = s.build(&s.tiers[i], now, work); err != nil {
			failed = err
		}
	}
	if now-s.full < fullEvery {
		return failed
	}
	s.full = now
	for i := range s.tiers {
		t := &s.tiers[i]
		from := floor(now-t.Keep, t.coarser)
		if i+1 < len(s.tiers) {
			from = min(from, floor(t.safe, t.coarser))
		}
		if from > t.from {
			s.age(i, from)
		}
		for start, b := range t.blocks {
			if now-start-t.Step >= settled {
				b.close()
			}
		}
	}
	s.findOldest()
	return failed
}

// age lets a tier begin at from: the next has what is older.
func (s *Store[K]) age(i int, from int64) {
	t := &s.tiers[i]
	t.from = from
	for start, b := range t.blocks {
		if start >= from {
			continue
		}
		s.release(b)
		delete(t.blocks, start)
		if i+1 == len(s.tiers) {
			s.loaded = max(s.loaded, from)
		}
	}
	s.forget(t)
}

func (s *Store[K]) findOldest() {
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

// Bytes is how much memory the values and their keys take, near enough.
func (s *Store[K]) Bytes() int {
	n := keyBytes*len(s.keys) + 8*len(s.changes.last)
	for i := range s.tiers {
		t := &s.tiers[i]
		n += size(t.blocks) + size(t.late) + size(t.folding)
		for j := range t.levels {
			n += size(t.levels[j].blocks)
		}
	}
	return n
}

// keyBytes is what a key takes in the two places where it is, strings
// included, as measured with those of package rollup.
const keyBytes = 900

func size(blocks map[int64]*block) (n int) {
	for _, b := range blocks {
		n += b.bytes()
	}
	return n
}

// Trim forgets the finest history, oldest first, until the store takes no more
// than maxBytes: the coarser tier has the same sums. Where nothing fine is left
// that may go, it forgets the oldest coarse history. What has not gone into the
// next tier yet stays. It returns how many bytes it takes then, and since when
// the finest history is there now, where that has changed; else 0.
func (s *Store[K]) Trim(maxBytes int) (bytes int, finest int64) {
	before := s.tiers[0].from
	bytes = s.Bytes()
	for i := range s.tiers {
		t := &s.tiers[i]
		for bytes > maxBytes {
			from := s.sacrifice(i)
			if from <= t.from {
				break
			}
			s.age(i, from)
			bytes = s.Bytes()
		}
	}
	s.findOldest()
	if s.tiers[0].from != before {
		finest = s.tiers[0].from
	}
	return bytes, finest
}

// sacrifice is where a tier has to begin to lose an eighth of its blocks.
func (s *Store[K]) sacrifice(i int) int64 {
	t := &s.tiers[i]
	if len(t.blocks) < 2 {
		return t.from
	}
	starts := make([]int64, 0, len(t.blocks))
	for start := range t.blocks {
		starts = append(starts, start)
	}
	slices.Sort(starts)
	from := starts[min(len(starts)/8+1, len(starts)-1)]
	from = floor(from+t.coarser-1, t.coarser)
	if i+1 < len(s.tiers) {
		return min(from, floor(t.safe, t.coarser))
	}
	return from
}
