package telemetry

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/event"
)

// TestUntilFlush: flushes keep to the wall clock, at the proxy's own phase.
func TestUntilFlush(t *testing.T) {
	second := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f := func(after, every time.Duration, phase float64, want time.Duration) {
		t.Helper()
		if got := untilFlush(second.Add(after), every, phase); got != want {
			t.Errorf("%v after the second, every %v at phase %v: %v, want %v", after, every, phase, got, want)
		}
	}
	f(0, time.Second, 0.25, 250*time.Millisecond)
	f(100*time.Millisecond, time.Second, 0.25, 150*time.Millisecond)
	f(250*time.Millisecond, time.Second, 0.25, time.Second)
	f(300*time.Millisecond, time.Second, 0.25, 950*time.Millisecond)
	f(0, time.Second, 0, time.Second)
	f(999*time.Millisecond, time.Second, 0, time.Millisecond)
	f(130*time.Millisecond, 100*time.Millisecond, 0.5, 20*time.Millisecond)
	f(170*time.Millisecond, 100*time.Millisecond, 0.5, 80*time.Millisecond)
}

// fake takes batches and publishes none.
type fake struct{}

func (fake) Publish(ctx context.Context, _ event.Workload, _, _ uint64, _ []byte) error {
	<-ctx.Done()
	return ctx.Err()
}

func (fake) WatchTap(context.Context, event.Workload, func()) error { return nil }

// sealed takes all batches from the queue, and gives the seconds of each, with how
// many events each has.
func sealed(t *testing.T, p *Pipeline) (batches []map[int64]int) {
	t.Helper()
	var d event.Decoder
	for {
		b, ok, _ := p.queue.oldest()
		if !ok {
			return batches
		}
		if err := d.Reset(b.data); err != nil {
			t.Fatal(err)
		}
		seconds := map[int64]int{}
		for e := new(event.Event); d.Next(e); {
			seconds[(e.Start+int64(e.Duration))/second]++
		}
		batches = append(batches, seconds)
		p.queue.acknowledge()
	}
}

// TestSeconds: batches have the events of one second, and only what the flush
// at hand is about; whatever comes in between, each event is in one.
func TestSeconds(t *testing.T) {
	for _, spool := range []bool{false, true} {
		for try := 1; ; try++ {
			dir := ""
			if spool {
				dir = t.TempDir()
			}
			wrong, slow := flushSeconds(t, dir)
			if len(wrong) == 0 {
				break
			}
			if !slow || try == 20 {
				t.Fatal(strings.Join(wrong, "\n"))
			}
		}
	}
}

// flushSeconds says what is wrong with the batches of some seconds around now, and
// whether it took so long that now is another second.
func flushSeconds(t *testing.T, spool string) (wrong []string, slow bool) {
	t.Helper()
	p, err := New(Options{Source: event.Source{Workload: event.Workload{Name: "web"}}, Sink: fake{}, Spool: spool, Shards: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Discard)
	if left := time.Until(time.Now().Truncate(time.Second).Add(time.Second)); left < 300*time.Millisecond {
		time.Sleep(left)
	}
	now := time.Now().Unix()
	record := func(at int64, count int) {
		for i := range count {
			p.Record(&event.Event{Direction: event.Inbound, Protocol: event.HTTP1, Status: 200, GRPCStatus: event.NoGRPCStatus,
				Start: at*second + 100*int64(i) - 500, Duration: 600, Path: "/"})
		}
	}
	flush := func(want ...map[int64]int) {
		p.locked(p.tick)
		if got := sealed(t, p); !slices.EqualFunc(got, want, maps.Equal) {
			wrong = append(wrong, fmt.Sprintf("batches have %v, want %v", got, want))
		}
	}
	p.sealer.last = time.Now() // no heartbeat
	// At first there is no buffer to turn to.
	record(now-3, 2)
	record(now-2, 3)
	flush(map[int64]int{now - 3: 2, now - 2: 3})
	// Then there is.
	record(now-1, 4)
	record(now, 5)
	flush(map[int64]int{now - 1: 4})
	record(now-1, 1) // late
	flush()
	record(now+1, 2)
	record(now+2, 3) // no flush came: there is no other buffer; and it is not waited for, for it cannot be now
	flush(map[int64]int{now - 1: 1, now: 5}, map[int64]int{now + 1: 2, now + 2: 3})
	// Who taps has it at once, and at the end all goes.
	record(now, 1)
	p.noticeTap()
	flush(map[int64]int{now: 1})
	p.tapUntil.Store(0)
	record(now-1, 1)
	record(now, 1)
	p.locked(p.finish)
	if got, want := sealed(t, p), []map[int64]int{{now - 1: 1}, {now: 1}, {}}; !slices.EqualFunc(got, want, maps.Equal) {
		wrong = append(wrong, fmt.Sprintf("at the end batches have %v, want %v", got, want))
	}
	return wrong, time.Now().Unix() != now
}

// TestCrowdedSeconds: where batches are full of names, no other buffer is taken for
// the next second, and those that are free give their memory back.
func TestCrowdedSeconds(t *testing.T) {
	p, err := New(Options{Source: event.Source{Workload: event.Workload{Name: "web"}}, Sink: fake{}, Shards: 1, MaxExchanges: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Discard)
	free := p.newBuffer(0)
	p.spares.put(free)
	at := time.Now().Unix() - 10
	record := func(at int64, paths ...string) {
		for _, path := range paths {
			p.Record(&event.Event{Direction: event.Inbound, Protocol: event.HTTP1, Status: 200, GRPCStatus: event.NoGRPCStatus, Start: at * second, Path: path})
		}
	}
	record(at, "/1", "/2", "/3", "/4")
	p.locked(func() { p.sealShards(false) })
	record(at, "/5")
	record(at+1, "/5", "/6") // the second before was crowded
	p.locked(func() { p.sealShards(true) })
	record(at+1, "/7")
	record(at+2, "/7") // that was not
	p.locked(func() { p.sealShards(true) })
	want := []map[int64]int{{at: 4}, {at: 1, at + 1: 2}, {at + 1: 1}, {at + 2: 1}}
	if got := sealed(t, p); !slices.EqualFunc(got, want, maps.Equal) {
		t.Errorf("batches have %v, want %v", got, want)
	}
	if b, ok := p.spares.take(); !ok || b.enc == free.enc {
		t.Error("a free buffer keeps its memory")
	}
}

// TestBusySecondsHaveSums: the batch of a second with many requests for few routes
// has them added up, too.
func TestBusySecondsHaveSums(t *testing.T) {
	p, err := New(Options{Source: event.Source{Workload: event.Workload{Name: "web"}}, Sink: fake{}, Shards: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Discard)
	at := time.Now().Unix() - 10
	const count = 1000
	for i := range count {
		p.Record(&event.Event{Direction: event.Inbound, Protocol: event.HTTP1, Status: 200, GRPCStatus: event.NoGRPCStatus,
			Start: at*second + 900*int64(i), Duration: 600, Latency: 500, Path: "/" + string(rune('a'+i%3))})
	}
	p.locked(func() { p.sealShards(true) })
	b, ok, _ := p.queue.oldest()
	if !ok {
		t.Fatal("there is no batch")
	}
	var d event.Decoder
	d.ReadSums(true)
	if err := d.Reset(b.data); err != nil {
		t.Fatal(err)
	}
	if in, sums := d.Sums(); in != at || len(sums) != 4 || d.Len() != count {
		t.Errorf("%d sums of %d events in second %d, want 4 of %d in %d", len(sums), d.Len(), in-at, count, 0)
	}
}
