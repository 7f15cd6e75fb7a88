// Package store keeps sums by time, in tiers of ever coarser steps: for each
// key one encoded value a step, in bounded memory.
//
// What goes into the coarser tiers is worked out elsewhere, from the finer
// one's groups (see [Gather]); the store knows which of its values have not
// gone there yet, and counts each once whatever the window, see [Store.Fold].
// It knows nothing of what it keeps but how to add it up, see [Summer].
//
// Where memory is short values are summed up over ever longer spans within
// their tier, and what is older goes first: no sum changes, edges do. See
// [Store.Trim].
package store

import (
	"errors"
	"fmt"
)

// Key names a row. Other is the key that takes what is too small to keep a row
// of its own in a coarser tier; it is the key itself where there is no such.
type Key[K any] interface {
	comparable
	Other() K
	// Detail tells keys of detail, which lose their fine edges first where
	// memory is short, from those of totals.
	Detail() bool
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

// Store keeps the values of one partition, those of totals and those of detail
// apart: each class has edges of its own. It is not safe for concurrent use, but
// Scan may run beside other calls of Scan.
type Store[K Key[K]] struct{ totals, detail *shelf[K] }

// Edges tell where windows can begin and end.
type Edges interface {
	// Step is how fine a window's edge can be at a time, Unix seconds.
	Step(at int64) int64
	// Reaches is since when everything is there, Unix seconds: 0 where that is
	// all there ever was.
	Reaches() int64
	// Finest is the time from which on windows are exact to the first tier's
	// step.
	Finest() int64
}

// New returns an empty store. newSummer makes what it adds with; tiers are
// finest first (nil: Tiers); now, in Unix seconds, is what their ages count
// from. Until Loaded is called, nothing is known of the time before now.
func New[K Key[K]](newSummer func() Summer, tiers []Tier, now int64) *Store[K] {
	s := &Store[K]{totals: newShelf[K](newSummer, tiers, now), detail: newShelf[K](newSummer, tiers, now)}
	s.totals.marked = true
	return s
}

func (s *Store[K]) of(key *K) *shelf[K] {
	if (*key).Detail() {
		return s.detail
	}
	return s.totals
}

func (s *Store[K]) both() [2]*shelf[K] { return [2]*shelf[K]{s.totals, s.detail} }

// Tiers are the store's, the finest first.
func (s *Store[K]) Tiers() []Tier { return s.totals.Tiers() }

// Add adds an encoded value of a group of a tier, which has not gone into the
// next tier yet, to what is kept of a key at a time; now is the present. Add
// tells whether it was kept: what is older than the last tier keeps is dropped.
// It fails where the value, added to another, is not valid.
func (s *Store[K]) Add(i int, at int64, key K, data []byte, now int64) (kept bool, err error) {
	return s.of(&key).Add(i, at, &key, nil, data, now)
}

// AddKnown is as Add, in less time: hint is where the store remembers where it has
// the key, at first 0. It is for this key only; that of another, or of another
// store, does no harm but helps nobody.
func (s *Store[K]) AddKnown(i int, at int64, key *K, hint *uint32, data []byte, now int64) (kept bool, err error) {
	return s.of(key).Add(i, at, key, hint, data, now)
}

// Recall is as Add, for a value that has gone into the next tier already: where
// that is the one that counts at that time, the value is left out.
func (s *Store[K]) Recall(i int, at int64, key K, data []byte) (kept bool, err error) {
	return s.of(&key).Recall(i, at, &key, data)
}

// Fold begins a group of tier i+1: all that was added to tier i so far will be
// in it, together with what went into the groups before. It must be ended by
// Folded, or begun again.
func (s *Store[K]) Fold(i int) error {
	return errors.Join(s.totals.Fold(i), s.detail.Fold(i))
}

// Folded ends a group of tier i+1 that Fold began at the time began, Unix
// seconds: its values have been added to that tier.
func (s *Store[K]) Folded(i int, began int64) error {
	return errors.Join(s.totals.Folded(i, began), s.detail.Folded(i, began))
}

// Loaded says that all is there that happened at since or later, Unix seconds;
// 0 where that is all there ever was.
func (s *Store[K]) Loaded(since int64) {
	for _, c := range s.both() {
		c.loaded, c.have = since, len(c.tiers)
	}
}

// Loading says that the finest tier has all that happened at since or later, as
// far as the tier itself reaches back, and that what the coarser ones have is
// still to come; see LoadedTier.
func (s *Store[K]) Loading(since int64) {
	for _, c := range s.both() {
		c.loaded, c.have = max(since, c.tiers[0].from), 1
	}
}

// LoadedTier says that a tier has everything since a time, Unix seconds (0: since
// the beginning), and that it begins no earlier; last tells that no coarser one
// reaches further back.
func (s *Store[K]) LoadedTier(i int, since int64, last bool) {
	for _, c := range s.both() {
		c.raise(i, since)
		if since > c.tiers[i].from {
			c.forgot = max(c.forgot, since) // the next tier does not count there
		}
		c.loaded, c.have = since, len(c.tiers)
		if !last {
			c.loaded, c.have = max(since, c.tiers[i].from), i+1
		}
	}
}

// Raise lets a tier begin at from or later, as far as the next tier has what is
// older.
func (s *Store[K]) Raise(i int, from int64) {
	for _, c := range s.both() {
		c.raise(i, from)
	}
}

// Lost says that the finest tiers, so many, may lack some of what begins before a
// time, Unix seconds, of which the next tier has all, and all that was added until
// now: it counts there.
func (s *Store[K]) Lost(tiers int, before int64) {
	for _, c := range s.both() {
		for i := range min(tiers, len(c.tiers)-1) {
			c.forgetLate(i)
			from := ceil(before, c.grid(i, before))
			c.tiers[i].safe = max(c.tiers[i].safe, from)
			c.raise(i, from)
		}
		c.findOldest()
	}
}

// Reaches is since when the store has everything, Unix seconds: 0 where it has
// all there ever was.
func (s *Store[K]) Reaches() int64 { return max(s.totals.Reaches(), s.detail.Reaches()) }

// Counts tells whether what a tier has of a key's time counts, and not what a
// finer one has of it.
func (s *Store[K]) Counts(i int, at int64, key K) bool { return s.of(&key).counts(i, at) }

// Step is how fine a window's edge can be at a time, Unix seconds, whatever the
// keys.
func (s *Store[K]) Step(at int64) int64 { return max(s.totals.Step(at), s.detail.Step(at)) }

// From is where a tier begins to tell each of its steps apart, for keys that are
// not of detail, Unix seconds.
func (s *Store[K]) From(i int) int64 { return s.totals.tiers[i].fine() }

// Totals are the edges of windows over keys that are not of detail: finer than
// the store's where memory is short.
func (s *Store[K]) Totals() Edges { return s.totals }

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
	of := func(_ uint32, k *K) int { return pick(k) }
	s.totals.visit(since, until, step, of, visitor)
	s.detail.visit(since, until, step, of, visitor)
}

// VisitByID is as Visit, for keys that are not of detail; pick gets the key's
// number, too: see Changed.
func (s *Store[K]) VisitByID(since, until, step int64, pick func(uint32, *K) int, visitor func(picked int, start int64, data []byte)) {
	s.totals.visit(since, until, step, pick, visitor)
}

// Oldest is the time that the oldest value that counts begins at, to its tier's
// step, or 0 where there is none.
func (s *Store[K]) Oldest() int64 {
	a, b := s.totals.oldest, s.detail.oldest
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// Finest is the time from which on windows are exact to the first tier's step,
// whatever the keys.
func (s *Store[K]) Finest() int64 { return max(s.totals.Finest(), s.detail.Finest()) }

// Keys is how many keys have values.
func (s *Store[K]) Keys() int { return s.totals.keyCount() + s.detail.keyCount() }

// Compact forgets what is too old and puts the rest in order. now is in Unix
// seconds. To be called every second or so. It fails where a value was not
// valid, which is then gone.
func (s *Store[K]) Compact(now int64) error {
	return errors.Join(s.totals.Compact(now), s.detail.Compact(now))
}

// Bytes is how much memory the values and their keys take, near enough.
func (s *Store[K]) Bytes() int { return s.totals.bytes() + s.detail.bytes() }

// Trim makes the store take no more than maxBytes, where it takes more; now is in
// Unix seconds. Whatever goes, each sum that is left stays exact. Values of detail
// go first, as far as totals leave them less than half of the memory. In each class
// edges get coarser, where they are finest for how old they are: values are summed
// up over longer spans, or the next tier's count. Before an edge is coarser than a
// quarter of its age the oldest is forgotten, and Reaches tells it; after that,
// edges get as coarse as need be, and at last the lightest rows are merged into
// Other's. It returns how many bytes the store takes then, and whether anything
// had to go.
func (s *Store[K]) Trim(maxBytes int, now int64) (bytes int, trimmed bool) {
	totals, detail := s.totals.bytes(), s.detail.bytes()
	if totals+detail <= maxBytes {
		return totals + detail, false
	}
	// A little less, lest the next second begins anew.
	least := maxBytes - maxBytes/16
	totals = s.totals.trim(max(least/2, least-detail), now)
	detail = s.detail.trim(least-totals, now)
	if totals+detail > maxBytes {
		totals = s.totals.trim(least-detail, now)
	}
	return totals + detail, true
}

// Relax tells that there is room again: what Trim gave up only to make the store
// small is made anew. now is in Unix seconds.
func (s *Store[K]) Relax(now int64) {
	s.totals.relax(now)
	s.detail.relax(now)
}
