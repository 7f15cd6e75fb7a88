// Package store keeps sums by time, in tiers of ever coarser steps: for each
// key one encoded value a step, in bounded memory.
//
// What goes into the coarser tiers is worked out elsewhere, from the finer
// one's groups (see [Gather]); the store knows which of its values have not
// gone there yet, and counts each once whatever the window, see [Store.Fold].
// It knows nothing of what it keeps but how to add it up, see [Summer].
package store

import (
	"errors"
	"fmt"
	"math"
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
	// leaves the sum as it was. data stays as it is until Reset.
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
	// Keep is for how long; at least [Tier.Lateness] twice of the tier after
	// it.
	Keep int64
	// Rows of the same Other that keep their own; the lighter are merged into
	// it. 0: all.
	Rows int
}

// foldSteps is how many steps of a tier one of its groups covers.
const foldSteps = 6

// Every is how often a tier gets a group of values from the finer one, seconds.
func (t Tier) Every() int64 { return foldSteps * t.Step }

// Lateness is how old a value of the finer tier may be when it comes for it to
// be in the tier's next group or the one after, seconds.
func (t Tier) Lateness() int64 { return 2 * t.Every() }

// Tiers are the default: 1 s for 15 min, 10 s for 6 h, 1 min for 7 d.
func Tiers() []Tier {
	return []Tier{
		{Step: 1, Keep: 15 * 60},
		{Step: 10, Keep: 6 * 3600, Rows: 200},
		{Step: 60, Keep: 7 * 24 * 3600, Rows: 100},
	}
}

// CheckTiers returns an error that says which tier can't be, if any: each must
// hold whole steps of the one before, and be kept until they have gone into the
// next.
func CheckTiers(tiers []Tier) error {
	if len(tiers) == 0 {
		return errors.New("there are no tiers")
	}
	for i, t := range tiers {
		switch {
		case t.Step <= 0 || t.Keep < t.Step:
			return fmt.Errorf("a tier of %d s, kept for %d s: it must be kept for a step at least", t.Step, t.Keep)
		case i > 0 && (t.Step <= tiers[i-1].Step || t.Step%tiers[i-1].Step != 0):
			return fmt.Errorf("a tier of %d s after one of %d s: it must be a multiple", t.Step, tiers[i-1].Step)
		case i+1 < len(tiers) && t.Keep < 2*tiers[i+1].Lateness():
			return fmt.Errorf("a tier of %d s, kept for %d s: the least is %d s, by when the next tier has it", t.Step, t.Keep, 2*tiers[i+1].Lateness())
		}
	}
	return nil
}

// Store keeps the values of one partition. It is not safe for concurrent use,
// but Scan may run beside other calls of Scan.
type Store[K Key[K]] struct {
	tiers []tier
	// sum and scratch are for adding up.
	sum     Summer
	scratch []byte

	ids  map[K]uint32
	keys []keyState[K]
	free []uint32

	changes changes

	// loaded is since when everything is there, or was when something was
	// forgotten first; 0: all there ever was.
	loaded int64
	// oldest is where the oldest value that counts begins; 0 where there is none.
	oldest int64
	full   int64
}

type keyState[K any] struct {
	key K
	// blocks that hold a value of the key.
	blocks int
}

// tier holds the blocks of one resolution by the time they begin at. Those that
// begin at from or later count; what is older is the next tier's.
type tier struct {
	Tier
	from int64
	// safe: what begins before has wholly gone into the next tier, but for
	// what is late.
	safe   int64
	blocks map[int64]*block
	// newest is where the youngest block ends.
	newest int64
	levels []level
	// late came too late to be told from what has gone into the next tier;
	// folding is what was late when the group under way was begun.
	late, folding map[int64]*block
	// lateness is that of the next tier, coarser its step.
	lateness, coarser int64
}

// New returns an empty store. newSummer makes what it adds with; tiers are
// finest first (nil: Tiers); now, in Unix seconds, is what their ages count
// from. Until Loaded is called, nothing is known of the time before now.
func New[K Key[K]](newSummer func() Summer, tiers []Tier, now int64) *Store[K] {
	if tiers == nil {
		tiers = Tiers()
	}
	s := &Store[K]{sum: newSummer(), ids: map[K]uint32{}, loaded: now}
	for i, t := range tiers {
		own := tier{Tier: t, blocks: map[int64]*block{}, late: map[int64]*block{}, folding: map[int64]*block{}, coarser: t.Step}
		if i+1 < len(tiers) {
			own.coarser, own.lateness = tiers[i+1].Step, tiers[i+1].Lateness()
		}
		own.from = floor(now-t.Keep, own.coarser)
		own.safe = now - own.lateness
		own.levels = newLevels(t, i == 0, now)
		s.tiers = append(s.tiers, own)
	}
	return s
}

// Tiers are the store's, the finest first.
func (s *Store[K]) Tiers() []Tier {
	all := make([]Tier, len(s.tiers))
	for i := range s.tiers {
		all[i] = s.tiers[i].Tier
	}
	return all
}

// Add adds an encoded value of a group of a tier, which has not gone into the
// next tier yet, to what is kept of a key at a time; now is the present. Add
// tells whether it was kept: what is older than the last tier keeps is dropped.
// It fails where the value, added to another, is not valid.
func (s *Store[K]) Add(i int, at int64, key K, data []byte, now int64) (kept bool, err error) {
	t := &s.tiers[i]
	if at < s.tiers[len(s.tiers)-1].from {
		return false, nil
	}
	if i+1 < len(s.tiers) && at < max(now-t.lateness, t.from) {
		s.begins(i, at)
		return true, s.addTo(t.late, at, key, data)
	}
	return true, s.addBlock(i, floor(at, t.Step), key, data)
}

// Recall is as Add, for a value that has gone into the next tier already: where
// that is the one that counts at that time, the value is left out.
func (s *Store[K]) Recall(i int, at int64, key K, data []byte) (kept bool, err error) {
	t := &s.tiers[i]
	if at < t.from {
		return false, nil
	}
	return true, s.addBlock(i, floor(at, t.Step), key, data)
}

// begins notes that a tier has a value that begins at a time. Where a finer one
// has it, too, that tells the time better; sums over blocks begin earlier than
// what is in them, and tell nothing.
func (s *Store[K]) begins(i int, start int64) {
	if s.Counts(i, start) && (s.oldest == 0 || start < s.oldest) {
		s.oldest = start
	}
}

// addBlock adds a value to a tier, and to the sums over its block.
func (s *Store[K]) addBlock(i int, start int64, key K, data []byte) error {
	t := &s.tiers[i]
	s.begins(i, start)
	if other := key.Other(); t.Rows > 0 && other != key {
		// Late values may not fill up a block that was closed.
		if b := t.blocks[start]; b != nil && len(b.entries) >= 64*t.Rows {
			if _, known := s.at(b, key); !known {
				key = other
			}
		}
	}
	if err := s.addTo(t.blocks, start, key, data); err != nil {
		return err
	}
	t.newest = max(t.newest, start+t.Step)
	for i := range t.levels {
		l := &t.levels[i]
		if over := floor(start, l.step); l.blocks[over] != nil {
			if err := s.addTo(l.blocks, over, key, data); err != nil {
				return err
			}
		}
	}
	return nil
}

// at is where a block has a key's value.
func (s *Store[K]) at(b *block, key K) (at int, known bool) {
	id, known := s.ids[key]
	if !known {
		return 0, false
	}
	at = b.find(id)
	return at, at >= 0
}

func (s *Store[K]) addTo(blocks map[int64]*block, start int64, key K, data []byte) error {
	b := blocks[start]
	if b == nil {
		b = &block{}
		blocks[start] = b
	}
	at, known := s.at(b, key)
	if !known {
		id := s.hold(key)
		s.changes.touch(id)
		b.append(id, data)
		return nil
	}
	s.changes.touch(b.entries[at].id)
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

// Fold begins a group of tier i+1: all that was added to tier i so far will be
// in it, together with what went into the groups before. It must be ended by
// Folded, or begun again.
func (s *Store[K]) Fold(i int) error {
	t := &s.tiers[i]
	if len(t.folding) == 0 {
		t.folding, t.late = t.late, t.folding
		return nil
	}
	return s.move(t.late, func(at int64, key K, data []byte) error { return s.addTo(t.folding, at, key, data) })
}

// Folded ends a group of tier i+1 that Fold began at the time began, Unix
// seconds: its values have been added to that tier.
func (s *Store[K]) Folded(i int, began int64) error {
	t := &s.tiers[i]
	t.safe = max(t.safe, began-t.lateness)
	return s.move(t.folding, func(at int64, key K, data []byte) error {
		if at < t.from {
			return nil // the next tier counts it from now on
		}
		return s.addBlock(i, floor(at, t.Step), key, data)
	})
}

// move empties blocks into something else.
func (s *Store[K]) move(blocks map[int64]*block, to func(at int64, key K, data []byte) error) (failed error) {
	for at, b := range blocks {
		for j, e := range b.entries {
			if err := to(at, s.keys[e.id].key, b.value(j)); err != nil {
				failed = err
			}
		}
		s.release(b)
	}
	clear(blocks)
	return failed
}

// Loaded says that all is there that happened at since or later, Unix seconds;
// 0 where that is all there ever was.
func (s *Store[K]) Loaded(since int64) { s.loaded = since }

// Reaches is since when the store has everything, Unix seconds: 0 where it has
// all there ever was.
func (s *Store[K]) Reaches() int64 {
	if s.loaded == 0 {
		return 0
	}
	return max(s.loaded, s.tiers[len(s.tiers)-1].from)
}

// Raise lets a tier begin at from or later: of what is older the next tier has
// all, and nothing finer is known.
func (s *Store[K]) Raise(i int, from int64) {
	t := &s.tiers[i]
	from = floor(from+t.coarser-1, t.coarser)
	if i+1 < len(s.tiers) {
		from = min(from, floor(t.safe, t.coarser))
	}
	if from > t.from {
		s.age(i, from)
		s.findOldest()
	}
}

// From is where a tier begins, Unix seconds.
func (s *Store[K]) From(i int) int64 { return s.tiers[i].from }

// Counts tells whether what a tier has of a time counts, and not what a finer
// one has of it.
func (s *Store[K]) Counts(i int, at int64) bool { return i == 0 || at < s.tiers[i-1].from }

// Step is how fine a window's edge can be at a time, Unix seconds.
func (s *Store[K]) Step(at int64) int64 {
	for i := range s.tiers {
		if at >= s.tiers[i].from {
			return s.tiers[i].Step
		}
	}
	return s.tiers[len(s.tiers)-1].Step
}

// Scan calls what pick returns for a key with each of its values that begin in
// [since, until), in no particular order. pick is called once a key, and may
// return nil. Values are valid until the store is changed.
//
// What is called gets the time that a value begins at. It may cover more than
// its tier's step, but no more than one of the steps that the window is cut
// into; step 0: the window is not cut. Windows must have their edges where Step
// allows.
func (s *Store[K]) Scan(since, until, step int64, pick func(K) func(start int64, data []byte)) {
	var visits []func(int64, []byte)
	s.Visit(since, until, step, func(k *K) int {
		fn := pick(*k)
		if fn == nil {
			return -1
		}
		visits = append(visits, fn)
		return len(visits) - 1
	}, func(at int, start int64, data []byte) { visits[at](start, data) })
}

// Visit is as Scan, for many keys: what pick gives for a key is handed to visit
// with each of its values, and where that is negative they are left out. pick
// must not change the key.
func (s *Store[K]) Visit(since, until, step int64, pick func(*K) int, visitor func(picked int, start int64, data []byte)) {
	s.VisitByID(since, until, step, func(_ uint32, k *K) int { return pick(k) }, visitor)
}

// VisitByID is as Visit; pick gets the key's number, too: see Changed.
func (s *Store[K]) VisitByID(since, until, step int64, pick func(uint32, *K) int, visitor func(picked int, start int64, data []byte)) {
	if step <= 0 {
		step = max(until-since, 1)
	}
	const unasked = 0 // others are what pick gave, and 2 more
	picked := make([]int32, len(s.keys))
	visit := func(start int64, b *block) {
		for at, e := range b.entries {
			if picked[e.id] == unasked {
				picked[e.id] = int32(max(pick(e.id, &s.keys[e.id].key), -1) + 2)
			}
			if n := picked[e.id]; n > 1 {
				visitor(int(n)-2, start, b.value(at))
			}
		}
	}
	end := int64(math.MaxInt64)
	for i := range s.tiers {
		t := &s.tiers[i]
		t.each(max(since, t.from, s.oldest), min(until, end, t.newest), since, step, visit)
		for _, blocks := range []map[int64]*block{t.late, t.folding} {
			for start, b := range blocks {
				if start >= since && start < min(until, end) {
					visit(start, b)
				}
			}
		}
		end = t.from
	}
}

// Oldest is the time that the oldest value that counts begins at, to its tier's
// step, or 0 where there is none.
func (s *Store[K]) Oldest() int64 { return s.oldest }

// Finest is the time from which on windows are exact to the first tier's step.
func (s *Store[K]) Finest() int64 { return max(s.tiers[0].from, s.loaded) }

// Keys is how many keys have values.
func (s *Store[K]) Keys() int { return len(s.ids) }

// mod is the remainder that is never negative.
func mod(a, b int64) int64 { return ((a % b) + b) % b }

// floor is the last multiple of step up to at.
func floor(at, step int64) int64 { return at - mod(at, step) }
