// Package http2 relays HTTP/2 with prior knowledge (h2c, and so gRPC) between
// one client connection and one server connection, and reports each stream.
//
// It observes and does not take part: frame headers and header blocks are read
// in place and the bytes go on as they came, so flow control, SETTINGS, PING,
// WINDOW_UPDATE and GOAWAY are between client and server. Header blocks are
// decoded once (the relay's HPACK tables keep step with both encoders), checked,
// and then forwarded as they were; those that come again byte for byte are known.
//
// The relay speaks for itself where it must: it refuses what is malformed or
// abusive (GOAWAY to the client, which keeps the server from seeing it), it
// refuses streams while draining, and it answers where there is no server.
// After a stream was refused the server's HPACK table cannot follow the
// client's any more; from then on the client's header blocks, trailers of
// streams under way, are sent as literals.
//
// Server push is refused: a PUSH_PROMISE ends the connection, as pushed
// streams would pass unobserved. Clients that matter announce
// SETTINGS_ENABLE_PUSH 0. A SETTINGS_HEADER_TABLE_SIZE above 64 KiB is lowered
// to that in passing, as each end's table is kept here too.
//
// The last stream of a server's GOAWAY is lowered where a draining relay has
// told the client an earlier one. Nothing else of what is forwarded is changed.
//
// An event's bytes count HEADERS, CONTINUATION and DATA frames with their
// headers. Its latency ends with the final response's head, not with an
// informational one. Methods are cut at 32 bytes, authorities at 320, paths at
// 2048. Where a response was whole, it does not matter how the rest of the
// request ended, unless the server failed it.
package http2

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/relay"
)

const (
	// writeGrace is how long a client may take to accept the last bytes.
	writeGrace = time.Second
	// lingerTime is how long a client may take to close after the relay did,
	// so that what it was sent last is not lost to a TCP reset.
	lingerTime = time.Second
)

// Serve carries one connection to its end, as package relay says.
func Serve(ctx context.Context, c *relay.Conn) {
	s := newSession(c)
	var others sync.WaitGroup
	others.Go(func() { s.control(ctx) })
	if s.answering {
		s.toClient.open()
		if s.toClient.inject(appendFrame(nil, 0, frameSettings, 0, 0)) != nil {
			s.stop(lost(client, io.EOF))
		}
	} else {
		others.Go(func() { s.stop(s.dirs[server].run()) })
	}
	s.stop(s.dirs[client].run())
	others.Wait()
	s.close(ctx)
}

// cause is why a connection ends.
type cause struct {
	reason  string // Event.Error of the streams that end by it
	fate    event.Fate
	failure *failure // the violation, if it was one
	// goAway tells the client of the end, with this code and text.
	goAway bool
	code   errorCode
	text   string
	// hard leaves the client no time to take what is being written.
	hard bool
	// linger waits for the client to read what it was sent.
	linger bool
}

// lost is the cause where a side's connection ended by itself.
func lost(from side, err error) *cause {
	reset := errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
	c := &cause{linger: from == server}
	switch {
	case from == client && reset:
		c.reason = event.ErrClientReset
	case from == client:
		c.reason = event.ErrClientClosed
	case reset:
		c.reason = event.ErrServerReset
	default:
		c.reason = event.ErrServerClosed
	}
	return c
}

// run carries the bytes of one direction until it cannot, and says why. It
// returns nil where the other direction will know.
func (d *direction) run() *cause {
	defer d.in.close()
	for {
		b, now, err := d.in.fill()
		if err != nil {
			return lost(d.from, err)
		}
		used, c, ok := d.relay(b, now)
		if !ok {
			return c
		}
		d.in.consume(used)
		if d.from == client {
			d.s.await(d.in.pending())
		}
	}
}

// await notes since when the client owes the rest of what it began; zero: it
// owes none.
func (s *session) await(since time.Time) {
	if since.IsZero() && !s.owed {
		return // as nearly always
	}
	s.owed = !since.IsZero()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun = since; s.owed {
		s.tick()
	}
}

// relay observes and forwards b as far as it holds what can be judged. ok is
// false where the direction is over.
func (d *direction) relay(b []byte, now time.Time) (used int, c *cause, ok bool) {
	s := d.s
	for {
		s.mu.Lock()
		s.leak(now)
		step := d.observe(b[used:], now)
		over := s.closing && s.streams.count == 0
		s.mu.Unlock()
		if c, ok := d.write(b[used:], &step); !ok {
			return 0, c, false
		}
		used += step.used
		if len(d.reply) > 0 {
			err := s.toClient.inject(d.reply)
			if d.reply = d.reply[:0]; cap(d.reply) > maxScratch {
				d.reply = nil
			}
			if err != nil && step.fail == nil {
				return 0, lost(client, err), false
			}
		}
		switch {
		case step.fail != nil:
			return 0, step.fail.cause(), false
		case over && !step.more:
			return 0, drained(), false
		case !step.more:
			return used, nil, true
		}
	}
}

// write forwards what a step observed.
func (d *direction) write(b []byte, step *step) (c *cause, ok bool) {
	s := d.s
	if d.from == server {
		if step.forward == 0 {
			return nil, true
		}
		if err := s.toClient.forward(b[:step.forward], step.boundary, d.left > 0); err != nil {
			return lost(client, err), false
		}
		return nil, true
	}
	for _, part := range [2][]byte{b[:step.forward], step.insert} {
		if len(part) == 0 {
			continue
		}
		if _, err := s.toServer.Write(part); err != nil {
			// What the server said before it went is still to be read.
			s.mu.Lock()
			if s.cause == nil {
				_ = s.c.Server.SetReadDeadline(time.Now().Add(writeGrace))
			}
			s.mu.Unlock()
			return nil, false
		}
	}
	return nil, true
}

// stop ends both directions; the first cause counts. Nil is none.
func (s *session) stop(c *cause) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c == nil || s.cause != nil {
		return
	}
	s.cause = c
	close(s.done)
	past, grace := time.Unix(1, 0), time.Now().Add(writeGrace)
	if c.hard {
		grace = past
	}
	_ = s.c.Client.SetReadDeadline(past)
	_ = s.c.Client.SetWriteDeadline(grace)
	if s.c.Server != nil {
		_ = s.c.Server.SetDeadline(past)
	}
}

// close ends what is left, when nothing else runs any more.
func (s *session) close(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.cause
	now := time.Now()
	if c.failure != nil {
		s.refuse(c.failure, now)
	}
	s.streams.each(func(st *stream) {
		reason := c.reason
		if st.serverDone && c.failure == nil && !c.hard {
			reason = "" // it had its answer
		}
		s.finish(st, reason, c.fate, now)
	})
	s.ticker.Stop()
	var err error
	if c.goAway {
		err = s.toClient.last(appendGoAway(nil, min(s.maxID, s.goAway, s.refuseAbove), c.code, c.text))
	}
	if s.c.Server != nil {
		_ = s.c.Server.Close()
	}
	if c.linger && err == nil {
		linger(ctx, s.c.Client)
	}
	_ = s.c.Client.Close()
}

// linger says that nothing more comes and waits, not for long, until the
// client has closed too.
func linger(ctx context.Context, conn net.Conn) {
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	_ = conn.SetReadDeadline(time.Now().Add(lingerTime))
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })()
	_, _ = io.Copy(io.Discard, conn)
}
