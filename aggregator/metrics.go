package aggregator

import (
	"errors"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/event"
)

// counters are the aggregator's metrics.
type counters struct {
	set *metrics.Set

	events, skipped, batches, duplicates, skewed, moved *metrics.Counter
	lost, evicted                                       *metrics.Counter
	rollups, coarse, parts, partBytes, trimmed          *metrics.Counter
	fenced, badRollups, queries, waits                  *metrics.Counter
	delay                                               *metrics.Histogram
}

func newCounters(a *Aggregator) *counters {
	set := metrics.NewSet()
	c := &counters{
		set:        set,
		events:     set.NewCounter("weir_aggregator_events_total"),
		skipped:    set.NewCounter("weir_aggregator_refused_events_total"),
		batches:    set.NewCounter("weir_aggregator_batches_total"),
		duplicates: set.NewCounter("weir_aggregator_duplicate_batches_total"),
		skewed:     set.NewCounter("weir_aggregator_clock_skew_batches_total"),
		moved:      set.NewCounter("weir_aggregator_clock_skew_events_total"),
		lost:       set.NewCounter("weir_aggregator_lost_batches_total"),
		evicted:    set.NewCounter("weir_aggregator_forgotten_sources_total"),
		rollups:    set.NewCounter("weir_aggregator_rollups_total"),
		coarse:     set.NewCounter("weir_aggregator_coarse_rollups_total"),
		trimmed:    set.NewCounter("weir_aggregator_trimmed_histories_total"),
		parts:      set.NewCounter("weir_aggregator_rollup_messages_total"),
		partBytes:  set.NewCounter("weir_aggregator_rollup_bytes_total"),
		fenced:     set.NewCounter("weir_aggregator_fenced_total"),
		badRollups: set.NewCounter("weir_aggregator_unreadable_rollups_total"),
		waits:      set.NewCounter("weir_aggregator_memory_waits_total"),
		queries:    set.NewCounter("weir_aggregator_queries_total"),
		delay:      set.NewHistogram("weir_aggregator_batch_delay_seconds"),
	}
	set.NewGauge("weir_aggregator_partitions_owned", func() float64 { return float64(a.Owned()) })
	set.NewGauge("weir_aggregator_tapped_workloads", func() float64 { return float64(a.tap.Tapped()) })
	set.NewGauge("weir_aggregator_stored_bytes_limit", func() float64 { return float64(a.o.StoreBytes) })
	gauge := func(name string, of func(*partition) int) {
		set.NewGauge(name, func() float64 { return float64(a.sum(of)) })
	}
	gauge("weir_aggregator_keys", func(p *partition) int { return p.folder.Keys() })
	gauge("weir_aggregator_pending_cells", func(p *partition) int { return p.folder.Pending() })
	gauge("weir_aggregator_sources", func(p *partition) int { return p.folder.SourceCount() })
	gauge("weir_aggregator_stored_keys", func(p *partition) int { return p.store.Keys() })
	gauge("weir_aggregator_stored_bytes", func(p *partition) int { return p.store.Bytes() })
	return c
}

// sum adds a number of all partitions up that are ready.
func (a *Aggregator) sum(of func(*partition) int) (n int) {
	for _, p := range a.partitions {
		p.mu.RLock()
		if p.ready {
			n += of(p)
		}
		p.mu.RUnlock()
	}
	return n
}

// folded counts a batch that was folded.
func (c *counters) folded(r *rollup.Result, now time.Time) {
	if r.Duplicate {
		c.duplicates.Inc()
		return
	}
	c.batches.Inc()
	c.events.Add(r.Events)
	c.moved.Add(r.Moved)
	c.skipped.Add(r.Skipped)
	if r.Skewed {
		c.skewed.Inc()
	}
	if r.Lost > 0 {
		c.lost.Add(int(r.Lost))
	}
	c.delay.Update(max(now.Sub(time.UnixMicro(r.Sent)), 0).Seconds())
}

// refused counts and logs a batch that was refused.
func (a *Aggregator) refused(subject string, err error) {
	reason := "unknown"
	var r *rollup.Refusal
	if errors.As(err, &r) {
		reason = r.Reason
	}
	a.metrics.set.GetOrCreateCounter(`weir_aggregator_refused_batches_total{reason="` + reason + `"}`).Inc()
	now := a.o.Now()
	w, unknown := a.o.Subjects.Parse(subject)
	if unknown != nil {
		w = event.Workload{Kind: rollup.External, Name: subject}
	}
	a.offenders.refuse(w, reason, now)
	if ok, silent := a.refusalLog.allow(now); ok {
		a.log.Warn("refused a batch", "subject", subject, "error", err, "others_since_last_logged", silent)
	}
}

// matches tells whether a workload may publish on the subject that names w.
func (a *Aggregator) matches(w, said event.Workload) bool {
	if w == said {
		return true
	}
	// What a subject can't hold is written differently there.
	named, err := a.o.Subjects.Parse(a.o.Subjects.Events(said))
	return err == nil && named == w
}

// limiter lets one line a second through. It is safe for concurrent use.
type limiter struct {
	mu     sync.Mutex
	last   time.Time
	silent int
}

func (l *limiter) allow(now time.Time) (ok bool, silent int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.last) < time.Second {
		l.silent++
		return false, 0
	}
	silent, l.last, l.silent = l.silent, now, 0
	return true, silent
}
