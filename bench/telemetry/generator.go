package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/weirmesh/weir/bus"
	busclient "github.com/weirmesh/weir/bus/client"
)

// A proxy seals a batch at so many events or bytes; see proxy/telemetry.
const (
	sealEvents  = 10_000
	sealPayload = 96 << 10
)

// An order is what a generator is to do.
type order struct {
	Bus string
	// Prefix begins the names of workloads, Proxies and Workloads are how many.
	Prefix             string
	Proxies, Workloads int
	// Rate is events a second of each proxy, sent once a second as proxies do.
	// 0 is as fast as the bus takes them, Batch events at once, Events in all.
	Rate   float64
	Batch  int
	Events int
	// Seconds is how long, where there is a rate, and Speed how much faster
	// than a proxy's time passes: batches are of the same size and come so much
	// more often. 0 is 1.
	Seconds float64
	Speed   float64
	// Uniform has all 64 routes come in turn.
	Uniform bool
	// Workers send at the same time, over Links connections.
	Workers, Links int
}

// A tally is what a generator did.
type tally struct {
	Events, Batches uint64
	// Payload is bytes of batches, Wire those of subjects and headers too.
	Payload, Wire uint64
	// Began and Ended are when the first batch was made and the last was
	// acknowledged, µs since 1970.
	Began, Ended int64
	// Late is by how much a batch was sent later than it was due, at most, s.
	Late float64
}

func (t *tally) add(o tally) {
	t.Events += o.Events
	t.Batches += o.Batches
	t.Payload += o.Payload
	t.Wire += o.Wire
	t.Late = max(t.Late, o.Late)
}

// seconds is how long it took.
func (t *tally) seconds() float64 { return float64(t.Ended-t.Began) / 1e6 }

// bytesPerEvent is of the wire.
func (t *tally) bytesPerEvent() float64 { return float64(t.Wire) / float64(t.Events) }

// generate does an order, given as JSON, and writes the tally as JSON.
func generate(ctx context.Context, text string, out io.Writer) error {
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return fmt.Errorf("cannot read the order: %w", err)
	}
	if o.Speed == 0 {
		o.Speed = 1
	}
	o.Workers = min(max(o.Workers, 1), o.Proxies)
	var links []*busclient.Client
	for i := range max(o.Links, 1) {
		c, err := busclient.Connect(ctx, busclient.Options{URL: o.Bus, Name: fmt.Sprintf("bench-%d", i), Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.WaitConnected(ctx); err != nil {
			return err
		}
		links = append(links, c)
	}
	workers := make([]*worker, o.Workers)
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	for i := range workers {
		workers[i] = newWorker(&o, links[i%len(links)], uint64(i))
	}
	for n := range o.Proxies {
		w := workers[n%len(workers)]
		w.proxies = append(w.proxies, newProxy(rng, n, o.Workloads, o.Prefix))
	}
	for _, w := range workers {
		w.inTurns(o.Workloads)
	}
	total := tally{Began: time.Now().UnixMicro()}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for i, w := range workers {
		wg.Go(func() {
			if err := w.run(ctx, float64(i)/float64(len(workers))); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	total.Ended = time.Now().UnixMicro()
	for _, w := range workers {
		total.add(w.tally)
	}
	return json.NewEncoder(out).Encode(total)
}

// A worker makes the batches of its proxies one after the other. As in a
// cluster, many of them are under way at a time, but none before that of the
// same proxy is acknowledged, as a rule: the others have their turn first.
type worker struct {
	order   *order
	client  *busclient.Client
	proxies []*virtualProxy
	share   int
	sealer  sealer
	tally   tally // of all that was made; valid when run has returned nil

	// buffers are as many as may be under way; failed has the first error.
	buffers chan []byte
	failed  chan error
}

// underWay bounds the batches of a worker that are not acknowledged yet.
const underWay = 64

func newWorker(o *order, client *busclient.Client, seed uint64) *worker {
	return &worker{order: o, client: client, share: o.Events / o.Workers, failed: make(chan error, 1),
		sealer: sealer{ring: newRing(seed, o.Uniform)}}
}

// run makes batches until all are, and waits until they are acknowledged.
func (w *worker) run(ctx context.Context, phase float64) error {
	n := max(min(underWay, len(w.proxies)/2), 1)
	w.buffers = make(chan []byte, n)
	for range n {
		w.buffers <- nil
	}
	err := w.make(ctx, phase)
	for range n {
		<-w.buffers
	}
	select {
	case err := <-w.failed:
		return err
	default:
		return err
	}
}

func (w *worker) make(ctx context.Context, phase float64) error {
	if w.order.Rate > 0 {
		return w.paced(ctx, phase)
	}
	for sent := 0; sent < w.share; {
		for _, p := range w.proxies {
			n := min(w.order.Batch, w.share-sent)
			if n == 0 {
				break
			}
			since, until := lastTurn(time.Now(), time.Second)
			if err := w.send(ctx, p, n, since, until); err != nil {
				return err
			}
			sent += n
		}
	}
	return nil
}

// inTurns puts a worker's proxies in the order in which they send. Those of one
// workload are a sixth of a turn apart: so far are, in the mean, two phases that
// proxies choose at random in half a second.
func (w *worker) inTurns(workloads int) {
	at := func(p *virtualProxy) float64 {
		_, part := math.Modf(float64(p.number%workloads)/float64(workloads) + float64(p.number/workloads)/6)
		return part
	}
	slices.SortStableFunc(w.proxies, func(a, b *virtualProxy) int { return cmp.Compare(at(a), at(b)) })
}

// paced has each proxy send once a second, all spread over the second. A worker
// that falls behind is late; what it did not come to make is not made up.
func (w *worker) paced(ctx context.Context, phase float64) error {
	turn := time.Duration(float64(time.Second) / w.order.Speed)
	step := turn / time.Duration(len(w.proxies))
	began := time.Now()
	end := began.Add(time.Duration(w.order.Seconds * float64(time.Second)))
	due := began.Add(time.Duration(phase * float64(step)))
	carry := carries(len(w.proxies), w.order.Rate, phase)
	for {
		for i, p := range w.proxies {
			if err := sleepUntil(ctx, due); err != nil {
				return err
			}
			now := time.Now()
			if !now.Before(end) {
				return nil
			}
			late := now.Sub(due)
			w.tally.Late = max(w.tally.Late, late.Seconds())
			if late > turn {
				due = now
			}
			due = due.Add(step)
			carry[i] += w.order.Rate
			n := int(carry[i])
			carry[i] -= float64(n)
			if n == 0 {
				continue
			}
			if err := w.sendTurn(ctx, p, n, now, turn); err != nil {
				return err
			}
		}
	}
}

// carries are the parts of an event that n proxies begin with, which send one after
// the other throughout a turn. Those with less than an event a turn have theirs in
// different turns, as many in each, and those of a turn are spread over all of it, for
// neighbours are the golden ratio apart. phase, from 0 to 1, tells workers apart.
func carries(n int, rate, phase float64) []float64 {
	all := make([]float64, n)
	if rate >= 1 {
		return all
	}
	for i := range all {
		_, all[i] = math.Modf(float64(i)*math.Phi + phase)
	}
	return all
}

// lastTurn is the last one of so long that is over, of the wall clock, µs since
// 1970: a proxy's flush has the events of the second before, no others.
func lastTurn(now time.Time, turn time.Duration) (since, until int64) {
	until = now.Truncate(turn).UnixMicro()
	return until - turn.Microseconds(), until
}

// sendTurn sends what a proxy saw in one turn, in as many batches as it seals.
func (w *worker) sendTurn(ctx context.Context, p *virtualProxy, n int, now time.Time, turn time.Duration) error {
	since, until := lastTurn(now, turn)
	for sent := 0; sent < n; {
		k := min(n-sent, sealEvents)
		from, to := since+(until-since)*int64(sent)/int64(n), since+(until-since)*int64(sent+k)/int64(n)
		if err := w.send(ctx, p, k, from, to); err != nil {
			return err
		}
		sent += k
	}
	return nil
}

// send makes one batch and has it published, as soon as there is room for
// another one under way.
func (w *worker) send(ctx context.Context, p *virtualProxy, n int, since, until int64) error {
	var buffer []byte
	select {
	case buffer = <-w.buffers:
	case err := <-w.failed:
		w.failed <- err
		return err
	}
	batch := append(buffer[:0], w.sealer.seal(p, n, since, until)...)
	sequence := p.sequence
	w.tally.Events += uint64(n)
	w.tally.Batches++
	w.tally.Payload += uint64(len(batch))
	w.tally.Wire += uint64(len(batch) + overhead(p))
	go func() {
		if err := w.publish(ctx, p, sequence, batch); err != nil {
			select {
			case w.failed <- err:
			default: // the first is enough
			}
		}
		w.buffers <- batch
	}()
	return nil
}

// publish publishes one batch, again until it is acknowledged.
func (w *worker) publish(ctx context.Context, p *virtualProxy, sequence uint64, batch []byte) error {
	for attempt := 0; ; attempt++ {
		err := w.client.Publish(ctx, p.source.Workload, p.instance, sequence, batch)
		if err == nil || ctx.Err() != nil || errors.Is(err, bus.ErrTooLarge) || attempt == 50 {
			return err
		}
		if err := sleepUntil(ctx, time.Now().Add(100*time.Millisecond)); err != nil {
			return err
		}
	}
}

// overhead is the bytes of a message's subject and headers.
func overhead(p *virtualProxy) int {
	return len(bus.EventsSubject(p.source.Workload)) +
		len("NATS/1.0\r\nNats-Msg-Id: -\r\n\r\n") + len(strconv.FormatUint(p.instance, 16)) + len(strconv.FormatUint(p.sequence, 10))
}

// sleepUntil waits, or until ctx ends.
func sleepUntil(ctx context.Context, at time.Time) error {
	d := time.Until(at)
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
