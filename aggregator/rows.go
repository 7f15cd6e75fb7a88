package aggregator

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/aggregator/rollup"
)

// statRows sums up each resource of a request without a peer. There may be ten
// thousands: partitions are worked on side by side, and in each all values of a
// row are added up one after the other, in the same memory.
func (q *question) statRows() error {
	var next atomic.Int64
	var mu sync.Mutex
	var failed error
	var packed []query.Packed
	var group sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(q.a.partitions)) {
		group.Go(func() {
			w := rowWorker{q: q, quantiles: query.Quantiles(), values: make([]value, 1)}
			for at := next.Add(1); int(at) <= len(q.a.partitions); at = next.Add(1) {
				w.rows = w.rows[:0]
				covered, err := w.partition(q.a.partitions[at-1])
				mu.Lock()
				if covered != nil {
					covered()
				}
				if err != nil {
					failed = err
				}
				q.reply.Rows = append(q.reply.Rows, w.rows...)
				mu.Unlock()
			}
			mu.Lock()
			defer mu.Unlock()
			packed = append(packed, w.packed)
		})
	}
	group.Wait()
	slices.Sort(q.reply.Partitions)
	if failed == nil {
		failed = q.sorted()
	}
	for _, rows := range packed {
		q.reply.AddPacked(rows)
	}
	return failed
}

// value is one of a list of values: encoded, or a cell.
type value struct {
	next int32
	data []byte
	cell *rollup.Cell
}

// rowWorker sums up the rows of one partition after the other.
type rowWorker struct {
	q     *question
	adder rollup.Adder
	cells [targets]rollup.Cell
	// table is that of the partition at hand: one that it has kept, or own.
	table  *rowTable
	own    rowTable
	values []value // from 1
	rows   []query.Row
	// packed are those of the rows that came to nobody else, packed at once;
	// brief is scratch for them.
	packed    query.Packed
	brief     query.Row
	quantiles [7]float64
}

// partition sums up a partition. What it returns is to be called in turn with
// the other partitions'.
func (w *rowWorker) partition(p *partition) (covered func(), err error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	q := w.q
	if !q.about(p) {
		return nil, nil
	}
	w.values = w.values[:1]
	if c := p.recalls.take(q, p); c != nil {
		defer c.mu.Unlock()
		err = w.recall(p, c)
	} else {
		err = w.afresh(p)
	}
	oldest, finest := p.oldest(), q.bounds(p).Finest()
	return func() { q.covered(p.number, oldest, finest) }, err
}

// afresh sums up all rows of a partition, and remembers nothing.
func (w *rowWorker) afresh(p *partition) error {
	q := w.q
	w.table = &w.own
	w.table.reset()
	pick := func(k *rollup.Key) int {
		picked := w.table.place(q, k)
		if picked >= 0 {
			w.table.count(picked, k)
		}
		return picked
	}
	p.store.Visit(q.Since, q.Until, q.Step, pick, func(picked int, _ int64, data []byte) {
		w.put(picked, value{data: data})
	})
	p.folder.Scan(q.Since, q.Until, func(k rollup.Key) func(int64, *rollup.Cell) {
		picked := pick(&k)
		if picked < 0 {
			return nil
		}
		return func(_ int64, c *rollup.Cell) { w.put(picked, value{cell: c}) }
	})
	w.table.presence(q, p, nil)
	var failed error
	for i := range w.table.sums {
		if err := w.sum(&w.table.sums[i]); err != nil {
			failed = err
		}
	}
	return failed
}

func (w *rowWorker) put(picked int, v value) {
	list := &w.table.sums[picked/targets].values[picked%targets]
	v.next = *list
	*list = int32(len(w.values))
	w.values = append(w.values, v)
}

// sum adds the values of a row up.
func (w *rowWorker) sum(s *rowSum) (failed error) {
	for target, at := range s.values {
		c := &w.cells[target]
		c.Reset()
		for at != 0 {
			v := &w.values[at]
			if v.cell != nil {
				c.Merge(v.cell)
			} else if err := w.adder.Add(c, v.data); err != nil {
				failed = err
			}
			at = v.next
		}
	}
	// What counts of a resource is what it got, unless it got nothing and only
	// sent.
	side, sums := query.Inbound, &w.cells[toInbound]
	if out := &w.cells[toOutbound]; !sums.Traffic() && out.Traffic() {
		side, sums = query.Outbound, out
	}
	ledger := &w.cells[toLedger]
	row := query.Row{
		Resource:        s.key,
		Owner:           s.owner,
		Direction:       side,
		PodsSeen:        s.seen,
		PodsLive:        s.live,
		OpenConnections: s.open,
		Shed:            ledger.Shed,
		LostBatches:     uint64(max(ledger.Lost, 0)),
	}
	if w.q.Packed && w.q.Brief && s.alone() {
		row.Brief, row.Stats = true, w.brief.Stats
		w.briefly(&row.Stats, sums)
		w.packed.Add(&row)
		s.told = w.table.keep(s.told, w.packed.Last())
		w.brief.Stats = row.Stats
		return failed
	}
	s.told, s.unsettled = s.told[:0], true
	row.Stats = statsOf(sums)
	w.rows = append(w.rows, row)
	return failed
}

// briefly sets stats to a cell's sums, and uses its memory again.
func (w *rowWorker) briefly(stats *query.Stats, c *rollup.Cell) {
	stats.Requests, stats.Successes, stats.Connections = c.Requests, c.Successes, c.Connections
	stats.RequestBytes, stats.ResponseBytes = c.RequestBytes, c.ResponseBytes
	stats.Status = countsInto(stats.Status, c.Status)
	stats.GRPC = countsInto(stats.GRPC, c.GRPC)
	stats.Errors = countsInto(stats.Errors, c.Errors)
	// What was merged waits nowhere.
	c.Latency.Thin(&stats.Latency, w.quantiles[:]...)
	c.Duration.Thin(&stats.Duration, w.quantiles[:]...)
}

func countsInto[T comparable](m map[T]uint64, all []rollup.Count[T]) map[T]uint64 {
	if len(m) > 0 {
		clear(m)
	}
	if m == nil && len(all) > 0 {
		m = make(map[T]uint64, len(all))
	}
	for _, n := range all {
		m[n.Value] = n.N
	}
	return m
}
