package aggregator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/aggregator/store"
)

// A coarse tier's group sums up the groups of the finer tier that were stored
// since the one before it, and says as its position up to which. So each group
// goes into one coarse group, whatever the time its values are of: what comes
// late is in a later one, and values of the same step add up. A crash between
// the two leaves groups that the next owner sums up; the fence of the coarse
// stream keeps two owners from doing it both. Each holds what was known of the
// sources, lest the finer tier is lost: see mend.

// errEnough ends a reading.
var errEnough = errors.New("read as far as was wanted")

// maxGather bounds what is summed up at once, bytes of groups, and no more than an
// eighth of what the stores may have.
const maxGather = 64 << 20

// job is a group of tier to be made: of the finer tier's groups up to target,
// all of which had been added to the store at began, Unix seconds.
type job struct {
	tier   int
	target uint64
	// began is also what the group says of when it was written: what the finer
	// tier got later is not in it.
	began int64
	// turn, where not 0, is that of the last group of the finest tier to be in it, and
	// reach where the finer tier ends.
	turn, reach uint64
}

func newSummer() store.Summer { return &rollup.Summer{} }

// coarsen makes the groups of coarse tiers as they become due, until ctx ends.
// What it returns otherwise ends the term.
func (p *partition) coarsen(ctx context.Context) error {
	for {
		var j job
		select {
		case <-ctx.Done():
			return nil
		case j = <-p.jobs:
		}
		for ok := true; ok; j, ok = p.nextJob(j.tier+1, p.lasts[j.tier]) {
			if err := p.fold(ctx, j); err != nil {
				return err
			}
		}
		p.idle <- struct{}{}
	}
}

// nextJob begins a group of a tier if one is due. target is the last group of
// the finer tier, and in the store.
func (p *partition) nextJob(tier int, target uint64) (j job, due bool) {
	now := p.a.o.Now()
	if tier >= len(p.tiers) || now.Before(p.due[tier]) || target <= p.through[tier] {
		return job{}, false
	}
	if tier == 1 && !p.wasFull {
		p.wantFull = true // so that the coarse group holds all sources, too
		return job{}, false
	}
	p.due[tier] = now.Add(time.Duration(p.tiers[tier].Every()) * time.Second)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.store.Fold(tier - 1); err != nil {
		p.a.log.Error("a stored value was not valid", "partition", p.number, "error", err)
	}
	return job{tier: tier, target: target, began: now.Unix()}, true
}

// fold makes a group, or several where it would be too large.
func (p *partition) fold(ctx context.Context, j job) error {
	var made []*rollup.Delta
	for through := p.through[j.tier]; through < j.target; {
		d, err := p.gatherAlone(ctx, j, through)
		if err != nil {
			return err
		}
		if err := p.saveCoarse(ctx, j.tier, d, rollup.Meta{Written: j.began * 1e6}); err != nil {
			return err
		}
		p.a.metrics.coarse.Inc()
		made = append(made, d)
		through = d.Position
	}
	p.through[j.tier], p.folded[j.tier] = j.target, time.Unix(j.began, 0)
	p.adopt(j, made)
	return nil
}

// saveCoarse publishes a group of a tier that goes as far as p.turns and p.events
// say.
func (p *partition) saveCoarse(ctx context.Context, tier int, d *rollup.Delta, meta rollup.Meta) error {
	meta.Partition, meta.Owner, meta.Group = p.number, p.a.owner, p.lasts[tier]
	meta.Turn, meta.Events = p.turns[tier], p.events[tier]
	for _, part := range rollup.Encode(d, meta, p.a.o.MaxPart) {
		if err := p.save(ctx, tier, part); err != nil {
			return err
		}
		p.a.metrics.partBytes.Add(len(part))
	}
	return nil
}

// gatherAlone is gather, for one partition at a time: what is read takes memory.
func (p *partition) gatherAlone(ctx context.Context, j job, after uint64) (*rollup.Delta, error) {
	select {
	case p.a.gathering <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-p.a.gathering }()
	return p.gather(ctx, j, after)
}

// gather sums up groups of the finer tier after a sequence, and sets the tier's
// p.turns and p.events.
func (p *partition) gather(ctx context.Context, j job, after uint64) (*rollup.Delta, error) {
	d := &rollup.Delta{Position: j.target}
	sums := store.NewGather[rollup.Key](newSummer, p.tiers[j.tier])
	sources := map[rollup.SourceID]rollup.Source{}
	size := 0
	d.Items = make([]rollup.Item, 0, p.gathered[j.tier]+p.gathered[j.tier]/8)
	upTo := j.target
	if j.turn > 0 {
		upTo = j.reach
	}
	err := p.groups(ctx, stretch{tier: j.tier - 1, after: after, upTo: upTo}, func(g group) error {
		if g.first > j.target || j.turn > 0 && g.meta.Turn > j.turn {
			return errEnough
		}
		p.turns[j.tier], p.events[j.tier] = g.meta.Turn, g.meta.Events
		if j.tier == 1 {
			p.events[1] = g.position()
		}
		if j.turn > 0 {
			d.Position = g.last
		}
		d.Full = d.Full || g.delta.Full
		g.delta.Apply(sources)
		for i := range g.delta.Items {
			it := &g.delta.Items[i]
			size += len(it.Sums)
			sums.Add(it.Second, it.Key, it.Sums)
		}
		if size > min(maxGather, p.a.o.StoreBytes/8) {
			d.Position = g.last
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, fmt.Errorf("cannot read the rollups of tier %d of partition %d: %w", j.tier-1, p.number, err)
	}
	d.Sources = rollup.Sorted(sources)
	if err := sums.Sums(func(start int64, key rollup.Key, data []byte) {
		d.Items = append(d.Items, rollup.Item{Key: key, Second: start, Sums: data})
	}); err != nil {
		p.a.metrics.badRollups.Inc()
		p.a.log.Error("a rollup's cell is not readable and is left out", "partition", p.number, "error", err)
	}
	p.gathered[j.tier] = len(d.Items)
	return d, nil
}

// adoptChunk is how many values are added at once: queries and events wait
// meanwhile.
const adoptChunk = 2000

// adopt puts made groups into the store. What they hold of times that the finer
// tier still has counts only later; it is added bit by bit.
func (p *partition) adopt(j job, made []*rollup.Delta) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.adopting = true
	defer func() { p.adopting = false }()
	now := p.a.o.Now().Unix()
	n := 0
	add := func(visible bool) {
		for _, d := range made {
			for i := range d.Items {
				it := &d.Items[i]
				if p.store.Counts(j.tier, it.Second, it.Key) != visible {
					continue
				}
				if _, err := p.store.Add(j.tier, it.Second, it.Key, it.Sums, now); err != nil {
					p.a.log.Error("cannot keep a value", "partition", p.number, "error", err)
				}
				p.a.trimmer.grown.Add(int64(len(it.Sums)))
				if n++; n%adoptChunk == 0 && !visible {
					p.mu.Unlock()
					p.mu.Lock()
				}
			}
		}
	}
	add(false)
	add(true)
	if err := p.store.Folded(j.tier-1, j.began); err != nil {
		p.a.log.Error("a stored value was not valid", "partition", p.number, "error", err)
	}
}

// group is a whole group of a tier's stream.
type group struct {
	delta *rollup.Delta
	meta  rollup.Meta
	// first and last are the sequences of its parts.
	first, last uint64
	// origin: nothing was read before it, for nothing there was.
	origin bool
}

// errShort is that of a reading that ended before what is known to be there.
var errShort = errors.New("the bus has not given all rollups")

// stretch is what is read of a tier's stream: what comes after a sequence, and was
// stored since a time, if one is given.
type stretch struct {
	tier  int
	after uint64
	since time.Time
	// upTo is the sequence of something that the stream has.
	upTo uint64
}

// groups reads the whole groups of a tier's stream, as ReadRollups does. It fails
// where that ends before it should: the bus has been seen to tell of a stream that it
// had just opened again that nothing was in it, and who believes that counts all
// events anew. fn must not keep the Items of a delta.
func (p *partition) groups(ctx context.Context, s stretch, fn func(group) error) error {
	var groups rollup.Assembler
	var reader rollup.Reader
	first, origin, begun := uint64(0), false, false
	tier, seen := s.tier, s.after
	err := p.a.o.Rollups.ReadRollups(ctx, p.number, tier, s.after, s.since, func(sequence uint64, data []byte) error {
		seen = sequence
		part, err := reader.Decode(data)
		if err != nil || part.Partition != p.number {
			p.a.metrics.badRollups.Inc()
			p.a.log.Error("a rollup is not readable and is left out", "partition", p.number, "tier", tier, "sequence", sequence, "error", err)
			return nil
		}
		if !begun {
			// Also where its writer did not live to write all of it.
			origin, begun = part.Group == 0 && part.Number == 0, true
		}
		if part.Number == 0 {
			first = sequence
		}
		if d := groups.Add(part, len(data)); d != nil {
			g := group{delta: d, meta: part.Meta, first: first, last: sequence, origin: origin}
			origin = false
			err := fn(g)
			reader.Reuse(d)
			return err
		}
		return nil
	})
	switch {
	case err != nil || seen >= s.upTo:
		return err
	case seen > s.after || s.since.IsZero():
		return fmt.Errorf("%w: of tier %d of partition %d up to %d, where there are some up to %d", errShort, tier, p.number, seen, s.upTo)
	}
	// Nothing was stored for long, or the bus's clock is far from ours.
	s.since = time.Time{}
	return p.groups(ctx, s, fn)
}
