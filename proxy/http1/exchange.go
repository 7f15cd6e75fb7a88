package http1

import (
	"errors"
	"io"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/relay"
	"github.com/weirmesh/weir/proxy/tcp"
)

// exchange is one request and its response.
type exchange struct {
	start     time.Time
	first     time.Duration // of the final response's first byte; negative: none
	told      time.Duration // when progress was last recorded
	up, down  atomic.Uint64 // bytes carried
	toldUp    uint64
	toldDown  uint64
	request   request
	response  response
	continued bool // an interim 100 was passed on
	last      bool // the connection ends after this exchange
	unsent    bool // the server reset the connection while the request was written
	halfClose bool // the client's end of stream was passed on
	skipped   bool // an empty line before the request was skipped
	// readErr is what a read of the server failed with that nobody knows of yet.
	readErr error

	requestBody, responseBody body
}

// cut is why an exchange ended before its end.
type cut struct {
	reason string // an event.Err constant
	reset  bool   // the connections end by a reset
}

// begin resets x for a request whose first byte came at start.
func (x *exchange) begin(start time.Time) {
	x.start, x.first, x.told = start, -1, 0
	x.up.Store(0)
	x.down.Store(0)
	x.toldUp, x.toldDown = 0, 0
	x.request, x.response = request{}, response{}
	x.continued, x.last, x.unsent, x.halfClose, x.skipped = false, false, false, false, false
	x.readErr = nil
}

// exchange carries one request and its response, and tells whether the
// connection goes on.
func (r *relayer) exchange() bool {
	x := &r.x
	x.begin(r.received)
	r.stream++
	r.forget()
	r.describe(nil)
	if c := r.readRequest(); c != nil {
		return r.abort(c)
	}
	head := r.client.buf.Bytes()
	x.requestBody.begin(&x.request.head, framedNone, r.limit)
	n, f := x.requestBody.scan(head[x.request.size:])
	if f != nil && r.connected() {
		return r.refuse(f, event.ErrMalformed, event.Refused)
	}
	if reason := r.connect(); reason != "" {
		return r.refuse(unconnected(reason), reason, 0)
	}
	n += x.request.size
	r.prepare()
	if r.out != nil {
		r.keep(head[:n])
	}
	sent, err := r.ask(head[:n])
	x.up.Add(uint64(sent))
	r.client.buf.Advance(n)
	// A server that takes no more may have answered all the same.
	x.last, x.unsent = err != nil, tcp.IsReset(err)
	if !x.requestBody.done() && err == nil {
		r.startPump()
	}
	return r.respond()
}

// ask sends the beginning of a request to the server. Where that is all of it,
// the first bytes of the response are read at once, if they come in time.
func (r *relayer) ask(p []byte) (sent int, err error) {
	s := &r.server
	if !r.x.requestBody.done() || s.buf.Len() > 0 {
		return s.write(p)
	}
	sent, asked, err := s.reader.Ask(&s.writer, p, &s.buf)
	switch {
	case !asked:
		return s.write(p)
	case sent < len(p):
		return sent, err
	}
	r.x.readErr = err
	if err == nil {
		r.x.first = time.Since(r.x.start)
	}
	return sent, nil
}

// readRequest reads the request's head.
func (r *relayer) readRequest() *cut {
	x := &r.x
	for armed := false; ; {
		whole, f := x.request.parse(r.client.buf.Bytes(), r.limit)
		switch {
		case f != nil:
			reason := event.ErrMalformed
			if f == faultTooLarge {
				reason = event.ErrHeadTooLarge
			}
			r.refuse(f, reason, event.Refused)
			return &cut{}
		case whole:
			r.describe(r.client.buf.Bytes())
			return nil
		}
		if !armed {
			armed = true // idle may have left no deadline
			r.client.arm(r.tick)
		}
		if _, err := r.client.reader.Fill(&r.client.buf); err != nil {
			if woken(err) {
				if time.Since(x.start) >= r.patience {
					r.refuse(faultTooLate, relay.ReasonHeadTimeout, event.Refused|event.TimedOut)
					return &cut{}
				}
				r.client.arm(r.tick)
				r.report()
				continue
			}
			x.up.Store(uint64(r.client.buf.Len()))
			return &cut{tcp.ClientError(err), tcp.IsReset(err)}
		}
		r.received = time.Now()
	}
}

// respond carries the response, and tells whether the connection goes on.
func (r *relayer) respond() bool {
	x := &r.x
	for {
		if c := r.readResponse(); c != nil {
			if r.retry(c) {
				continue
			}
			return r.abort(c)
		}
		status := x.response.status
		if status == 101 || x.request.connect && status/100 == 2 {
			return r.upgrade()
		}
		if status >= 200 {
			break
		}
		x.continued = x.continued || status == 100
		if c := r.send(x.response.size); c != nil {
			return r.abort(c)
		}
		x.response = response{}
	}
	if c := r.sendResponse(); c != nil {
		return r.abort(c)
	}
	return r.finish()
}

// readResponse reads a response's head, interim or final.
func (r *relayer) readResponse() *cut {
	x := &r.x
	for {
		if r.server.buf.Len() > 0 {
			whole, f := x.response.parse(r.server.buf.Bytes(), r.limit)
			if f != nil {
				return r.badResponse(f)
			}
			if whole {
				return r.checkResponse()
			}
		}
		if c := r.fillServer(); c != nil {
			return c
		}
		if x.first < 0 {
			x.first = time.Since(x.start)
		}
	}
}

// checkResponse looks at a whole response head beside its request.
func (r *relayer) checkResponse() *cut {
	x := &r.x
	if x.first < 0 {
		x.first = time.Since(x.start)
	}
	switch s := x.response.status; {
	case s == 101 && !(x.request.upgrade && x.request.upgradeTo):
		return r.badResponse(malformed("101 without a request to upgrade"))
	case s < 200 && s != 101:
		x.first = -1
	}
	return nil
}

// fillServer waits for bytes of the server, looking after the exchange once a
// tick.
func (r *relayer) fillServer() *cut {
	for {
		err := r.x.readErr
		if r.x.readErr = nil; err == nil {
			_, err = r.server.reader.Fill(&r.server.buf)
		}
		if err == nil {
			return nil
		}
		if !woken(err) {
			if (r.pump.running || r.x.unsent) && tcp.Dead(r.server.conn) {
				err = syscall.ECONNRESET // The write was told.
			}
			return &cut{tcp.ServerError(err), tcp.IsReset(err)}
		}
		if c := r.lookAfter(); c != nil {
			return c
		}
	}
}

// lookAfter is what the tick does in an exchange: it records progress and sees
// to the second goroutine.
func (r *relayer) lookAfter() *cut {
	x := &r.x
	r.server.arm(r.tick)
	r.report()
	switch {
	case r.pump.finished():
		p := &r.pump
		switch {
		case p.fault != nil:
			return r.badRequestBody(p.fault)
		case p.serverErr == nil && p.clientErr != nil:
			return &cut{tcp.ClientError(p.clientErr), tcp.IsReset(p.clientErr)}
		}
		r.joinPump()
		x.last = x.last || p.serverErr != nil
		x.unsent = x.unsent || tcp.IsReset(p.serverErr)
	case r.watch.finished():
		r.endWatch()
		switch err := r.watch.err; {
		case errors.Is(err, io.EOF):
			x.halfClose = true
			tcp.CloseWrite(r.server.conn)
		case err != nil:
			return &cut{tcp.ClientError(err), tcp.IsReset(err)}
		}
	case r.pump.running || r.watch.running || x.halfClose || r.client.buf.Len() > 0:
	case time.Since(x.start) >= r.tick/2:
		r.watch.start(&r.client, &r.server)
	}
	return nil
}

// send passes the first n bytes on that the server sent.
func (r *relayer) send(n int) *cut {
	sent, err := r.client.write(r.server.buf.Bytes()[:n])
	r.x.down.Add(uint64(sent))
	r.server.buf.Advance(n)
	if err != nil {
		return clientGone(err)
	}
	return nil
}

// clientGone is the cut for a client that takes no more. What it does not
// take is lost to the server as well, which is to see it as such.
func clientGone(err error) *cut { return &cut{tcp.ClientError(err), true} }

// sendResponse passes the final response on.
func (r *relayer) sendResponse() *cut {
	x := &r.x
	b := &x.responseBody
	s := &x.response
	if x.request.bodyless || s.status == 204 || s.status == 304 {
		*b = body{}
	} else {
		b.begin(&s.head, framedClose, r.limit)
	}
	p := r.server.buf.Bytes()
	n, f := b.scan(p[s.size:])
	if f != nil {
		return r.badResponse(f)
	}
	r.server.reader.Limit = 0
	r.foresee(uint64(s.size+n) + b.left)
	r.event.Status = s.status
	r.observe(s.status)
	x.last = x.last || !x.request.persistent() || !s.persistent() || b.framing == framedClose ||
		x.request.expect && !x.continued && !x.requestBodyBegun()
	var c *cut
	if (x.last || r.draining.Load()) && !s.close && s.minor == 1 && b.framing != framedClose {
		x.last = true
		c = r.sendClosing(s.size, n)
	} else {
		c = r.sendBegin(s.size+n, b)
	}
	for c == nil && !b.done() {
		c = r.sendBody(b)
	}
	return c
}

// requestBodyBegun tells whether the body of a request that expects 100 was
// sent, or there was none to send.
func (x *exchange) requestBodyBegun() bool {
	return x.up.Load() > uint64(x.request.size) || !x.request.chunked && x.request.length == 0
}

// sendClosing is send for a head, and n bytes of body after it, to which
// Connection: close is added.
func (r *relayer) sendClosing(head, n int) *cut {
	const closing = "Connection: close\r\n\r\n"
	p := r.server.buf.Bytes()
	out := make([]byte, 0, head+n+len(closing))
	out = append(out, p[:head-2]...)
	out = append(out, closing...)
	out = append(out, p[head:head+n]...)
	sent, err := r.client.write(out)
	r.x.down.Add(uint64(sent))
	r.server.buf.Advance(head + n)
	if err != nil {
		return clientGone(err)
	}
	return nil
}

// sendBody passes more of the response's body on.
func (r *relayer) sendBody(b *body) *cut {
	if (b.large() || b.framing == framedClose && r.server.buf.Roomy) && r.server.buf.Len() == 0 &&
		joined(&r.splicer, &r.server, &r.client) {
		if c, ok := r.spliceBody(b); ok {
			return c
		}
	}
	c := r.fillServer()
	if c != nil {
		if b.framing == framedClose && !c.reset && c.reason == event.ErrServerClosed {
			*b = body{} // The end of the stream is the end of the body.
			return nil
		}
		return c
	}
	n, f := b.scan(r.server.buf.Bytes())
	if f != nil {
		return &cut{event.ErrMalformedServer, true}
	}
	return r.send(n)
}

// finish ends an exchange whose response is whole.
func (r *relayer) finish() bool {
	x := &r.x
	x.last = x.last || r.server.buf.Len() > 0
	for r.pump.running && !x.last {
		c := r.awaitPump()
		if c != nil {
			return r.abort(c)
		}
	}
	r.stopPump()
	r.endWatch()
	r.record(event.End, "")
	if !x.last {
		r.giveBack(!x.halfClose && x.requestBody.done())
		return true
	}
	if x.request.persistent() || !x.requestBody.done() {
		// The client may be sending, not knowing that it is to stop.
		_ = r.server.conn.Close()
		r.linger()
	}
	return false
}

// awaitPump waits, after a response that came before the request's end, for
// that end. The server may close meanwhile, which ends the exchange too.
func (r *relayer) awaitPump() *cut {
	for r.pump.running {
		_, err := r.server.reader.Fill(&r.server.buf)
		if !woken(err) {
			r.x.last = true
			return nil
		}
		if c := r.lookAfter(); c != nil {
			return c
		}
	}
	return nil
}

// describe fills the event with what is known of the request, whose head may
// be missing. The strings point into memory of r's own, since the buffer goes
// its way before the exchange ends.
func (r *relayer) describe(head []byte) {
	e, q := &r.event, &r.x.request
	e.Protocol = event.HTTP1
	e.Fate, e.Status, e.Stream, e.Attempt = 0, 0, r.stream, 0
	e.Start = r.x.start.UnixMicro()
	e.TraceID = q.traceID
	if head == nil {
		e.Method, e.Authority, e.Path = "", "", ""
		return
	}
	names := append(r.names[:0], q.method.of(head)...)
	m := len(names)
	names = append(names, q.authority.of(head)...)
	a := len(names)
	names = append(names, q.path.of(head)...)
	e.Method, e.Authority, e.Path = text(names[:m]), text(names[m:a]), text(names[a:])
	r.names = names
	if cap(names) > maxNames {
		r.names = nil // The event keeps it for this exchange.
	}
}

// maxNames is how much memory for names a connection keeps, in bytes.
const maxNames = 1024

// text is p as a string, without a copy.
func text(p []byte) string { return unsafe.String(unsafe.SliceData(p), len(p)) }

// report records progress where it is due.
func (r *relayer) report() {
	x := &r.x
	if now := time.Since(x.start); now-x.told >= r.progress {
		x.told = now
		r.record(event.Progress, "")
	}
}

// record records the exchange, with the bytes since it was recorded before.
func (r *relayer) record(kind event.Kind, reason string) {
	e, x := &r.event, &r.x
	e.Kind, e.Error = kind, reason
	if r.stopped.Load() && reason != "" {
		e.Error = errStopped
		e.Fate |= event.Drained
	}
	duration := time.Since(x.start)
	e.Duration = micros(duration)
	e.Latency = e.Duration
	if x.first >= 0 {
		e.Latency = micros(x.first)
	}
	up, down := x.up.Load(), x.down.Load()
	e.RequestBytes, e.ResponseBytes = up-x.toldUp, down-x.toldDown
	x.toldUp, x.toldDown = up, down
	if kind == event.End {
		r.ended = x.start.Add(duration)
	}
	r.c.Recorder.Record(e)
}

// micros is d in µs, never negative.
func micros(d time.Duration) uint64 { return uint64(max(d, 0) / time.Microsecond) }
