package client

import (
	"context"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/event"
)

// Publish sends one batch of events of the workload source and returns when the
// stream has stored it. The same instance and sequence may be sent again: the
// stream keeps one. batch may be used again when Publish has returned.
//
// The error wraps bus.ErrNotConnected (at once when there is no connection),
// bus.ErrTooLarge (over bus.MaxBatch bytes; final), bus.ErrRefused or ctx's
// error; the batch may have been stored all the same where the answer was lost.
// Without a deadline in ctx, Publish waits five seconds for the answer.
func (c *Client) Publish(ctx context.Context, source event.Workload, instance, sequence uint64, batch []byte) error {
	if len(batch) > bus.MaxBatch {
		return fmt.Errorf("cannot publish batch %d of %s: %w: it has %d bytes, the most are %d", sequence, source, bus.ErrTooLarge, len(batch), bus.MaxBatch)
	}
	id := strconv.FormatUint(instance, 16) + "-" + strconv.FormatUint(sequence, 10)
	_, err := c.store(ctx, bus.EventsSubject(source), id, batch)
	if err != nil {
		return fmt.Errorf("cannot publish batch %d of %s: %w", sequence, source, err)
	}
	return nil
}

// store publishes a message to a stream and waits for it to be stored. A
// message that is there already, by its id, counts as stored.
func (c *Client) store(ctx context.Context, subject, id string, data []byte, options ...jetstream.PublishOpt) (uint64, error) {
	ctx, done, err := c.request(ctx)
	if err != nil {
		return 0, err
	}
	// The caller decides about retries.
	options = append(options, jetstream.WithRetryAttempts(0))
	if id != "" {
		options = append(options, jetstream.WithMsgID(id))
	}
	ack, err := c.js.PublishMsg(ctx, &nats.Msg{Subject: subject, Data: data}, options...)
	if err := done(err); err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}
