package aggregator

import (
	"slices"
	"sync"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/aggregator/store"
)

// Who watches many workloads asks for all of them every second or so, and in that
// second only some had requests. What was told of a row is told again, as long
// as none of its values has come, changed, entered or left the window since.

// Bounds of what is remembered.
const (
	// recallFor is for how long after it was asked for, seconds.
	recallFor = 10
	// maxRecalls questions of a partition are.
	maxRecalls = 4
	// recallShare is the part of the stores' memory that it may have.
	recallShare = 8
	// rowMemory and podMemory are what a row and a pod take, bytes, with what
	// leads to them: the sizes of their structures and of usual names.
	rowMemory = 500
	podMemory = 300
	// spareRows are those that a table may have beside twice those that it had at
	// first, before it is made anew.
	spareRows = 100
)

// recall is what is remembered of the rows that a question was about.
type recall struct {
	// resource and length (seconds) are what tells it from others.
	resource query.Selector
	length   int64
	// used is when it was last asked for, Unix seconds; guarded by recalls.mu.
	used int64

	// mu guards the following.
	mu sync.Mutex
	// folder and store are the partition's that it was made of.
	folder *rollup.Folder
	store  *store.Store[rollup.Key]
	// since and until were the window, mark the store's then.
	since, until int64
	mark         uint64
	table        rowTable
	// rows and pods are how many the table had at first.
	rows, pods int
	// lists are where the values of the store's keys go, by number, as place
	// gave it, and 2 more; 0: nobody has looked.
	lists   []int32
	sources map[*rollup.Source]int32
}

// recalls are those of a partition. It is safe for concurrent use.
type recalls struct {
	mu  sync.Mutex
	all []*recall
}

// take gives what is remembered for a question, locked; or nil, where nothing
// is to be, or somebody else has it. The partition's mu is held.
func (r *recalls) take(q *question, p *partition) *recall {
	if !q.Packed || !q.Brief || q.Resource.Name != "" || q.Resource.Kind == query.KindNamespace || q.Step != 0 || q.Since < p.store.From(0) {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	at := slices.IndexFunc(r.all, func(c *recall) bool { return c.resource == q.Resource && c.length == q.Until-q.Since })
	if at < 0 {
		if len(r.all) == maxRecalls {
			r.all = slices.DeleteFunc(r.all, func(c *recall) bool { return c.used < q.now })
		}
		if len(r.all) == maxRecalls {
			return nil
		}
		at = len(r.all)
		r.all = append(r.all, &recall{resource: q.Resource, length: q.Until - q.Since})
	}
	c := r.all[at]
	if !c.mu.TryLock() {
		return nil
	}
	c.used = q.now
	return c
}

// expire forgets what nobody has asked for lately, or is too much. Nobody may be
// asking the partition.
func (r *recalls) expire(now int64, limit int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	left := limit
	r.all = slices.DeleteFunc(r.all, func(c *recall) bool {
		left -= c.bytes()
		return now-c.used > recallFor || left < 0
	})
}

// drop forgets all.
func (r *recalls) drop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = nil
}

// bytes is how much memory all take, near enough. Nobody may be asking the
// partition.
func (r *recalls) bytes() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.all {
		n += c.bytes()
	}
	return n
}

func (c *recall) bytes() int {
	return rowMemory*cap(c.table.sums) + podMemory*cap(c.table.states) + 4*cap(c.lists)
}

// follows tells whether what is remembered helps with a question: the store must
// still have what has left the window since, and most of the table must be of
// use.
func (c *recall) follows(q *question, p *partition) bool {
	moved := q.Since - c.since
	return c.folder == p.folder && c.store == p.store && c.since >= p.store.From(0) && moved >= 0 && moved <= c.length/2 &&
		len(c.table.sums) <= 2*c.rows+spareRows && max(len(c.table.states), len(c.sources)) <= 2*c.pods+spareRows
}

// begin forgets what is remembered.
func (c *recall) begin(p *partition) {
	c.folder, c.store = p.folder, p.store
	c.table.kept = true
	c.table.reset()
	clear(c.lists)
	if c.sources == nil {
		c.sources = map[*rollup.Source]int32{}
	}
	clear(c.sources)
}

// list is where the values of a key of the store go, or negative, as place gave
// it; known: it has been asked.
func (c *recall) list(id uint32) (at int, known bool) {
	if int(id) >= len(c.lists) || c.lists[id] == 0 {
		return -1, false
	}
	return int(c.lists[id]) - 2, true
}

// find asks for a list anew.
func (c *recall) find(q *question, id uint32, k *rollup.Key) int {
	at := c.table.place(q, k)
	for int(id) >= len(c.lists) {
		c.lists = append(c.lists, 0)
	}
	c.lists[id] = int32(max(at, -1) + 2)
	return at
}

// stale has the row of a list added up in this round.
func (t *rowTable) stale(list int) *rowSum {
	s := &t.sums[list/targets]
	if s.stale != t.round {
		s.stale, s.unsettled = t.round, false
	}
	return s
}

// recall sums up those rows of a partition that have changed, and tells the
// others again. c is locked.
func (w *rowWorker) recall(p *partition, c *recall) error {
	q, t := w.q, &c.table
	w.table = t
	fresh := !c.follows(q, p)
	if fresh {
		c.begin(p)
	}
	t.round++
	for i := range t.sums {
		s := &t.sums[i]
		s.live, s.open, s.seen, s.values = 0, 0, 0, [targets]int32{}
	}
	t.presence(q, p, c.sources)
	for i := range t.sums {
		if s := &t.sums[i]; s.unsettled || s.live != s.wasLive || s.open != s.wasOpen {
			t.stale(i * targets)
		}
	}
	if !fresh {
		c.changed(q, p)
	}
	w.pending(p)
	p.store.VisitByID(q.Since, q.Until, 0, func(id uint32, k *rollup.Key) int {
		at, known := c.list(id)
		if !known {
			at = c.find(q, id, k)
		}
		if at < 0 || t.sums[at/targets].stale != t.round {
			return -1
		}
		t.count(at, k)
		return at
	}, func(picked int, _ int64, data []byte) { w.put(picked, value{data: data}) })
	var failed error
	for i := range t.sums {
		s := &t.sums[i]
		switch {
		case s.stale != t.round:
			if len(s.told) > 0 {
				w.packed.Repeat(s.told)
			}
			continue
		case s.counted != t.round:
			s.told = s.told[:0]
		default:
			if err := w.sum(s); err != nil {
				failed, s.unsettled = err, true
			}
		}
		s.wasLive, s.wasOpen = s.live, s.open
	}
	c.since, c.until = q.Since, q.Until
	c.mark = p.store.Mark()
	if fresh {
		c.rows, c.pods = len(t.sums), max(len(t.states), len(c.sources))
	}
	return failed
}

// changed finds the rows of which a value has come, changed, entered the window
// or left it.
func (c *recall) changed(q *question, p *partition) {
	look := func(id uint32, k *rollup.Key) {
		if at, _ := c.list(id); at >= 0 {
			c.table.stale(at) // the number may have been another key's
		}
		if at := c.find(q, id, k); at >= 0 {
			c.table.stale(at)
		}
	}
	p.store.Changed(c.mark, look)
	for _, edge := range [...]query.Window{{Since: c.since, Until: q.Since}, {Since: c.until, Until: q.Until}} {
		if edge.Since < edge.Until {
			p.store.VisitByID(edge.Since, edge.Until, 0, func(id uint32, k *rollup.Key) int {
				look(id, k)
				return -1
			}, nil)
		}
	}
}

// pending adds what the store does not have yet: it will have it the next time.
func (w *rowWorker) pending(p *partition) {
	q, t := w.q, w.table
	p.folder.Scan(q.Since, q.Until, func(k rollup.Key) func(int64, *rollup.Cell) {
		at := t.place(q, &k)
		if at < 0 {
			return nil
		}
		t.stale(at).unsettled = true
		t.count(at, &k)
		return func(_ int64, c *rollup.Cell) { w.put(at, value{cell: c}) }
	})
}
