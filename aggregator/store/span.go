package store

// Where memory is short a tier's values are summed up over spans that are longer
// than its step, oldest first, until the next tier has them and counts for them.

// wide is how many steps of the next tier a span may cover.
const wide = 6

// chain are all spans there are, each a multiple of the one before: the steps of
// the tiers, some between them, and some beyond the last.
func chain(tiers []Tier) []int64 {
	last := tiers[0].Step
	all := []int64{last}
	for _, t := range tiers[1:] {
		for last != t.Step {
			last = between(last, t.Step)
			all = append(all, last)
		}
	}
	return append(all, 5*last, 15*last, 60*last)
}

// between is the next span after one on the way to a step.
func between(last, step int64) int64 {
	for _, times := range []int64{5, 3, 2} {
		if next := times * last; next < step && step%next == 0 {
			return next
		}
	}
	return step
}

// spans are those of a tier: the last tier's may be long, for an hour is little
// to a week, others' not, for the next tier's are at hand.
func spans(tiers []Tier, i int) (own []int64) {
	for _, span := range chain(tiers) {
		if span >= tiers[i].Step && (i+1 == len(tiers) || span <= wide*tiers[i+1].Step) {
			own = append(own, span)
		}
	}
	return own
}

// span is what a block covers in which a time is.
func (t *tier) span(at int64) int64 {
	for i := len(t.bounds) - 1; i > 0; i-- {
		if at < t.bounds[i] {
			return t.spans[i]
		}
	}
	return t.Step
}

// ceil is the first multiple of step from at on.
func ceil(at, step int64) int64 { return at + mod(-at, step) }

// grid is what a tier's beginning must be a multiple of near a time: no block of
// its own or of the next tier may reach beyond it.
func (s *shelf[K]) grid(i int, at int64) int64 {
	t := &s.tiers[i]
	g := max(t.coarser, t.span(at))
	if i+1 < len(s.tiers) {
		g = max(g, s.tiers[i+1].span(at))
		if s.lean {
			g = max(g, t.spans[len(t.spans)-1]) // so that the next tier's blocks can become as long
		}
	}
	return g
}

// beginning is the latest time up to a wanted one that a tier can begin at: the
// next must have what is before, and the finer ones begin no earlier.
func (s *shelf[K]) beginning(i int, wanted int64) int64 {
	if i+1 < len(s.tiers) {
		wanted = min(wanted, s.tiers[i].safe)
	}
	if i > 0 {
		wanted = min(wanted, s.tiers[i-1].from)
	}
	return floor(wanted, s.grid(i, wanted))
}

// lateSpan is what a late block of a tier may cover, at a time that may yet come
// to count from the next tier.
func (s *shelf[K]) lateSpan(i int, at int64) int64 {
	least := s.tiers[i].span(at)
	for ; i < len(s.tiers); i++ {
		least = min(least, s.tiers[i].span(at))
	}
	return least
}
