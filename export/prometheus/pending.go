package prometheus

import (
	"bufio"
	"fmt"
	"strconv"
	"sync"
	"time"
)

// What was not counted in a pause is counted when somebody scrapes again, or for
// the first time. Until that is done a scrape shows no counters: those from before
// would rise, between two scrapes, by all that came in the pause. It shows how
// much is still to be counted, so that nobody takes it for a target that is down.

// own is a metric of the exporter itself.
type own struct {
	name, help, kind string
	value            float64
}

func (m *own) write(w *bufio.Writer) {
	head(w, m.name, m.help, m.kind)
	beginSample(w, m.name, "", nil, "")
	_, _ = w.Write(append(strconv.AppendFloat(w.AvailableBuffer(), m.value, 'f', -1, 64), '\n'))
}

func pending(a *answer) own {
	return own{"export_pending_batches", "Batches of events from before counting began that are still to be counted, before which there are no counters.", "gauge", float64(a.missing)}
}

// writePending writes an answer without counters.
func (h *Handler) writePending(w *bufio.Writer, a *answer) {
	when := "in a time that is not known yet"
	if left, ok := h.pace.left(a.missing, time.Now()); ok {
		when = fmt.Sprintf("in about %s", max(left.Round(time.Second), time.Second))
	}
	_, _ = fmt.Fprintf(w, "# Nobody has scraped for some time, or ever: events of the last %s are still to be counted. The counters are complete, and here, %s.\n",
		a.lag.Round(time.Second), when)
	m := pending(a)
	m.write(w)
	m = own{"export_lag_seconds", "Age of the oldest batch of events that these counters do not have; 0: they have all.", "gauge", a.lag.Seconds()}
	m.write(w)
}

// pace tells how fast what is missing gets less. It is safe for concurrent use.
type pace struct {
	mu sync.Mutex
	// first is how much was missing at began, last how much it was last.
	first, last uint64
	began       time.Time
}

// note takes into account how much is missing.
func (p *pace) note(missing uint64, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.began.IsZero() || missing > p.last {
		p.first, p.began = missing, now
	}
	p.last = missing
}

// left is how long it takes until nothing is missing; false where that cannot be
// told.
func (p *pace) left(missing uint64, now time.Time) (time.Duration, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	done := p.first - min(p.first, missing)
	if done == 0 || p.began.IsZero() {
		return 0, false
	}
	return time.Duration(float64(now.Sub(p.began)) * float64(missing) / float64(done)), true
}
