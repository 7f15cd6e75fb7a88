// Package apitest stands in for the aggregators and the stream of events in
// tests of the query API and of its clients: a backend that answers with the
// values it was given.
package apitest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/event"
)

// ErrNobody is what [Backend.Ask] returns where no answer was set.
var ErrNobody = errors.New("nobody answers")

// Question is one request that a [Backend] was asked.
type Question struct {
	// Method is one of query's.
	Method  string
	Request query.Request
}

// Backend answers with values. Its zero value knows nothing and answers
// nothing. It is safe for concurrent use.
type Backend struct {
	mu sync.Mutex
	// All is guarded by mu.
	answers map[string][]func(query.Request) query.Reply
	asked   []Question
	taps    map[*tap]struct{}
	batches []message
	// produced events by instance.
	produced  map[uint64]uint64
	announced map[event.Workload]int
	changed   chan struct{}
	// created is when the stream was made, discarded how many batches it has no
	// longer.
	created   time.Time
	discarded uint64
}

// tap is a reading without an end.
type tap struct{ workload event.Workload }

// message is what the stream holds.
type message struct {
	from   event.Workload
	stored time.Time
	data   []byte
}

// selected tells whether a reading gets the message.
func (m *message) selected(w event.Workload, since, until time.Time) bool {
	for _, f := range [][2]string{{w.Cluster, m.from.Cluster}, {w.Namespace, m.from.Namespace}, {w.Kind, m.from.Kind}, {w.Name, m.from.Name}} {
		if f[0] != "" && f[0] != f[1] {
			return false
		}
	}
	return !m.stored.Before(since) && (until.IsZero() || m.stored.Before(until))
}

// Answer makes members answer a method with replies, one each.
func (b *Backend) Answer(method string, replies ...query.Reply) {
	var fns []func(query.Request) query.Reply
	for _, r := range replies {
		fns = append(fns, func(query.Request) query.Reply { return r })
	}
	b.AnswerFunc(method, fns...)
}

// AnswerFunc makes members answer a method with what fns return, one each.
func (b *Backend) AnswerFunc(method string, fns ...func(query.Request) query.Reply) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.answers == nil {
		b.answers = map[string][]func(query.Request) query.Reply{}
	}
	b.answers[method] = fns
}

// Asked returns all that was asked so far.
func (b *Backend) Asked() []Question {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.asked)
}

// Ask implements api.Backend.
func (b *Backend) Ask(_ context.Context, service, method string, request []byte) ([][]byte, error) {
	if service != query.Service {
		return nil, fmt.Errorf("unknown service %q", service)
	}
	q := Question{Method: method}
	if err := json.Unmarshal(request, &q.Request); err != nil {
		return nil, fmt.Errorf("cannot read the request: %w", err)
	}
	b.mu.Lock()
	b.asked = append(b.asked, q)
	fns := b.answers[method]
	b.mu.Unlock()
	if len(fns) == 0 {
		return nil, ErrNobody
	}
	var replies [][]byte
	for _, fn := range fns {
		reply := fn(q.Request)
		data, err := json.Marshal(&reply)
		if err != nil {
			return replies, fmt.Errorf("cannot encode the reply: %w", err)
		}
		replies = append(replies, data)
	}
	return replies, nil
}

// ReadEvents implements api.Backend.
func (b *Backend) ReadEvents(ctx context.Context, w event.Workload, since, until time.Time, opened func(event.Extent), fn func(sequence uint64, from event.Workload, stored time.Time, data []byte) error) error {
	b.mu.Lock()
	next, end := 0, len(b.batches)
	if since.IsZero() {
		next = end
	}
	x := event.Extent{Created: b.created, First: b.discarded + 1, Last: b.discarded + uint64(end)}
	if end > 0 {
		x.Oldest, x.Newest = b.batches[0].stored, b.batches[end-1].stored
	}
	for _, m := range b.batches[next:] {
		if m.selected(w, since, until) {
			x.Waiting++
		}
	}
	discarded := b.discarded
	b.mu.Unlock()
	opened(x)

	t := &tap{workload: w}
	if until.IsZero() {
		b.mu.Lock()
		if b.taps == nil {
			b.taps = map[*tap]struct{}{}
		}
		b.taps[t] = struct{}{}
		b.notify()
		b.mu.Unlock()
		defer func() {
			b.mu.Lock()
			delete(b.taps, t)
			b.notify()
			b.mu.Unlock()
		}()
	}
	for {
		b.mu.Lock()
		if until.IsZero() {
			end = len(b.batches)
		}
		fresh := b.batches[next:end]
		if b.changed == nil {
			b.changed = make(chan struct{})
		}
		changed := b.changed
		b.mu.Unlock()
		for _, m := range fresh {
			next++
			if !m.selected(w, since, until) {
				continue
			}
			if err := fn(discarded+uint64(next), m.from, m.stored, m.data); err != nil {
				return err
			}
		}
		if !until.IsZero() {
			return ctx.Err()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// AnnounceTapped implements api.Backend.
func (b *Backend) AnnounceTapped(w event.Workload) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.announced == nil {
		b.announced = map[event.Workload]int{}
	}
	b.announced[w]++
	return nil
}

// Announced tells how often the proxies of a workload were told that they are
// tapped.
func (b *Backend) Announced(w event.Workload) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.announced[w]
}

// notify wakes WaitTaps and readings; b.mu is held.
func (b *Backend) notify() {
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
}

// WaitTaps waits until exactly n taps are open, and returns what they tap.
func (b *Backend) WaitTaps(ctx context.Context, n int) ([]event.Workload, error) {
	for {
		b.mu.Lock()
		if len(b.taps) == n {
			var out []event.Workload
			for t := range b.taps {
				out = append(out, t.workload)
			}
			b.mu.Unlock()
			return out, nil
		}
		if b.changed == nil {
			b.changed = make(chan struct{})
		}
		changed := b.changed
		have := len(b.taps)
		b.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("%d taps are open, not %d: %w", have, n, ctx.Err())
		}
	}
}

// Publish stores a batch, as a proxy publishes it: with the header's Produced
// and Shed set from what was published before. It counts as stored when the
// header says that it was sent, or now where it does not.
func (b *Backend) Publish(h event.Header, events ...event.Event) {
	b.mu.Lock()
	if b.produced == nil {
		b.produced = map[uint64]uint64{}
	}
	b.produced[h.Instance] += uint64(len(events))
	h.Produced = b.produced[h.Instance] + h.Shed
	b.mu.Unlock()
	if h.Sent == 0 {
		h.Sent = time.Now().UnixMicro()
	}
	var encoder event.Encoder
	for i := range events {
		encoder.Add(&events[i])
	}
	b.PublishRaw(h.Source.Workload, time.UnixMicro(h.Sent), encoder.Encode(nil, &h))
}

// PublishRaw stores what may be no batch.
func (b *Backend) PublishRaw(from event.Workload, stored time.Time, data []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.batches = append(b.batches, message{from, stored, data})
	b.notify()
}

// Discard takes the first n batches out of the stream, as time does. No reading
// may be under way.
func (b *Backend) Discard(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.batches = b.batches[n:]
	b.discarded += uint64(n)
}

// Renew gives the stream's place to another, which is empty. No reading may be
// under way.
func (b *Backend) Renew() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.created, b.batches, b.discarded = time.Now(), nil, 0
}
