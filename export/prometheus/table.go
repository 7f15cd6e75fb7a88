package prometheus

import (
	"maps"
	"strings"
	"sync/atomic"

	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/export"
)

// ladder are the upper bounds of response_latency_ms, milliseconds: Linkerd's.
var ladder = [...]uint64{
	1, 2, 3, 4, 5, 10, 20, 30, 40, 50, 100, 200, 300, 400, 500, 1000, 2000, 3000, 4000, 5000, 10_000, 20_000, 30_000, 40_000, 50_000,
}

// Places of a row's counters. Those of a histogram are its buckets, not
// cumulative, then the sum, µs.
const (
	countTotal = 0
	countRead  = 1
	countWrite = 2

	countInfinite = len(ladder)
	countSum      = countInfinite + 1
	counters      = countSum + 1
)

// row is what was counted for one family and set of labels.
type row struct {
	family family
	labels labels
	n      [counters]uint64
	// used is when it was counted last, Unix seconds.
	used int64
}

// Bounds of a table.
const (
	// maxAuthorities of a workload and direction have rows of their own, and
	// maxDstPods that it sends to.
	maxAuthorities = 100
	maxDstPods     = 200
	// workloadShare of all rows may be one workload's.
	workloadShare = 4
	// maxTableBytes bounds the rows of a partition as they are stored: a state
	// must fit into one message of the bus.
	maxTableBytes = 4 << 20
	rowBytes      = 128
	// maxOpen long-lived connections of a partition are known to be counted.
	maxOpen = 4096
	// endedMemory is how long an ended one is remembered, seconds: an older
	// event of it may still come.
	endedMemory = 600
	// longLived connections may have told of themselves before their end, µs.
	longLived = 5e6
)

// budget is how many rows there may be in all tables together.
type budget struct {
	limit int64
	used  atomic.Int64
}

// connectionID names a long-lived connection.
type connectionID struct {
	source     rollup.SourceID
	direction  event.Direction
	connection uint64
}

// table counts the events of a partition. It is not safe for concurrent use.
type table struct {
	budget *budget
	rows   map[string]*row
	bytes  int
	// perWorkload counts the rows of each workload and direction; authorities and
	// dstPods are those that it has rows for.
	perWorkload          map[string]int
	authorities, dstPods names
	// open has when connections ended that were counted while they were open:
	// 0 where they did not, yet.
	open   map[connectionID]int64
	events uint64

	memory memory
	batch  batch
	id     []byte
}

// names are those that have rows of their own, by workload and direction.
type names map[string]map[string]struct{}

// bound is the name, or that of the others where a workload has most already.
func (n names) bound(workload, name string, most int) string {
	if known := n[workload]; name != "" && len(known) >= most {
		if _, ok := known[name]; !ok {
			return otherName
		}
	}
	return name
}

func (n names) add(workload, name string) {
	if name == "" || name == otherName {
		return
	}
	if n[workload] == nil {
		n[workload] = map[string]struct{}{}
	}
	n[workload][name] = struct{}{}
}

func newTable(b *budget) *table {
	return &table{
		budget:      b,
		rows:        map[string]*row{},
		perWorkload: map[string]int{},
		authorities: names{},
		dstPods:     names{},
		open:        map[connectionID]int64{},
	}
}

// row finds or makes a row, or that of the others where a bound is reached.
func (t *table) row(f family, l labels, now int64) *row {
	l.bounded()
	workload := l.workload()
	l[labelAuthority] = t.authorities.bound(workload, l[labelAuthority], maxAuthorities)
	l[labelDstPod] = t.dstPods.bound(workload, l[labelDstPod], maxDstPods)
	if r := t.known(f, &l, now); r != nil {
		return r
	}
	limit := t.budget.limit
	if t.perWorkload[workload] < int(limit/workloadShare) && t.bytes < maxTableBytes && t.budget.used.Load() < limit {
		return t.add(f, l, now)
	}
	l = l.ofWorkload()
	if r := t.known(f, &l, now); r != nil {
		return r
	}
	// Workloads have their other rows beyond the limit; not any number.
	if t.bytes < maxTableBytes*5/4 && t.budget.used.Load() < limit+limit/4 {
		return t.add(f, l, now)
	}
	l = l.ofAll()
	if r := t.known(f, &l, now); r != nil {
		return r
	}
	return t.add(f, l, now)
}

func (t *table) known(f family, l *labels, now int64) *row {
	t.id = l.appendID(t.id[:0], f)
	r := t.rows[string(t.id)]
	if r != nil {
		r.used = now
	}
	return r
}

// add makes a row. The strings of l may point into a batch.
func (t *table) add(f family, l labels, now int64) *row {
	for i := range l {
		l[i] = strings.Clone(l[i])
	}
	r := &row{family: f, labels: l, used: now}
	t.put(r)
	return r
}

// put takes in a row that is not there.
func (t *table) put(r *row) {
	t.rows[string(r.labels.appendID(t.id[:0], r.family))] = r
	t.account(r)
	t.budget.used.Add(1)
}

func (t *table) account(r *row) {
	w := r.labels.workload()
	t.bytes += rowBytes + r.labels.size()
	t.perWorkload[w]++
	t.authorities.add(w, r.labels[labelAuthority])
	t.dstPods.add(w, r.labels[labelDstPod])
}

// sweep drops the rows that were not counted in since horizon, Unix seconds, of
// pods that are not live and of those that a pod sent to, which may be no more;
// rows of others stay. It forgets connections that ended long before now.
func (t *table) sweep(live func(l *labels) bool, horizon, now int64) {
	maps.DeleteFunc(t.open, func(_ connectionID, ended int64) bool { return ended != 0 && now-ended > endedMemory })
	// Rows go, and what had no room may have some now.
	t.memory.forget()
	dropped := 0
	for id, r := range t.rows {
		dst := r.labels[labelDstPod]
		ended := r.labels[labelPod] != otherName && r.labels[labelNamespace] != otherName && !live(&r.labels)
		if r.used < horizon && (ended || dst != "" && dst != otherName) {
			delete(t.rows, id)
			dropped++
		}
	}
	if dropped == 0 {
		return
	}
	t.budget.used.Add(-int64(dropped))
	t.bytes = 0
	clear(t.perWorkload)
	clear(t.authorities)
	clear(t.dstPods)
	for _, r := range t.rows {
		t.account(r)
	}
}

// forget drops the connections of a source that is no more.
func (t *table) forget(id rollup.SourceID) {
	maps.DeleteFunc(t.open, func(c connectionID, _ int64) bool { return c.source == id })
}

// close gives back what the rows took of the budget.
func (t *table) close() { t.budget.used.Add(-int64(len(t.rows))) }

// livePods tells whether the pod of a row's labels was heard of since horizon,
// Unix seconds.
func livePods(in *export.Intake, horizon int64) func(*labels) bool {
	pods := map[labels]bool{}
	in.Live(horizon, func(w event.Workload, pod string) {
		pods[ofPod(w, pod)] = true
	})
	return func(l *labels) bool {
		var own labels
		for _, i := range []int{labelCluster, labelNamespace, labelKind, labelWorkload, labelPod} {
			own[i] = l[i]
		}
		return pods[own]
	}
}
