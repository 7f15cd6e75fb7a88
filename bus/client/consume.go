package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/event"
)

const (
	// A reading asks for so many messages at once, and for so many bytes, which
	// must hold the largest message; and for more only when it has handled those.
	// So what may be under way to a client that is slow is bounded by the number
	// of its readings, and less than the server keeps for it before it is cut off
	// (bus/server): who falls behind would otherwise be cut off with every new
	// connection, and never catch up.
	readMessages = 512
	readEvents   = bus.MaxBatch + readMargin
	readRollups  = bus.MaxPayload + readMargin
	// readMargin holds a message's subjects and headers.
	readMargin = 64 << 10
	// rollupReadings is how many readings of rollups there may be at a time. The
	// others wait for their turn.
	rollupReadings = 4
	// Two heartbeats of the server that are missed, twice in a row, tell that the
	// consumer is gone: once may be this process itself, where it was held up.
	readHeartbeat = time.Second
	readExpiry    = 10 * time.Second
	// consumerIdle is how long the server keeps a consumer whose reader is
	// gone without a word.
	consumerIdle = 30 * time.Second
	// gatherFor is how long a reader that has caught up lets batches gather at most: what
	// follows then costs no switch to it and back, and finds what it works with
	// still in the core's cache. All readers of a client go on at the same time, at
	// multiples of it, so that a process that has little to do wakes up once for
	// all of them.
	gatherFor = 40 * time.Millisecond
	// waited: who had to wait so long for a message had read all that was there.
	waited = 100 * time.Microsecond
	// gatherMore is the same where more is there that is under way.
	gatherMore = 10 * time.Millisecond
	retryLeast = 50 * time.Millisecond
	retryMost  = 2 * time.Second
)

// ConsumeEvents calls fn with every batch of a partition, in the order of the
// stream, that comes after those that were read, and waits for more. read is the last
// of them and, before it, some that came before, oldest first; nil: none, so fn begins
// with the oldest that is kept. data is fn's to keep. It returns fn's error if fn fails, ctx's if
// ctx ends, and an error that wraps bus.ErrPartition or bus.ErrNotConnected (the
// client was closed) for nothing else: the absence of the bus, or the loss of its consumer, it sits out, and goes on after the last
// batch that fn was given; none is left out and none comes twice. At the stream's end fn gets batches in bursts, some
// 40 ms late at most.
//
// Where the stream has already discarded what came after, fn begins with the
// oldest that is kept, and the gap is logged. Where the stream has lost messages that
// were read, before or by fn, fn goes on from one that is still there, whatever has
// the sequences now: they go back then, and some batches come again, of no more marks
// than were lost. Where none is there, all that is kept comes again. fn gets nothing
// before that is known, however long the bus takes to tell. Where the time of the last
// is not known it is taken for what was read, unless the stream ends before it.
func (c *Client) ConsumeEvents(ctx context.Context, partition int, read []event.Mark, fn func(at event.Mark, subject string, data []byte) error) error {
	if err := bus.CheckPartition(partition); err != nil {
		return err
	}
	c.pace.on.Store(true)
	marks := marksOf(read)
	return c.read(ctx, &reading{
		stream: bus.StreamEvents,
		filter: bus.PartitionFilter(partition),
		after:  marks.last.Sequence,
		marks:  marks,
		bytes:  readEvents,
		gather: gatherFor,
		epoch:  c.epoch,
		fn: func(m message) error {
			return fn(m.mark(), m.subject, m.data)
		},
	})
}

// LastBatch returns the stream's sequence of a partition's newest batch, or 0
// where there is none. The error may wrap bus.ErrNotConnected, bus.ErrRefused,
// bus.ErrPartition or ctx's error.
func (c *Client) LastBatch(ctx context.Context, partition int) (sequence uint64, err error) {
	if err := bus.CheckPartition(partition); err != nil {
		return 0, err
	}
	message, err := c.lastMessage(ctx, bus.StreamEvents, bus.PartitionFilter(partition))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("cannot look up the last batch of partition %d: %w", partition, err)
	}
	return message.Sequence, nil
}

// ReadEvents calls fn with every batch of the workloads that match w (its empty
// fields match any), in the order of the stream: those that were stored at
// since or later, or where since is zero, those that come from now on. Where
// until is zero it waits for more until ctx ends, and returns ctx's error; else
// it returns nil after the last batch that was stored before until, or that was
// there when it began. from is the workload on whose subject the batch came, and
// stored when the stream got it, which numbers it with sequence; data is fn's to
// keep. fn may take its time: the stream keeps what is to come.
//
// opened, where not nil, is called once before fn, with what the stream holds.
// Where since is zero, what comes from now on is what comes after its Last.
//
// fn's error ends it and is returned. Absences of the bus it sits out as
// ConsumeEvents does.
func (c *Client) ReadEvents(ctx context.Context, w event.Workload, since, until time.Time, opened func(event.Extent), fn func(sequence uint64, from event.Workload, stored time.Time, data []byte) error) error {
	return c.read(ctx, &reading{
		stream: bus.StreamEvents,
		filter: bus.StoredFilter(w),
		since:  since,
		fresh:  since.IsZero(),
		finite: !until.IsZero(),
		until:  until,
		opened: opened,
		bytes:  readEvents,
		fn: func(m message) error {
			// A subject that names nobody gives nobody: no batch says to be theirs.
			from, err := bus.ParseWorkload(m.subject)
			if err != nil {
				from = event.Workload{}
			}
			return fn(m.sequence, from, m.stored, m.data)
		},
	})
}

type message struct {
	sequence uint64
	subject  string
	stored   time.Time
	data     []byte
}

func (m *message) mark() event.Mark {
	return event.Mark{Sequence: m.sequence, Stored: m.stored.UnixNano()}
}

// reading is one pass over the messages of a stream that match a filter. It
// outlives the consumers that it uses on the server.
type reading struct {
	stream, filter string
	// after is the position: the sequence of the last message that fn got, or
	// where to begin.
	after uint64
	// marks, where not nil, tell whether the stream is still what was read, and are of
	// where after is.
	marks *marks
	// since applies only until fn got the first message, and where it is set.
	since time.Time
	// fresh leaves out what the stream held when the reading began.
	fresh bool
	// finite ends the reading at last, the stream's end when it began.
	finite bool
	last   uint64
	known  bool
	// until, where set, ends a finite reading at the first message stored then.
	until time.Time
	// opened is called once, with what the stream holds.
	opened func(event.Extent)
	// bytes bounds what one request asks for; more than any message.
	bytes int
	// turns, where not nil, holds as many as may read at a time.
	turns chan struct{}
	// gather is for how long messages gather, at most, before fn gets the first that
	// comes after there was none: until a multiple of it after epoch.
	gather time.Duration
	epoch  time.Time
	fn     func(message) error
}

// errDone ends a finite reading.
var errDone = errors.New("read to the end")

// fnError is an error of the caller's function, which ends the reading.
type fnError struct{ error }

func (c *Client) read(ctx context.Context, r *reading) error {
	delay, quiet := retryLeast, false
	for {
		if err := c.WaitConnected(ctx); err != nil {
			return err
		}
		before := r.after
		err := c.readOnce(ctx, r)
		var failed fnError
		switch {
		case errors.Is(err, errDone):
			return nil
		case errors.As(err, &failed):
			return failed.error
		case ctx.Err() != nil:
			return ctx.Err()
		}
		if r.after != before {
			delay, quiet = retryLeast, false
		}
		if !quiet && !errors.Is(err, bus.ErrNotConnected) {
			c.log.Warn("lost the place in a stream; taking it up again", "stream", r.stream, "filter", r.filter, "after", r.after, "error", err)
			quiet = true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(delay/2 + rand.N(delay/2)):
		}
		delay = min(2*delay, retryMost)
	}
}

// readOnce reads with one consumer until something ends it.
func (c *Client) readOnce(ctx context.Context, r *reading) error {
	session := c.link.session()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(session, func() { cancel(bus.ErrNotConnected) })()
	err := c.readFrom(ctx, r)
	if cause := context.Cause(ctx); cause != nil && errors.Is(cause, bus.ErrNotConnected) {
		if failed := (fnError{}); !errors.As(err, &failed) && !errors.Is(err, errDone) {
			return cause
		}
	}
	return err
}

func (c *Client) readFrom(ctx context.Context, r *reading) error {
	if r.turns != nil {
		select {
		case r.turns <- struct{}{}:
			defer func() { <-r.turns }()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	stream, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, requestTimeout)
	consumer, err := stream.CreateConsumer(bounded, r.consumer())
	cancel()
	if err != nil {
		return fmt.Errorf("cannot create a consumer: %w", err)
	}
	info := consumer.CachedInfo()
	defer c.forget(stream, info.Name)
	if r.opened != nil {
		state := stream.CachedInfo().State
		r.opened(event.Extent{
			Created: stream.CachedInfo().Created,
			Oldest:  state.FirstTime,
			Newest:  state.LastTime,
			First:   state.FirstSeq,
			Last:    r.last,
			Waiting: info.NumPending,
		})
		r.opened = nil
	}
	if r.finite && info.NumPending == 0 {
		return errDone
	}
	p, err := newPull(c.nc, r.stream, info.Name, r.bytes)
	if err != nil {
		return fmt.Errorf("cannot read from a consumer: %w", err)
	}
	defer p.stop()
	return r.follow(ctx, p)
}

// open looks up the stream and settles where to begin.
func (c *Client) open(ctx context.Context, r *reading) (jetstream.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	stream, err := c.js.Stream(ctx, r.stream)
	if err != nil {
		return nil, fmt.Errorf("cannot open the stream: %w", err)
	}
	state := stream.CachedInfo().State
	if !r.known {
		r.last, r.known = state.LastSeq, true
		if r.fresh {
			r.after = state.LastSeq
		}
	}
	if r.marks != nil {
		after, err := r.marks.settle(ctx, stream)
		if err != nil {
			return nil, err
		}
		if after != r.after {
			c.log.Warn("stream has lost what came last and was read; going on from where it is the same",
				"stream", r.stream, "filter", r.filter, "read", r.after, "same", after)
			r.after = after
		}
	}
	switch {
	case r.after == 0:
	case state.LastSeq < r.after:
		c.log.Warn("stream ends before the place to go on from; beginning with its oldest message",
			"stream", r.stream, "filter", r.filter, "after", r.after, "last", state.LastSeq)
		r.after = 0
	case state.FirstSeq > r.after+1:
		c.log.Warn("stream has discarded messages that were not read yet, of this filter or others",
			"stream", r.stream, "filter", r.filter, "after", r.after, "first", state.FirstSeq)
	}
	return stream, nil
}

func (r *reading) consumer() jetstream.ConsumerConfig {
	config := jetstream.ConsumerConfig{
		FilterSubject:     r.filter,
		AckPolicy:         jetstream.AckNonePolicy,
		DeliverPolicy:     jetstream.DeliverAllPolicy,
		InactiveThreshold: consumerIdle,
		MemoryStorage:     true,
		Replicas:          1,
	}
	switch {
	case r.after > 0:
		config.DeliverPolicy = jetstream.DeliverByStartSequencePolicy
		config.OptStartSeq = r.after + 1
	case !r.since.IsZero():
		config.DeliverPolicy = jetstream.DeliverByStartTimePolicy
		config.OptStartTime = &r.since
	}
	return config
}

// follow hands on what the consumer delivers, as long as nothing is missing.
func (r *reading) follow(ctx context.Context, p *pull) error {
	for delivered := uint64(1); ; delivered++ {
		msg, began, err := p.take(ctx)
		if err != nil {
			return fmt.Errorf("cannot read from a consumer: %w", err)
		}
		at, err := positionOf(msg.Reply)
		if err != nil {
			return fmt.Errorf("cannot read from a consumer: %w", err)
		}
		if at.consumer != delivered {
			return fmt.Errorf("expected delivery %d of the consumer, got %d", delivered, at.consumer)
		}
		if r.finite && (at.stream > r.last || !r.until.IsZero() && !at.stored.Before(r.until)) {
			return errDone
		}
		if !began.IsZero() && time.Since(began) >= waited {
			r.settle(ctx, at.pending)
		}
		m := message{at.stream, msg.Subject, at.stored, msg.Data}
		if err := r.fn(m); err != nil {
			return fnError{err}
		}
		if r.after = at.stream; r.marks != nil {
			r.marks.note(m.mark())
		}
		if r.finite && (at.pending == 0 || r.after >= r.last) {
			return errDone
		}
	}
}

// settle lets messages gather. A ctx that ends meanwhile does not undo that the
// first of them is here.
func (r *reading) settle(ctx context.Context, pending uint64) {
	long := r.gather
	if pending > 0 {
		long = min(long, gatherMore)
	}
	if long > 0 {
		pause(ctx, long-time.Since(r.epoch)%long)
	}
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// forget removes a consumer from the server, which would else do so itself
// after consumerIdle.
func (c *Client) forget(stream jetstream.Stream, name string) {
	if !c.nc.IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := stream.DeleteConsumer(ctx, name); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) && !errors.Is(err, nats.ErrConnectionClosed) {
		c.log.Debug("cannot remove a consumer; it will expire", "consumer", name, "error", err)
	}
}
