package client

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirmesh/weir/bus"
)

// StoreExport keeps one part of an exporter's state in place of the one before,
// provided that this is still the one at sequence expectLast (0: there is
// none), and returns its sequence. Otherwise the error wraps bus.ErrFenced and
// nothing is stored: another exporter of the name has written, and the caller
// must begin again from LoadExport. The same data with the same expectLast may be
// sent again after a lost answer.
//
// The error may also wrap bus.ErrNotConnected, bus.ErrTooLarge (over
// bus.MaxPayload bytes), bus.ErrRefused or ctx's error.
func (c *Client) StoreExport(ctx context.Context, exporter, part string, data []byte, expectLast uint64) (sequence uint64, err error) {
	subject := bus.ExportSubject(exporter, part)
	// The id marks the write as this client's, and no other's.
	h := fnv.New128a()
	h.Write([]byte(subject))
	h.Write(data)
	id := fmt.Sprintf("%s-%d-%x", c.nonce, expectLast, h.Sum(nil))
	sequence, err = c.store(ctx, subject, id, data, jetstream.WithExpectLastSequencePerSubject(expectLast))
	if errors.Is(err, bus.ErrFenced) {
		// As for rollups: a repeated write is fenced by itself.
		last, lastErr := c.lastMessage(ctx, bus.StreamExports, subject)
		switch {
		case errors.Is(lastErr, jetstream.ErrMsgNotFound):
		case lastErr != nil:
			err = lastErr // whose write it was is not known
		case last.Header.Get(jetstream.MsgIDHeader) == id:
			return last.Sequence, nil
		}
	}
	if err != nil {
		return 0, fmt.Errorf("cannot keep part %q of exporter %q after %d: %w", part, exporter, expectLast, err)
	}
	return sequence, nil
}

// LoadExport returns what StoreExport kept last, and its sequence; nil and 0
// where there is nothing. The error may wrap bus.ErrNotConnected,
// bus.ErrRefused or ctx's error.
func (c *Client) LoadExport(ctx context.Context, exporter, part string) (data []byte, sequence uint64, err error) {
	message, err := c.lastMessage(ctx, bus.StreamExports, bus.ExportSubject(exporter, part))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("cannot read part %q of exporter %q: %w", part, exporter, err)
	}
	return message.Data, message.Sequence, nil
}

// NextStored tells when the stream got the first batch of a partition that
// comes after the sequence after; the zero time where there is none. The error
// may wrap bus.ErrNotConnected, bus.ErrRefused, bus.ErrPartition or ctx's error.
func (c *Client) NextStored(ctx context.Context, partition int, after uint64) (stored time.Time, err error) {
	if err := bus.CheckPartition(partition); err != nil {
		return time.Time{}, err
	}
	ctx, done, err := c.request(ctx)
	if err == nil {
		var stream jetstream.Stream
		var message *jetstream.RawStreamMsg
		if stream, err = c.js.Stream(ctx, bus.StreamEvents); err == nil {
			message, err = stream.GetMsg(ctx, after+1, jetstream.WithGetMsgSubject(bus.PartitionFilter(partition)))
		}
		if err = done(err); err == nil {
			return message.Time, nil
		}
	}
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return time.Time{}, nil
	}
	return time.Time{}, fmt.Errorf("cannot look up the next batch of partition %d: %w", partition, err)
}

// PositionAt is the sequence in the events stream after which the batches come
// that were stored at since or later. The error may wrap bus.ErrNotConnected,
// bus.ErrRefused or ctx's error.
func (c *Client) PositionAt(ctx context.Context, since time.Time) (after uint64, err error) {
	ctx, done, err := c.request(ctx)
	if err == nil {
		after, err = c.positionAt(ctx, since)
		err = done(err)
	}
	if err != nil {
		return 0, fmt.Errorf("cannot look up the batches since %s: %w", since.Format(time.RFC3339), err)
	}
	return after, nil
}

// positionAt asks for a consumer that would begin there, and not for messages.
func (c *Client) positionAt(ctx context.Context, since time.Time) (uint64, error) {
	stream, err := c.js.Stream(ctx, bus.StreamEvents)
	if err != nil {
		return 0, err
	}
	consumer, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		AckPolicy:         jetstream.AckNonePolicy,
		DeliverPolicy:     jetstream.DeliverByStartTimePolicy,
		OptStartTime:      &since,
		InactiveThreshold: consumerIdle,
		MemoryStorage:     true,
		Replicas:          1,
	})
	if err != nil {
		return 0, err
	}
	info := consumer.CachedInfo()
	c.forget(stream, info.Name)
	return info.Delivered.Stream, nil
}
