// Package store keeps sums by time: for each key one encoded value a second, at
// first, then merged into coarser steps as they age, in bounded memory.
//
// It knows nothing of what it keeps but how to add it up, see [Summer].
package store

import (
	"cmp"
	"slices"
)

// Key names a row. Other is the key that takes what is too small to keep a row
// of its own in a coarser tier; it is the key itself where there is no such.
type Key[K any] interface {
	comparable
	Other() K
}

// Summer adds encoded values up.
type Summer interface {
	// Add adds an encoded value to the sum. It fails where data is none, and
	// leaves the sum as it was.
	Add(data []byte) error
	// AppendBinary appends the sum, encoded.
	AppendBinary(dst []byte) []byte
	// Weight of the sum: the heaviest keep rows of their own.
	Weight() uint64
	// Reset begins anew.
	Reset()
}

// Tier is one resolution. All in seconds.
type Tier struct {
	// Step is what one value covers: a multiple of the tier's before.
	Step int64
	// Keep is for how long.
	Keep int64
	// Rows of the same Other that keep their own; the lighter are merged into
	// it. 0: all.
	Rows int
}

// Tiers are the default: 1 s for 15 min, 10 s for 6 h, 1 min for 7 d.
func Tiers() []Tier {
	return []Tier{
		{Step: 1, Keep: 15 * 60},
		{Step: 10, Keep: 6 * 3600, Rows: 200},
		{Step: 60, Keep: 7 * 24 * 3600, Rows: 100},
	}
}

// MaxBytes is the default bound on a store's values.
const MaxBytes = 64 << 20

// Store keeps the values of one partition. It is not safe for concurrent use,
// but Scan may run beside other calls of Scan.
type Store[K Key[K]] struct {
	tiers    []tier
	maxBytes int
	// sum and rest are scratch.
	sum, rest Summer
	scratch   []byte

	ids  map[K]uint32
	keys []keyState[K]
	free []uint32
}

type keyState[K any] struct {
	key K
	// blocks that hold a value of the key.
	blocks int
}

// tier holds blocks by the time they begin at. A block of a finer tier begins
// at from or later; so each second is in one tier.
type tier struct {
	Tier
	from   int64
	blocks map[int64]*block
}

// New returns an empty store. newSummer makes the two that it needs; tiers are
// finest first (nil: Tiers); maxBytes bounds the values (0: MaxBytes), and more
// than that makes the finer tiers shorter, at last forgets the oldest.
func New[K Key[K]](newSummer func() Summer, tiers []Tier, maxBytes int) *Store[K] {
	if tiers == nil {
		tiers = Tiers()
	}
	s := &Store[K]{
		maxBytes: cmp.Or(maxBytes, MaxBytes),
		sum:      newSummer(),
		rest:     newSummer(),
		ids:      map[K]uint32{},
	}
	for _, t := range tiers {
		s.tiers = append(s.tiers, tier{Tier: t, blocks: map[int64]*block{}})
	}
	return s
}

// Add adds an encoded value to what is kept of a key at a second. What is older
// than the last tier keeps is dropped; Add tells whether it was kept. It fails
// where the value, added to another, is not valid.
func (s *Store[K]) Add(second int64, key K, data []byte) (kept bool, err error) {
	for i := range s.tiers {
		t := &s.tiers[i]
		if second < t.from {
			continue
		}
		return true, s.addTo(t, second-mod(second, t.Step), key, data)
	}
	return false, nil
}

func (s *Store[K]) addTo(t *tier, start int64, key K, data []byte) error {
	b := t.blocks[start]
	if b == nil {
		b = &block{}
		t.blocks[start] = b
	}
	id, known := s.ids[key]
	at := -1
	if known {
		at = b.find(id)
	}
	if at < 0 {
		if other := key.Other(); t.Rows > 0 && len(b.entries) >= 64*t.Rows && other != key {
			// Late values may not fill up a block that was closed.
			return s.addTo(t, start, other, data)
		}
		b.append(s.hold(key), data)
		return nil
	}
	s.sum.Reset()
	if err := s.sum.Add(b.value(at)); err != nil {
		return err
	}
	if err := s.sum.Add(data); err != nil {
		return err
	}
	s.scratch = s.sum.AppendBinary(s.scratch[:0])
	b.replace(at, s.scratch)
	return nil
}

// hold gives a key its number for one more block.
func (s *Store[K]) hold(key K) uint32 {
	id, ok := s.ids[key]
	if !ok {
		if n := len(s.free); n > 0 {
			id, s.free = s.free[n-1], s.free[:n-1]
			s.keys[id] = keyState[K]{key: key}
		} else {
			id = uint32(len(s.keys))
			s.keys = append(s.keys, keyState[K]{key: key})
		}
		s.ids[key] = id
	}
	s.keys[id].blocks++
	return id
}

// release gives up a block's hold of its keys.
func (s *Store[K]) release(b *block) {
	for _, e := range b.entries {
		k := &s.keys[e.id]
		if k.blocks--; k.blocks == 0 {
			delete(s.ids, k.key)
			*k = keyState[K]{}
			s.free = append(s.free, e.id)
		}
	}
}

// Scan calls what pick returns for a key with each of its values that begin in
// [since, until), in no particular order. pick is called once a key, and may
// return nil. Values are valid until the store is changed.
//
// A value of a coarser tier belongs to the window in which it begins, so that
// windows which follow each other count everything once.
func (s *Store[K]) Scan(since, until int64, pick func(K) func(start int64, data []byte)) {
	visits := make([]func(int64, []byte), len(s.keys))
	asked := make([]bool, len(s.keys))
	for i := range s.tiers {
		s.tiers[i].each(since, until, func(start int64, b *block) {
			for at, e := range b.entries {
				if !asked[e.id] {
					asked[e.id] = true
					visits[e.id] = pick(s.keys[e.id].key)
				}
				if visit := visits[e.id]; visit != nil {
					visit(start, b.value(at))
				}
			}
		})
	}
}

// each calls fn with the blocks that begin in [since, until).
func (t *tier) each(since, until int64, fn func(int64, *block)) {
	first := since + mod(-since, t.Step)
	if (until-first)/t.Step < int64(len(t.blocks)) {
		for start := first; start < until; start += t.Step {
			if b := t.blocks[start]; b != nil {
				fn(start, b)
			}
		}
		return
	}
	for start, b := range t.blocks {
		if start >= since && start < until {
			fn(start, b)
		}
	}
}

// Oldest is the time that the oldest value begins at, or 0 where there is none.
func (s *Store[K]) Oldest() int64 {
	var oldest int64
	for i := range s.tiers {
		for start := range s.tiers[i].blocks {
			if oldest == 0 || start < oldest {
				oldest = start
			}
		}
	}
	return oldest
}

// Finest is the time from which on windows are exact to the first tier's step.
func (s *Store[K]) Finest() int64 { return s.tiers[0].from }

// Keys is how many keys have values.
func (s *Store[K]) Keys() int { return len(s.ids) }

// Bytes is how much memory the values take, near enough.
func (s *Store[K]) Bytes() int {
	n := 0
	for i := range s.tiers {
		for _, b := range s.tiers[i].blocks {
			n += b.bytes()
		}
	}
	return n
}

// Compact merges what has grown old into coarser steps, forgets what is too
// old, and keeps the bound on memory. now is in Unix seconds. To be called
// every few seconds. It fails where a value was not valid, which is then gone.
func (s *Store[K]) Compact(now int64) error {
	var failed error
	for i := range s.tiers {
		if err := s.age(i, now-s.tiers[i].Keep); err != nil {
			failed = err
		}
		for start, b := range s.tiers[i].blocks {
			b.settle(now - start - s.tiers[i].Step)
		}
	}
	for i := range s.tiers {
		for bytes := s.Bytes(); bytes > s.maxBytes && len(s.tiers[i].blocks) > 1; bytes = s.Bytes() {
			if err := s.age(i, s.sacrifice(i)); err != nil {
				failed = err
			}
		}
	}
	return failed
}

// sacrifice is where a tier has to begin to lose an eighth of its blocks.
func (s *Store[K]) sacrifice(i int) int64 {
	starts := make([]int64, 0, len(s.tiers[i].blocks))
	for start := range s.tiers[i].blocks {
		starts = append(starts, start)
	}
	slices.Sort(starts)
	return starts[min(len(starts)/8+1, len(starts)-1)] + s.tiers[i].Step - 1 + s.coarser(i)
}

// coarser is the step of the tier after i, or i's own where it is the last.
func (s *Store[K]) coarser(i int) int64 {
	if i+1 < len(s.tiers) {
		return s.tiers[i+1].Step
	}
	return s.tiers[i].Step
}

// age lets a tier begin at from, or a little earlier: what is older goes to the
// next, or is forgotten.
func (s *Store[K]) age(i int, from int64) error {
	t := &s.tiers[i]
	from -= mod(from, s.coarser(i))
	if from <= t.from {
		return nil
	}
	t.from = from
	groups := map[int64][]*block{}
	for start, b := range t.blocks {
		if start >= from {
			continue
		}
		delete(t.blocks, start)
		coarse := start - mod(start, s.coarser(i))
		groups[coarse] = append(groups[coarse], b)
	}
	if i+1 == len(s.tiers) {
		for _, blocks := range groups {
			for _, b := range blocks {
				s.release(b)
			}
		}
		return nil
	}
	var failed error
	for start, blocks := range groups {
		if err := s.merge(&s.tiers[i+1], start, blocks); err != nil {
			failed = err
		}
	}
	return failed
}

// mod is the remainder that is never negative.
func mod(a, b int64) int64 { return ((a % b) + b) % b }
