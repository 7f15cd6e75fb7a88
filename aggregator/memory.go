package aggregator

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirmesh/weir/aggregator/rollup"
)

// trimEvery is how often the memory of the stores is looked at; sooner, where they
// have grown by a part of their bound since, of which there are trimParts.
const (
	trimEvery = time.Second
	trimParts = 32
)

// trimmer keeps the bound on what the partitions' stores take together.
type trimmer struct {
	last time.Time
	tell sync.Once
	// running: somebody looks at the memory from time to time.
	running atomic.Bool
	// grown is by how many bytes the stores have grown since, at most; crowded
	// tells that they were over their bound after all.
	grown   atomic.Int64
	crowded atomic.Bool
	mu      sync.Mutex
	// done is closed when the stores have been trimmed, and another is made; it is
	// guarded by mu.
	done chan struct{}
}

func newTrimmer() trimmer { return trimmer{done: make(chan struct{})} }

// What an entry of each bound takes in memory at most or on average, bytes, as
// measured.
const (
	keyMemory    = 600
	nodeMemory   = 200
	sourceMemory = 400
	cellMemory   = 2048
)

// Divide bounds what so many partitions keep, so that one aggregator that owns
// them all works with so much memory, bytes. Three eighths of it are for the
// stores (storeBytes), three sixteenths for what waits for the next rollup, an eighth
// for rows, which the partitions share (keys), and a sixteenth for what is known of
// paths and sources. A quarter is for what is under way, and for the collector:
// the less of it there is, the more often it runs.
func Divide(memory int64, partitions int) (limits rollup.Limits, storeBytes, keys int) {
	each := int(memory) / max(partitions, 1)
	keys = max(int(memory)/8/keyMemory, partitions)
	standard := rollup.DefaultLimits()
	return rollup.Limits{
		Keys:      min(standard.Keys, keys/max(partitions, 1)),
		PathNodes: min(standard.PathNodes, each/32/nodeMemory),
		Sources:   min(standard.Sources, each/32/sourceMemory),
		Pending:   min(standard.Pending, each*3/16/cellMemory),
	}, int(memory / 8 * 3), keys
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

// grew notes that values were added to the stores.
func (a *Aggregator) grew(items []rollup.Item) { a.trimmer.grown.Add(int64(sizeOf(items))) }

// sizeOf is how much memory values take in a store, near enough.
func sizeOf(items []rollup.Item) (bytes int) {
	for i := range items {
		bytes += len(items[i].Sums) + 16
	}
	return bytes
}

// awaitRoom waits until the stores have been trimmed, where they have grown by much
// since that was done, or were too large even then. It waits for a second at
// most: who is slow lags, but goes on. It tells whether it waited.
func (a *Aggregator) awaitRoom(ctx context.Context) (waited bool) {
	t := &a.trimmer
	if !t.running.Load() || !t.crowded.Load() && t.grown.Load() < int64(a.o.StoreBytes*2/trimParts) {
		return false
	}
	t.mu.Lock()
	done := t.done
	t.mu.Unlock()
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-done:
	case <-timer.C:
	}
	a.metrics.waits.Inc()
	return true
}

// trim lets the stores give up fine edges where they take too much together.
// Small ones keep all of theirs.
func (a *Aggregator) trim(now time.Time) {
	t := &a.trimmer
	if now.Sub(t.last) < trimEvery && t.grown.Load() < int64(a.o.StoreBytes/trimParts) {
		return
	}
	t.last = now
	t.grown.Store(0)
	a.spread()
	sizes, total := a.sizes(now)
	limit, over := share(sizes, total)
	left := 0
	for i, p := range a.partitions {
		if over && sizes[i] > limit {
			sizes[i] = a.trimOne(p, limit, sizes[i], now)
		}
		left += sizes[i]
	}
	t.crowded.Store(left > total+total/16)
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.done)
	t.done = make(chan struct{})
}

// sizes are how many bytes the stores take, and how many all together may take.
func (a *Aggregator) sizes(now time.Time) (sizes []int, total int) {
	sizes, total = make([]int, len(a.partitions)), a.o.StoreBytes
	for i, p := range a.partitions {
		p.mu.Lock() // nobody may be asking
		if p.ready {
			sizes[i] = p.store.Bytes()
			total -= p.recalls.bytes()
			if sizes[i] < a.o.StoreBytes/len(a.partitions)/2 {
				p.store.Relax(now.Unix())
			}
		}
		p.mu.Unlock()
	}
	return sizes, total
}

// trimOne trims the store of a partition, which takes so many bytes, and returns
// how many it takes then.
func (a *Aggregator) trimOne(p *partition, limit, size int, now time.Time) (bytes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ready || p.adopting {
		return size
	}
	bytes, trimmed := p.store.Trim(limit, now.Unix())
	if !trimmed {
		return bytes
	}
	a.metrics.trimmed.Inc()
	a.trimmer.tell.Do(func() {
		at := func(second int64) time.Time { return time.Unix(second, 0).UTC() }
		a.log.Warn("the memory for statistics is full: the older a window's edges, the coarser they are, first those by peer and route; "+
			"sums stay exact (give more with --memory)",
			"partition", p.number, "bytes", bytes, "limit_bytes", limit, "exact_since", at(p.store.Totals().Finest()), "by_peer_and_route_exact_since", at(p.store.Finest()))
	})
	return bytes
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
