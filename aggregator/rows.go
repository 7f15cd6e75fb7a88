package aggregator

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/event"
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
			w := rowWorker{q: q, quantiles: query.Quantiles()}
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

// What a value is added to.
const (
	toInbound = iota
	toOutbound
	toLedger
	targets
)

// rowSum is a row under way: the values to be added up, by target.
type rowSum struct {
	key query.Selector
	// same is the next row of the same name, from 1.
	same   int32
	owner  *query.Selector
	values [targets]int32
	seen   int
	live   int
	open   uint64
}

// alone tells that no other partition knows of the row: its workload is of this
// one. The workloads of a namespace are not, nor are those without a row of
// their own.
func (s *rowSum) alone() bool {
	return s.key.Kind != query.KindNamespace && s.key.Name != rollup.OtherName
}

// value is one of a list of values: encoded, or a cell.
type value struct {
	next int32
	data []byte
	cell *rollup.Cell
}

// podState is what is known of a pod.
type podState struct {
	id podID
	// same is the next pod of the same name, from 1.
	same int32
	row  int32
	live bool
}

// nameKey is a name within a namespace.
type nameKey struct{ namespace, name string }

// rowWorker sums up the rows of one partition after the other.
type rowWorker struct {
	q     *question
	adder rollup.Adder
	cells [targets]rollup.Cell
	// index and pods lead from a name to the first of sums and states that has
	// it, from 1: it is found in less time than all of a selector, and next to
	// none have the same.
	index  map[nameKey]int32
	sums   []rowSum
	values []value // from 1
	pods   map[nameKey]int32
	states []podState
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
	if w.index == nil {
		w.index, w.pods = map[nameKey]int32{}, map[nameKey]int32{}
	}
	clear(w.index)
	clear(w.pods)
	w.states = w.states[:0]
	w.sums, w.values = w.sums[:0], append(w.values[:0], value{})
	p.store.Visit(q.Since, q.Until, q.Step, w.pick, func(picked int, _ int64, data []byte) {
		w.put(picked, value{data: data})
	})
	p.folder.Scan(q.Since, q.Until, func(k rollup.Key) func(int64, *rollup.Cell) {
		picked := w.pick(&k)
		if picked < 0 {
			return nil
		}
		return func(_ int64, c *rollup.Cell) { w.put(picked, value{cell: c}) }
	})
	w.presence(p)
	for i := range w.sums {
		if e := w.sum(&w.sums[i]); e != nil {
			err = e
		}
	}
	oldest, finest := p.oldest(), p.store.Finest()
	return func() { q.covered(p.number, oldest, finest) }, err
}

// pick is the list that a key's values go to, or negative.
func (w *rowWorker) pick(k *rollup.Key) int {
	q := w.q
	totals := rollup.Total
	if q.Resource.Kind == query.KindPod {
		totals = rollup.ByPod
	}
	if k.Dimension != totals && k.Dimension != rollup.Ledger {
		return -1
	}
	key, ok := q.group(k.Workload, k.Pod)
	if !ok {
		return -1
	}
	at, first := w.row(&key)
	if at < 0 {
		at = int32(len(w.sums))
		w.sums = append(w.sums, rowSum{key: key, same: first})
		w.index[nameKey{key.Namespace, key.Name}] = at + 1
	}
	s := &w.sums[at]
	if q.Resource.Kind == query.KindPod {
		owner := selector(k.Workload)
		s.owner = &owner
	}
	switch {
	case k.Dimension == rollup.Ledger:
		if state, first := w.pod(&k.Workload, k.Pod); state < 0 {
			s.seen++
			w.addPod(podState{id: podID{k.Workload, k.Pod}, same: first, row: at})
		}
		return int(at)*targets + toLedger
	case k.Direction == event.Outbound:
		return int(at)*targets + toOutbound
	default:
		return int(at)*targets + toInbound
	}
}

// row finds the row of a key, or gives -1; and the first of its name, from 1.
func (w *rowWorker) row(key *query.Selector) (at, first int32) {
	first = w.index[nameKey{key.Namespace, key.Name}]
	for at = first - 1; at >= 0 && w.sums[at].key != *key; {
		at = w.sums[at].same - 1
	}
	return at, first
}

// pod finds the state of a pod as row does a row.
func (w *rowWorker) pod(workload *event.Workload, name string) (at, first int32) {
	first = w.pods[nameKey{workload.Namespace, name}]
	for at = first - 1; at >= 0 && (w.states[at].id.workload != *workload || w.states[at].id.pod != name); {
		at = w.states[at].same - 1
	}
	return at, first
}

func (w *rowWorker) addPod(s podState) (at int32) {
	at = int32(len(w.states))
	w.states = append(w.states, s)
	w.pods[nameKey{s.id.workload.Namespace, s.id.pod}] = at + 1
	return at
}

func (w *rowWorker) put(picked int, v value) {
	list := &w.sums[picked/targets].values[picked%targets]
	v.next = *list
	*list = int32(len(w.values))
	w.values = append(w.values, v)
}

// presence adds what the live proxies say.
func (w *rowWorker) presence(p *partition) {
	p.folder.Sources(func(s *rollup.Source) bool {
		if !live(s, w.q.now) {
			return true
		}
		n, first := w.pod(&s.ID.Workload, s.Pod)
		if n < 0 {
			key, ok := w.q.group(s.ID.Workload, s.Pod)
			at, _ := w.row(&key)
			if at < 0 || !ok {
				return true
			}
			n = w.addPod(podState{id: podID{s.ID.Workload, s.Pod}, same: first, row: at})
		}
		state := &w.states[n]
		row := &w.sums[state.row]
		row.open += s.OpenConnections
		if !state.live {
			state.live = true
			row.live++
		}
		return true
	})
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
		w.brief.Stats = row.Stats
		return failed
	}
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
