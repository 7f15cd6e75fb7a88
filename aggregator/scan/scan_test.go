package scan_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/weirmesh/weir/aggregator/match"
	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/aggregator/scan"
	"github.com/weirmesh/weir/event"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	web = event.Workload{Cluster: "c", Namespace: "x", Kind: "deploy", Name: "web"}
	bot = event.Workload{Cluster: "c", Namespace: "x", Kind: "deploy", Name: "bot"}
)

// noon is when the tests happen.
var noon = time.Date(2026, 3, 14, 12, 0, 0, 0, time.UTC)

type stored struct {
	from event.Workload
	at   time.Time
	data []byte
}

// stream is a scan.Source of messages in memory.
type stream []stored

func (s stream) ReadEvents(ctx context.Context, w event.Workload, since, until time.Time, opened func(event.Extent), fn func(uint64, event.Workload, time.Time, []byte) error) error {
	var in []stored
	for _, m := range s {
		if (w.Name == "" || w.Name == m.from.Name) && !m.at.Before(since) && (until.IsZero() || m.at.Before(until)) {
			in = append(in, m)
		}
	}
	opened(event.Extent{Created: noon, Oldest: s[0].at, Newest: s[len(s)-1].at, First: 1, Last: uint64(len(s)), Waiting: uint64(len(in))})
	for _, m := range in {
		sequence := uint64(slices.IndexFunc(s, func(o stored) bool { return &o.data[0] == &m.data[0] }) + 1)
		if err := fn(sequence, m.from, m.at, m.data); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// proxy makes batches as a proxy does.
type proxy struct {
	w              event.Workload
	instance       uint64
	sequence       uint64
	produced, shed uint64
	encoder        event.Encoder
}

func (p *proxy) batch(at time.Time, events ...event.Event) stored {
	p.sequence++
	p.produced += uint64(len(events))
	for i := range events {
		e := &events[i]
		if e.Start == 0 {
			e.Start = at.UnixMicro() - int64(e.Duration)
		}
		p.encoder.Add(e)
	}
	h := &event.Header{Source: event.Source{Workload: p.w, Pod: p.w.Name + "-0"}, Instance: p.instance, Sequence: p.sequence, Sent: at.UnixMicro(), Produced: p.produced + p.shed, Shed: p.shed}
	data := p.encoder.Encode(nil, h)
	p.encoder.Reset()
	return stored{p.w, at, data}
}

func request(path string, code uint16, latency uint64) event.Event {
	return event.Event{Direction: event.Inbound, Protocol: event.HTTP1, Method: "GET", Path: path, Status: code, GRPCStatus: event.NoGRPCStatus,
		Latency: latency, Duration: latency, Connection: 1, Stream: 1, Peer: event.Peer{Workload: bot}}
}

func where(t *testing.T, expression string) *match.Matcher {
	t.Helper()
	m, err := match.Compile(&match.Filter{Where: expression})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func fields(t *testing.T, names ...string) (out []*match.Field) {
	t.Helper()
	for _, name := range names {
		f, err := match.Lookup("by", name)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, f)
	}
	return out
}

// follow reads all and gives the paths and gaps.
func follow(t *testing.T, s stream, q *scan.Question) (paths []string, gaps []string) {
	t.Helper()
	err := scan.Follow(t.Context(), s, q, &scan.Visitor{
		Opened: func(event.Extent, scan.Position) {},
		Event: func(_ uint64, _ *event.Header, _ int, e *event.Event) error {
			paths = append(paths, e.Path)
			return nil
		},
		Gap: func(g scan.Gap) error {
			gaps = append(gaps, fmt.Sprintf("%s %s %d-%d: %d", g.Reason, g.Source.Workload.Name, g.From, g.To, g.Events))
			return nil
		},
		Batch: func(*event.Header, scan.Progress) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths, gaps
}

func TestFollowIsCompleteAndSaysSo(t *testing.T) {
	p, other := &proxy{w: web, instance: 7}, &proxy{w: bot, instance: 8}
	at := func(s int) time.Time { return noon.Add(time.Duration(s) * time.Second) }
	var s stream
	add := func(m stored) { s = append(s, m) }
	add(p.batch(at(0), request("/1", 200, 5)))
	second := p.batch(at(1), request("/2", 200, 5))
	add(p.batch(at(2), request("/3", 200, 5)))
	add(second) // late
	add(second) // again
	_ = p.batch(at(3), request("/4", 200, 5), request("/4", 200, 5))
	_ = p.batch(at(3), request("/5", 200, 5)) // these two never came
	p.shed = 9
	add(p.batch(at(4), request("/6", 200, 5)))
	add(stored{web, at(5), []byte("no batch")})
	forged := other.batch(at(5), request("/forged", 200, 5))
	forged.from = web
	add(forged)
	add(p.batch(at(6), request("/7", 200, 5)))

	paths, gaps := follow(t, s, &scan.Question{Resource: query.Selector{Kind: "deploy", Name: "web"}, Since: noon.Add(-time.Hour), Until: noon.Add(time.Hour)})
	if got := fmt.Sprint(paths); got != "[/1 /3 /2 /6 /7]" {
		t.Errorf("read %s", got)
	}
	if got := fmt.Sprint(gaps); got != "[shed web 6-6: 9 unreadable web 0-0: 0 unreadable web 0-0: 0 lost web 4-5: 3]" {
		t.Errorf("gaps %s", got)
	}
}

func TestWindowIsOfTheEndsOfEvents(t *testing.T) {
	p := &proxy{w: web, instance: 7}
	var s stream
	for i := range 10 {
		// Each batch comes a second after its event, and one much later.
		late := time.Second
		if i == 4 {
			late = 5 * time.Minute
		}
		e := request(fmt.Sprint("/", i), 200, 500_000)
		e.Start = noon.Add(time.Duration(i)*time.Second - 500*time.Millisecond).UnixMicro()
		s = append(s, p.batch(noon.Add(time.Duration(i)*time.Second+late), e))
	}
	paths, _ := follow(t, s, &scan.Question{Since: noon.Add(3 * time.Second), Until: noon.Add(6 * time.Second)})
	if got := fmt.Sprint(paths); got != "[/3 /4 /5]" {
		t.Errorf("read %s", got)
	}
	// A clock that is hours off is put right.
	e := request("/skewed", 200, 5)
	e.Start = noon.Add(5 * time.Hour).UnixMicro()
	m := p.batch(noon.Add(5*time.Hour), e)
	m.at = noon.Add(4 * time.Second)
	paths, _ = follow(t, stream{m}, &scan.Question{Since: noon.Add(3 * time.Second), Until: noon.Add(6 * time.Second)})
	if got := fmt.Sprint(paths); got != "[/skewed]" {
		t.Errorf("read %s", got)
	}
}

func TestFollowEndsWithTheVisitorsError(t *testing.T) {
	p := &proxy{w: web, instance: 7}
	want := errors.New("enough")
	err := scan.Follow(t.Context(), stream{p.batch(noon, request("/", 200, 1))}, &scan.Question{}, &scan.Visitor{
		Opened: func(event.Extent, scan.Position) {},
		Event:  func(uint64, *event.Header, int, *event.Event) error { return want },
	})
	if !errors.Is(err, want) {
		t.Error(err)
	}
}

func TestGroup(t *testing.T) {
	p := &proxy{w: web, instance: 7}
	var s stream
	for i := range 100 {
		var events []event.Event
		for j := range 10 {
			code := uint16(200)
			if j == 9 {
				code = 503
			}
			events = append(events, request(fmt.Sprint("/", j%3), code, uint64(1000*(j+1))))
		}
		sent := request("/db", 200, 1)
		sent.Direction = event.Outbound
		s = append(s, p.batch(noon.Add(time.Duration(i)*time.Second), append(events, sent)...))
	}
	s = append(s, s[50])
	q := &scan.Question{Resource: query.Selector{Name: "web"}, Since: noon, Until: noon.Add(time.Hour), Match: where(t, "latency > 2ms")}
	r, err := scan.Group(t.Context(), s, q, &scan.Grouping{By: fields(t, "path", "status"), Top: 2})
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, row := range r.Rows {
		got += fmt.Sprint(row.Values, row.Stats.Requests, row.Stats.Successes, row.Missing, row.Stats.Latency.Max(), " ")
	}
	// Of 3 to 10 ms: /2 0 1 /2 0 1 /2 0
	if got != "[/2 200] 300 300 0 9000 [/0 200] 200 200 0 7000 " {
		t.Error(got)
	}
	if r.Others != 2 || r.Other.Requests != 300 || r.Total.Requests != 800 || r.Total.Successes != 700 || r.Direction != event.Inbound || len(r.Gaps) != 0 {
		t.Errorf("%+v", r)
	}
	if r.Progress.Events != 1100 || r.Progress.Matched != 800 || r.Progress.Batches != 101 || r.Progress.Total != 101 {
		t.Errorf("%+v", r.Progress)
	}
	// What only sends is counted by what it sent.
	out, err := scan.Group(t.Context(), s, q, &scan.Grouping{Top: 1, Direction: event.Outbound})
	if err != nil || out.Total.Requests != 0 || out.Others != 0 {
		t.Errorf("%v, %+v", err, out)
	}
}

// However many values there are: memory is bounded, the total exact, and the
// frequent are found.
func TestGroupIsBounded(t *testing.T) {
	p := &proxy{w: web, instance: 7}
	rng := rand.New(rand.NewPCG(1, 2))
	var s stream
	hot := 0
	for i := range 200 {
		var events []event.Event
		for range 500 {
			path := fmt.Sprint("/cold/", rng.Uint64())
			if rng.IntN(10) == 0 {
				path = "/hot"
				hot++
			}
			events = append(events, request(path, 200, 5))
		}
		s = append(s, p.batch(noon.Add(time.Duration(i)*time.Second), events...))
	}
	r, err := scan.Group(t.Context(), s, &scan.Question{Since: noon, Until: noon.Add(time.Hour)}, &scan.Grouping{By: fields(t, "path"), Top: 5, Groups: 64})
	if err != nil {
		t.Fatal(err)
	}
	if r.Total.Requests != 100_000 || r.Other.Requests+r.Rows[0].Stats.Requests > 100_000 || len(r.Rows) != 5 {
		t.Errorf("%d in all, %d other, %d rows", r.Total.Requests, r.Other.Requests, len(r.Rows))
	}
	top := r.Rows[0]
	if top.Values[0] != "/hot" || top.Stats.Requests+top.Missing < uint64(hot) || top.Stats.Requests > uint64(hot) || top.Stats.Requests < uint64(hot)*9/10 {
		t.Errorf("%v with %d and at most %d more; want %d of /hot", top.Values, top.Stats.Requests, top.Missing, hot)
	}
}

func TestGroupEndsWithTheContext(t *testing.T) {
	p := &proxy{w: web, instance: 7}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := scan.Group(ctx, stream{p.batch(noon, request("/", 200, 1))}, &scan.Question{}, &scan.Grouping{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func BenchmarkGroup(b *testing.B) {
	p := &proxy{w: web, instance: 7}
	rng := rand.New(rand.NewPCG(1, 2))
	zipf := rand.NewZipf(rng, 1.2, 1, 63)
	var s stream
	const batches, each = 100, 5000
	for i := range batches {
		var events []event.Event
		for range each {
			events = append(events, request(fmt.Sprint("/route/", zipf.Uint64()), 200, rng.Uint64N(500_000)))
		}
		s = append(s, p.batch(noon.Add(time.Duration(i)*time.Second), events...))
	}
	f := func(name string, m *match.Matcher, by ...string) {
		var dims []*match.Field
		for _, n := range by {
			d, err := match.Lookup("by", n)
			if err != nil {
				b.Fatal(err)
			}
			dims = append(dims, d)
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				r, err := scan.Group(b.Context(), s, &scan.Question{Since: noon, Until: noon.Add(time.Hour), Match: m}, &scan.Grouping{By: dims, Top: 20})
				if err != nil || r.Progress.Events != batches*each {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)*batches*each/b.Elapsed().Seconds(), "events/s")
		})
	}
	m, err := match.Compile(&match.Filter{Where: "latency > 250ms"})
	if err != nil {
		b.Fatal(err)
	}
	rare, err := match.Compile(&match.Filter{Where: "latency > 499ms and status >= 500"})
	if err != nil {
		b.Fatal(err)
	}
	f("all/path,status", nil, "path", "status")
	f("half/path,status", m, "path", "status")
	f("rare/path,status", rare, "path", "status")
}
