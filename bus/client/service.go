package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/weirmesh/weir/bus"
)

const (
	// serveConcurrency is how many requests of a method are handled at once.
	serveConcurrency = 4
	serveQueue       = 1024
	serveVersion     = "1.0.0"
	codeTooLarge     = "413"
)

// Serve answers requests for a method of a service, with what handler returns,
// until ctx ends; it then waits for the handlers under way and returns ctx's
// error. It gets no more requests then; any that still waited for their turn
// are not answered. Every member that serves the method gets every request. handler is
// called from up to four goroutines; the request is its to keep. A reply over
// bus.MaxPayload bytes becomes an error at the asker. The error may also tell that the
// client is closed.
func (c *Client) Serve(ctx context.Context, service, method string, handler func(request []byte) []byte) error {
	svc, err := micro.AddService(c.nc, micro.Config{
		Name:               "weir-" + bus.Token(service),
		Version:            serveVersion,
		Description:        "Weir " + service,
		QueueGroupDisabled: true,
	})
	if err != nil {
		return fmt.Errorf("cannot serve %s.%s: %w", service, method, translate(err))
	}
	handlers := handlers{slots: make(chan struct{}, serveConcurrency)}
	err = svc.AddEndpoint(bus.Token(method), micro.HandlerFunc(func(request micro.Request) {
		// What micro hands in is its own again once this function returns.
		subject, reply, data := request.Subject(), request.Reply(), request.Data()
		handlers.run(func() { c.respond(subject, reply, handler(data)) })
	}), micro.WithEndpointSubject(bus.RPCSubject(service, method)), micro.WithEndpointPendingLimits(serveQueue, serveQueue<<10))
	if err == nil {
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case <-c.closed:
			err = bus.ErrNotConnected
		}
	} else {
		err = fmt.Errorf("cannot serve %s.%s: %w", service, method, translate(err))
	}
	if stopErr := svc.Stop(); stopErr != nil && !errors.Is(stopErr, nats.ErrConnectionClosed) {
		c.log.Warn("cannot stop a service", "service", service, "method", method, "error", stopErr)
	}
	if c.nc.IsConnected() {
		// Stop has only asked for it; with the answer nothing more comes in.
		if flushErr := c.nc.FlushTimeout(time.Second); flushErr != nil {
			c.log.Debug("cannot wait for the end of a service", "service", service, "method", method, "error", flushErr)
		}
	}
	handlers.stop()
	return err
}

// handlers runs the requests of one method, a few at once.
type handlers struct {
	slots   chan struct{}
	running sync.WaitGroup

	mu sync.Mutex
	// stopped is guarded by mu: running must not grow while stop waits for it.
	stopped bool
}

// run runs f in a goroutine when there is a slot, or not at all after stop.
func (h *handlers) run(f func()) {
	h.slots <- struct{}{}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped {
		<-h.slots
		return
	}
	h.running.Go(func() {
		defer func() { <-h.slots }()
		f()
	})
}

// stop waits for what runs; nothing runs afterwards.
func (h *handlers) stop() {
	h.mu.Lock()
	h.stopped = true
	h.mu.Unlock()
	h.running.Wait()
}

// respond sends a reply, or in its place the error that it is too large.
func (c *Client) respond(subject, reply string, data []byte) {
	msg := &nats.Msg{Subject: reply, Data: data}
	if most := c.nc.MaxPayload(); int64(len(data)) > most {
		text := fmt.Sprintf("the reply has %d bytes, the bus carries %d", len(data), most)
		msg.Data, msg.Header = nil, nats.Header{micro.ErrorHeader: {text}, micro.ErrorCodeHeader: {codeTooLarge}}
	}
	if reply == "" {
		return // nobody waits for it
	}
	if err := c.nc.PublishMsg(msg); err != nil && c.nc.IsConnected() {
		c.log.Warn("cannot send a reply", "subject", subject, "error", err)
	}
}
