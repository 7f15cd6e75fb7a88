package http2

import (
	"net/netip"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/balance"
)

// transfer is a stream of a client and the stream of a server that it goes on
// as. All of it is guarded by its Outbound's mu.
type transfer struct {
	*stream
	f    *front
	b    *back  // nil while it has none, and when that is over
	uid  uint32 // its identifier there
	meta *balance.Connection

	up, down half
	// list is the request's head, replay its body so far; both as long as
	// keep, while the request may have to be sent once more.
	list, replay []byte
	keep         bool
	kept         int // of its client's account of that
	attempt      uint8
	member       *balance.Member
	began        bool // member counts it
	picked       time.Time
	waits        *pool  // for room on a connection
	headAt       uint64 // where in the link's output the head begins
	length       int64  // what is left of Content-Length; -1: unknown

	responded bool // something of a response came
	headed    bool // a final response's head was passed on
	counted   bool // b counts it
	aborted   bool // what is left of the request is of no interest
	reason    string
	fate      event.Fate
}

// half is one direction of a transfer.
type half struct {
	t    *transfer // nil when it is over
	from side
	// buf[at:] came and is to go on; the peer has been given credit for the
	// first free bytes of it already.
	buf      []byte
	at, free int
	window   int64 // what may be sent
	recv     int64 // what the peer may send
	owed     int64 // what it may again, and was not told
	ended    bool  // all of it came
	done     bool  // all of it went on
	// trailers end it where hasTrailers.
	trailers    []byte
	hasTrailers bool

	queued     bool // in its target's queue
	prev, next *half
}

// keepFree is how many transfers are kept to be used again.
const keepFree = 256

// newTransfer makes the transfer of a request.
func (o *Outbound) newTransfer(f *front, st *stream, list []byte, now time.Time) *transfer {
	var t *transfer
	if n := len(o.free); n > 0 {
		t, o.free = o.free[n-1], o.free[:n-1]
	} else {
		t = new(transfer)
	}
	t.stream, t.f, t.keep, t.length = st, f, true, -1
	t.list = append(t.list[:0], list...)
	t.kept = len(list)
	f.kept += t.kept
	t.up = half{t: t, from: client, buf: t.up.buf, recv: streamWindow}
	t.down = half{t: t, from: server, buf: t.down.buf, recv: streamWindow, window: f.initial}
	return t
}

// release gives a transfer's memory back.
func (o *Outbound) release(t *transfer) {
	t.up.unqueue()
	t.down.unqueue()
	t.f.kept -= t.kept
	streamPool.Put(t.stream)
	*t = transfer{list: scratch(t.list), replay: scratch(t.replay),
		up: half{buf: scratch(t.up.buf)}, down: half{buf: scratch(t.down.buf)}}
	if len(o.free) < keepFree {
		o.free = append(o.free, t)
	}
}

// scratch is b, emptied, unless it is too large to be kept.
func scratch(b []byte) []byte {
	if cap(b) > maxScratch {
		return nil
	}
	return b[:0]
}

// remember keeps a piece of the request's body, as far as there is room.
func (t *transfer) remember(p []byte) {
	if len(t.replay)+len(p) > maxReplay || t.f.kept > maxKept {
		t.keep = false
		t.f.kept -= len(t.replay)
		t.kept -= len(t.replay)
		t.replay = scratch(t.replay)
		return
	}
	t.replay = append(t.replay, p...)
	t.kept += len(p)
	t.f.kept += len(p)
}

// forget lets go of a request that will not be sent again.
func (t *transfer) forget() {
	t.keep = false
	t.f.kept -= t.kept
	t.kept = 0
	t.list, t.replay = scratch(t.list), scratch(t.replay)
}

// toward is the direction that goes to a side.
func (t *transfer) toward(to side) *half {
	if to == client {
		return &t.down
	}
	return &t.up
}

func (h *half) pending() []byte { return h.buf[h.at:] }

// target is where the direction goes to; nil where there is nothing yet.
func (h *half) target() (*link, uint32) {
	if h.from == server {
		return &h.t.f.link, h.t.id
	}
	if h.t.b == nil {
		return nil, 0
	}
	return &h.t.b.link, h.t.uid
}

// source is where it comes from; nil where that is over.
func (h *half) source() (*link, uint32) {
	if h.from == client {
		return &h.t.f.link, h.t.id
	}
	if h.t.b == nil {
		return nil, 0
	}
	return &h.t.b.link, h.t.uid
}

// wake queues the direction where it has something that may be sent.
func (h *half) wake() {
	if h.t == nil || h.queued || h.done || len(h.pending()) == 0 && !h.ended || len(h.pending()) > 0 && h.window <= 0 {
		return
	}
	l, _ := h.target()
	if l == nil {
		return
	}
	h.queued, h.prev, h.next = true, l.last, nil
	if l.last == nil {
		l.first = h
	} else {
		l.last.next = h
	}
	l.last = h
}

func (h *half) unqueue() {
	if !h.queued {
		return
	}
	l, _ := h.target()
	if h.prev == nil {
		l.first = h.next
	} else {
		h.prev.next = h.next
	}
	if h.next == nil {
		l.last = h.prev
	} else {
		h.next.prev = h.prev
	}
	h.queued, h.prev, h.next = false, nil, nil
}

// take passes payload on that came, as far as that can be, and keeps the rest.
func (h *half) take(payload []byte, end bool) {
	h.ended = h.ended || end
	l, id := h.target()
	n := int64(len(payload))
	if l != nil && len(h.pending()) == 0 && n <= h.window && n <= l.window && len(l.out) < maxOut && !l.dead {
		h.frame(l, id, payload, h.ended && !h.hasTrailers)
		return
	}
	h.buf = append(h.buf, payload...)
	if src, _ := h.source(); src != nil {
		src.held += n
	}
	h.wake()
	if l != nil {
		l.pump()
	}
}

// frame sends payload as DATA.
func (h *half) frame(l *link, id uint32, payload []byte, end bool) {
	flags := uint8(0)
	if end {
		flags = flagEndStream
	}
	n := len(payload)
	l.put(append(appendFrame(l.buffer(), n, frameData, flags, id), payload...))
	h.window -= int64(n)
	l.window -= int64(n)
	h.credit(n)
	if end {
		h.finish()
	}
}

// send sends a frame of what is pending, and the end after it.
func (h *half) send() {
	l, id := h.target()
	if p := h.pending(); len(p) > 0 {
		n := int(min(int64(len(p)), h.window, l.window, minFrameSize))
		if n <= 0 {
			return
		}
		last := n == len(p)
		if src, _ := h.source(); src != nil {
			src.held -= int64(n)
			src.renew()
		}
		h.at += n
		end := last && h.ended && !h.hasTrailers
		h.frame(l, id, p[:n], end)
		if !last || end {
			return
		}
		if h.buf, h.at = h.buf[:0], 0; cap(h.buf) > minFrameSize {
			h.buf = nil
		}
	}
	if h.ended && !h.done {
		if h.hasTrailers {
			l.headers(id, flagEndStream, h.trailers)
		} else {
			l.put(appendFrame(l.buffer(), 0, frameData, flagEndStream, id))
		}
		h.finish()
	}
}

// credit lets the peer send n more bytes, and tells it when they are many.
func (h *half) credit(n int) {
	again := min(h.free, n)
	h.free -= again
	h.owed += int64(n - again)
	if h.ended || h.owed < streamWindow/2 {
		return
	}
	l, id := h.source()
	if l == nil || l.dead {
		return
	}
	l.put(appendStreamWindow(l.buffer(), id, uint32(h.owed)))
	h.recv += h.owed
	h.owed = 0
}

// finish notes that the end went on.
func (h *half) finish() {
	h.done = true
	h.t.settle(h.t.f.o.clock())
}

// clear drops what is pending.
func (h *half) clear() {
	h.unqueue()
	if src, _ := h.source(); src != nil {
		src.held -= int64(len(h.pending()))
		src.renew()
	}
	h.buf, h.at, h.free = h.buf[:0], 0, 0
}

// settle ends what is over.
func (t *transfer) settle(now time.Time) {
	if t.up.done && t.down.ended {
		t.uncount()
	}
	switch {
	case !t.down.done:
	case t.up.done || t.f.dead:
		t.f.s.resets = max(0, t.f.s.resets-1)
		t.finish(t.reason, t.fate, now)
	case t.aborted:
		if !t.up.ended {
			t.f.resetStream(t.id, codeNone)
		}
		t.finish(t.reason, t.fate, now)
	}
}

// uncount gives the place at the server to another stream.
func (t *transfer) uncount() {
	if !t.counted {
		return
	}
	t.counted = false
	b := t.b
	if b.open--; b.open == 0 {
		b.idleSince = b.o.clock()
	}
	b.pool.dispatch(b.o)
}

// detach parts the transfer from its server.
func (t *transfer) detach() {
	if t.waits != nil {
		t.waits.unwait(t)
	}
	b := t.b
	if b == nil {
		return
	}
	t.up.unqueue()
	b.streams.remove(t.uid)
	b.held -= int64(len(t.down.pending()))
	t.uncount()
	t.b = nil
	b.endIfIdle()
}

// cancel detaches and tells the server, unless it is over there.
func (t *transfer) cancel(code errorCode) {
	if b := t.b; b != nil && !b.dead && !(t.up.done && t.down.ended) {
		b.put(appendReset(b.buffer(), t.uid, code))
	}
	t.detach()
}

// retry sends the request to another endpoint, where that is safe and allowed.
func (t *transfer) retry(now time.Time) bool {
	o := t.f.o
	if t.responded || !t.keep || t.attempt+1 >= maxAttempts || t.f.dead || o.closed {
		return false
	}
	t.detach()
	t.leave()
	t.attempt++
	o.o.Set.Retry()
	h := &t.up
	more := len(t.replay) - len(h.pending())
	t.f.held += int64(more)
	h.free += more
	h.buf, h.at, h.done = append(h.buf[:0], t.replay...), 0, false
	o.assign(t, now)
	return true
}

// leave takes the transfer off its endpoint's account.
func (t *transfer) leave() {
	if t.began {
		t.began = false
		t.member.End()
	}
}

// fail answers in the server's stead.
func (t *transfer) fail(reason, status, text string, now time.Time) {
	t.detach()
	t.reason, t.aborted = reason, true
	t.up.clear()
	f := t.f
	if t.headed && t.protocol != event.GRPC || f.dead {
		t.reset(codeInternal, reason, now)
		return
	}
	list := unavailable(nil, t.protocol, status, text, t.headed)
	if t.protocol == event.GRPC {
		t.grpcStatus = grpcUnavailable
	}
	t.down.ended = true
	if t.headed {
		t.down.trailers, t.down.hasTrailers = list, true
		t.down.wake()
		f.pump()
		return
	}
	t.headed = true
	t.status = uint16(number([]byte(status), 999))
	if t.protocol == event.GRPC {
		t.status = 200
	}
	t.received += uint64(len(list))
	f.headers(t.id, flagEndStream, list)
	t.down.finish()
}

// reset gives the client's stream up.
func (t *transfer) reset(code errorCode, reason string, now time.Time) {
	if !t.f.dead {
		t.f.resetStream(t.id, code)
	}
	t.finish(reason, t.fate, now)
}

// violate ends a transfer for what the peer of l did wrong on it.
func (t *transfer) violate(l *link, code errorCode) {
	now := time.Now()
	if l.from == client {
		l.s.resets++
		t.fate |= event.Refused
		t.cancel(codeCancel)
		t.reset(code, event.ErrMalformed, now)
		return
	}
	t.member.Observe(now.Sub(t.picked), true)
	t.cancel(code)
	t.fail(event.ErrMalformedServer, "502", "the server's response is malformed", now)
}

// finish records the transfer's end and forgets it.
func (t *transfer) finish(reason string, fate event.Fate, now time.Time) {
	t.cancel(codeCancel)
	t.leave()
	t.record(event.End, reason, fate, now)
	t.up.clear()
	t.down.clear()
	f := t.f
	f.streams.remove(t.id)
	f.o.release(t)
	if f.s.closing && f.streams.len() == 0 {
		f.end(drained())
	}
}

// record records the transfer with the endpoint as its peer.
func (t *transfer) record(kind event.Kind, reason string, fate event.Fate, now time.Time) {
	e := &t.f.s.event
	t.fill(e, kind, now)
	e.Error, e.Fate, e.Attempt = reason, fate, t.attempt
	if t.attempt > 0 {
		e.Fate |= event.Retried
	}
	if m := t.meta; m != nil && m.Conn != nil {
		e.Peer, e.Connection, e.Security, e.SecurityReason = m.Peer, m.ID, m.Security, m.SecurityReason
		e.Stream = (t.uid + 1) / 2
	} else {
		c := t.f.c
		e.Peer, e.Connection, e.Security, e.SecurityReason = c.Peer, c.ID, c.Security, c.SecurityReason
		if t.member != nil {
			e.Peer = peerOf(t.member.Endpoint())
		}
	}
	t.f.c.Recorder.Record(e)
	e.Method, e.Authority, e.Path = "", "", ""
}

// peerOf is what is known of an endpoint before it is connected to.
func peerOf(e balance.Endpoint) event.Peer {
	addr, _ := netip.ParseAddrPort(e.Addr) // a name has none yet
	return event.Peer{Workload: e.Workload, Addr: addr}
}
