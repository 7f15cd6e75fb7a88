// Package http1 relays HTTP/1.0 and HTTP/1.1 and observes it. It is a relay
// and not a handler: one client connection is joined to one server connection,
// heads are parsed where they lie in the buffer, and all bytes go on as they
// came. Nothing is rewritten, so nothing is lost: case and order of headers,
// chunk extensions, trailers, interim responses, upgrades.
//
// # Concurrency
//
// One goroutine carries a connection: it reads a request, writes it, reads
// the response, writes it. Requests that a client pipelines wait in the buffer
// or the socket for their turn. A second goroutine runs only while it has to:
// the pump, while a request's body goes on after what came with its head; the
// watch, which looks at the side that nobody reads, on the client while a
// response takes long. (The server of an idle connection is watched by
// [relay.Conn].OnReadable, and by the watch where there is none.) All
// decisions are made by the first goroutine; the second wakes it by its read
// deadline. The same deadline is the relay's clock: it is armed once a tick,
// not once a request.
//
// The wait for an answer begins before its request is written, which saves a
// read in vain. A server that ended only its sending side before that, less
// than idlePatience ago, is therefore noticed a tick later; one that closed
// answers the request with a reset, and is noticed at once.
//
// Buffers are borrowed while bytes are under way. A connection that waits
// holds none.
//
// # Strictness
//
// A proxy that understands a message in another way than the next program does
// is how requests are smuggled. So what is not beyond doubt is refused, with
// 400, 431 or 501, one line of text that names the reason, and an event with
// the fate event.Refused; the server never sees it. That includes what RFC 9112
// lets a recipient forgive: lines that end in LF alone, obs-fold, more than
// one Content-Length even if equal, Content-Length beside Transfer-Encoding,
// any transfer coding but chunked, white space around a chunk size, bytes above
// 0x7f or "#" in the target, a Host that differs from an absolute target, and
// framing fields as trailers. One empty line before a request is skipped. A
// response with such faults is replaced by 502 where nothing of it has been
// passed on, and else breaks the client's connection by a reset.
//
// # Ends
//
// The client is to see what it would see without the relay. A server that
// closes instead of answering, or while the connection is idle, has the
// client's connection closed (a reset: reset), so that the client's own rules
// for trying again hold. A client that closes its sending side while it waits
// has that passed on to the server. Where an answer is whole although the
// request is not, the connection ends after it, unless the server means to go
// on.
//
// When [relay.Conn].Drain is closed, a connection without a request, read or
// waiting to be read, is closed, and one with a request after its response,
// whose head then says so with Connection: close. Upgraded connections go on
// until the hard stop.
package http1

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/balance"
	"github.com/weirmesh/weir/proxy/relay"
	"github.com/weirmesh/weir/proxy/socket"
	"github.com/weirmesh/weir/proxy/tcp"
)

const (
	// tick is how often a long exchange is looked after.
	tick = time.Second
	// idlePatience is how long a connection may be idle before its server is
	// watched. A server that closes sooner is noticed then.
	idlePatience = 250 * time.Millisecond
)

// errStopped is the Event.Error of an exchange that the hard stop cut.
const errStopped = "stopped"

// past is a deadline that has passed: it wakes whoever reads.
var past = time.Unix(1, 0)

// side is one of the two connections.
type side struct {
	conn   net.Conn
	tcp    *net.TCPConn // conn, where it is one
	raw    syscall.Conn // conn, where its socket can be looked at
	reader tcp.Reader
	writer socket.Writer
	buf    tcp.Buffer
}

func (s *side) init(conn net.Conn) {
	s.conn = conn
	s.tcp, _ = conn.(*net.TCPConn)
	s.raw, _ = conn.(syscall.Conn)
	s.reader.Init(conn)
	s.writer.Init(conn)
}

// write writes all of p, by one goroutine at a time.
func (s *side) write(p []byte) (int, error) { return s.writer.Write(p) }

// arm sets when a read of s is to be woken. Fails only on a closed
// connection, whose reads fail too.
func (s *side) arm(d time.Duration) { _ = s.conn.SetReadDeadline(time.Now().Add(d)) }

// disarm lets reads of s wait for ever.
func (s *side) disarm() { _ = s.conn.SetReadDeadline(time.Time{}) }

// wake wakes whoever reads s.
func (s *side) wake() { _ = s.conn.SetReadDeadline(past) }

// woken tells whether a read ended because of its deadline.
func woken(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// relayer carries one connection.
type relayer struct {
	c              *relay.Conn
	client, server side
	limit          int           // of a head, in bytes
	patience       time.Duration // for a request's head
	progress       time.Duration // between Progress events
	tick           time.Duration

	draining atomic.Bool
	stopped  atomic.Bool

	received time.Time // when the client's last bytes came
	ended    time.Time // when the last exchange ended
	names    []byte    // what event strings point to
	event    event.Event
	stream   uint32

	x     exchange
	pump  pump
	watch watch
	// splicer moves large response bodies, from the first one on; large and medium
	// say of which kind the last response was, see foresee.
	splicer       *tcp.Splicer
	large, medium bool
	// unwatch ends the watch of an idle connection's server by c.OnReadable, and
	// is nil where none is under way; told says that it ended by itself.
	unwatch func() bool
	told    atomic.Bool

	// What follows is of use where out is not nil: then each request goes over
	// a connection of its own choice.
	out     *Outbound
	ctx     context.Context // of the hard stop
	swap    sync.Mutex      // the server's connection changes, or the hard stop closes it
	lent    *pooled         // the server's connection
	first   *pooled         // for the first request, until then
	member  *balance.Member // the endpoint of the last try
	picked  time.Time
	attempt uint8
	replay  []byte // the request, where it may have to be sent again
}

// Serve carries c to its end and records each exchange by one End event,
// preceded by Progress events where it takes longer than c.Progress; the bytes
// of each are those since the one before. Latency is until the first byte of
// the final response, interim ones (1xx) passing before. See the package's
// documentation for what is refused and how connections end.
func Serve(ctx context.Context, c *relay.Conn) { serve(ctx, c, nil, nil) }

func serve(ctx context.Context, c *relay.Conn, out *Outbound, first *pooled) {
	r := &relayer{c: c, out: out, first: first, ctx: ctx, limit: c.MaxHeadBytes, patience: c.HeadTimeout, progress: c.Progress, tick: tick}
	if r.limit <= 0 {
		r.limit = relay.DefaultMaxHeadBytes
	}
	if r.patience <= 0 {
		r.patience = relay.DefaultHeadTimeout
	}
	if r.progress <= 0 {
		r.progress = relay.DefaultProgress
	}
	r.tick = min(r.tick, r.progress, r.patience)
	c.Fill(&r.event)
	r.client.init(c.Client)
	if c.Server != nil && out == nil {
		r.server.init(c.Server)
		r.server.arm(r.tick)
	}
	r.client.arm(idlePatience)
	r.client.buf.Append(c.Early)
	r.server.buf.Append(c.ServerEarly)
	r.received = c.FirstByte
	if r.received.IsZero() {
		r.received = c.Accepted
	}
	if r.received.IsZero() {
		r.received = time.Now()
	}
	r.ended = r.received

	stopped := context.AfterFunc(ctx, func() {
		r.swap.Lock()
		defer r.swap.Unlock()
		r.stopped.Store(true)
		r.closeBoth()
	})
	undrain := c.AfterDrain(func() {
		r.draining.Store(true)
		r.client.wake()
	})
	for r.idle() && r.exchange() {
	}
	r.endWatch()
	r.giveBack(false)
	if r.first != nil {
		out.put(r.first, true) // no request came that could be carried
	}
	r.closeBoth()
	stopped()
	undrain()
	r.client.buf.Release()
	r.server.buf.Release()
}

func (r *relayer) closeBoth() {
	_ = r.client.conn.Close()
	if r.server.conn != nil {
		_ = r.server.conn.Close()
	}
}

// resetBoth ends both connections by a reset.
func (r *relayer) resetBoth() {
	tcp.Reset(r.client.conn)
	if r.server.conn != nil {
		tcp.Reset(r.server.conn)
	}
}

// idle waits for the first byte of a request, and tells whether there is one.
func (r *relayer) idle() bool {
	for {
		if n := r.skipEmptyLine(); n > 0 {
			return true
		}
		if r.draining.Load() && !r.asked() {
			return false
		}
		_, err := r.client.reader.Fill(&r.client.buf)
		switch {
		case err == nil:
			r.client.buf.Frugal = false
			if r.stream > 0 || r.c.FirstByte.IsZero() {
				r.received = time.Now()
			}
			if !r.endWatch() {
				return false
			}
		case !woken(err):
			return false
		case r.watch.finished(), r.told.Load():
			return false // The server has closed, or talks out of turn.
		case r.watch.running || r.unwatch != nil || r.server.conn == nil:
			r.client.disarm()
		default:
			r.idleTick()
		}
	}
}

// idleTick has the server watched once the connection has been idle for long
// enough.
func (r *relayer) idleTick() {
	quiet := time.Since(r.ended)
	if quiet < idlePatience {
		r.client.arm(idlePatience - quiet)
		return
	}
	r.client.disarm()
	// Under TLS memory is held for what is read next.
	r.client.buf.Frugal = r.client.tcp == nil
	if r.c.OnReadable != nil && r.server.tcp != nil {
		r.unwatch = r.c.OnReadable(r.server.tcp, r.tell)
	}
	if r.unwatch == nil {
		r.watch.start(&r.server, &r.client)
	}
}

// tell is told that the server of an idle connection has something to say.
func (r *relayer) tell() {
	r.told.Store(true)
	r.client.wake()
}

// asked tells, where the proxy drains, whether the client has sent a request
// already: it is answered yet.
func (r *relayer) asked() bool {
	if r.client.raw == nil {
		return false
	}
	n, _ := socket.Waiting(r.client.raw)
	if n > 0 {
		r.client.disarm() // the drain has woken its reader
	}
	return n > 0
}

// skipEmptyLine drops an empty line before a request (RFC 9112, section 2.2)
// and returns how many bytes are there after it.
func (r *relayer) skipEmptyLine() int {
	if p := r.client.buf.Bytes(); len(p) >= 2 && p[0] == '\r' && p[1] == '\n' && !r.x.skipped {
		r.x.skipped = true
		r.client.buf.Advance(2)
	}
	return r.client.buf.Len()
}

// endWatch ends the watch, where one runs, and tells whether the connection it
// looked at was quiet.
func (r *relayer) endWatch() bool {
	var quiet bool
	switch {
	case r.watch.running:
		quiet = r.watch.join()
	case r.unwatch != nil:
		quiet = r.unwatch()
		r.unwatch = nil
		if n, open := socket.Waiting(r.server.tcp); n > 0 || !open {
			quiet = false
		}
	default:
		return true
	}
	r.server.arm(r.tick)
	r.client.arm(idlePatience)
	return quiet
}
