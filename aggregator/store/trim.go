package store

import (
	"cmp"
	"maps"
	"slices"
)

// move is something that makes a shelf smaller: from a tier goes what begins
// before until, into the tier's span of a number, or, where that is 0, from the
// tier altogether.
type move struct {
	tier, span int
	until      int64
	// harm is how coarse the edges get for how old they are.
	harm float64
}

// forgetting is the harm of forgetting the oldest of all.
const forgetting = 0.25

// trim makes moves, the least harmful first, until the shelf takes no more than
// maxBytes. It returns how many bytes it takes then.
func (s *shelf[K]) trim(maxBytes int, now int64) (bytes int) {
	for bytes = s.bytes(); bytes > maxBytes; bytes = s.bytes() {
		m, ok := s.leastHarm(now)
		switch {
		case ok && m.span == 0:
			s.age(m.tier, m.until)
		case !s.lean:
			s.slim(now)
		case !ok:
			bytes = s.narrow(maxBytes, now)
			s.findOldest()
			return bytes
		default:
			s.merge(m.tier, m.span, m.until)
		}
	}
	s.findOldest()
	return bytes
}

// slim gives up what only makes queries fast, and room for growth.
func (s *shelf[K]) slim(now int64) {
	s.lean = true
	for i := range s.tiers {
		t := &s.tiers[i]
		for j := range t.levels {
			for _, b := range t.levels[j].blocks {
				s.release(b)
			}
		}
		t.levels = nil
		s.close(t, now-arrived)
	}
}

// relax undoes slim.
func (s *shelf[K]) relax(now int64) {
	if !s.lean {
		return
	}
	s.lean, s.rowBytes = false, 0
	for i := range s.tiers {
		s.tiers[i].levels = newLevels(s.tiers[i].Tier, i == 0, now)
	}
}

// leastHarm is the next move to be made, if any is left.
func (s *shelf[K]) leastHarm(now int64) (least move, ok bool) {
	try := func(m move) {
		if !ok || m.harm < least.harm {
			least, ok = m, true
		}
	}
	late := s.lateStarts()
	for i := range s.tiers {
		t := &s.tiers[i]
		starts := slices.Sorted(maps.Keys(t.blocks))
		if m, ok := s.giveUp(i, starts, now); ok {
			try(m)
		}
		starts = append(starts, late[i]...)
		slices.Sort(starts)
		for j := 1; j < len(t.spans); j++ {
			if m, ok := s.lengthen(i, j, starts, now); ok {
				try(m)
			}
		}
	}
	return least, ok
}

// lateStarts are where the blocks of late values begin, by each tier whose spans
// they must not exceed.
func (s *shelf[K]) lateStarts() [][]int64 {
	starts := make([][]int64, len(s.tiers))
	for i := range s.tiers {
		for _, blocks := range []map[int64]*block{s.tiers[i].late, s.tiers[i].folding} {
			for start := range blocks {
				for n := i; n < len(s.tiers); n++ {
					starts[n] = append(starts[n], start)
				}
			}
		}
	}
	return starts
}

// part is how much of the time from oldest until newest goes at once.
func part(oldest, newest, grid int64) int64 { return max((newest-oldest)/8, grid) }

// giveUp is the move that lets a tier begin later; starts are its blocks'.
func (s *shelf[K]) giveUp(i int, starts []int64, now int64) (m move, ok bool) {
	t := &s.tiers[i]
	if len(starts) == 0 {
		return move{}, false
	}
	oldest, newest := starts[0], starts[len(starts)-1]
	limit := s.beginning(i, newest)
	from := ceil(oldest+part(oldest, limit, s.grid(i, oldest)), s.grid(i, oldest))
	if from = s.beginning(i, min(from, limit)); from <= max(t.from, oldest) {
		return move{}, false
	}
	m = move{tier: i, until: from, harm: forgetting}
	if i+1 < len(s.tiers) {
		m.harm = harm(s.tiers[i+1].span(from-1), from, now)
		if s.tiers[i+1].span(from-1) <= t.span(from-1) {
			m.harm = 0 // the next tier's edges are as fine
		}
	}
	return m, true
}

func harm(span, until, now int64) float64 { return float64(span) / float64(max(now-until, 1)) }

// lengthen is the move that merges the oldest blocks of the span before the j-th;
// starts are those of its blocks, and of late ones.
func (s *shelf[K]) lengthen(i, j int, starts []int64, now int64) (m move, ok bool) {
	t := &s.tiers[i]
	span := t.spans[j]
	at, _ := slices.BinarySearch(starts, t.bounds[j])
	if at == len(starts) {
		return move{}, false
	}
	oldest, newest := starts[at], now-arrived
	if j > 1 {
		newest = min(newest, t.bounds[j-1])
	}
	until := min(floor(oldest, span)+part(oldest, newest, span), newest)
	if i > 0 {
		// No block may reach beyond where the finer tier begins.
		if from := s.tiers[i-1].from; mod(from, span) != 0 && until > from {
			until = from
		}
	}
	if until = floor(until, span); until <= oldest || !s.aligns(i, span) {
		return move{}, false
	}
	return move{tier: i, span: j, until: until, harm: harm(span, until, now)}, true
}

// aligns tells whether a tier begins at a multiple of a span, or can.
func (s *shelf[K]) aligns(i int, span int64) bool {
	t := &s.tiers[i]
	from := ceil(t.from, span)
	return from == t.from || i+1 == len(s.tiers) || s.beginning(i, from) == from
}

// merge sums the blocks up that begin before until, over the tier's j-th span.
func (s *shelf[K]) merge(i, j int, until int64) {
	t := &s.tiers[i]
	span := t.spans[j]
	switch from := ceil(t.from, span); {
	case from == t.from:
	case i+1 == len(s.tiers):
		t.from = floor(t.from, span) // nothing older is left
	default:
		s.age(i, from)
	}
	starts := slices.Sorted(maps.Keys(t.blocks))
	for len(starts) > 0 && starts[0] < until {
		over := floor(starts[0], span)
		n := 0
		for n < len(starts) && starts[n] < over+span {
			n++
		}
		if n > 1 || starts[0] != over {
			s.mergeBlocks(t, over, starts[:n])
		}
		starts = starts[n:]
	}
	for k := j; k > 0; k-- {
		t.bounds[k] = max(t.bounds[k], until)
	}
	for n := range s.tiers {
		s.mergeLate(n, s.tiers[n].late)
		s.mergeLate(n, s.tiers[n].folding)
	}
}

// mergeBlocks sums blocks up into one that begins at over.
func (s *shelf[K]) mergeBlocks(t *tier, over int64, starts []int64) {
	merged := make([]*block, len(starts))
	add := addings.Get().(*adding)
	defer add.release()
	for i, start := range starts {
		merged[i] = t.blocks[start]
		for at, e := range merged[i].entries {
			add.pieces = append(add.pieces, piece{e.id, merged[i].value(at)})
		}
		delete(t.blocks, start)
	}
	sums := s.sumBlock(add, &t.merged)
	for _, b := range merged {
		s.release(b)
	}
	t.blocks[over] = sums
	if s.rowBytes > 0 && sums.used() > s.rowBytes {
		t.blocks[over] = s.heaviest(sums)
	}
}

// sumBlock is a block of the sums of pieces.
func (s *shelf[K]) sumBlock(add *adding, usual *guess) *block {
	sums, err := s.sumUpPieces(add, usual)
	if err != nil {
		s.failed = err
	}
	return sums
}

// mergeLate moves what is late to where edges can be by now.
func (s *shelf[K]) mergeLate(i int, blocks map[int64]*block) {
	for _, start := range slices.Sorted(maps.Keys(blocks)) {
		over := floor(start, s.lateSpan(i, start))
		if over == start {
			continue
		}
		b := blocks[start]
		delete(blocks, start)
		for at, e := range b.entries {
			key := s.keys[e.id].key // keys may move
			if err := s.addTo(blocks, over, &key, nil, b.value(at)); err != nil {
				s.failed = err
			}
		}
		s.release(b)
	}
}

// narrowest is the least that a block may have for the heaviest rows, bytes.
const narrowest = 4096

// narrow merges the lightest rows of blocks into their Other's, ever more of them,
// until the shelf takes no more than maxBytes. It returns what it takes then.
func (s *shelf[K]) narrow(maxBytes int, now int64) (bytes int) {
	s.rowBytes = max(maxBytes/8, narrowest)
	for {
		for i := range s.tiers {
			t := &s.tiers[i]
			for _, start := range slices.Sorted(maps.Keys(t.blocks)) {
				if s.marked && start >= s.tiers[0].fine() {
					break // what changed there would have to be told
				}
				if b := t.blocks[start]; b.used() > s.rowBytes && start+t.span(start) <= now-arrived {
					t.blocks[start] = s.heaviest(b)
				}
			}
		}
		if bytes = s.bytes(); bytes <= maxBytes || s.rowBytes <= narrowest {
			return bytes
		}
		s.rowBytes = max(s.rowBytes/2, narrowest)
	}
}

// heaviest gives a block back whose heaviest rows are as before, as many as it may
// have bytes, and the others summed up as Other.
func (s *shelf[K]) heaviest(b *block) *block {
	type weighed struct {
		piece
		weight uint64
		other  K
	}
	add := addings.Get().(*adding)
	defer add.release()
	var rows []weighed
	for at, e := range b.entries {
		p := piece{e.id, b.value(at)}
		key := s.keys[e.id].key
		other := key.Other()
		s.sum.Reset()
		if err := s.sum.Add(p.data); other == key || err != nil {
			add.pieces = append(add.pieces, p)
			continue
		}
		rows = append(rows, weighed{p, s.sum.Weight(), other})
	}
	slices.SortFunc(rows, func(x, y weighed) int { return cmp.Or(cmp.Compare(y.weight, x.weight), cmp.Compare(x.id, y.id)) })
	left := s.rowBytes / 2 // so that there is room until the next time
	for _, r := range rows {
		if left -= len(r.data) + entryBytes; left < 0 {
			r.id = s.id(r.other)
		}
		add.pieces = append(add.pieces, r.piece)
	}
	sums := s.sumBlock(add, &guess{})
	s.release(b)
	return sums
}
