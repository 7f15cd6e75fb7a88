package client

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirmesh/weir/bus"
)

// PublishRollup stores a partition's next rollup of a tier, provided that the one before
// it in the stream is still the one at sequence expectLast (0: there is none),
// and returns its sequence. Otherwise the error wraps bus.ErrFenced and nothing
// is stored: another owner wrote, or all rollups have expired; the caller must
// stop, and begin again from LastRollup. The same rollup with the same
// expectLast may be sent again after a lost answer.
//
// The error may also wrap bus.ErrNotConnected, bus.ErrTooLarge (over
// bus.MaxPayload bytes), bus.ErrRefused, bus.ErrPartition, bus.ErrTier or ctx's error.
func (c *Client) PublishRollup(ctx context.Context, partition, tier int, data []byte, expectLast uint64) (sequence uint64, err error) {
	if err := checkPlace(partition, tier); err != nil {
		return 0, err
	}
	// The id marks the write as this client's, and no other's.
	id := fmt.Sprintf("%s-%d.%d-%d-%016x%016x", c.nonce, partition, tier, expectLast, maphash.Bytes(c.seeds[0], data), maphash.Bytes(c.seeds[1], data))
	sequence, err = c.store(ctx, bus.RollupSubject(partition, tier), id, data, jetstream.WithExpectLastSequencePerSubject(expectLast))
	if errors.Is(err, bus.ErrFenced) {
		// The server checks the fence before it looks for a repetition, so a
		// repeated write, whose first answer was lost, is fenced by itself.
		last, lastErr := c.lastMessage(ctx, bus.RollupStream(tier), bus.RollupSubject(partition, tier))
		switch {
		case errors.Is(lastErr, jetstream.ErrMsgNotFound):
		case lastErr != nil:
			err = lastErr // whose write it was is not known
		case last.Header.Get(jetstream.MsgIDHeader) == id:
			return last.Sequence, nil
		}
	}
	if err != nil {
		return 0, fmt.Errorf("cannot publish a rollup of partition %d after %d: %w", partition, expectLast, err)
	}
	return sequence, nil
}

// LastRollup returns a partition's newest rollup of a tier and its sequence in the
// stream, or nil and 0 where there is none. The error may wrap
// bus.ErrNotConnected, bus.ErrRefused, bus.ErrPartition, bus.ErrTier or ctx's error.
func (c *Client) LastRollup(ctx context.Context, partition, tier int) (data []byte, sequence uint64, err error) {
	if err := checkPlace(partition, tier); err != nil {
		return nil, 0, err
	}
	message, err := c.lastMessage(ctx, bus.RollupStream(tier), bus.RollupSubject(partition, tier))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("cannot read the last rollup of partition %d: %w", partition, err)
	}
	return message.Data, message.Sequence, nil
}

func (c *Client) lastMessage(ctx context.Context, stream, subject string) (*jetstream.RawStreamMsg, error) {
	ctx, done, err := c.request(ctx)
	if err != nil {
		return nil, err
	}
	s, err := c.js.Stream(ctx, stream)
	if err != nil {
		return nil, done(err)
	}
	message, err := s.GetLastMsgForSubject(ctx, subject)
	return message, done(err)
}

// ReadRollups calls fn with each rollup of a partition and tier that comes
// after the stream's sequence after, or where that is 0 was stored at since or
// later: oldest first, up to what was the newest when it began, and returns
// nil. data is fn's to keep. It returns fn's error if fn fails, and ctx's if ctx
// ends before; absences of the bus it sits out. A few calls read at a time, and
// others wait for one of them to end: fn must not read rollups itself. Where the stream ends before
// after (its files were lost), fn begins with the oldest.
func (c *Client) ReadRollups(ctx context.Context, partition, tier int, after uint64, since time.Time, fn func(sequence uint64, data []byte) error) error {
	if err := checkPlace(partition, tier); err != nil {
		return err
	}
	return c.read(ctx, &reading{
		stream: bus.RollupStream(tier),
		filter: bus.RollupSubject(partition, tier),
		after:  after,
		since:  since,
		finite: true,
		bytes:  readRollups,
		turns:  c.turns,
		fn: func(m message) error {
			return fn(m.sequence, m.data)
		},
	})
}

func checkPlace(partition, tier int) error {
	if err := bus.CheckPartition(partition); err != nil {
		return err
	}
	return bus.CheckTier(tier)
}
