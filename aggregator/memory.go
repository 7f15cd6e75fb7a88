package aggregator

import (
	"slices"
	"sync"
	"time"
)

// trimEvery is how often the memory of the stores is looked at.
const trimEvery = 5 * time.Second

// trimmer keeps the bound on what the partitions' stores take together.
type trimmer struct {
	last time.Time
	tell sync.Once
}

// trim lets the stores forget fine history where they take too much together.
// Small ones keep all of theirs.
func (a *Aggregator) trim(now time.Time) {
	if now.Sub(a.trimmer.last) < trimEvery {
		return
	}
	a.trimmer.last = now
	sizes := make([]int, len(a.partitions))
	for i, p := range a.partitions {
		p.mu.RLock()
		if p.ready {
			sizes[i] = p.store.Bytes()
		}
		p.mu.RUnlock()
	}
	limit, over := share(sizes, a.o.StoreBytes)
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
