// Package apitest stands in for the aggregators in tests of the query API and
// of its clients: a backend that answers with the values it was given.
package apitest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

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
	changed chan struct{}
}

type tap struct {
	workload event.Workload
	fn       func([]byte)
	dropped  func(uint64)
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

// TapDropped implements api.Backend.
func (b *Backend) TapDropped(ctx context.Context, w event.Workload, fn func(data []byte), dropped func(total uint64)) error {
	t := &tap{workload: w, fn: fn, dropped: dropped}
	b.mu.Lock()
	if b.taps == nil {
		b.taps = map[*tap]struct{}{}
	}
	b.taps[t] = struct{}{}
	b.notify()
	b.mu.Unlock()
	<-ctx.Done()
	b.mu.Lock()
	delete(b.taps, t)
	b.notify()
	b.mu.Unlock()
	return ctx.Err()
}

// notify wakes WaitTaps; b.mu is held.
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

// Publish gives an event's JSON to every open tap.
func (b *Backend) Publish(data []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for t := range b.taps {
		t.fn(data)
	}
}

// Drop tells every open tap how many events were dropped so far.
func (b *Backend) Drop(total uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for t := range b.taps {
		t.dropped(total)
	}
}
