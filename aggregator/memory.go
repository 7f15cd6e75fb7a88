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

// What no bound holds, bytes, as measured.
const (
	// codeMemory is for the pages of the program's code and constants that are in
	// use, which are resident but nothing that the runtime knows of.
	codeMemory = 24 << 20
	// workMemory is what the runtime itself, messages that the bus has sent ahead,
	// and what is under way take, and the least that the collector can work with.
	workMemory = 48 << 20
	// LeastMemory is the least that Divide makes something useful of: 12 MiB of
	// history, and 6,990 rows.
	LeastMemory = 96 << 20
)

// RuntimeLimit is how much of so much memory, bytes, the runtime may have
// (debug.SetMemoryLimit), for all that is resident to be no more.
func RuntimeLimit(memory int64) int64 { return memory - codeMemory }

// Divide bounds what so many partitions keep, so that one aggregator that owns
// them all works with so much memory, bytes, at least LeastMemory, of which the
// runtime has RuntimeLimit. A quarter of that, and 48 MiB at least, is for
// what is under way, and for the collector: the less of it there is, the more often
// it runs. Half of the rest is for the stores (storeBytes), a quarter for what
// waits for the next rollup, a sixth for rows, which the partitions share (keys),
// and a twelfth for what is known of paths and sources.
func Divide(memory int64, partitions int) (limits rollup.Limits, storeBytes, keys int) {
	limit := RuntimeLimit(memory)
	kept := int(max(limit-max(limit/4, workMemory), 0))
	each := kept / max(partitions, 1)
	keys = max(kept/6/keyMemory, partitions)
	standard := rollup.DefaultLimits()
	return rollup.Limits{
		Keys:      min(standard.Keys, keys/max(partitions, 1)),
		PathNodes: min(standard.PathNodes, each/24/nodeMemory),
		Sources:   min(standard.Sources, each/24/sourceMemory),
		Pending:   min(standard.Pending, each/4/cellMemory),
	}, kept / 2, keys
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
