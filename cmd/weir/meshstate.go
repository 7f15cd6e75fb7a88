package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/api"
	"github.com/weirmesh/weir/bus"
	busclient "github.com/weirmesh/weir/bus/client"
)

// askController asks whatever controller answers on the bus.
func askController(c *busclient.Client) api.Controller {
	return func(ctx context.Context, service, method string, request []byte) ([]byte, error) {
		reply, err := c.Request(ctx, service, method, request)
		if errors.Is(err, bus.ErrNoResponders) {
			return nil, api.ErrNoController
		}
		return reply, err
	}
}

// busWatch tells how the bus does, asking it at most every few seconds.
type busWatch struct {
	client *busclient.Client

	mu sync.Mutex
	// All is guarded by mu.
	asked time.Time
	last  *api.BusState
	err   error
}

const (
	// busStateAge is how long an answer is told again.
	busStateAge     = 3 * time.Second
	busStateTimeout = 3 * time.Second
)

// state is the bus's, or what could be learnt of it beside an error.
func (b *busWatch) state(ctx context.Context) (*api.BusState, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.last != nil && time.Since(b.asked) < busStateAge {
		return b.last, b.err
	}
	ctx, cancel := context.WithTimeout(ctx, busStateTimeout)
	defer cancel()
	b.last, b.err = b.ask(ctx)
	b.asked = time.Now()
	return b.last, b.err
}

func (b *busWatch) ask(ctx context.Context) (*api.BusState, error) {
	out := &api.BusState{Version: b.client.ServerVersion()}
	streams, err := b.client.Streams(ctx)
	if err != nil {
		return out, err
	}
	for _, s := range streams {
		out.Streams = append(out.Streams, api.StreamState(s))
	}
	behind := make([]time.Duration, bus.Partitions)
	for partition := range behind {
		if behind[partition], err = b.behind(ctx, partition); err != nil {
			return out, err
		}
	}
	out.Behind = behind
	return out, nil
}

// behind is how long a partition's oldest batch waits that the last rollup does
// not count.
func (b *busWatch) behind(ctx context.Context, partition int) (time.Duration, error) {
	data, _, err := b.client.LastRollup(ctx, partition, 0)
	if err != nil {
		return 0, err
	}
	var position uint64
	if data != nil {
		part, err := rollup.Decode(data)
		if err != nil {
			return 0, fmt.Errorf("cannot read the last rollup of partition %d: %w", partition, err)
		}
		if position = part.Delta.Position; position == 0 {
			// A part of a rollup that is still being written.
			return 0, nil
		}
	}
	stored, err := b.client.NextStored(ctx, partition, position)
	if err != nil || stored.IsZero() {
		return 0, err
	}
	return max(time.Since(stored), 0), nil
}
