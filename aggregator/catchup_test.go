package aggregator_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirmesh/weir/aggregator"
	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/bus/bustest"
	"github.com/weirmesh/weir/bus/client"
	"github.com/weirmesh/weir/event"
)

// gated is a source whose every message waits for its turn.
type gated struct {
	aggregator.Source
	turn chan struct{}
}

func (g *gated) ConsumeEvents(ctx context.Context, partition int, read []event.Mark, fn func(event.Mark, string, []byte) error) error {
	return g.Source.ConsumeEvents(ctx, partition, read, func(at event.Mark, subject string, data []byte) error {
		select {
		case <-g.turn:
		case <-ctx.Done():
			return ctx.Err()
		}
		return fn(at, subject, data)
	})
}

// open lets those of ten batches of ten requests through that are not read yet.
// Where an answer is whole before, it has them all the same; but for one that had to
// wait too long, since the time from which on it could not be whole.
func (g *gated) open(t *testing.T, c *client.Client, read int, since time.Time) {
	t.Helper()
	for ; read < 10; read++ {
		r := ask(t, c, query.MethodStat, query.Request{Resource: query.Selector{Namespace: "emojivoto"}})
		if n, _ := requests(r, "web"); whole(r) && n != 100 && time.Since(since) < 5*time.Second {
			t.Fatalf("with %d of 10 batches read, the answer is whole and has %d requests", read, n)
		}
		select {
		case g.turn <- struct{}{}:
		case <-time.After(3 * time.Second): // rollups of who stood in have spared it the rest
		}
	}
	expect(t, c, map[string]uint64{"web": 100})
}

// lesser is an id of a member that leaves the partition which has batches to the
// member "one".
func lesser(t *testing.T, c *client.Client) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for n := range bus.Partitions {
		last, err := c.LastBatch(ctx, n)
		if err != nil {
			t.Fatal(err)
		}
		if last == 0 {
			continue
		}
		for i := 2; ; i++ {
			if id := fmt.Sprint("member-", i); aggregator.Owner([]string{"one", id}, n) == "one" {
				return id
			}
		}
	}
	t.Fatal("no partition has batches")
	return ""
}

// full are rollups on a disk that takes none.
type full struct{ aggregator.Rollups }

func (full) PublishRollup(context.Context, int, int, []byte, uint64) (uint64, error) {
	return 0, errors.New("no space left on device")
}

// publishTen puts ten batches of ten requests on the bus.
func publishTen(p *proxy) {
	p.t.Helper()
	for range 10 {
		p.publish(p.batch(10, event.Inbound, workload("x"), true, 200))
	}
}

// TestTotalsDoNotDip: an owner goes that could not publish what it had counted,
// and answered for. The next one reads all of it from the stream again, and does
// not answer before it has.
func TestTotalsDoNotDip(t *testing.T) {
	s := bustest.Run(t)
	c := bustest.Connect(t, s)
	web := &proxy{t: t, c: c, w: workload("web"), instance: 1}
	publishTen(web)
	first := options("one", bustest.Connect(t, s))
	first.Rollups = full{first.Rollups}
	_, stop := start(t, first)
	expect(t, c, map[string]uint64{"web": 100})
	stop()

	began := time.Now()
	next := options("two", bustest.Connect(t, s))
	gate := &gated{next.Source, make(chan struct{})}
	next.Source = gate
	two, _ := start(t, next)
	eventually(t, "the other partitions", func() bool { return two.Owned() >= next.Partitions-1 })
	gate.open(t, c, 0, began)
}

// TestAnswersInTheEnd: a partition that does not come as far as its stream, or
// can't know how far that is, answers with what it has, and says so.
func TestAnswersInTheEnd(t *testing.T) {
	for name, test := range map[string]struct {
		source   func(aggregator.Source) aggregator.Source
		requests uint64
	}{
		"no message comes":     {func(s aggregator.Source) aggregator.Source { return &gated{Source: s} }, 0},
		"the end is not known": {func(s aggregator.Source) aggregator.Source { return endless{s} }, 100},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := bustest.Run(t)
			c := bustest.Connect(t, s)
			publishTen(&proxy{t: t, c: c, w: workload("web"), instance: 1})
			o := options("one", bustest.Connect(t, s))
			o.Source = test.source(o.Source)
			a, _ := start(t, o)
			eventually(t, "all partitions", func() bool { return a.Owned() == o.Partitions })
			expect(t, c, map[string]uint64{"web": test.requests})
			if r := ask(t, c, query.MethodStat, query.Request{}); len(r.Behind) == 0 {
				t.Error("the answer does not say that there may be more")
			}
		})
	}
}

// endless is a source that can't tell where it ends.
type endless struct{ aggregator.Source }

func (endless) LastBatch(_ context.Context, partition int) (uint64, error) {
	return 0, fmt.Errorf("partition %d has no end", partition)
}

type roster = aggregator.Members

// silent is a roster that a member can't be heard by for a while.
type silent struct {
	roster
	held atomic.Bool
}

func (s *silent) Heartbeat(ctx context.Context, id string) error {
	if s.held.Load() {
		return errors.New("cut off")
	}
	return s.roster.Heartbeat(ctx, id)
}

// TestTotalsDoNotDipAfterAnAbsence: a member is not heard of for longer than its
// lease and reads no events meanwhile, as if it were paused. Another one takes its
// partitions over and answers for all. Back again, it does not answer for less.
func TestTotalsDoNotDipAfterAnAbsence(t *testing.T) {
	s := bustest.Run(t)
	c := bustest.Connect(t, s)
	web := &proxy{t: t, c: c, w: workload("web"), instance: 1}
	o := options("one", bustest.Connect(t, s))
	members, gate := &silent{roster: o.Members}, &gated{o.Source, make(chan struct{})}
	o.Members, o.Source = members, gate
	one, _ := start(t, o)
	eventually(t, "all partitions", func() bool { return one.Owned() == o.Partitions })
	publishTen(web)
	for range 5 {
		gate.turn <- struct{}{}
	}
	expect(t, c, map[string]uint64{"web": 50})
	members.held.Store(true)
	two := options(lesser(t, c), bustest.Connect(t, s))
	other, _ := start(t, two)
	eventually(t, "the other one's takeover", func() bool { return other.Owned() == o.Partitions })
	// While it can't know who stands in, it does not answer: else no answer is whole.
	expect(t, c, map[string]uint64{"web": 100})
	back := time.Now()
	members.held.Store(false)
	eventually(t, "the first one's return", func() bool { return other.Owned() < o.Partitions })
	gate.open(t, c, 5, back)
}

// TestOldestBeforeTheFirstRollup: who has taken a partition over counts on at once,
// and knows from when on, published or not: a rate over what was asked for, while
// there are statistics of a part of it only, would be too low.
func TestOldestBeforeTheFirstRollup(t *testing.T) {
	s := bustest.Run(t)
	c := bustest.Connect(t, s)
	began := time.Now().Unix()
	publishTen(&proxy{t: t, c: c, w: workload("web"), instance: 1})
	o := options("one", bustest.Connect(t, s))
	o.RollupEvery = time.Hour
	start(t, o)
	expect(t, c, map[string]uint64{"web": 100})
	for _, q := range []query.Request{
		{Resource: query.Selector{Namespace: "emojivoto"}},
		{Resource: query.Selector{Kind: query.KindNamespace}},
		{To: &query.Selector{}},
	} {
		if r := ask(t, c, query.MethodStat, q); r.Oldest < began || r.Oldest > time.Now().Unix() {
			t.Errorf("%+v: the oldest statistics begin at %d, want %d or little later", q, r.Oldest, began)
		}
	}
}
