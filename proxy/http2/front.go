package http2

import (
	"context"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/balance"
	"github.com/weirmesh/weir/proxy/relay"
)

// front is a client's connection.
type front struct {
	link
	c      *relay.Conn
	period time.Duration // of progress events
	done   chan struct{} // closed by stop
	ticker *time.Timer
	first  *balance.Member // where the first request goes, where that was picked before
	kept   int             // bytes of requests that may have to be sent again
	// resetTo is the highest stream that was reset from here: of streams up to
	// it frames may be on their way yet. What comes on later ones that are over
	// is the client's mistake.
	resetTo uint32
}

// Serve carries one client's connection to its end, as package relay says;
// c.Server is not used. Its requests go where the set says.
func (o *Outbound) Serve(ctx context.Context, c *relay.Conn) { o.serve(ctx, c, nil) }

// ServeOver is Serve for a client for which m was picked and connected to before
// it was known what it speaks: its first request goes there, and conn is one of
// the Outbound's connections from now on. Whoever calls has ended what it began
// with m.
func (o *Outbound) ServeOver(ctx context.Context, c *relay.Conn, m *balance.Member, conn balance.Connection) {
	o.adopt(m, conn)
	o.serve(ctx, c, m)
}

func (o *Outbound) serve(ctx context.Context, c *relay.Conn, first *balance.Member) {
	f := &front{c: c, first: first, period: c.Progress, done: make(chan struct{}), ticker: time.NewTimer(math.MaxInt64)}
	if f.period <= 0 {
		f.period = relay.DefaultProgress
	}
	patience := c.HeadTimeout
	if patience <= 0 {
		patience = relay.DefaultHeadTimeout
	}
	maxHead := c.MaxHeadBytes
	if maxHead <= 0 {
		maxHead = relay.DefaultMaxHeadBytes
	}
	f.link.init(o, client, maxHead)
	f.s.patience, f.s.period = patience, f.period
	f.connect(c.Client, c.Early)
	f.d.preface = preface
	f.d.in.first = c.FirstByte
	c.Fill(&f.s.event)
	var list []*link
	o.mu.Lock()
	var payload []byte
	payload = appendSetting(payload, settingStreams, maxFrontStreams)
	payload = appendSetting(payload, settingHeadSize, uint32(maxHead))
	out := append(appendFrame(f.buffer(), len(payload), frameSettings, 0, 0), payload...)
	f.put(appendWindow(out, linkWindow-streamWindow))
	o.unlock(&list)

	var others sync.WaitGroup
	others.Go(func() { f.control(ctx) })
	f.stop(f.run())
	others.Wait()
	f.close(ctx)
}

// run handles what the client sends until that ends, and says why.
func (f *front) run() *cause {
	defer f.d.in.close()
	handle := f.handle
	var list []*link
	for {
		b, now, err := f.d.in.fill()
		if err != nil {
			return lost(client, err)
		}
		f.o.enter(now)
		used, fail := f.frames(b, now, handle)
		over := f.s.closing && f.streams.len() == 0
		f.await(used, b[used:], now)
		f.o.leave(&list)
		switch {
		case fail != nil:
			return fail.cause()
		case over:
			return drained()
		}
		f.d.in.consume(used)
	}
}

// handle takes one frame of the client.
func (f *front) handle(fr frame, payload []byte, size int, now time.Time) *failure {
	switch fr.kind {
	case frameHeaders:
		return f.headBlock(fr, payload, size, now)
	case frameData:
		return f.data(fr, payload)
	case frameReset:
		t := f.streams.get(fr.stream)
		if t == nil {
			return f.d.charge(fr)
		}
		reason := event.ErrClientReset
		if t.down.done {
			reason = t.reason
		} else if fail := f.d.chargeReset(fr, codeCancel); fail != nil {
			return fail
		}
		t.finish(reason, t.fate, now)
		return nil
	case frameSettings:
		if !fr.has(flagAck) {
			if _, fail := f.settings(payload); fail != nil {
				return fail
			}
		}
		return f.d.charge(fr)
	case frameGoAway:
		return f.d.charge(fr) // it takes no streams of ours anyway
	}
	_, fail := f.link.control(fr, payload)
	return fail
}

// headBlock takes a request's head, or its trailers.
func (f *front) headBlock(fr frame, block []byte, size int, now time.Time) *failure {
	if fail := f.decode(fr, block); fail != nil {
		return fail
	}
	s := &f.s
	s.credit(dataCredit)
	if fr.stream <= s.maxID {
		return f.trailers(fr, size)
	}
	s.maxID = fr.stream
	st := newStream(fr.stream, s.head, f.d.in.since)
	st.sent += uint64(size)
	t := f.o.newTransfer(f, st, f.s.head.fields.buf, now)
	f.streams.put(fr.stream, t)
	f.tick()
	fault := f.s.head.fields.requestFault(s.head.method)
	t.length = f.s.head.fields.length
	if end := fr.has(flagEndStream); end {
		t.up.ended = true
		if t.length > 0 {
			fault = "a content-length and no body"
		}
	}
	switch {
	case fr.stream > s.refuseAbove:
		t.fate = s.refuseFate
		t.reset(codeRefused, s.refuseReason, now)
	case fault != "":
		return f.malformed(fr, t, codeProtocol, event.ErrMalformed, now)
	case f.streams.len() > maxFrontStreams || f.kept > maxKept:
		return f.malformed(fr, t, codeRefused, event.ErrLimit, now)
	default:
		f.o.assign(t, now)
	}
	return nil
}

// malformed resets a request that is not forwarded.
func (f *front) malformed(fr frame, t *transfer, code errorCode, reason string, now time.Time) *failure {
	t.fate |= event.Refused
	t.cancel(codeCancel)
	t.reset(code, reason, now)
	return f.d.chargeReset(fr, codeCancel)
}

// trailers takes the trailers of a request.
func (f *front) trailers(fr frame, size int) *failure {
	t := f.streams.get(fr.stream)
	switch {
	case t == nil:
		return f.late(fr)
	case t.up.ended:
		return f.malformed(fr, t, codeClosed, event.ErrMalformed, time.Now())
	case !fr.has(flagEndStream) || f.s.head.fields.trailersFault() != "" || t.length > 0:
		return f.malformed(fr, t, codeProtocol, event.ErrMalformed, time.Now())
	}
	t.sent += uint64(size)
	t.up.trailers, t.up.hasTrailers = append([]byte(nil), f.s.head.fields.buf...), true
	t.up.ended = true
	t.forward(&t.up)
	return nil
}

// late judges HEADERS or DATA of a stream that is over.
func (f *front) late(fr frame) *failure {
	if fr.stream <= f.resetTo || fr.stream > f.s.refuseAbove {
		if fr.kind == frameData {
			return nil // on its way when the stream was reset; judged by the window
		}
		return f.d.charge(fr)
	}
	return f.d.fail(codeClosed, fr.stream, "a frame of type "+strconv.Itoa(int(fr.kind))+
		" on stream "+strconv.Itoa(int(fr.stream))+", which is over")
}

// resetStream tells the client that a stream is over.
func (f *front) resetStream(id uint32, code errorCode) {
	f.put(appendReset(f.buffer(), id, code))
	f.resetTo = max(f.resetTo, id)
}

// data takes a piece of a request's body.
func (f *front) data(fr frame, payload []byte) *failure {
	p, ok := body(fr, payload)
	if !ok {
		return f.d.fail(codeProtocol, fr.stream, "DATA with more padding than payload")
	}
	if fail := f.received(fr); fail != nil {
		return fail
	}
	if len(p) == 0 && !fr.has(flagEndStream) {
		if fail := f.d.charge(fr); fail != nil {
			return fail
		}
	} else if len(p) > 0 {
		f.s.credit(dataCredit)
	}
	t := f.streams.get(fr.stream)
	if t == nil {
		return f.late(fr)
	}
	h := &t.up
	if h.ended {
		return f.malformed(fr, t, codeClosed, event.ErrMalformed, time.Now())
	}
	if h.recv -= int64(fr.length); h.recv < 0 {
		return f.malformed(fr, t, codeFlow, event.ErrMalformed, time.Now())
	}
	end := fr.has(flagEndStream)
	if t.length >= 0 {
		if t.length -= int64(len(p)); t.length < 0 || end && t.length > 0 {
			return f.malformed(fr, t, codeProtocol, event.ErrMalformed, time.Now())
		}
	}
	t.sent += uint64(fr.size())
	if pad := int(fr.length) - len(p); pad > 0 {
		h.credit(pad)
	}
	if t.aborted {
		h.ended = end
		h.credit(len(p))
		if end {
			h.done = true
			t.settle(time.Now())
		}
		return nil
	}
	if t.keep {
		t.remember(p)
	}
	h.take(p, end)
	return nil
}

// forward sends what h has as far as that can be.
func (t *transfer) forward(h *half) {
	l, _ := h.target()
	if l == nil {
		return
	}
	h.wake()
	l.pump()
}

// overrun ends the connection of a client that asks and does not read, and
// tells whether that is so.
func (f *front) overrun() bool {
	if f.full() {
		f.end(f.d.fail(codeCalm, 0, "requests whose answers it does not read").cause())
	}
	return f.s.cause != nil
}

// stop ends the connection; the first cause counts.
func (f *front) stop(c *cause) {
	f.o.mu.Lock()
	defer f.o.mu.Unlock()
	f.end(c)
}

// end is stop for whoever holds the lock.
func (f *front) end(c *cause) {
	if f.s.cause != nil {
		return
	}
	f.s.cause = c
	close(f.done)
	past, grace := time.Unix(1, 0), time.Now().Add(writeGrace)
	if c.hard {
		grace = past
	}
	_ = f.conn.SetReadDeadline(past)
	_ = f.conn.SetWriteDeadline(grace)
}

// close ends what is left of the connection.
func (f *front) close(ctx context.Context) {
	o := f.o
	var list []*link
	o.mu.Lock()
	c := f.s.cause
	now := time.Now()
	if c.goAway {
		f.put(appendGoAway(f.buffer(), min(f.s.maxID, f.s.refuseAbove), c.code, c.text))
	}
	if c.failure != nil {
		f.refuse(c.failure, now)
	}
	f.streams.each(func(t *transfer) {
		reason := c.reason
		if t.down.ended && c.failure == nil && !c.hard {
			reason = t.reason // it had its answer
		}
		t.finish(reason, t.fate|c.fate, now)
	})
	f.ticker.Stop()
	o.unlock(&list)
	o.mu.Lock()
	for f.writing { // whoever that is writes what was put here, too
		f.wrote.Wait()
	}
	broken := f.dead
	f.dead = true
	recycle(f.out)
	f.out = nil
	o.mu.Unlock()
	if c.linger && !broken {
		linger(ctx, f.conn)
	}
	_ = f.conn.Close()
	f.writers.Wait()
}

// refuse records a violation where it is on no stream that is there.
func (f *front) refuse(fail *failure, now time.Time) {
	if t := f.streams.get(fail.stream); t != nil {
		t.finish(fail.reason, t.fate|fail.fate, now)
		return
	}
	id := fail.stream
	if id <= f.s.maxID || id&1 == 0 {
		id = 0
	}
	st := newStream(id, &head{}, now)
	f.s.c = f.c
	c := f.c
	e := &f.s.event
	e.Peer, e.Connection, e.Security, e.SecurityReason, e.Attempt = c.Peer, c.ID, c.Security, c.SecurityReason, 0
	f.s.record(st, event.End, fail.reason, fail.fate, now)
	streamPool.Put(st)
}

// control does what no byte of the client causes: hard stop, drain, progress.
func (f *front) control(ctx context.Context) {
	drain := f.c.Drain
	var final <-chan time.Time
	for {
		select {
		case <-f.done:
			return
		case <-ctx.Done():
			f.stop(&cause{reason: event.ErrGoAway, fate: event.Drained, hard: true})
		case <-drain:
			drain = nil
			f.say(func() { f.put(appendGoAway(f.buffer(), maxStreamID, codeNone, "draining")) })
			final = time.After(drainDelay)
		case <-final:
			empty := false
			f.say(func() {
				f.s.refuseFrom(event.ErrGoAway, event.Drained)
				f.put(appendGoAway(f.buffer(), f.s.refuseAbove, codeNone, "draining"))
				empty = f.streams.len() == 0
			})
			if empty {
				f.stop(drained())
			}
		case now := <-f.ticker.C:
			f.say(func() {
				f.progress(now)
				if late := f.s.overdue(now); late != nil {
					f.end(late)
				}
			})
		}
	}
}

// say calls say with the lock held, and writes what comes of it.
func (f *front) say(say func()) {
	var list []*link
	f.o.mu.Lock()
	say()
	f.o.unlock(&list)
}

// progress reports the streams that have been silent for a period.
func (f *front) progress(now time.Time) {
	if f.streams.len() == 0 && f.s.begun.IsZero() {
		f.s.ticking = false
		return
	}
	f.streams.each(func(t *transfer) {
		if now.Sub(t.reported) >= f.period {
			t.record(event.Progress, "", 0, now)
		}
	})
	f.ticker.Reset(f.s.interval())
}

// tick has the ticker run.
func (f *front) tick() {
	if !f.s.ticking {
		f.s.ticking = true
		f.ticker.Reset(f.s.interval())
	}
}

// await notes since when the client owes the rest of a header block or control
// frame; DATA takes its time.
func (f *front) await(used int, rest []byte, now time.Time) {
	switch {
	case len(rest) == 0 || len(rest) >= headerLen && parseFrame(rest).kind == frameData:
		f.s.begun = time.Time{}
	case used > 0 || f.s.begun.IsZero():
		f.s.begun = now
		f.tick()
	}
}
