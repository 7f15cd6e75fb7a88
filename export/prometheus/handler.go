package prometheus

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/weirmesh/weir/bus"
)

// scrapeTimeout bounds how long a scrape may wait for the bus: below the 10 s
// that Prometheus itself waits.
const scrapeTimeout = 8 * time.Second

// ContentType is that of the text format.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// Handler shows what is stored of an exporter to Prometheus. Where it cannot be
// read it answers 503, rather than show what another exporter has moved on from.
// After a pause in which nobody counted there are no counters until they have what
// came in it, and it says when that will be.
// It is safe for concurrent use.
type Handler struct {
	o     Options
	asked asked
	pace  pace

	mu    sync.Mutex
	parts [bus.Partitions]part // guarded by mu
}

// part is what was read last of a partition.
type part struct {
	sequence uint64
	state    *state
	// open are the connections of the pods that were live when it was stored.
	open []gauge
}

// NewHandler returns a handler for the exporter that has these options, whether
// it runs here or elsewhere.
func NewHandler(o Options) *Handler {
	o.setDefaults()
	h := &Handler{o: o}
	h.asked.o = &h.o
	return h
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), patience(r.Header))
	defer cancel()
	a, err := h.current(ctx)
	if err != nil {
		h.o.Logger.Log(ctx, slog.LevelDebug, "cannot answer a scrape", "error", err)
		http.Error(w, "the counters cannot be read now: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", ContentType)
	var to io.Writer = w
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed) // the level is one that there is
		defer func() { _ = z.Close() }()               // whoever asked has gone
		to = z
	}
	b := bufio.NewWriterSize(to, 64<<10)
	if a.missing > 0 {
		h.writePending(b, a)
	} else {
		write(b, a)
		writeOpen(b, a.open, h.o.Series)
	}
	_ = b.Flush() // whoever asked has gone
}

// patience is how long an answer may take.
func patience(header http.Header) time.Duration {
	seconds, err := strconv.ParseFloat(header.Get("X-Prometheus-Scrape-Timeout-Seconds"), 64)
	if err != nil || math.IsNaN(seconds) || seconds <= 0 || seconds > 3600 {
		return scrapeTimeout
	}
	return min(scrapeTimeout, time.Duration(seconds*float64(time.Second))*4/5)
}

// lookEvery is how often is looked whether a pause is made up for.
const lookEvery = 200 * time.Millisecond

// answer is what a scrape is answered with.
type answer struct {
	// states are the newest of each partition.
	states []*state
	// open are the connections that are.
	open []gauge
	// lag is how old the oldest batch is that they do not count.
	lag time.Duration
	// missing is how much of the stream they lack of what came before counting was
	// resumed, in messages.
	missing uint64
}

// current reads the counters. After a pause it waits for those that have what
// came in it, as long as ctx allows.
func (h *Handler) current(ctx context.Context) (*answer, error) {
	var before *answer
	for {
		// Who waits asks all the time.
		d, err := h.asked.note(ctx)
		var a *answer
		if err == nil {
			a, err = h.read(ctx, &d)
		}
		if before != nil && err != nil && ctx.Err() != nil {
			return before, nil
		}
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			continue // the bus was slow to answer, but there is still time
		}
		if err != nil || a.missing == 0 {
			return a, err
		}
		before = a
		h.pace.note(a.missing, time.Now())
		sleep(ctx, lookEvery)
	}
}

// read returns what there is now.
func (h *Handler) read(ctx context.Context, d *demand) (*answer, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var wg sync.WaitGroup
	var errs [bus.Partitions]error
	var waiting [bus.Partitions]time.Time
	for n := range h.parts {
		wg.Go(func() { waiting[n], errs[n] = h.readPart(ctx, n) })
	}
	wg.Wait()
	now := time.Now()
	a := &answer{}
	for n := range h.parts {
		if errs[n] != nil {
			return nil, errs[n]
		}
		position := uint64(0)
		if s := h.parts[n].state; s != nil {
			position = s.position
			a.states = append(a.states, s)
			// Where a proxy is live, its heartbeats change the state.
			if now.Sub(time.UnixMicro(s.written)) <= openFor {
				a.open = append(a.open, h.parts[n].open...)
			}
		}
		if !waiting[n].IsZero() {
			a.lag = max(a.lag, now.Sub(waiting[n]))
		}
		missing := d.missing(n, position, waiting[n], now)
		if position == 0 {
			missing = min(missing, 1) // where the stream begins is not known
		}
		a.missing = max(a.missing, missing)
	}
	return a, nil
}

// readPart reads one partition's state, and since when its next batch waits.
func (h *Handler) readPart(ctx context.Context, n int) (waiting time.Time, err error) {
	p := &h.parts[n]
	data, sequence, err := h.o.Store.LoadExport(ctx, h.o.Name, strconv.Itoa(n))
	if err != nil {
		return time.Time{}, err
	}
	if data != nil && sequence != p.sequence {
		s, err := decodeState(data)
		if err != nil {
			return time.Time{}, fmt.Errorf("cannot read the state on %s: %w", bus.ExportSubject(h.o.Name, strconv.Itoa(n)), err)
		}
		if p.open, err = gauges(s); err != nil {
			return time.Time{}, fmt.Errorf("cannot read the state on %s: %w", bus.ExportSubject(h.o.Name, strconv.Itoa(n)), err)
		}
		s.marks, s.open = nil, nil
		for _, r := range s.rows {
			r.labels.canonical()
		}
		p.sequence, p.state = sequence, s
	}
	position := uint64(0)
	if p.state != nil {
		position = p.state.position
	}
	return h.o.Stream.NextStored(ctx, n, position)
}

// metric is one that rows of a family have.
type metric struct {
	name, help string
	family     family
	count      int
}

var metrics = []metric{
	{"request_total", "HTTP requests and gRPC calls.", requests, countTotal},
	{"response_total", "Responses to them, or why there is none.", responses, countTotal},
	{"tcp_open_total", "TCP and passthrough TLS connections that were opened.", connections, countTotal},
	{"tcp_close_total", "TCP and passthrough TLS connections that were closed.", closes, countTotal},
	{"tcp_read_bytes_total", "Bytes read from the client, of all protocols.", connections, countRead},
	{"tcp_write_bytes_total", "Bytes written to the client, of all protocols.", connections, countWrite},
}

// write writes all metrics. Errors are those of w, which keeps them.
func write(w *bufio.Writer, a *answer) {
	families := merge(a.states)
	var labels []byte
	for _, m := range metrics {
		begun := false
		for _, r := range families[m.family] {
			if m.family == connections && m.count == countTotal && r.n[countTotal] == 0 {
				continue
			}
			if !begun {
				head(w, m.name, m.help, "counter")
				begun = true
			}
			labels = r.appendLabels(labels[:0])
			sample(w, m.name, "", labels, "", r.n[m.count])
		}
	}
	writeLatencies(w, families[latencies])
	writeTotals(w, a)
}

// appendLabels writes the labels of a row as its metrics have them.
func (r *row) appendLabels(dst []byte) []byte {
	dst = r.labels.append(dst)
	if r.family == connections || r.family == closes {
		dst = append(dst, `,peer="src"`...)
	}
	return dst
}

// merge returns the rows of all partitions, in order of their labels. It adds up
// those that several may have, which are those of the others.
func merge(states []*state) [closes + 1][]*row {
	var families [closes + 1][]*row
	for _, s := range states {
		for _, r := range s.rows {
			families[r.family] = append(families[r.family], r)
		}
	}
	for f, rows := range families {
		slices.SortFunc(rows, func(a, b *row) int { return slices.Compare(a.labels[:], b.labels[:]) })
		kept := rows[:0]
		for _, r := range rows {
			if n := len(kept); n == 0 || kept[n-1].labels != r.labels {
				kept = append(kept, r)
				continue
			}
			sum := *kept[len(kept)-1] // what is stored stays as it is
			for k, n := range r.n {
				sum.n[k] += n
			}
			kept[len(kept)-1] = &sum
		}
		families[f] = kept
	}
	return families
}

func head(w *bufio.Writer, name, help, kind string) {
	_, _ = fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

// sample writes one sample; le is the bound of a bucket, if it is one.
func sample(w *bufio.Writer, name, suffix string, labels []byte, le string, value uint64) {
	beginSample(w, name, suffix, labels, le)
	_, _ = w.Write(strconv.AppendUint(w.AvailableBuffer(), value, 10))
	_ = w.WriteByte('\n')
}

// beginSample writes a sample but for its value.
func beginSample(w *bufio.Writer, name, suffix string, labels []byte, le string) {
	_, _ = w.WriteString(name)
	_, _ = w.WriteString(suffix)
	if len(labels) > 0 {
		_ = w.WriteByte('{')
		_, _ = w.Write(labels)
		if le != "" {
			_, _ = w.WriteString(`,le="`)
			_, _ = w.WriteString(le)
			_ = w.WriteByte('"')
		}
		_ = w.WriteByte('}')
	}
	_ = w.WriteByte(' ')
}

// writeLatencies writes the histogram. Its buckets are those of Linkerd.
func writeLatencies(w *bufio.Writer, rows []*row) {
	const name = "response_latency_ms"
	if len(rows) == 0 {
		return
	}
	head(w, name, "Time from the first byte of a request to the first byte of its response, in milliseconds.", "histogram")
	var bounds [len(ladder)]string
	for b, bound := range ladder {
		bounds[b] = strconv.FormatUint(bound, 10)
	}
	var labels []byte
	for _, r := range rows {
		labels = r.appendLabels(labels[:0])
		count := uint64(0)
		for b, bound := range bounds {
			count += r.n[b]
			sample(w, name, "_bucket", labels, bound, count)
		}
		count += r.n[countInfinite]
		sample(w, name, "_bucket", labels, "+Inf", count)
		beginSample(w, name, "_sum", labels, "")
		_, _ = fmt.Fprintf(w, "%d.%03d\n", r.n[countSum]/1000, r.n[countSum]%1000)
		sample(w, name, "_count", labels, "", count)
	}
}

// writeTotals writes what the exporter says of itself.
func writeTotals(w *bufio.Writer, a *answer) {
	var t totals
	sums := t.all()
	rows := 0
	for _, s := range a.states {
		for i, n := range s.totals.all() {
			*sums[i] += *n
		}
		rows += len(s.rows)
	}
	for _, m := range []own{
		{"export_lag_seconds", "Age of the oldest batch of events that these counters do not have; 0: they have all.", "gauge", a.lag.Seconds()},
		pending(a),
		{"export_series", "Sets of labels that are counted apart.", "gauge", float64(rows)},
		{"export_events_total", "Events in these counters.", "counter", float64(t.events)},
		{"export_batches_total", "Batches of events in these counters.", "counter", float64(t.batches)},
		{"export_duplicate_batches_total", "Batches that came again and were not counted again.", "counter", float64(t.duplicates)},
		{"export_refused_batches_total", "Messages that are no batch of their source.", "counter", float64(t.refused)},
		{"export_lost_batches", "Batches that are missing in the numbering of the proxies.", "gauge", float64(t.lost)},
		{"export_shed_events_total", "Those of the events that the proxies could only sum up.", "counter", float64(t.shed)},
	} {
		m.write(w)
	}
}
