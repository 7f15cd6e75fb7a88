package aggregator

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/event"
)

// Bounds of what is told of offences.
const (
	// maxOffenders are remembered; the least are forgotten first.
	maxOffenders = 1000
	// shownOffenders are in the metrics.
	shownOffenders = 20
	// logEvery is how often one offender is named in the log.
	logEvery = time.Minute
)

// offenders remembers who went beyond a bound. It is safe for concurrent use.
type offenders struct {
	mu  sync.Mutex
	all map[offender]*record
}

type offender struct {
	workload event.Workload
	kind     string
}

// record is what is known of an offender: since the start, and since it was
// last logged.
type record struct {
	count, unlogged uint64
	logged          time.Time
}

// blame takes what a partition noted, and logs it, each offender once in a
// while.
func (a *Aggregator) blame(partition int, found []rollup.Offence, now time.Time) {
	a.offenders.mu.Lock()
	defer a.offenders.mu.Unlock()
	for i := range found {
		o := &found[i]
		if o.Kind == rollup.OffenceClock {
			a.refusals.note(o.Workload, o.Kind, o.Count, now)
		}
		r := a.offenders.at(offender{o.Workload, o.Kind})
		r.count += o.Count
		r.unlogged += o.Count
		if now.Sub(r.logged) < logEvery {
			continue
		}
		a.log.Warn(complaint(o.Kind), "partition", partition, "workload", o.Workload.String(), "kind", o.Kind, "limit", o.Limit, "times", r.unlogged, "example", o.Example)
		r.logged, r.unlogged = now, 0
	}
}

// complaint says what an offence means, for the log.
func complaint(kind string) string {
	switch kind {
	case rollup.OffenceClock:
		return "a proxy's clock is wrong: its times were corrected"
	case rollup.OffenceSource:
		return "a workload has too many proxy processes: some were forgotten"
	case rollup.OffenceWorkload:
		return "there are too many workloads: the rest is summed up as (other)"
	default:
		return "a workload has too many names of a kind: the rest is summed up as (other)"
	}
}

// at is the record of an offender; o.mu is held.
func (o *offenders) at(who offender) *record {
	r := o.all[who]
	if r != nil {
		return r
	}
	if len(o.all) >= maxOffenders {
		for _, least := range o.ranked()[maxOffenders*9/10:] {
			delete(o.all, least)
		}
	}
	r = &record{}
	o.all[who] = r
	return r
}

// ranked are the offenders, the worst first; o.mu is held.
func (o *offenders) ranked() []offender {
	all := make([]offender, 0, len(o.all))
	for who := range o.all {
		all = append(all, who)
	}
	slices.SortFunc(all, func(a, b offender) int {
		return cmp.Or(cmp.Compare(o.all[b].count, o.all[a].count), strings.Compare(a.workload.String(), b.workload.String()), strings.Compare(a.kind, b.kind))
	})
	return all
}

// write writes the worst as metrics.
func (o *offenders) write(w io.Writer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := o.ranked()
	for _, who := range all[:min(len(all), shownOffenders)] {
		// An error is the connection's, and shows there.
		_, _ = fmt.Fprintf(w, "weir_aggregator_overflow_total{kind=%s,cluster=%s,namespace=%s,workload_kind=%s,name=%s} %d\n",
			label(who.kind), label(who.workload.Cluster), label(who.workload.Namespace), label(who.workload.Kind), label(who.workload.Name), o.all[who].count)
	}
}

// label quotes a label's value.
func label(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(strings.ToValidUTF8(s, "\uFFFD")) + `"`
}
