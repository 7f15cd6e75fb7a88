package aggregator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weirmesh/weir/aggregator/rollup"
)

// loadHistory reads back what was published before what takeOver read: the
// finest tier first. Meanwhile the partition counts and answers; its answers
// tell how far back they reach.
func (p *partition) loadHistory(ctx context.Context) error {
	began := p.a.o.Now()
	for i := range p.tiers {
		if i == 0 && p.whole {
			continue // takeOver has read all there is
		}
		if i > 0 && p.lasts[i] == 0 {
			break // nor has a coarser tier anything
		}
		reaches, err := p.loadTier(ctx, i, began)
		if err != nil {
			return fmt.Errorf("cannot load the history of partition %d: %w", p.number, err)
		}
		p.loaded(i, reaches, i+1 == len(p.tiers) || p.lasts[i+1] == 0)
	}
	p.mu.Lock()
	p.complete = true
	p.mu.Unlock()
	p.a.log.Info("loaded a partition's history", "partition", p.number, "took", p.a.o.Now().Sub(began).Round(time.Millisecond))
	return nil
}

// loadTier reads one tier, and returns since when it has everything; 0: from
// the very beginning.
func (p *partition) loadTier(ctx context.Context, tier int, began time.Time) (reaches int64, err error) {
	t := p.tiers[tier]
	since := began.Add(-time.Duration(t.Keep+t.Lateness()+2*ahead) * time.Second)
	if tier+1 < len(p.tiers) {
		// What has not gone into the next tier counts, however old it is.
		since = earlier(since, p.folded[tier+1])
	}
	what := stretch{tier: tier, since: since, upTo: p.begin}
	if tier > 0 {
		what.upTo = p.lasts[tier]
	}
	reaches, err = p.load(ctx, what, began)
	if errors.Is(err, errCut) {
		// The bus's clock is so far behind ours that it took something for older.
		what.since = time.Time{}
		reaches, err = p.load(ctx, what, began)
	}
	return reaches, err
}

// errCut is that of a reading that begins too late.
var errCut = errors.New("older rollups count, too")

// load adds what is read of a tier to the store. It fails with errCut, having done
// nothing, where the stretch may have left out what has not gone into the next tier, or
// is not too old for this one.
func (p *partition) load(ctx context.Context, what stretch, began time.Time) (reaches int64, err error) {
	tier, first := what.tier, true
	err = p.groups(ctx, what, func(g group) error {
		if first {
			reaches, first = g.reaches(), false
			missing := tier+1 < len(p.tiers) && g.meta.Group > p.through[tier+1] || reaches > began.Unix()-p.tiers[tier].Keep
			if missing && !what.since.IsZero() {
				return errCut
			}
		}
		if tier == 0 && g.last >= p.begin || tier > 0 && g.last > p.lasts[tier] {
			return errEnough
		}
		p.noteHole(&g)
		p.recallLive(ctx, tier, &g, began.Unix())
		return ctx.Err()
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	if err == nil && first && !what.since.IsZero() {
		err = errCut // what there is is not whole
	}
	return reaches, err
}

// clocks is how much the clocks of the members and of the bus may differ before
// history is read twice: see errCut.
const clocks = 5 * time.Minute

// earlier is since, or folded (zero: the beginning of time) where that may be
// before it.
func earlier(since, folded time.Time) time.Time {
	if folded.IsZero() {
		return folded
	}
	if folded = folded.Add(-clocks); folded.Before(since) {
		return folded
	}
	return since
}

// recallLive adds a group to the store that answers and counts at the same
// time: bit by bit.
func (p *partition) recallLive(ctx context.Context, tier int, g *group, now int64) {
	items := g.delta.Items
	for len(items) > 0 {
		n := min(len(items), adoptChunk)
		part := *g
		part.delta = &rollup.Delta{Items: items[:n]}
		p.a.awaitRoom(ctx)
		p.mu.Lock()
		p.recall(p.store, nil, tier, &part, now)
		p.mu.Unlock()
		p.a.grew(items[:n])
		items = items[n:]
	}
}

// loaded notes that a tier is there since reaches; last tells that no coarser
// one reaches further back.
func (p *partition) loaded(tier int, reaches int64, last bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.store.LoadedTier(tier, reaches, last)
}

// oldest is the second in which the oldest of what is counted begins, published
// or not; 0 where nothing was. p.mu is held, and the partition is ready.
func (p *partition) oldest() int64 {
	kept, pending := p.store.Oldest(), p.folder.Oldest()
	if kept == 0 || pending != 0 && pending < kept {
		return pending
	}
	return kept
}
