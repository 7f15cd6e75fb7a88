package aggregator

import (
	"slices"
	"sync"
	"time"

	"github.com/weirmesh/weir/aggregator/rollup"
)

// trimEvery is how often the memory of the stores is looked at.
const trimEvery = 5 * time.Second

// trimmer keeps the bound on what the partitions' stores take together.
type trimmer struct {
	last time.Time
	tell sync.Once
}

// What an entry of each bound takes in memory at most or on average, bytes, as
// measured.
const (
	keyMemory    = 600
	nodeMemory   = 200
	sourceMemory = 400
	cellMemory   = 2048
)

// Divide bounds what so many partitions keep, so that one aggregator that owns
// them all works with so much memory, bytes. Half of it is for the stores
// (storeBytes), a quarter for what waits for the next rollup, an eighth for
// rows, which the partitions share (keys), and a sixteenth for what is known of
// paths and sources.
func Divide(memory int64, partitions int) (limits rollup.Limits, storeBytes, keys int) {
	each := int(memory) / max(partitions, 1)
	keys = max(int(memory)/8/keyMemory, partitions)
	standard := rollup.DefaultLimits()
	return rollup.Limits{
		Keys:      min(standard.Keys, keys/max(partitions, 1)),
		PathNodes: min(standard.PathNodes, each/32/nodeMemory),
		Sources:   min(standard.Sources, each/32/sourceMemory),
		Pending:   min(standard.Pending, each/4/cellMemory),
	}, int(memory / 2), keys
}

// spread divides the rows that are left among the partitions: those of all
// together never pass the bound, and a busy one gets what others don't need.
func (a *Aggregator) spread() {
	if a.o.Keys == 0 {
		return
	}
	left := a.o.Keys
	keys := make([]int, len(a.partitions))
	for i, p := range a.partitions {
		p.mu.RLock()
		keys[i] = -1
		if p.ready {
			keys[i] = p.folder.Keys()
			left -= keys[i]
		}
		p.mu.RUnlock()
	}
	for i, p := range a.partitions {
		if keys[i] < 0 {
			continue
		}
		p.mu.Lock()
		if p.ready {
			p.folder.SetKeys(keys[i] + max(left, 0)/len(a.partitions))
		}
		p.mu.Unlock()
	}
}

// trim lets the stores forget fine history where they take too much together.
// Small ones keep all of theirs.
func (a *Aggregator) trim(now time.Time) {
	if now.Sub(a.trimmer.last) < trimEvery {
		return
	}
	a.trimmer.last = now
	a.spread()
	sizes, recalls := make([]int, len(a.partitions)), 0
	for i, p := range a.partitions {
		p.mu.Lock() // nobody may be asking
		if p.ready {
			sizes[i] = p.store.Bytes()
			recalls += p.recalls.bytes()
		}
		p.mu.Unlock()
	}
	limit, over := share(sizes, a.o.StoreBytes-recalls)
	if !over {
		return
	}
	for i, p := range a.partitions {
		if sizes[i] > limit {
			a.trimOne(p, limit)
		}
	}
}

func (a *Aggregator) trimOne(p *partition, limit int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ready || p.adopting {
		return
	}
	bytes, finest := p.store.Trim(limit)
	if finest == 0 {
		return
	}
	a.metrics.trimmed.Inc()
	a.trimmer.tell.Do(func() {
		a.log.Warn("the memory for statistics is full: older windows have coarser edges, their sums stay exact (give more with --memory)",
			"partition", p.number, "bytes", bytes, "limit_bytes", limit, "exact_since", time.Unix(finest, 0).UTC())
	})
}

// share is how much each may have for all together to have no more than total:
// those that have less leave the rest to the others. over tells that anyone has
// more.
func share(sizes []int, total int) (limit int, over bool) {
	sorted := slices.Sorted(slices.Values(sizes))
	left := total
	for i, size := range sorted {
		limit = left / (len(sorted) - i)
		if size > limit {
			return limit, true
		}
		left -= size
	}
	return total, false
}
