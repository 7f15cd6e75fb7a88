package aggregator

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/event"
)

// Bounds of what is told of refusals.
const (
	// maxRefusals are remembered; those not heard of for longest are forgotten
	// first.
	maxRefusals = 1000
	// toldRefusals are in an answer.
	toldRefusals = query.MaxOffenders
)

// refusals remembers whose batches were refused, and why, or counted with other
// times than they said. It is safe for concurrent use.
type refusals struct {
	mu  sync.Mutex
	all map[offender]*refusal
}

// refusal is how often since the start, and when last.
type refusal struct {
	count uint64
	last  time.Time
}

// note takes n more.
func (r *refusals) note(w event.Workload, reason string, n uint64, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	who := offender{w, reason}
	have := r.all[who]
	if have == nil {
		if len(r.all) >= maxRefusals {
			r.shrink()
		}
		if r.all == nil {
			r.all = map[offender]*refusal{}
		}
		have = &refusal{}
		r.all[who] = have
	}
	have.count += n
	have.last = now
}

// shrink forgets a tenth; r.mu is held.
func (r *refusals) shrink() {
	all := make([]offender, 0, len(r.all))
	for who := range r.all {
		all = append(all, who)
	}
	slices.SortFunc(all, func(a, b offender) int { return r.all[a].last.Compare(r.all[b].last) })
	for _, who := range all[:max(len(all)/10, 1)] {
		delete(r.all, who)
	}
}

// told are the worst of those that a selector selects and that were heard of at
// since or later, Unix seconds.
func (r *refusals) told(of query.Selector, since int64) (worst []query.Offender) {
	if of.Kind == query.KindPod {
		// It is not known which pod's.
		of.Kind, of.Name = "", ""
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for who, have := range r.all {
		if have.last.Unix() >= since && matches(&of, &who.workload) {
			worst = append(worst, query.Offender{Source: selector(who.workload), Reason: who.kind, Count: have.count, Last: have.last.Unix()})
		}
	}
	slices.SortFunc(worst, func(a, b query.Offender) int { return cmp.Compare(b.Count, a.Count) })
	return worst[:min(len(worst), toldRefusals)]
}
