package aggregator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/aggregator/store"
)

// past is what the rollups of a partition say.
type past struct {
	folder *rollup.Folder
	store  *store.Store[rollup.Key]
	// sources and position are those of the last whole group; complete: all
	// sources are known.
	sources  map[rollup.SourceID]rollup.Source
	position uint64
	complete bool
	// last is the sequence of the newest rollup, whole or not.
	last uint64
}

// takeOver reads back what was published, and returns the position to go on
// from.
func (p *partition) takeOver(ctx context.Context) (position uint64, err error) {
	last, err := p.lastSequence(ctx)
	if err != nil {
		return 0, fmt.Errorf("cannot take over partition %d: %w", p.number, err)
	}
	now := p.a.o.Now()
	found := p.emptyPast(now)
	if last > 0 {
		if found, err = p.readPast(ctx, now.Add(-p.a.o.History)); err == nil && (!found.complete || found.last < last) {
			// Nothing was published for long, or nothing whole: read it all.
			found, err = p.readPast(ctx, time.Time{})
		}
	}
	if err != nil {
		return 0, fmt.Errorf("cannot take over partition %d: %w", p.number, err)
	}
	found.folder.Restore(found.position, found.sources)
	p.last, p.saved = found.last, found.position
	p.lastFull, p.lastCompact, p.lastSweep = now, now, now
	p.mu.Lock()
	defer p.mu.Unlock()
	p.folder, p.store, p.summary = found.folder, found.store, newSummary()
	p.ready, p.live, p.lastRead = true, false, time.Time{}
	p.a.log.Info("took over a partition", "partition", p.number, "position", found.position, "sources", len(found.sources), "rollup", found.last)
	return found.position, nil
}

// lastSequence waits for the bus where it is away.
func (p *partition) lastSequence(ctx context.Context) (uint64, error) {
	for delay := retryLeast; ; delay = min(2*delay, retryMost) {
		bounded, cancel := context.WithTimeout(ctx, saveTimeout)
		_, sequence, err := p.a.o.Rollups.LastRollup(bounded, p.number, 0)
		cancel()
		if err == nil || ctx.Err() != nil {
			return sequence, errors.Join(err, ctx.Err())
		}
		p.a.log.Debug("cannot look up the last rollup; trying again", "partition", p.number, "error", err)
		sleep(ctx, delay)
	}
}

func (p *partition) emptyPast(now time.Time) *past {
	f := &past{
		folder:  rollup.NewFolder(p.a.o.Limits),
		store:   store.New[rollup.Key](func() store.Summer { return &rollup.Summer{} }, p.a.o.Tiers, p.a.o.StoreBytes),
		sources: map[rollup.SourceID]rollup.Source{},
	}
	// What is older than a tier keeps goes to the next at once.
	_ = f.store.Compact(now.Unix()) // an empty store can't fail
	return f
}

// readPast adds up the rollups stored at since or later.
func (p *partition) readPast(ctx context.Context, since time.Time) (*past, error) {
	now := p.a.o.Now()
	found := p.emptyPast(now)
	var groups rollup.Assembler
	err := p.a.o.Rollups.ReadRollups(ctx, p.number, 0, 0, since, func(sequence uint64, data []byte) error {
		found.last = max(found.last, sequence)
		part, err := rollup.Decode(data)
		if err != nil || part.Partition != p.number {
			p.a.metrics.badRollups.Inc()
			p.a.log.Error("a rollup is not readable and is left out", "partition", p.number, "sequence", sequence, "error", err)
			return nil
		}
		if d := groups.Add(part, len(data)); d != nil {
			p.recall(found, d)
		}
		return nil
	})
	return found, err
}

// recall adds one group to the past.
func (p *partition) recall(found *past, d *rollup.Delta) {
	found.folder.Learn(d.Learned)
	for i := range d.Items {
		it := &d.Items[i]
		kept, err := found.store.Add(it.Second, it.Key, it.Sums)
		if err != nil {
			p.a.metrics.badRollups.Inc()
			p.a.log.Error("a rollup's cell is not readable and is left out", "partition", p.number, "error", err)
		}
		if kept {
			found.folder.Touch(it.Key, it.Second)
		}
	}
	d.Apply(found.sources)
	found.complete = found.complete || d.Full
	found.position = d.Position
}
