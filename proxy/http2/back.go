package http2

import (
	"encoding/binary"
	"errors"
	"os"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/balance"
)

// back is a connection to a server.
type back struct {
	link
	pool *pool
	// given is the connection where one was there before.
	given balance.Connection
	meta  balance.Connection
	// open streams, of at most limit.
	open, limit int
	next        uint32 // identifier
	settled     bool   // its SETTINGS came
	retired     bool   // it gets no more streams
	killed      bool   // its reader is told to end
	idleSince   time.Time
}

// maxBackID is the identifier above which a connection gets no more streams.
const maxBackID = 1 << 30

// connect begins a connection to the pool's endpoint, over given where there is
// one. Streams can be opened on it at once.
func (o *Outbound) connect(p *pool, given balance.Connection) *back {
	b := &back{pool: p, given: given, limit: unsettledStreams, next: 1, idleSince: time.Now()}
	b.link.init(o, server, o.o.MaxHeadBytes)
	b.meta.Peer = peerOf(p.member.Endpoint())
	payload := appendSetting(nil, settingPush, 0)
	payload = appendSetting(payload, settingHeadSize, uint32(o.o.MaxHeadBytes))
	out := append(b.buffer(), preface...)
	out = append(appendFrame(out, len(payload), frameSettings, 0, 0), payload...)
	b.put(appendWindow(out, linkWindow-streamWindow))
	p.backs = append(p.backs, b)
	if o.timer == nil {
		o.timer = time.AfterFunc(o.o.IdleTimeout/2, o.sweep)
	}
	o.wait.Go(b.run)
	return b
}

// run dials, unless it is given a connection, and handles what the server sends until that ends.
func (b *back) run() {
	o, m := b.o, b.pool.member
	var list []*link
	c, reason := b.given, ""
	if c.Conn == nil {
		c, reason = o.o.Dial(o.ctx, m.Endpoint(), event.HTTP2)
	}
	o.mu.Lock()
	if c.Conn == nil || o.closed {
		if !o.closed {
			m.Failed()
			b.lost(reason)
		}
		if c.Conn != nil {
			_ = c.Close()
		}
		o.unlock(&list)
		return
	}
	b.meta = c
	b.link.connect(c.Conn, nil)
	_ = c.SetReadDeadline(time.Now().Add(settleTime))
	b.put(b.buffer())
	b.endIfIdle()
	o.unlock(&list)
	reason = b.read()
	o.mu.Lock()
	b.shut()
	if !b.settled && !o.closed {
		m.Failed()
	}
	b.lost(reason)
	o.unlock(&list)
	b.writers.Wait()
	o.mu.Lock()
	recycle(b.out)
	b.out = nil
	o.mu.Unlock()
}

// read handles what the server sends, and says why it ended.
func (b *back) read() (reason string) {
	defer b.d.in.close()
	handle := b.handle
	var list []*link
	for {
		data, now, err := b.d.in.fill()
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) && !b.settled {
				return event.ErrConnectTimeout
			}
			return lost(server, err).reason
		}
		b.o.enter(now)
		used, fail := b.frames(data, now, handle)
		b.o.leave(&list)
		if fail != nil {
			b.blame(fail)
			return fail.reason
		}
		b.d.in.consume(used)
	}
}

// blame tells the server what it did wrong.
func (b *back) blame(fail *failure) {
	var list []*link
	b.o.mu.Lock()
	b.put(appendGoAway(b.buffer(), 0, codeProtocol, fail.text))
	b.o.unlock(&list)
}

// begin opens a stream for a request.
func (b *back) begin(t *transfer) {
	b.open++
	t.b, t.uid, t.counted, t.meta = b, b.next, true, &b.meta
	b.next += 2
	b.s.maxID = t.uid
	if b.next > maxBackID {
		b.retired = true
	}
	b.streams.put(t.uid, t)
	h := &t.up
	h.window = b.initial
	t.down.recv, t.down.owed = streamWindow, 0
	t.headAt = b.base + uint64(len(b.out))
	if h.ended && !h.hasTrailers && len(h.pending()) == 0 {
		b.headers(t.uid, flagEndStream, t.list)
		h.finish()
		return
	}
	b.headers(t.uid, 0, t.list)
	h.wake()
	b.pump()
}

// handle takes one frame of the server.
func (b *back) handle(fr frame, payload []byte, size int, now time.Time) *failure {
	switch fr.kind {
	case frameHeaders:
		return b.headBlock(fr, payload, size, now)
	case frameData:
		return b.data(fr, payload)
	case frameReset:
		if t := b.streams.get(fr.stream); t != nil {
			b.reset(t, errorCode(binary.BigEndian.Uint32(payload)), now)
		}
		return nil
	case frameSettings:
		if fr.has(flagAck) {
			return nil
		}
		return b.settle(fr, payload)
	case frameGoAway:
		b.goAway(binary.BigEndian.Uint32(payload)&maxStreamID, now)
		return b.d.charge(fr)
	}
	_, fail := b.link.control(fr, payload)
	return fail
}

// settle takes the server's SETTINGS.
func (b *back) settle(fr frame, payload []byte) *failure {
	streams, fail := b.settings(payload)
	if fail != nil {
		return fail
	}
	if streams >= 0 {
		b.limit = int(min(streams, maxStreams))
	} else if !b.settled {
		b.limit = maxStreams
	}
	if !b.settled {
		b.settled = true
		b.pool.member.Connected()
		if !b.killed {
			_ = b.conn.SetReadDeadline(time.Time{})
		}
	}
	b.pool.dispatch(b.o)
	return b.d.charge(fr)
}

// headBlock takes a response's head, an informational one, or trailers.
func (b *back) headBlock(fr frame, block []byte, size int, now time.Time) *failure {
	if fail := b.decode(fr, block); fail != nil {
		return fail
	}
	b.s.credit(dataCredit)
	t := b.streams.get(fr.stream)
	if t == nil {
		return nil
	}
	if t.f.overrun() {
		return nil // it ends with its connection
	}
	hd := b.s.head
	t.received += uint64(size)
	t.f.s.credit(dataCredit)
	end := fr.has(flagEndStream)
	switch {
	case t.down.ended:
		t.violate(&b.link, codeClosed)
		return nil
	case t.headed:
		if !end || b.s.head.fields.trailersFault() != "" {
			t.violate(&b.link, codeProtocol)
			return nil
		}
		if hd.grpcStatus != event.NoGRPCStatus {
			t.grpcStatus = hd.grpcStatus
		}
		b.trailers(t)
		return nil
	case b.s.head.fields.responseFault(hd) != "" || hd.status < 200 && end || hd.status == 101:
		t.violate(&b.link, codeProtocol)
		return nil
	}
	t.responded = true
	t.forget()
	if hd.status < 200 {
		t.f.headers(t.id, 0, b.s.head.fields.buf)
		return nil
	}
	b.respond(t, end, now)
	return nil
}

// respond passes a final response's head on.
func (b *back) respond(t *transfer, end bool, now time.Time) {
	hd := b.s.head
	t.headed = true
	t.status, t.grpcStatus = hd.status, hd.grpcStatus
	t.latency = max(1, now.Sub(t.start))
	failed := hd.status >= 502 && hd.status <= 504 || hd.grpcStatus == grpcUnavailable
	t.member.Observe(now.Sub(t.picked), failed)
	flags := uint8(0)
	if end {
		flags = flagEndStream
		t.down.ended = true
	}
	t.f.headers(t.id, flags, b.s.head.fields.buf)
	if end {
		t.down.finish()
	}
}

// trailers passes a response's trailers on, after its body.
func (b *back) trailers(t *transfer) {
	h := &t.down
	h.ended, h.hasTrailers = true, true
	if len(h.pending()) == 0 && !t.f.dead {
		t.f.headers(t.id, flagEndStream, b.s.head.fields.buf)
		h.finish()
		return
	}
	h.trailers = append([]byte(nil), b.s.head.fields.buf...)
	if t.up.done {
		t.uncount()
	}
	t.forward(h)
}

// data takes a piece of a response's body.
func (b *back) data(fr frame, payload []byte) *failure {
	p, ok := body(fr, payload)
	if !ok {
		return b.d.fail(codeProtocol, fr.stream, "DATA with more padding than payload")
	}
	if fail := b.received(fr); fail != nil {
		return fail
	}
	if len(p) > 0 {
		b.s.credit(dataCredit)
	} else if !fr.has(flagEndStream) {
		if fail := b.d.charge(fr); fail != nil {
			return fail
		}
	}
	t := b.streams.get(fr.stream)
	if t == nil {
		return nil
	}
	h := &t.down
	switch {
	case h.ended:
		t.violate(&b.link, codeClosed)
		return nil
	case !t.headed:
		t.violate(&b.link, codeProtocol)
		return nil
	}
	if h.recv -= int64(fr.length); h.recv < 0 {
		t.violate(&b.link, codeFlow)
		return nil
	}
	if len(p) > 0 {
		t.f.s.credit(dataCredit)
	}
	t.received += uint64(fr.size())
	if pad := int(fr.length) - len(p); pad > 0 {
		h.credit(pad)
	}
	end := fr.has(flagEndStream)
	if len(p) == 0 && !end {
		return nil
	}
	if end && t.up.done {
		h.ended = true
		t.uncount()
	}
	h.take(p, end)
	return nil
}

// reset follows the server's RST_STREAM.
func (b *back) reset(t *transfer, code errorCode, now time.Time) {
	if t.down.ended {
		b.cutRequest(t, now)
		return
	}
	if code == codeRefused && t.retry(now) {
		return
	}
	switch code {
	case codeProtocol, codeFlow, codeClosed, codeFrameSize:
		t.f.s.resets++ // what the client did wrong costs the server
	default:
		t.member.Observe(now.Sub(t.picked), true)
	}
	t.detach()
	t.reset(code, event.ErrServerReset, now)
}

// cutRequest ends a transfer whose response is whole and whose request is of no
// more interest to the server.
func (b *back) cutRequest(t *transfer, now time.Time) {
	t.detach()
	t.up.clear()
	t.aborted = true
	t.settle(now)
}

// goAway follows the server's GOAWAY.
func (b *back) goAway(last uint32, now time.Time) {
	b.retired = true
	b.streams.each(func(t *transfer) {
		switch {
		case t.uid <= last || t.down.ended:
		case t.retry(now):
		default:
			t.fail(event.ErrGoAway, "502", "the server goes away", now)
		}
	})
	b.pool.dispatch(b.o)
	b.endIfIdle()
}

// endIfIdle ends a connection that gets no more streams and has none.
func (b *back) endIfIdle() {
	if b.open == 0 && (b.retired || b.pool.member.Removed()) {
		b.retired = true
		b.kill()
	}
}

// kill ends the connection: its reader sees that, or its dialling is told.
func (b *back) kill() {
	b.retired = true
	if b.conn == nil {
		return // what dials it sees that it has no streams
	}
	b.killed = true
	_ = b.conn.SetReadDeadline(time.Unix(1, 0))
}

// lost ends what is left on a connection that is over, or never was.
func (b *back) lost(reason string) {
	now := time.Now()
	o, p := b.o, b.pool
	b.dead, b.retired = true, true
	sent := b.base
	if b.conn == nil {
		sent = 0
	}
	o.drop(b)
	b.streams.each(func(t *transfer) {
		switch {
		case t.down.ended:
			b.cutRequest(t, now)
		case !o.closed && t.headAt >= sent && t.retry(now):
		default:
			if b.settled {
				t.member.Observe(now.Sub(t.picked), true)
			}
			t.fail(reason, "502", "no connection to the server: "+reason, now)
		}
	})
	if !b.settled {
		// Nobody else will come for those that wait.
		for len(p.waiting) > 0 {
			t := p.waiting[0]
			p.unwait(t)
			if !t.retry(now) {
				t.fail(reason, "502", "no connection to the server: "+reason, now)
			}
		}
	}
	p.dispatch(o)
	p.forget(o)
}
