package aggregator

import (
	"slices"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/event"
)

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

	// The rest matters to tables that are kept only.

	// stale is the last round in which the row had to be added up, counted the
	// last one of these in which there was anything.
	stale, counted uint32
	// told is what was said of it last, packed; none: nothing, or in other
	// ways. wasLive and wasOpen were live and open then.
	told    []byte
	wasLive int
	wasOpen uint64
	// unsettled rows have to be added up the next time whatever happens.
	unsettled bool
}

// alone tells that no other partition knows of the row: its workload is of this
// one. The workloads of a namespace are not, nor are those without a row of
// their own.
func (s *rowSum) alone() bool {
	return s.key.Kind != query.KindNamespace && s.key.Name != rollup.OtherName
}

// podState is what is known of a pod.
type podState struct {
	id podID
	// same is the next pod of the same name, from 1.
	same int32
	row  int32
	// seen and live are the last rounds in which it was that.
	seen, live uint32
}

// nameKey is a name within a namespace.
type nameKey struct{ namespace, name string }

// rowTable holds the rows and pods of a partition, for one answer or for several.
type rowTable struct {
	// index and pods lead from a name to the first of sums and states that has
	// it, from 1: it is found in less time than all of a selector, and next to
	// none have the same.
	index  map[nameKey]int32
	sums   []rowSum
	pods   map[nameKey]int32
	states []podState
	// round counts the answers, from 1; kept: there will be more.
	round uint32
	kept  bool
}

// reset empties the table, for another partition.
func (t *rowTable) reset() {
	if t.index == nil {
		t.index, t.pods = map[nameKey]int32{}, map[nameKey]int32{}
	}
	clear(t.index)
	clear(t.pods)
	t.sums, t.states, t.round = t.sums[:0], t.states[:0], 1
}

// place is the list that a key's values go to, or negative.
func (t *rowTable) place(q *question, k *rollup.Key) int {
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
	at := t.rowOf(&key)
	// The pods beyond the bounds are of any number of workloads: none owns them.
	if q.Resource.Kind == query.KindPod && key.Name != rollup.OtherName {
		owner := selector(k.Workload)
		t.sums[at].owner = &owner
	}
	switch {
	case k.Dimension == rollup.Ledger:
		return int(at)*targets + toLedger
	case k.Direction == event.Outbound:
		return int(at)*targets + toOutbound
	default:
		return int(at)*targets + toInbound
	}
}

// count notes that there are values for a list that place gave for a key.
func (t *rowTable) count(picked int, k *rollup.Key) {
	row := int32(picked / targets)
	t.sums[row].counted = t.round
	if picked%targets != toLedger {
		return
	}
	state := &t.states[t.podOf(&k.Workload, k.Pod, row)]
	if state.seen != t.round {
		state.seen = t.round
		t.sums[row].seen++
	}
}

// row finds the row of a key, or gives -1; and the first of its name, from 1.
func (t *rowTable) row(key *query.Selector) (at, first int32) {
	first = t.index[nameKey{key.Namespace, key.Name}]
	for at = first - 1; at >= 0 && t.sums[at].key != *key; {
		at = t.sums[at].same - 1
	}
	return at, first
}

// rowOf is the row of a key, made if need be.
func (t *rowTable) rowOf(key *query.Selector) int32 {
	at, first := t.row(key)
	if at < 0 {
		at = int32(len(t.sums))
		if len(t.sums) == cap(t.sums) {
			t.sums = slices.Grow(t.sums, 1)
		}
		t.sums = t.sums[:at+1]
		t.sums[at] = rowSum{key: *key, same: first, stale: t.round, told: t.sums[at].told[:0]}
		t.index[nameKey{key.Namespace, key.Name}] = at + 1
	}
	return at
}

// podOf is the state of a pod of a row, made if need be.
func (t *rowTable) podOf(workload *event.Workload, name string, row int32) int32 {
	first := t.pods[nameKey{workload.Namespace, name}]
	at := first - 1
	for at >= 0 && (t.states[at].id.workload != *workload || t.states[at].id.pod != name) {
		at = t.states[at].same - 1
	}
	if at < 0 {
		at = int32(len(t.states))
		t.states = append(t.states, podState{id: podID{*workload, name}, same: first, row: row})
		t.pods[nameKey{workload.Namespace, name}] = at + 1
	}
	return at
}

// presence adds what the live proxies say. Where the table is kept, known holds
// the pods of sources, and rows are made for who has none.
func (t *rowTable) presence(q *question, p *partition, known map[*rollup.Source]int32) {
	p.folder.Sources(func(s *rollup.Source) bool {
		if !live(s, q.now) {
			return true
		}
		n, ok := known[s]
		if !ok || t.states[n].id.pod != s.Pod {
			if n = t.sourcePod(q, s); n < 0 {
				return true
			}
			if known != nil {
				known[s] = n
			}
		}
		state := &t.states[n]
		row := &t.sums[state.row]
		row.open += s.OpenConnections
		if state.live != t.round {
			state.live = t.round
			row.live++
		}
		return true
	})
}

// sourcePod is the state of a source's pod, or -1 where it is of no row.
func (t *rowTable) sourcePod(q *question, s *rollup.Source) int32 {
	key, ok := q.group(s.ID.Workload, s.Pod)
	if !ok {
		return -1
	}
	at, _ := t.row(&key)
	if at < 0 && !t.kept {
		return -1
	}
	if at < 0 {
		at = t.rowOf(&key)
	}
	return t.podOf(&s.ID.Workload, s.Pod, at)
}

// keep copies what was told of a row to where it is kept, in the memory of what
// was told before.
func (t *rowTable) keep(told, row []byte) []byte {
	if !t.kept {
		return nil
	}
	return append(told[:0], row...)
}
