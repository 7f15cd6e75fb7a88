package store

// level holds sums over blocks of a tier, so that a long window takes few
// values to add up. They are made when what they cover is expected not to
// change any more, and changed along with it if it does.
type level struct {
	step int64
	// keep is for how long, seconds; 0: as long as the tier.
	keep   int64
	blocks map[int64]*block
	// Sums of [back, next) have been made; next goes up with the time, and back
	// down to where the tier begins.
	back, next int64
	// expired is up to where sums were dropped.
	expired int64
	// usual is how large sums become.
	usual guess
}

// recent is for how long what only short windows that end now need is kept,
// seconds.
const recent = 150

// levelSteps are the steps of levels, seconds; a tier has those that fit, and
// the finest also the recent ones: without them the last minute takes twice as
// many values.
var levelSteps = [...]struct{ step, keep int64 }{{5, recent}, {10, 0}, {30, recent}, {60, 0}, {600, 0}, {3600, 0}, {6 * 3600, 0}}

func newLevels(t Tier, finest bool, now int64) (levels []level) {
	below := t.Step
	for _, l := range levelSteps {
		if l.keep > 0 && (!finest || t.Keep <= l.keep) {
			continue
		}
		if l.step > below && l.step%below == 0 && 4*l.step <= t.Keep {
			next := floor(now, l.step)
			levels = append(levels, level{step: l.step, keep: l.keep, blocks: map[int64]*block{}, back: next, next: next})
			below = l.step
		}
	}
	return levels
}

// each calls fn with blocks that hold together all that begins in [since,
// until), each of which covers no more than one step of the grid that begins at
// origin.
func (t *tier) each(since, until, origin, step int64, fn func(int64, *block)) {
	at := ceil(since, t.span(since))
	if len(t.blocks) == 0 {
		return
	}
next:
	for at < until {
		for i := len(t.levels) - 1; i >= 0; i-- {
			l := &t.levels[i]
			if l.step > step || at+l.step > until || mod(at, l.step) != 0 || mod(at-origin, step)+l.step > step {
				continue
			}
			if b := l.blocks[at]; b != nil {
				fn(at, b)
				at += l.step
				continue next
			}
		}
		if b := t.blocks[at]; b != nil {
			fn(at, b)
		}
		at += t.span(at)
	}
}

// arrived is for how long after a time most of what it has comes, seconds: what
// is later is added to the sums that are there.
const arrived = 3

// workUnit bounds what one call of Compact adds up, in values.
const workUnit = 20_000

// build makes sums that are due, the newest first, and then older ones as long
// as there is work left. It returns how much of work is left.
func (s *shelf[K]) build(t *tier, now int64, work int) (left int, failed error) {
	for i := range t.levels {
		l := &t.levels[i]
		for l.next+l.step <= now-arrived && work > 0 {
			work -= s.sumUp(t, i, l.next, &failed)
			l.next += l.step
		}
		if l.keep > 0 {
			s.expire(l, now)
		}
	}
	if s.loaded > t.from {
		return work, failed // what is older is still being loaded
	}
	below := t.from
	for i := range t.levels {
		l := &t.levels[i]
		if l.keep > 0 {
			continue
		}
		if below > t.from+l.step {
			break // the level below comes first
		}
		for l.back-l.step >= t.from && work > 0 {
			l.back -= l.step
			work -= s.sumUp(t, i, l.back, &failed)
		}
		below = l.back
	}
	return work, failed
}

// expire drops sums that are no longer kept; it looks once a step of the level.
func (s *shelf[K]) expire(l *level, now int64) {
	until := floor(now-l.keep, l.step)
	if l.expired == until {
		return
	}
	l.expired = until
	for start, b := range l.blocks {
		if start < until {
			s.release(b)
			delete(l.blocks, start)
		}
	}
}

// sumUp makes one sum, of the levels below or of the tier itself. It returns how
// many values that took.
func (s *shelf[K]) sumUp(t *tier, i int, start int64, failed *error) (work int) {
	l := &t.levels[i]
	if l.blocks[start] != nil || t.span(start) > l.step {
		return 1
	}
	add := addings.Get().(*adding)
	defer add.release()
	for at := start; at < start+l.step; {
		b, step := t.below(i, at)
		at += step
		if b == nil {
			continue
		}
		for j, e := range b.entries {
			add.pieces = append(add.pieces, piece{e.id, b.value(j)})
		}
	}
	sums, err := s.sumUpPieces(add, &l.usual)
	if err != nil {
		*failed = err
	}
	l.blocks[start] = sums
	return len(add.pieces) + 1
}

// sumUpPieces is a block of the sums of pieces, as large as usual.
func (s *shelf[K]) sumUpPieces(add *adding, usual *guess) (sums *block, failed error) {
	bytes := 0
	for i := range add.pieces {
		bytes += len(add.pieces[i].data)
	}
	sums = usual.block(bytes, newRoom)
	s.scratch, failed = add.sums(s.sum, s.scratch, func(id uint32, data []byte) { s.keys[id].blocks++; sums.push(id, data) })
	*usual = guess{bytes, len(sums.data), len(sums.entries)}
	sums.close()
	s.count(sums)
	return sums, failed
}

// below is the greatest block that begins at a time among those of the levels
// below one and of the tier itself, or nil, and what it covers.
func (t *tier) below(i int, at int64) (b *block, step int64) {
	for i--; i >= 0; i-- {
		if l := &t.levels[i]; l.blocks[at] != nil {
			return l.blocks[at], l.step
		}
	}
	return t.blocks[at], t.span(at)
}

// forget drops the sums over what begins before from.
func (s *shelf[K]) forget(t *tier) {
	for i := range t.levels {
		l := &t.levels[i]
		l.back = max(l.back, min(t.from+mod(-t.from, l.step), l.next))
		for start, b := range l.blocks {
			if start < t.from {
				s.release(b)
				delete(l.blocks, start)
			}
		}
	}
}
