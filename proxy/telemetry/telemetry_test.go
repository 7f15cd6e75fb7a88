package telemetry_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	web     = event.Workload{Cluster: "local", Namespace: "emojivoto", Kind: "deploy", Name: "web"}
	errAway = errors.New("the bus is away")
)

// sink keeps batches by number, as the stream does: once each. before, if set,
// decides about each attempt, with no lock held.
type sink struct {
	before func(sequence uint64) error
	// late: the batch is stored, and the answer is lost.
	late func(sequence uint64) error

	mu       sync.Mutex
	batches  map[uint64][]byte
	order    []uint64
	all      map[[2]uint64][]byte // by instance and number
	attempts int
	tapped   func()
}

func (s *sink) Publish(ctx context.Context, source event.Workload, instance, sequence uint64, batch []byte) error {
	s.mu.Lock()
	s.attempts++
	s.mu.Unlock()
	if s.before != nil {
		if err := s.before(sequence); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.batches == nil {
		s.batches, s.all = make(map[uint64][]byte), make(map[[2]uint64][]byte)
	}
	if old, ok := s.all[[2]uint64{instance, sequence}]; ok && string(old) != string(batch) {
		return fmt.Errorf("batch %d changed between attempts", sequence)
	}
	s.all[[2]uint64{instance, sequence}] = append([]byte(nil), batch...)
	if _, ok := s.batches[sequence]; !ok {
		s.batches[sequence] = append([]byte(nil), batch...)
		s.order = append(s.order, sequence)
	}
	if s.late != nil {
		return s.late(sequence)
	}
	return ctx.Err()
}

func (s *sink) WatchTap(_ context.Context, _ event.Workload, tapped func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tapped = tapped
	return nil
}

func (s *sink) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.order)
}

// totals is what a reader of all batches knows.
type totals struct {
	events, requests, bytes uint64
	summed                  uint64
	produced, shed          uint64
	batches                 int
	final                   bool
}

// read decodes all batches and checks what holds at each.
func (s *sink) read(t *testing.T) totals {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var sum totals
	var d event.Decoder
	for i, sequence := range s.order {
		if sequence != uint64(i+1) {
			t.Fatalf("batch %d was stored as the %dth", sequence, i+1)
		}
		if err := d.Reset(s.batches[sequence]); err != nil {
			t.Fatal(err)
		}
		h := d.Header()
		if h.Sequence != sequence || h.Instance == 0 || h.Source.Workload != web {
			t.Fatalf("batch %d has header %+v", sequence, h)
		}
		var e event.Event
		for d.Next(&e) {
			sum.events++
			sum.bytes += e.ResponseBytes
			if e.IsRequest() {
				sum.requests++
			}
		}
		if err := d.Err(); err != nil {
			t.Fatal(err)
		}
		var one event.Summary
		for d.NextSummary(&one) {
			sum.summed += one.Events
			sum.bytes += one.ResponseBytes
			if d.Describe(one.Exchange, one.Connection, &e); e.IsRequest() {
				sum.requests += one.Events
			}
		}
		if h.Produced != sum.events+h.Shed || h.Shed != sum.summed {
			t.Fatalf("batch %d: produced %d, carried %d, shed %d, sums of %d", sequence, h.Produced, sum.events, h.Shed, sum.summed)
		}
		if h.Produced < sum.produced || h.Shed < sum.shed || sum.final {
			t.Fatalf("batch %d: counters go back, or it follows the final one: %+v", sequence, h)
		}
		sum.produced, sum.shed, sum.final = h.Produced, h.Shed, h.Final
		sum.batches++
	}
	return sum
}

// readAll adds up the batches of all instances.
func (s *sink) readAll(t *testing.T) (sum totals) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var d event.Decoder
	for _, batch := range s.all {
		if err := d.Reset(batch); err != nil {
			t.Fatal(err)
		}
		sum.events += uint64(d.Len())
		var one event.Summary
		for d.NextSummary(&one) {
			sum.summed += one.Events
		}
		sum.batches++
	}
	return sum
}

func options(s telemetry.Sink) telemetry.Options {
	return telemetry.Options{Source: event.Source{Workload: web, Pod: "web-0"}, Sink: s, FlushEvery: 20 * time.Millisecond}
}

// create makes one that is not started.
func create(o telemetry.Options) *telemetry.Pipeline {
	p, err := telemetry.New(o)
	if err != nil {
		panic(err)
	}
	return p
}

func start(o telemetry.Options) *telemetry.Pipeline {
	p := create(o)
	p.Start()
	return p
}

func closeIn(t *testing.T, p *telemetry.Pipeline, d time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return p.Close(ctx)
}

func mustClose(t *testing.T, p *telemetry.Pipeline) {
	t.Helper()
	if err := closeIn(t, p, time.Minute); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func request(i int) *event.Event {
	return &event.Event{
		Direction: event.Inbound, Protocol: event.HTTP1, Status: 200, GRPCStatus: event.NoGRPCStatus,
		Method: "GET", Authority: "web", Path: fmt.Sprintf("/%d", i%64),
		Start: int64(1_700_000_000_000_000 + i), Latency: uint64(i%1000) + 1, Duration: uint64(i%1000) + 2,
		RequestBytes: 100, ResponseBytes: uint64(i % 4096), Connection: uint64(i%32) + 1, Stream: uint32(i/32) + 1,
	}
}

func TestHeartbeatAtOnceAndFinalBatch(t *testing.T) {
	s := &sink{}
	o := options(s)
	o.FlushEvery = time.Hour
	o.OpenConnections = func() uint64 { return 7 }
	p := start(o)
	eventually(t, "the first batch", func() bool { return s.count() == 1 })
	for i := range 100 {
		p.Record(request(i))
	}
	mustClose(t, p)
	got := s.read(t)
	if got.events != 100 || got.requests != 100 || got.produced != 100 || !got.final {
		t.Fatalf("got %+v", got)
	}
	if got.batches != 3 { // the heartbeat, one of events, the final one
		t.Fatalf("low traffic made %d batches", got.batches)
	}
	var d event.Decoder
	if err := d.Reset(s.batches[1]); err != nil || d.Header().OpenConnections != 7 || d.Len() != 0 {
		t.Fatalf("heartbeat %+v, %v", d.Header(), err)
	}
	if p.Record(request(1)); p.Stats().Late != 1 {
		t.Fatal("an event after the end is not counted as late")
	}
	mustClose(t, p)
}

func TestHeartbeats(t *testing.T) {
	s := &sink{}
	o := options(s)
	o.Heartbeat = time.Millisecond
	p := start(o)
	eventually(t, "heartbeats", func() bool { return s.count() > 3 })
	mustClose(t, p)
	if got := s.read(t); got.events != 0 || !got.final {
		t.Fatalf("got %+v", got)
	}
}

func TestSealsEarlyWhenLarge(t *testing.T) {
	s := &sink{}
	o := options(s)
	o.FlushEvery = time.Hour
	o.MaxEvents = 50
	p := start(o)
	for i := range 50 {
		p.Record(request(i))
	}
	eventually(t, "the large batch", func() bool { return s.count() == 2 })
	mustClose(t, p)
}

// TestSealsEarlyWhenManyDiffer holds that requests that have each a path of
// their own are sealed long before as many of one path are.
func TestSealsEarlyWhenManyDiffer(t *testing.T) {
	s := &sink{}
	o := options(s)
	o.FlushEvery = time.Hour
	o.MaxExchanges = 40
	p := start(o)
	eventually(t, "the first batch", func() bool { return s.count() == 1 })
	same := request(1)
	for range 1000 {
		p.Record(same)
	}
	for i := range 39 {
		e := request(i)
		e.Path = fmt.Sprintf("/orders/%d", i)
		p.Record(e)
	}
	eventually(t, "the batch of many paths", func() bool { return s.count() == 2 })
	mustClose(t, p)
	if got := s.readAll(t); got.events != 1039 {
		t.Errorf("%d events, want 1039", got.events)
	}
}

// TestSealsEarlyWhenConnectionsDiffer holds the same of requests that come on a
// connection each, however fast: no batch has many more than its bound.
func TestSealsEarlyWhenConnectionsDiffer(t *testing.T) {
	s := &sink{}
	o := options(s)
	o.FlushEvery = time.Hour
	o.MaxConnections = 40
	p := start(o)
	for i := range 1000 {
		e := request(1)
		e.Connection = uint64(i + 1)
		p.Record(e)
	}
	mustClose(t, p)
	if got := s.readAll(t); got.events != 1000 {
		t.Errorf("%d events, want 1000", got.events)
	}
	var d event.Decoder
	for n, batch := range s.batches {
		if err := d.Reset(batch); err != nil || d.Len() > 60 {
			t.Errorf("batch %d has %d events, of a connection each, want 60 at most (%v)", n, d.Len(), err)
		}
	}
}

func TestTapFlushesFast(t *testing.T) {
	s := &sink{}
	o := options(s)
	o.FlushEvery = time.Hour
	o.TapEvery, o.TapFor = time.Millisecond, time.Hour
	p := start(o)
	eventually(t, "the watch", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.tapped != nil })
	s.tapped()
	for i := range 5 {
		before := s.count()
		p.Record(request(i))
		eventually(t, "a tapped event", func() bool { return s.count() > before })
	}
	if !p.Stats().Tapped {
		t.Fatal("stats do not say that it is tapped")
	}
	mustClose(t, p)
}

// Concurrent recorders against sinks of all tempers: nothing counted twice,
// nothing lost silently.
func TestExact(t *testing.T) {
	f := func(name string, o telemetry.Options, s *sink, recorders, each int) {
		t.Run(name, func(t *testing.T) {
			o.Sink = s
			p := start(o)
			var wg sync.WaitGroup
			for r := range recorders {
				wg.Go(func() {
					for i := range each {
						e := request(r*each + i)
						if i%5 == 0 {
							e.Protocol, e.Kind = event.TCP, event.Progress
						}
						p.Record(e)
						if i%100 == 0 {
							time.Sleep(time.Millisecond)
						}
					}
				})
			}
			wg.Wait()
			mustClose(t, p)
			got, st := s.read(t), p.Stats()
			n := uint64(recorders * each)
			if got.produced != n || got.events+got.shed != n || !got.final {
				t.Fatalf("recorded %d, read %+v", n, got)
			}
			if st.Events[event.Inbound] != n || st.Requests[event.Inbound] != n/5*4 || st.Shed != got.shed {
				t.Fatalf("recorded %d, counted %+v", n, st)
			}
			if st.Published != uint64(got.batches) || st.RetainedBytes != 0 || st.RetainedBatches != 0 {
				t.Fatalf("read %+v, counted %+v", got, st)
			}
			t.Logf("%d events in %d batches, %d shed, %d attempts", got.events, got.batches, got.shed, s.attempts)
		})
	}
	flaky := func(uint64) error {
		if rand.IntN(3) == 0 {
			return errAway
		}
		return nil
	}
	slow := func(uint64) error { time.Sleep(30 * time.Millisecond); return nil }
	small := options(nil)
	small.RetainBytes, small.MaxEvents, small.FlushEvery = 8<<10, 100, time.Millisecond
	f("good", options(nil), &sink{}, 8, 5000)
	f("many small batches", small, &sink{}, 4, 1000)
	f("flaky", options(nil), &sink{before: flaky}, 4, 2000)
	f("answers lost", options(nil), &sink{late: flaky}, 4, 2000)
	f("slow and bounded", small, &sink{before: slow}, 4, 2000)
}

func TestRetentionIsBounded(t *testing.T) {
	var mu sync.Mutex
	away := true
	s := &sink{before: func(uint64) error {
		mu.Lock()
		defer mu.Unlock()
		if away {
			return errAway
		}
		return nil
	}}
	o := options(s)
	o.RetainBytes, o.MaxEvents, o.Shards = 64<<10, 500, 2
	p := start(o)
	const n = 200_000
	for i := range n {
		p.Record(request(i))
		if i%500 == 0 {
			time.Sleep(100 * time.Microsecond)
		}
	}
	st := p.Stats()
	// Beyond the bound there may be one batch a shard.
	if most := o.RetainBytes + 2*4*500*100; st.RetainedBytes > most {
		t.Fatalf("%d bytes retained, the bound is %d", st.RetainedBytes, o.RetainBytes)
	}
	if st.Shed == 0 || st.Connected || st.PublishErrors == 0 {
		t.Fatalf("got %+v", st)
	}
	mu.Lock()
	away = false
	mu.Unlock()
	eventually(t, "the bus's return", func() bool { st := p.Stats(); return st.Connected && st.RetainedBytes == 0 })
	p.Record(request(1))
	mustClose(t, p)
	if got := s.read(t); got.produced != n+1 || got.events+got.shed != n+1 {
		t.Fatalf("recorded %d, read %+v", n+1, got)
	}
}

func TestCloseGivesUpWithItsContext(t *testing.T) {
	s := &sink{before: func(uint64) error { return errAway }}
	p := start(options(s))
	p.Record(request(1))
	err := closeIn(t, p, 50*time.Millisecond)
	if !errors.Is(err, errAway) {
		t.Fatalf("got %v", err)
	}
	// A sink that hangs is ended by its context.
	hang := make(chan struct{})
	q := start(options(hanging{hang}))
	if err := closeIn(t, q, 50*time.Millisecond); err == nil {
		t.Fatal("no error though nothing was acknowledged")
	}
}

// hanging is a sink that never answers.
type hanging struct{ c chan struct{} }

func (h hanging) Publish(ctx context.Context, _ event.Workload, _, _ uint64, _ []byte) error {
	<-ctx.Done()
	return ctx.Err()
}

func (h hanging) WatchTap(ctx context.Context, _ event.Workload, _ func()) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestRecordAllocatesNothing(t *testing.T) {
	t.Run("memory", func(t *testing.T) { recordAllocatesNothing(t, "") })
	t.Run("spool", func(t *testing.T) { recordAllocatesNothing(t, t.TempDir()) })
}

func recordAllocatesNothing(t *testing.T, spool string) {
	o := options(&sink{})
	o.Spool = spool
	o.MaxEvents = 1 << 20
	o.MaxBytes = 1 << 30
	p := create(o) // not started: nobody else allocates
	e := request(1)
	for range 50_000 { // grow the encoder
		p.Record(e)
	}
	p.Start()
	mustClose(t, p)

	p = create(o)
	for i := range 300 {
		p.Record(request(i))
	}
	// Columns grow by doubling: what is left is amortized, below one in 100.
	if n := testing.AllocsPerRun(5000, func() { p.Record(e) }); n >= 0.01 {
		t.Fatalf("%v allocations a Record", n)
	}
	p.Discard()
	var off telemetry.Off
	if n := testing.AllocsPerRun(100, func() { off.Record(e) }); n != 0 {
		t.Fatalf("%v allocations without telemetry", n)
	}
}

func BenchmarkRecord(b *testing.B) {
	f := func(name string, parallel, spool bool) {
		b.Run(name, func(b *testing.B) {
			s := &discard{}
			o := telemetry.Options{Source: event.Source{Workload: web}, Sink: s}
			if spool {
				o.Spool = b.TempDir()
			}
			p := start(o)
			events := make([]*event.Event, 1024)
			for i := range events {
				events[i] = request(i)
			}
			b.ReportAllocs()
			b.ResetTimer()
			if parallel {
				b.RunParallel(func(pb *testing.PB) {
					for i := 0; pb.Next(); i++ {
						p.Record(events[i%len(events)])
					}
				})
			} else {
				for i := range b.N {
					p.Record(events[i%len(events)])
				}
			}
			b.StopTimer()
			b.ReportMetric(float64(p.Stats().Shed)/float64(b.N), "shed/op")
			_ = p.Close(context.Background())
			b.ReportMetric(float64(s.bytes)/float64(b.N), "B/event")
		})
	}
	f("one", false, false)
	f("parallel", true, false)
	f("one, spool", false, true)
	f("parallel, spool", true, true)
}

type discard struct{ bytes int }

func (d *discard) Publish(_ context.Context, _ event.Workload, _, _ uint64, batch []byte) error {
	d.bytes += len(batch)
	return nil
}

func (d *discard) WatchTap(context.Context, event.Workload, func()) error { return nil }
