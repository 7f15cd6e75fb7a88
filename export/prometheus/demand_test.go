package prometheus

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/bus/bustest"
)

// TestCountsWhileScraped: nobody counts until somebody scrapes, nor long after the
// last scrape; whoever scrapes then is answered with all that came meanwhile, each
// event once, whichever exporter and handler come after the pause.
func TestCountsWhileScraped(t *testing.T) {
	c := bustest.Connect(t, bustest.Run(t))
	idle := func(o *Options) { o.Idle = 700 * time.Millisecond }
	newHandler := func() *Handler {
		o := options(&process{Client: c})
		idle(&o)
		return NewHandler(o)
	}
	web, emoji := newProxy("web", 0), newProxy("emoji", 0)
	sent := 0
	send := func(n int) {
		t.Helper()
		for range n {
			publish(t, c, web, 1, web.batch(call("x", 200, 1), call("x", 500, 1)))
			publish(t, c, emoji, 1, emoji.batch(call("y", 200, 1)))
			sent += 3
		}
	}
	check := func(h *Handler) { t.Helper(); countsAll(t, h, sent) }
	paused := func() error {
		if holder, _, err := c.LoadExport(t.Context(), "prometheus", leasePart); err != nil || len(holder) > 0 {
			return fmt.Errorf("%s counts, %w", holder, err)
		}
		return nil
	}
	stored := func() (all [bus.Partitions]uint64) {
		t.Helper()
		for n := range all {
			var err error
			if _, all[n], err = c.LoadExport(t.Context(), "prometheus", fmt.Sprint(n)); err != nil {
				t.Fatal(err)
			}
		}
		return all
	}
	stop := start(t, c, idle)
	other := start(t, c, idle)
	send(20)
	time.Sleep(300 * time.Millisecond)
	if stored() != [bus.Partitions]uint64{} {
		t.Error("events are counted before anybody has scraped")
	}
	h := newHandler()
	check(h)
	for round := range 3 {
		eventually(t, paused)
		before := stored()
		if round == 1 {
			stop(true)
			other(true)
			stop = start(t, c, idle)
			h = newHandler()
		}
		send(20)
		time.Sleep(300 * time.Millisecond)
		if stored() != before {
			t.Error("events are counted while nobody scrapes")
		}
		check(h)
		send(5)
		eventually(t, func() error {
			if samples, _ := scrape(t, h); sum(samples, "request_total") != float64(sent) {
				return errors.New("not all is counted while somebody scrapes")
			}
			return nil
		})
	}
	stop(false)
}

// countsAll has the first scrape after a pause that has counters have all that was
// sent.
func countsAll(t *testing.T, h *Handler, sent int) {
	t.Helper()
	// A slow machine may take longer than a scrape may wait; the answer says so.
	var samples map[string]float64
	eventually(t, func() error {
		samples, _ = scrape(t, h)
		if n := samples["export_pending_batches"]; n != 0 {
			return fmt.Errorf("%v batches are still to be counted", n)
		}
		return nil
	})
	if got := sum(samples, "request_total"); got != float64(sent) {
		t.Fatalf("the first scrape after a pause counts %v requests; want %d", got, sent)
	}
	if samples["export_lost_batches"] != 0 || samples["export_events_total"] != float64(sent) {
		t.Fatalf("%v batches are lost, %v events counted", samples["export_lost_batches"], samples["export_events_total"])
	}
}

// TestScrapeWaitsNoLongerThanItMay: where nobody makes up for the pause, a scrape
// is answered without counters in the time that Prometheus gives it, and some time
// after that with what there is. Where somebody does, it is answered with all.
func TestScrapeWaitsNoLongerThanItMay(t *testing.T) {
	c := bustest.Connect(t, bustest.Run(t))
	web := newProxy("web", 0)
	publish(t, c, web, 1, web.batch(call("x", 200, 1)))
	o := options(&process{Client: c})
	o.Idle = time.Hour
	h := NewHandler(o)
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", "1")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	const said = "are still to be counted. The counters are complete, and here, in a time that is not known yet.\n"
	if body := w.Body.String(); w.Code != http.StatusOK || !strings.Contains(body, said) || !strings.Contains(body, "\nexport_pending_batches 1\n") || strings.Contains(body, "_total") {
		t.Errorf("a scrape that nobody counts for is answered %d: %s", w.Code, body)
	}
	checkMetrics(t, w.Body.String())
	h.asked.demand.Woken -= catchUp.Microseconds()
	if samples, _ := scrape(t, h); samples["export_lag_seconds"] == 0 {
		t.Error("there is no lag where nobody counts")
	}
	h.asked.demand.Woken += catchUp.Microseconds()
	stop := start(t, c, func(o *Options) { o.Idle = time.Hour })
	if samples, _ := scrape(t, h); sum(samples, "request_total") != 1 || samples["export_pending_batches"] != 0 {
		t.Errorf("a scrape that somebody counts for is answered %v", samples)
	}
	stop(true)
	for text, want := range map[string]time.Duration{"": scrapeTimeout, "x": scrapeTimeout, "-1": scrapeTimeout, "NaN": scrapeTimeout, "2.5": 2 * time.Second, "1000": scrapeTimeout} {
		if got := patience(http.Header{"X-Prometheus-Scrape-Timeout-Seconds": {text}}); got != want {
			t.Errorf("patience with %q is %v; want %v", text, got, want)
		}
	}
}

// TestPace: how long it takes is told by how fast it went so far.
func TestPace(t *testing.T) {
	var p pace
	at := time.Unix(1_800_000_000, 0)
	if _, ok := p.left(100, at); ok {
		t.Error("the pace is known before anything was counted")
	}
	p.note(1, at)
	p.note(1000, at.Add(time.Second)) // where the stream begins is known now
	p.note(600, at.Add(5*time.Second))
	if left, ok := p.left(500, at.Add(6*time.Second)); !ok || left != 5*time.Second {
		t.Errorf("500 batches take %v more", left)
	}
	p.note(2000, at.Add(time.Hour)) // the next pause
	if _, ok := p.left(2000, at.Add(time.Hour)); ok {
		t.Error("the pace of another pause is taken for that of this one")
	}
}
