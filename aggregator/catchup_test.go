package aggregator_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/weirmesh/weir/aggregator"
	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/bus/bustest"
	"github.com/weirmesh/weir/event"
)

// gated is a source whose every message waits for its turn.
type gated struct {
	aggregator.Source
	turn chan struct{}
}

func (g *gated) ConsumeEvents(ctx context.Context, partition int, after uint64, fn func(uint64, string, []byte) error) error {
	return g.Source.ConsumeEvents(ctx, partition, after, func(sequence uint64, subject string, data []byte) error {
		select {
		case <-g.turn:
		case <-ctx.Done():
			return ctx.Err()
		}
		return fn(sequence, subject, data)
	})
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

	next := options("two", bustest.Connect(t, s))
	gate := &gated{next.Source, make(chan struct{})}
	next.Source = gate
	two, _ := start(t, next)
	asked := func() *query.Reply {
		return ask(t, c, query.MethodStat, query.Request{Resource: query.Selector{Namespace: "emojivoto"}})
	}
	eventually(t, "the other partitions", func() bool { return two.Owned() >= next.Partitions-1 })
	for read := range 10 {
		r := asked()
		if n, _ := requests(r, "web"); whole(r) && n != 100 {
			t.Fatalf("with %d of 10 batches read, the answer is whole and has %d requests", read, n)
		}
		gate.turn <- struct{}{}
	}
	expect(t, c, map[string]uint64{"web": 100})
}

// TestAnswersInTheEnd: a partition that does not come as far as its stream, or
// can't know how far that is, answers with what it has.
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
		})
	}
}

// endless is a source that can't tell where it ends.
type endless struct{ aggregator.Source }

func (endless) LastBatch(_ context.Context, partition int) (uint64, error) {
	return 0, fmt.Errorf("partition %d has no end", partition)
}
