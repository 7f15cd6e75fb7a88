package store

import "math"

// shelf keeps the values of one class of keys. It is not safe for concurrent use,
// but Scan may run beside other calls of Scan.
type shelf[K Key[K]] struct {
	tiers []tier
	// sum and scratch are for adding up.
	sum     Summer
	scratch []byte

	// keys by their number, which index leads to; free are numbers of no key.
	index keyIndex
	keys  []keyState[K]
	free  []uint32

	changes changes
	// marked: somebody asks what has changed.
	marked bool

	// loaded is since when everything is there; 0: all there ever was.
	loaded int64
	// forgot is up to where something was forgotten for good; 0: nothing was.
	forgot int64
	// have is how many tiers, from the finest on, have been loaded.
	have int
	// lean: memory is short, so that there are no levels and blocks are made
	// small at once; rowBytes bounds blocks that were merged then, 0: it doesn't.
	lean     bool
	rowBytes int
	// failed is what Compact is to return next.
	failed error
	// oldest is where the oldest value that counts begins; 0 where there is none.
	oldest int64
	full   int64
	// blockBytes is what all blocks take together, see count.
	blockBytes int
}

type keyState[K any] struct {
	key K
	// blocks that hold a value of the key.
	blocks int32
	// same is the next key of the same hash, from 1.
	same uint32
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
	// spans are what blocks may cover, the first is the tier's step: what begins
	// before bounds[i] is in blocks of spans[i], or of a later one. Each span is a
	// multiple of the one before, and each bound one of its span.
	spans, bounds []int64
	// newest is where the youngest block ends.
	newest int64
	levels []level
	// usual is how large blocks become, as the one that begins at learnt has, and
	// merged, how large those that sum up others do.
	usual, merged guess
	learnt        int64
	// wasteful: that block was packed at last, so that the room of a young one is
	// used for the next.
	wasteful bool
	// late came too late to be told from what has gone into the next tier;
	// folding is what was late when the group under way was begun.
	late, folding map[int64]*block
	// lateness is that of the next tier, coarser its step.
	lateness, coarser int64
}

func newShelf[K Key[K]](newSummer func() Summer, tiers []Tier, now int64) *shelf[K] {
	if tiers == nil {
		tiers = Tiers()
	}
	s := &shelf[K]{sum: newSummer(), index: newKeyIndex(), loaded: now, have: len(tiers)}
	for i, t := range tiers {
		own := tier{Tier: t, blocks: map[int64]*block{}, late: map[int64]*block{}, folding: map[int64]*block{}, coarser: t.Step}
		if i+1 < len(tiers) {
			own.coarser, own.lateness = tiers[i+1].Step, tiers[i+1].Lateness()
		}
		own.from = floor(now-t.Keep, own.coarser)
		own.safe = now - own.lateness
		own.levels = newLevels(t, i == 0, now)
		own.spans = spans(tiers, i)
		own.bounds = make([]int64, len(own.spans))
		s.tiers = append(s.tiers, own)
	}
	return s
}

// Tiers is as the store's.
func (s *shelf[K]) Tiers() []Tier {
	all := make([]Tier, len(s.tiers))
	for i := range s.tiers {
		all[i] = s.tiers[i].Tier
	}
	return all
}

// Add is as the store's AddKnown.
func (s *shelf[K]) Add(i int, at int64, key *K, hint *uint32, data []byte, now int64) (kept bool, err error) {
	t := &s.tiers[i]
	if at < s.tiers[len(s.tiers)-1].from {
		return false, nil
	}
	if i+1 < len(s.tiers) && at < max(now-t.lateness, t.from) {
		at = floor(at, s.lateSpan(i, at))
		s.begins(i, at)
		return true, s.addTo(t.late, at, key, hint, data)
	}
	return true, s.addBlock(i, floor(at, t.span(at)), key, hint, data)
}

// Recall is as the store's.
func (s *shelf[K]) Recall(i int, at int64, key *K, data []byte) (kept bool, err error) {
	t := &s.tiers[i]
	if at < t.from {
		return false, nil
	}
	return true, s.addBlock(i, floor(at, t.span(at)), key, nil, data)
}

// begins notes that a tier has a value that begins at a time. Where a finer one
// has it, too, that tells the time better; sums over blocks begin earlier than
// what is in them, and tell nothing.
func (s *shelf[K]) begins(i int, start int64) {
	if s.counts(i, start) && (s.oldest == 0 || start < s.oldest) {
		s.oldest = start
	}
}

// addBlock adds a value to a tier, and to the sums over its block.
func (s *shelf[K]) addBlock(i int, start int64, key *K, hint *uint32, data []byte) error {
	t := &s.tiers[i]
	s.begins(i, start)
	// Late values may not fill up a block that was closed.
	if b := t.blocks[start]; b != nil && (t.Rows > 0 && len(b.entries) >= 64*t.Rows || s.rowBytes > 0 && t.span(start) > t.Step && b.used() >= s.rowBytes) {
		if id, known := s.number(key, hint); !known || b.find(id) < 0 {
			other := (*key).Other()
			key, hint = &other, nil
		}
	}
	if t.blocks[start] == nil && start >= t.newest {
		room := newRoom
		if t.wasteful {
			room = anyRoom
		}
		t.blocks[start] = t.usual.block(1, room)
	}
	if err := s.addTo(t.blocks, start, key, hint, data); err != nil {
		return err
	}
	t.newest = max(t.newest, start+t.span(start))
	for i := range t.levels {
		l := &t.levels[i]
		if over := floor(start, l.step); l.blocks[over] != nil {
			if err := s.addTo(l.blocks, over, key, hint, data); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *shelf[K]) addTo(blocks map[int64]*block, start int64, key *K, hint *uint32, data []byte) error {
	b := blocks[start]
	if b == nil {
		b = &block{}
		blocks[start] = b
	}
	defer s.count(b)
	id, known := s.number(key, hint)
	at := -1
	if known {
		at = b.find(id)
	} else if id = s.id(*key); hint != nil {
		*hint = id + 1
	}
	s.changes.touch(id)
	if at < 0 {
		s.keys[id].blocks++
		b.append(id, data)
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

// count brings blockBytes up to date after a block has changed. What has gone,
// release takes off.
func (s *shelf[K]) count(b *block) {
	n := b.bytes()
	s.blockBytes += n - b.counted
	b.counted = n
}

// number finds the number of a key, if it has one. hint is where the caller
// remembers it, and 1 more; 0 or nil: nowhere. To look there takes a fraction of
// the time that it takes to hash a key, which may have many strings.
func (s *shelf[K]) number(key *K, hint *uint32) (id uint32, known bool) {
	if hint == nil {
		return s.lookup(key)
	}
	if n := int64(*hint); n > 0 && n <= int64(len(s.keys)) && s.keys[n-1].blocks > 0 && s.keys[n-1].key == *key {
		return uint32(n - 1), true
	}
	if id, known = s.lookup(key); known {
		*hint = id + 1
	}
	return id, known
}

// release gives up a block, and its hold of its keys.
func (s *shelf[K]) release(b *block) {
	s.blockBytes -= b.counted
	b.counted = 0
	for _, e := range b.entries {
		k := &s.keys[e.id]
		if k.blocks--; k.blocks == 0 {
			s.drop(e.id)
		}
	}
}

// Fold is as the store's.
func (s *shelf[K]) Fold(i int) error {
	t := &s.tiers[i]
	if len(t.folding) == 0 {
		t.folding, t.late = t.late, t.folding
		return nil
	}
	return s.move(t.late, func(at int64, key *K, data []byte) error { return s.addTo(t.folding, at, key, nil, data) })
}

// Folded is as the store's.
func (s *shelf[K]) Folded(i int, began int64) error {
	t := &s.tiers[i]
	t.safe = max(t.safe, began-t.lateness)
	return s.move(t.folding, func(at int64, key *K, data []byte) error {
		if at < t.from {
			return nil // the next tier counts it from now on
		}
		return s.addBlock(i, floor(at, t.span(at)), key, nil, data)
	})
}

// forgetLate gives up what is late in a tier.
func (s *shelf[K]) forgetLate(i int) {
	for _, blocks := range []map[int64]*block{s.tiers[i].late, s.tiers[i].folding} {
		for _, b := range blocks {
			s.release(b)
		}
		clear(blocks)
	}
}

// move empties blocks into something else.
func (s *shelf[K]) move(blocks map[int64]*block, to func(at int64, key *K, data []byte) error) (failed error) {
	for at, b := range blocks {
		for j, e := range b.entries {
			key := s.keys[e.id].key // keys may move
			if err := to(at, &key, b.value(j)); err != nil {
				failed = err
			}
		}
		s.release(b)
	}
	clear(blocks)
	return failed
}

// Reaches is as the store's.
func (s *shelf[K]) Reaches() int64 {
	since := max(s.loaded, s.forgot)
	if since == 0 {
		return 0
	}
	return max(since, s.tiers[len(s.tiers)-1].from)
}

// raise lets a tier begin at from or later: of what is older the next tier has
// all, and nothing finer is known.
func (s *shelf[K]) raise(i int, from int64) {
	t := &s.tiers[i]
	if from <= t.from {
		return
	}
	if from = s.beginning(i, from+s.grid(i, from)-1); from > t.from {
		s.age(i, from)
		s.findOldest()
	}
}

// counts tells whether what a tier has of a time counts, and not what a finer
// one has of it.
func (s *shelf[K]) counts(i int, at int64) bool { return i == 0 || at < s.tiers[i-1].from }

// Step is as the store's.
func (s *shelf[K]) Step(at int64) int64 {
	for i := range s.tiers {
		if at >= s.tiers[i].from {
			return s.tiers[i].span(at)
		}
	}
	return s.tiers[len(s.tiers)-1].span(at)
}

// visit is as VisitByID, for the keys of one class.
func (s *shelf[K]) visit(since, until, step int64, pick func(uint32, *K) int, visitor func(picked int, start int64, data []byte)) {
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

// Finest is as the store's.
func (s *shelf[K]) Finest() int64 { return max(s.tiers[0].fine(), s.loaded) }

// fine is where a tier begins to tell each of its steps apart.
func (t *tier) fine() int64 {
	if len(t.bounds) > 1 {
		return max(t.from, t.bounds[1])
	}
	return t.from
}

// mod is the remainder that is never negative.
func mod(a, b int64) int64 { return ((a % b) + b) % b }

// floor is the last multiple of step up to at.
func floor(at, step int64) int64 { return at - mod(at, step) }
