package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirmesh/weir/bus"
)

const (
	// watchMessages and watchBytes bound what waits for a watcher.
	watchMessages = 4096
	watchBytes    = 8 << 20
)

// Request sends a request to one of those that answer the method (Answer), and
// returns its reply; ctx without a deadline is bounded by five seconds.
//
// The error wraps bus.ErrNoResponders where nobody answers the method, and
// bus.ErrNotConnected without a connection.
func (c *Client) Request(ctx context.Context, service, method string, request []byte) ([]byte, error) {
	fail := func(err error) error { return fmt.Errorf("cannot ask %s.%s: %w", service, method, err) }
	ctx, done, err := c.request(ctx)
	if err != nil {
		return nil, fail(err)
	}
	msg, err := c.nc.RequestWithContext(ctx, bus.RPCSubject(service, method), request)
	if errors.Is(err, nats.ErrNoResponders) {
		_ = done(nil)
		return nil, fail(bus.ErrNoResponders)
	}
	if err = done(err); err != nil {
		return nil, fail(err)
	}
	return msg.Data, nil
}

// Answer answers requests for a method of a service with what handler returns,
// until ctx ends; it then waits for the handlers under way and returns ctx's
// error. Unlike with Serve, each request goes to one of those that answer.
// handler is called from up to four goroutines; the request is its to keep.
func (c *Client) Answer(ctx context.Context, service, method string, handler func(ctx context.Context, request []byte) []byte) error {
	handlers := handlers{slots: make(chan struct{}, serveConcurrency)}
	subject := bus.RPCSubject(service, method)
	sub, err := c.nc.QueueSubscribe(subject, "weir", func(msg *nats.Msg) {
		handlers.run(func() { c.respond(msg.Subject, msg.Reply, handler(ctx, msg.Data)) })
	})
	if err == nil {
		err = sub.SetPendingLimits(serveQueue, serveQueue<<10)
	}
	if err != nil {
		return fmt.Errorf("cannot answer %s.%s: %w", service, method, translate(err))
	}
	select {
	case <-ctx.Done():
		err = ctx.Err()
	case <-c.closed:
		err = bus.ErrNotConnected
	}
	if drainErr := sub.Unsubscribe(); drainErr != nil && c.nc.IsConnected() {
		c.log.Warn("cannot stop a service", "service", service, "method", method, "error", drainErr)
	}
	if c.nc.IsConnected() {
		// With the answer nothing more comes in.
		_ = c.nc.FlushTimeout(time.Second)
	}
	handlers.stop()
	return err
}

// Announce publishes a message to whoever listens on the subject now. The error
// wraps bus.ErrNotConnected without a connection.
func (c *Client) Announce(subject string, data []byte) error {
	if !c.nc.IsConnected() {
		return fmt.Errorf("cannot announce on %s: %w", subject, bus.ErrNotConnected)
	}
	if err := c.nc.Publish(subject, data); err != nil {
		return fmt.Errorf("cannot announce on %s: %w", subject, translate(err))
	}
	return nil
}

// Watch calls fn, one call at a time, with each message announced on the
// subject, which may be a wildcard, until ctx ends. missed is called, in
// between, when messages may have been missed: at the beginning, after each
// reconnection, and where fn was too slow. It returns ctx's error, or one that
// wraps bus.ErrNotConnected once the client is closed.
func (c *Client) Watch(ctx context.Context, subject string, fn func(data []byte), missed func()) error {
	sub, err := c.nc.SubscribeSync(subject)
	if err == nil {
		err = sub.SetPendingLimits(watchMessages, watchBytes)
	}
	if err != nil {
		return fmt.Errorf("cannot watch %s: %w", subject, translate(err))
	}
	defer func() { _ = sub.Unsubscribe() }()
	for {
		if err := c.WaitConnected(ctx); err != nil {
			return fmt.Errorf("cannot watch %s: %w", subject, err)
		}
		session := c.link.session()
		missed()
		if err := c.watchSession(ctx, session, sub, fn, missed); err != nil {
			return fmt.Errorf("cannot watch %s: %w", subject, err)
		}
	}
}

// watchSession watches until the connection is lost (nil) or ctx ends.
func (c *Client) watchSession(ctx, session context.Context, sub *nats.Subscription, fn func(data []byte), missed func()) error {
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(session, cancel)()
	for {
		msg, err := sub.NextMsgWithContext(inner)
		switch {
		case err == nil:
			fn(msg.Data)
		case errors.Is(err, nats.ErrSlowConsumer):
			missed()
		case ctx.Err() != nil:
			return ctx.Err()
		case session.Err() != nil:
			return nil
		default:
			return translate(err)
		}
	}
}
