package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirmesh/weir/bus"
)

// StreamStatus is how one of the bus's streams does.
type StreamStatus struct {
	Name string
	// Exists is false where there is no such stream; the rest is zero then.
	Exists bool
	// Messages and Bytes are what it holds.
	Messages, Bytes uint64
	// Oldest and Newest are when the messages at its ends were stored.
	Oldest, Newest time.Time
	// Replicas that it should have, and those of them that are online and have
	// all its messages.
	Replicas, Current int
	// Leader is the server that leads it; "" on a single server, and where none
	// does now.
	Leader string
}

// Streams tells how each stream of an installation does, in bus.Streams' order.
// The error may wrap bus.ErrNotConnected, bus.ErrRefused or ctx's error.
func (c *Client) Streams(ctx context.Context) ([]StreamStatus, error) {
	ctx, done, err := c.request(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot ask for the streams: %w", err)
	}
	var out []StreamStatus
	retention, err := bus.Retention{}.WithDefaults()
	if err == nil {
		for _, spec := range bus.Streams(retention) {
			status := StreamStatus{Name: spec.Name}
			var stream jetstream.Stream
			stream, err = c.js.Stream(ctx, spec.Name)
			if errors.Is(err, jetstream.ErrStreamNotFound) {
				out, err = append(out, status), nil
				continue
			}
			if err != nil {
				break
			}
			status.read(stream.CachedInfo())
			out = append(out, status)
		}
	}
	if err := done(err); err != nil {
		return nil, fmt.Errorf("cannot ask for the streams: %w", err)
	}
	return out, nil
}

func (s *StreamStatus) read(info *jetstream.StreamInfo) {
	s.Exists = true
	s.Messages, s.Bytes = info.State.Msgs, info.State.Bytes
	s.Oldest, s.Newest = info.State.FirstTime, info.State.LastTime
	s.Replicas, s.Current = info.Config.Replicas, 1
	if info.Cluster == nil {
		return
	}
	s.Leader, s.Current = info.Cluster.Leader, 0
	if s.Leader != "" {
		s.Current = 1
	}
	for _, peer := range info.Cluster.Replicas {
		if peer.Current && !peer.Offline {
			s.Current++
		}
	}
}

// ServerVersion is that of the server that the client is connected to; "" without
// a connection.
func (c *Client) ServerVersion() string { return c.nc.ConnectedServerVersion() }
