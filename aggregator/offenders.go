package aggregator

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/event"
)

// Bounds of what is told of offenders.
const (
	// maxOffenders are remembered; those not heard of for longest are forgotten
	// first.
	maxOffenders = 1000
	// toldOffenders are in an answer, shownOffenders in the metrics.
	toldOffenders  = query.MaxOffenders
	shownOffenders = 20
	// logEvery is how often one offender is named in the log for going beyond a
	// bound.
	logEvery = time.Minute
)

// offenders remembers whose batches were refused, and why; who went beyond a
// bound; and whose clock was wrong. Answers tell of the first and the last, the
// metrics of the second and the last. The zero value is empty and ready. It is
// safe for concurrent use.
type offenders struct {
	mu sync.Mutex
	// all is guarded by mu, and so are the records.
	all map[rollup.Offender]*record
}

// record is what is known of an offender.
type record struct {
	// count is how often since the start, last when last.
	count uint64
	last  time.Time
	// told: answers name it; shown: the metrics do.
	told, shown bool
	// unlogged is how often since logged, when the log named it last.
	unlogged uint64
	logged   time.Time
}

// refuse takes one more batch that was refused.
func (o *offenders) refuse(w event.Workload, reason string, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.at(rollup.Offender{Workload: w, Kind: reason}, 1, now).told = true
}

// overstep takes what a partition noted, and returns how often that was since the
// log named it last, or 0 where that was not long ago.
func (o *offenders) overstep(found *rollup.Offence, now time.Time) (unlogged uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := o.at(found.Offender, found.Count, now)
	r.shown = true
	r.told = found.Kind == rollup.OffenceClock
	r.unlogged += found.Count
	if now.Sub(r.logged) < logEvery {
		return 0
	}
	unlogged, r.logged, r.unlogged = r.unlogged, now, 0
	return unlogged
}

// at is the record of an offender that was heard of n more times; o.mu is held.
func (o *offenders) at(who rollup.Offender, n uint64, now time.Time) *record {
	r := o.all[who]
	if r == nil {
		if len(o.all) >= maxOffenders {
			o.shrink()
		}
		if o.all == nil {
			o.all = map[rollup.Offender]*record{}
		}
		r = &record{}
		o.all[who] = r
	}
	r.count += n
	r.last = now
	return r
}

// shrink forgets a tenth; o.mu is held.
func (o *offenders) shrink() {
	all := make([]rollup.Offender, 0, len(o.all))
	for who := range o.all {
		all = append(all, who)
	}
	slices.SortFunc(all, func(a, b rollup.Offender) int {
		return cmp.Or(o.all[a].last.Compare(o.all[b].last), cmp.Compare(o.all[a].count, o.all[b].count))
	})
	for _, who := range all[:max(len(all)/10, 1)] {
		delete(o.all, who)
	}
}

// worst are the at most n of those that of selects that were heard of most often,
// the worst first; o.mu is held.
func (o *offenders) worst(n int, of func(rollup.Offender, *record) bool) []rollup.Offender {
	var all []rollup.Offender
	for who, r := range o.all {
		if of(who, r) {
			all = append(all, who)
		}
	}
	slices.SortFunc(all, func(a, b rollup.Offender) int {
		return cmp.Or(cmp.Compare(o.all[b].count, o.all[a].count), a.Compare(b))
	})
	return all[:min(len(all), n)]
}

// tell names the worst of those that a selector selects, whose batches could not
// be counted as they were at since or later, Unix seconds.
func (o *offenders) tell(of query.Selector, since int64) (told []query.Offender) {
	if of.Kind == query.KindPod {
		// It is not known which pod's.
		of.Kind, of.Name = "", ""
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, who := range o.worst(toldOffenders, func(who rollup.Offender, r *record) bool {
		return r.told && r.last.Unix() >= since && matches(&of, &who.Workload)
	}) {
		r := o.all[who]
		told = append(told, query.Offender{Source: selector(who.Workload), Reason: who.Kind, Count: r.count, Last: r.last.Unix()})
	}
	return told
}

// write writes the worst of those beyond a bound as metrics.
func (o *offenders) write(w io.Writer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, who := range o.worst(shownOffenders, func(_ rollup.Offender, r *record) bool { return r.shown }) {
		// An error is the connection's, and shows there.
		_, _ = fmt.Fprintf(w, "weir_aggregator_overflow_total{kind=%s,cluster=%s,namespace=%s,workload_kind=%s,name=%s} %d\n",
			label(who.Kind), label(who.Workload.Cluster), label(who.Workload.Namespace), label(who.Workload.Kind), label(who.Workload.Name), o.all[who].count)
	}
}

// label quotes a label's value.
func label(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(strings.ToValidUTF8(s, "\uFFFD")) + `"`
}

// blame remembers what a partition noted, and logs it, each offender once in a
// while.
func (a *Aggregator) blame(partition int, found []rollup.Offence, now time.Time) {
	for i := range found {
		o := &found[i]
		if times := a.offenders.overstep(o, now); times > 0 {
			a.log.Warn(complaint(o.Kind), "partition", partition, "workload", o.Workload.String(), "kind", o.Kind, "limit", o.Limit, "times", times, "example", o.Example)
		}
	}
}

// complaint says what an offence means, for the log.
func complaint(kind string) string {
	switch kind {
	case rollup.OffenceClock:
		return "a proxy's clock is wrong: its times were corrected"
	case rollup.OffenceSource:
		return "a workload has too many proxy processes: some were forgotten"
	case rollup.OffenceRow:
		return "there are more rows than --memory has room for: the rest is summed up as (other)"
	case rollup.OffenceWorkload:
		return "there are too many workloads: the rest is summed up as (other)"
	default:
		return "a workload has too many names of a kind: the rest is summed up as (other)"
	}
}
