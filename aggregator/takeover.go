package aggregator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/aggregator/store"
	"github.com/weirmesh/weir/event"
)

// recent is how much of the newest history is read before a partition answers
// and counts on: some more than the clocks of proxies may be ahead, so that the
// last minutes are whole.
const recent = 4 * time.Minute

// ahead is how far a proxy's clock may be ahead of ours, seconds: so much
// before its time something may have been written. See package rollup.
const ahead = 120

// past is what the one-second rollups of a partition say of the recent past.
type past struct {
	folder *rollup.Folder
	store  *store.Store[rollup.Key]
	// sources are those of the last whole group; complete: all are known. read are the
	// positions of groups, oldest first: the last is that of the last.
	sources  map[rollup.SourceID]rollup.Source
	read     []event.Mark
	complete bool
	// last is the sequence of the newest rollup, whole or not; begin that which
	// ends the first group that was read, and reaches since when everything is
	// in it or later ones.
	last, begin uint64
	reaches     int64
	// end and turn are of the last whole group.
	end, turn uint64
	// holeEnd and holeTurn are of the newest group that says that the stream lost
	// what came before it.
	holeEnd, holeTurn uint64
	// holed: the finer tiers have lost what a coarser one has.
	holed bool
}

// takeOver reads back what was published last, and returns which messages of the
// stream of events were read, as ConsumeEvents wants them: the last is the position to
// go on from. What was before is to be loaded by loadHistory.
func (p *partition) takeOver(ctx context.Context) (read []event.Mark, err error) {
	now := p.a.o.Now()
	if err := p.readLasts(ctx); err != nil {
		return nil, fmt.Errorf("cannot take over partition %d: %w", p.number, err)
	}
	found, err := p.readBack(ctx, now)
	if err == nil {
		err = p.mend(ctx, found)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot take over partition %d: %w", p.number, err)
	}
	position := found.position()
	found.folder.Restore(position, found.sources)
	p.lasts[0], p.saved, p.wrote = found.last, position, false
	p.turn, p.wasFull, p.wantFull = found.turn, false, false
	p.lastFull, p.lastSweep = now, now
	for i := range p.due {
		// Not all partitions at once.
		every := time.Duration(p.tiers[i].Every()) * time.Second
		p.due[i] = now.Add(every * time.Duration(p.number+1) / time.Duration(p.a.o.Partitions))
	}
	p.begin, p.whole = found.begin, found.reaches == 0
	switch {
	case !p.whole:
		found.store.Loading(found.reaches)
	case len(p.lasts) > 1 && p.lasts[1] > 0:
		found.store.LoadedTier(0, 0, false) // there is more in the coarser tiers
	default:
		found.store.Loaded(0)
	}
	// Last, so that it is past whatever the predecessor answered for until now.
	answerBy := p.a.o.Now().Add(catchUpMost)
	end := p.streamEnd(ctx, catchUpMost)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.folder, p.store, p.summary = found.folder, found.store, newSummary()
	p.ready, p.complete, p.live, p.lastRead = true, false, false, time.Time{}
	p.holed = found.holed
	p.end, p.answerBy = end, answerBy
	p.a.log.Info("took over a partition", "partition", p.number, "position", position.Sequence, "end", end, "sources", len(found.sources), "rollup", found.last,
		"took", p.a.o.Now().Sub(now).Round(time.Millisecond))
	return p.readBefore(found), nil
}

// readBack reads the recent past, as far as it takes to know all sources.
func (p *partition) readBack(ctx context.Context, now time.Time) (*past, error) {
	if p.lasts[0] == 0 {
		return p.emptyPast(now), nil
	}
	found, err := p.readPast(ctx, now.Add(-recent))
	if err == nil && (!found.complete || found.last < p.lasts[0]) {
		// Nothing was published for long, or nothing whole: read it all.
		found, err = p.readPast(ctx, time.Time{})
	}
	return found, err
}

// readLasts looks up where each tier ends and up to where it sums up the finer
// one. It waits for the bus where it is away.
//
// The coarsest comes first: the predecessor may still write, and what a tier sums
// up must be there when the finer one's end is looked up.
func (p *partition) readLasts(ctx context.Context) error {
	for i := len(p.tiers) - 1; i >= 0; i-- {
		data, last, err := p.lastOf(ctx, i)
		if err != nil {
			return err
		}
		p.lasts[i], p.through[i], p.folded[i] = last, 0, time.Time{}
		p.turns[i], p.events[i], p.ends[i] = 0, event.Mark{}, 0
		if i > 0 && last > 0 {
			if err = p.lastGroup(ctx, i, data); err != nil {
				return err
			}
		}
	}
	return nil
}

// lastOf is LastRollup, patiently.
func (p *partition) lastOf(ctx context.Context, tier int) (data []byte, sequence uint64, err error) {
	for delay := retryLeast; ; delay = min(2*delay, retryMost) {
		bounded, cancel := context.WithTimeout(ctx, saveTimeout)
		data, sequence, err := p.a.o.Rollups.LastRollup(bounded, p.number, tier)
		cancel()
		if err == nil || ctx.Err() != nil {
			return data, sequence, errors.Join(err, ctx.Err())
		}
		p.a.log.Debug("cannot look up the last rollup; trying again", "partition", p.number, "tier", tier, "error", err)
		sleep(ctx, delay)
	}
}

// lastGroup looks up what a tier's last whole group says; data is the tier's
// last rollup.
func (p *partition) lastGroup(ctx context.Context, tier int, data []byte) error {
	note := func(position, end uint64, meta *rollup.Meta) {
		p.through[tier], p.folded[tier] = position, time.UnixMicro(meta.Written)
		p.turns[tier], p.events[tier], p.ends[tier] = meta.Turn, meta.Events, end
	}
	if part, err := rollup.Decode(data); err == nil && part.Last && part.Partition == p.number {
		note(part.Delta.Position, p.lasts[tier], &part.Meta)
		return nil
	}
	// Its writer died within the group, or is still at it: what it has written since
	// is not in what loadTier reads, so it must not be taken for summed up.
	err := p.groups(ctx, stretch{tier: tier, upTo: p.lasts[tier]}, func(g group) error {
		if g.last > p.lasts[tier] {
			return errEnough
		}
		note(g.delta.Position, g.last, &g.meta)
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return err
}

func (p *partition) emptyPast(now time.Time) *past {
	return &past{
		folder:  rollup.NewFolder(p.a.o.Limits),
		store:   store.New[rollup.Key](newSummer, p.tiers, now.Unix()),
		sources: map[rollup.SourceID]rollup.Source{},
	}
}

// readPast adds up the rollups of a second stored at since or later.
func (p *partition) readPast(ctx context.Context, since time.Time) (*past, error) {
	now := p.a.o.Now()
	found := p.emptyPast(now)
	found.last = p.lasts[0]
	first := true
	// Others take over at the same time, and what is there already has its part.
	room, grown := p.a.o.StoreBytes/2/len(p.a.partitions), 0
	err := p.groups(ctx, stretch{since: since, upTo: p.lasts[0]}, func(g group) error {
		if first {
			found.begin, found.reaches = g.last, g.reaches()
			first = false
		}
		found.last = max(found.last, g.last)
		found.end, found.turn = g.last, g.meta.Turn
		if g.meta.Hole > 0 {
			found.store.Lost(g.meta.HoleTiers, g.meta.Hole)
			found.holeEnd, found.holeTurn = g.last, g.meta.Turn
		}
		p.recall(found.store, found.folder, 0, &g, now.Unix())
		if grown += sizeOf(g.delta.Items); grown > room/4 {
			grown = 0
			found.store.Trim(room, now.Unix())
		}
		g.delta.Apply(found.sources)
		found.complete = found.complete || g.delta.Full
		found.read = append(found.read, g.position())
		return nil
	})
	return found, err
}

// reaches is since when everything is in a group or later ones; 0 where it is
// the first there is.
func (g *group) reaches() int64 {
	if g.origin {
		return 0
	}
	return g.meta.Written/1e6 + ahead
}

// recall adds a group that was stored before to a store. folder, where not nil,
// gets to know the keys.
func (p *partition) recall(to *store.Store[rollup.Key], folder *rollup.Folder, tier int, g *group, now int64) {
	if folder != nil {
		folder.Learn(g.delta.Learned)
	}
	folded := tier+1 < len(p.tiers) && g.last <= p.through[tier+1]
	for i := range g.delta.Items {
		it := &g.delta.Items[i]
		var kept bool
		var err error
		if folded {
			kept, err = to.Recall(tier, it.Second, it.Key, it.Sums)
		} else {
			kept, err = to.Add(tier, it.Second, it.Key, it.Sums, now)
		}
		if err != nil {
			p.a.metrics.badRollups.Inc()
			p.a.log.Error("a rollup's cell is not readable and is left out", "partition", p.number, "tier", tier, "error", err)
		}
		if kept && folder != nil {
			folder.Touch(it.Key, it.Second)
		}
	}
}
