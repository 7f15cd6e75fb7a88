package aggregator

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/event"
)

// The bus may lose what came last in its streams, each as much as it likes: its
// files are synchronised with the disk from time to time only. What a finer tier
// has lost, a coarser one may have. Sequences of the stream tell nothing then, for
// the bus gives them again. Turns do: groups of the finest tier have ever higher
// ones, and a coarse group has that of the last which it sums up.

// mend finds out whether a tier has lost what a coarser one has, and takes care
// that none of it is counted again.
//
// Where the finest tier has, counting goes on from where the coarser one had come,
// with what was known of the sources there, whatever the events stream has lost or
// not; and until then the coarser one counts, at its own resolution. Where a tier
// between has, its groups are made again.
func (p *partition) mend(ctx context.Context, found *past) error {
	if len(p.tiers) == 1 {
		return nil
	}
	p.lasts[0], p.ends[0] = found.last, found.end
	base := 1
	for i := range p.turns {
		if p.turns[i] > p.turns[base] {
			base = i
		}
	}
	if p.turns[base] > found.turn {
		return p.goOnFrom(ctx, base, found)
	}
	if p.turns[1] < found.holeTurn {
		// The coarser tier has lost what said where it goes on in this one.
		p.through[1] = found.holeEnd
	}
	for i := 1; i+1 < len(p.tiers); i++ {
		if p.turns[i] < p.turns[i+1] {
			if err := p.remake(ctx, i); err != nil {
				return err
			}
			// What was read counts from the coarser tier, too, now.
			again, err := p.readBack(ctx, p.a.o.Now())
			if err != nil {
				return err
			}
			if again.turn != found.turn {
				return fmt.Errorf("%w meanwhile", errFenced)
			}
			*found = *again
		}
		if p.turns[i] > 0 && p.turns[i] == p.turns[i+1] && p.through[i+1] != p.ends[i] {
			if err := p.bridge(ctx, i+1, &rollup.Delta{}, rollup.Meta{}); err != nil {
				return err
			}
		}
	}
	return nil
}

// bridge publishes a group of a coarse tier that says that it has all which there
// is of the finer one.
func (p *partition) bridge(ctx context.Context, tier int, d *rollup.Delta, meta rollup.Meta) error {
	d.Position, meta.Written = p.ends[tier-1], p.folded[tier].UnixMicro()
	if err := p.saveCoarse(ctx, tier, d, meta); err != nil {
		return err
	}
	p.through[tier], p.ends[tier] = d.Position, p.lasts[tier]
	return nil
}

// remake makes the groups of a tier again that it has lost and the next has, of
// which the finer tier has all.
func (p *partition) remake(ctx context.Context, tier int) error {
	p.a.log.Warn("a stream of rollups has lost what came last; making it again", "partition", p.number, "tier", tier)
	wanted, began := p.turns[tier+1], p.folded[tier+1]
	for p.turns[tier] < wanted {
		before := p.turns[tier]
		d, err := p.gatherAlone(ctx, job{tier: tier, target: math.MaxInt64, turn: wanted, reach: p.lasts[tier-1]}, p.through[tier])
		if err != nil {
			return err
		}
		if p.turns[tier] == before {
			break // the finer tier has not got them
		}
		if err := p.saveCoarse(ctx, tier, d, rollup.Meta{Written: began.UnixMicro()}); err != nil {
			return err
		}
		p.through[tier], p.folded[tier], p.ends[tier] = d.Position, began, p.lasts[tier]
	}
	p.turns[tier], p.events[tier] = wanted, p.events[tier+1]
	return nil
}

// goOnFrom lets counting go on from where a coarse tier had come, which has what all
// finer ones have lost. It first says in each tier, the coarsest first, that what
// is left there is in the next, and then in the finest from where on it is whole
// again; who dies in between leaves it to the next.
func (p *partition) goOnFrom(ctx context.Context, base int, found *past) error {
	s, err := p.stateOf(ctx, base, found.turn)
	if err != nil {
		return err
	}
	turn := p.turns[base]
	if !s.complete {
		p.a.log.Error("a stream of rollups has lost what came last, and no other tells how to go on; some may count twice in the coarser tiers", "partition", p.number)
		p.through[1], found.turn = min(p.through[1], p.ends[0]), turn
		return nil
	}
	p.a.log.Warn("the stream of rollups has lost what came last; going on from what is summed up in a coarser tier", "partition", p.number, "tier", base)
	meta := rollup.Meta{Hole: s.hole, HoleTiers: s.holeTiers}
	sources := rollup.Sorted(s.sources)
	for i := base; i > 0; i-- {
		d := &rollup.Delta{}
		if i < base {
			d.Full, d.Sources = true, sources
			p.turns[i], p.events[i], p.folded[i] = turn, p.events[base], p.folded[base]
		}
		if err := p.bridge(ctx, i, d, meta); err != nil {
			return err
		}
	}
	d := &rollup.Delta{Position: p.events[base].Sequence, Stored: p.events[base].Stored, Full: true, Sources: sources}
	meta.Partition, meta.Owner, meta.Group = p.number, p.a.owner, p.lasts[0]
	meta.Written, meta.Turn = p.a.o.Now().UnixMicro(), turn+1
	for _, part := range rollup.Encode(d, meta, p.a.o.MaxPart) {
		if err := p.save(ctx, 0, part); err != nil {
			return err
		}
	}
	found.sources, found.complete, found.holed = s.sources, true, true
	found.read = append(append(found.read, s.read...), p.events[base])
	found.last, found.end, found.turn = p.lasts[0], p.lasts[0], meta.Turn
	found.store.Lost(s.holeTiers, s.hole)
	return nil
}

// state is what a coarse tier tells of where it had come.
type state struct {
	sources  map[rollup.SourceID]rollup.Source
	complete bool
	// read are the positions in the events stream up to which it had come after a turn,
	// oldest first.
	read []event.Mark
	// hole, Unix seconds, is later than whatever the tier has; so many tiers lack
	// some of it.
	hole      int64
	holeTiers int
}

// stateOf reads what a coarse tier's last groups say, and of those that go further than
// a turn, how far.
func (p *partition) stateOf(ctx context.Context, tier int, turn uint64) (*state, error) {
	step := p.tiers[tier].Step
	read := func(since time.Time) (*state, error) {
		s := &state{sources: map[rollup.SourceID]rollup.Source{}, hole: p.a.o.Now().Unix(), holeTiers: tier}
		err := p.groups(ctx, stretch{tier: tier, since: since, upTo: p.lasts[tier]}, func(g group) error {
			g.delta.Apply(s.sources)
			s.complete = s.complete || g.delta.Full
			if g.meta.Turn > turn {
				s.read = append(s.read, g.meta.Events)
			}
			s.hole, s.holeTiers = max(s.hole, g.meta.Hole), max(s.holeTiers, g.meta.HoleTiers)
			for i := range g.delta.Items {
				s.hole = max(s.hole, g.delta.Items[i].Second+step)
			}
			return nil
		})
		return s, err
	}
	s, err := read(p.folded[tier].Add(-10 * time.Duration(p.tiers[tier].Every()) * time.Second))
	if err == nil && !s.complete {
		s, err = read(time.Time{})
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the rollups of tier %d of partition %d: %w", tier, p.number, errors.Join(err, ctx.Err()))
	}
	// Where no block of the finer tiers or the next is in both.
	whole := p.tiers[s.holeTiers].Every()
	s.hole += whole - 1
	s.hole -= s.hole % whole
	return s, nil
}

// noteHole lets the store count from a coarser tier what finer ones have lost.
func (p *partition) noteHole(g *group) {
	if g.meta.Hole == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range min(g.meta.HoleTiers, len(p.tiers)-1) {
		p.store.Raise(i, g.meta.Hole)
	}
}

// position is up to where the events are counted that a group of the finest tier,
// and those before it, have.
func (g *group) position() event.Mark {
	return event.Mark{Sequence: g.delta.Position, Stored: g.delta.Stored}
}

// position is that of the last group, and nothing where there is none.
func (f *past) position() event.Mark {
	if len(f.read) == 0 {
		return event.Mark{}
	}
	return f.read[len(f.read)-1]
}

// readBefore are messages of the events stream that are counted, the position last. The
// bus may have lost the newest, and given their sequences again; so there are many, as
// far back as the last groups of all tiers tell.
func (p *partition) readBefore(found *past) []event.Mark {
	if len(found.read) == 0 {
		return nil
	}
	var read []event.Mark
	for i := len(p.tiers) - 1; i > 0; i-- {
		read = append(read, p.events[i])
	}
	return append(read, found.read...)
}
