package http2

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/weirmesh/weir/proxy/socket"
)

// link is one of an Outbound's connections, to a client or to a server.
type link struct {
	o    *Outbound
	from side
	conn net.Conn // nil while a server is being dialled
	raw  syscall.RawConn
	// layer is conn where it is one; unsent tells that it keeps something that it
	// could not write.
	layer  socket.Layer
	unsent bool
	// s accounts for what the peer sends, as it does in the observing relay,
	// by whose rules its frames are judged.
	s   session
	d   *direction
	enc encoder

	// out is what is to be written, base how many bytes were taken from it
	// ever. Only one goroutine writes at a time.
	out     []byte
	base    uint64
	writing bool
	wrote   sync.Cond // of o.mu: a goroutine no longer writes
	queued  bool      // in dirty
	dead    bool
	writers sync.WaitGroup
	flight  []byte // being written
	sent    int    // what of it was
	failed  error
	try     func(fd uintptr) bool
	trying  []byte
	tried   int
	tryErr  error

	window  int64 // what may be sent on all streams
	initial int64 // what may be sent on a new stream
	recv    int64 // what the peer may send on all streams
	owed    int64 // what it may again, and was not told
	held    int64 // what its streams hold here
	streams transferTable
	// ready are directions that have something to send to this link.
	first, last *half
}

// outBuffers lends what output is collected in.
var outBuffers = sync.Pool{New: func() any { return new([outSize]byte) }}

func (l *link) init(o *Outbound, from side, maxHead int) {
	l.o, l.from, l.wrote.L = o, from, &o.mu
	l.window, l.initial, l.recv = streamWindow, streamWindow, linkWindow
	l.enc.init(o.seed)
	s := &l.s
	s.maxHead = maxHead
	s.goAway, s.refuseAbove = maxStreamID, maxStreamID
	s.leaked = time.Now()
	for i := range s.dirs {
		d := &s.dirs[i]
		d.s, d.from, d.maxFrame = s, side(i), minFrameSize
	}
	l.d = &s.dirs[from]
	l.d.hpack.init()
}

// connect sets the connection.
func (l *link) connect(conn net.Conn, early []byte) {
	l.conn = conn
	l.d.in.init(conn, early, max(2*bufferSize, l.s.maxHead+headOverhead))
	switch c := conn.(type) {
	case *net.TCPConn:
		if raw, err := c.SyscallConn(); err == nil {
			l.raw = raw
			l.try = l.tryOnce
		}
	case socket.Layer:
		l.layer = c
	}
}

// buffer returns what to append output to; it must be given to put.
func (l *link) buffer() []byte {
	if l.out == nil {
		l.out = outBuffers.Get().(*[outSize]byte)[:0]
	}
	return l.out
}

// put takes the output back, and has it written.
func (l *link) put(out []byte) {
	l.out = out
	if !l.queued {
		l.queued = true
		l.o.dirty = append(l.o.dirty, l)
	}
}

// recycle gives a buffer back.
func recycle(b []byte) {
	if cap(b) == outSize {
		outBuffers.Put((*[outSize]byte)(b[:outSize]))
	}
}

// enter takes o.mu for what was read at the time now.
func (o *Outbound) enter(now time.Time) {
	o.entering.Add(1)
	o.mu.Lock()
	o.entering.Add(-1)
	o.now = now
}

// clock is the time of what is being handled; o.mu is held.
func (o *Outbound) clock() time.Time {
	if o.now.IsZero() {
		return time.Now()
	}
	return o.now
}

// leave is unlock after enter. Where others wait for the lock with what they
// have read, the writing is left to them, so that what comes of all that goes
// with one call; but not many times in a row.
func (o *Outbound) leave(list *[]*link) {
	if o.entering.Load() > 0 && o.deferred < maxDeferred {
		o.deferred++
		o.now = time.Time{}
		o.mu.Unlock()
		return
	}
	o.unlock(list)
}

// unlock gives o.mu up and writes what is to be written, without waiting: what
// cannot be written is left to a goroutine.
func (o *Outbound) unlock(list *[]*link) {
	o.now, o.deferred = time.Time{}, 0
	for len(o.dirty) > 0 {
		writing := (*list)[:0]
		for _, l := range o.dirty {
			l.queued = false
			if !l.writing && !l.dead && l.conn != nil && len(l.out) > 0 {
				l.writing = true
				l.flight = l.take()
				writing = append(writing, l)
			}
		}
		clear(o.dirty)
		o.dirty = o.dirty[:0]
		o.mu.Unlock()
		for _, l := range writing {
			l.sent, l.failed = l.write(l.flight)
		}
		o.mu.Lock()
		for _, l := range writing {
			l.written()
		}
		clear(writing)
		*list = writing
	}
	o.mu.Unlock()
}

// written goes on after a write.
func (l *link) written() {
	b, n, err := l.flight, l.sent, l.failed
	l.flight, l.failed = nil, nil
	if err == nil && (n < len(b) || l.unsent) && !l.dead {
		l.writers.Go(func() { l.drainSlowly(b, n) })
		return
	}
	l.writing = false
	l.wrote.Broadcast()
	recycle(b)
	if err != nil {
		l.broken()
		return
	}
	l.pump()
	if len(l.out) > 0 {
		l.put(l.out) // by others, who left it to this goroutine
	}
}

// full tells that the peer does not read what it must.
func (l *link) full() bool { return len(l.out) > maxOut+maxControl }

func (l *link) take() []byte {
	b := l.out
	l.base += uint64(len(b))
	l.out = nil
	return b
}

// broken gives up writing: what the peer said before it went is still to be
// read, and ends the link.
func (l *link) broken() {
	l.dead = true
	_ = l.conn.SetReadDeadline(time.Now().Add(writeGrace))
}

// write writes what can be written at once.
func (l *link) write(b []byte) (int, error) {
	switch {
	case l.layer != nil:
		var n int
		var err error
		n, l.unsent, err = l.layer.WriteNow(b)
		return n, err
	case l.raw == nil:
		return 0, nil // a goroutine will
	}
	l.trying, l.tried, l.tryErr = b, 0, nil
	err := l.raw.Write(l.try)
	if err == nil {
		err = l.tryErr
	}
	l.trying = nil
	return l.tried, err
}

func (l *link) tryOnce(fd uintptr) bool {
	for l.tried < len(l.trying) {
		n, errno := socket.Write(fd, l.trying[l.tried:])
		switch {
		case n > 0:
			l.tried += n
		case errno == syscall.EINTR:
		case errno == syscall.EAGAIN:
			return true
		default:
			l.tryErr = os.NewSyscallError("write", errno)
			return true
		}
	}
	return true
}

// drainSlowly writes b from n on, and what the layer keeps, waiting for the peer,
// and then what was collected meanwhile.
func (l *link) drainSlowly(b []byte, n int) {
	var list []*link
	for {
		_, err := l.conn.Write(b[n:])
		l.o.mu.Lock()
		recycle(b)
		if err != nil {
			l.writing = false
			l.wrote.Broadcast()
			l.broken()
			l.o.unlock(&list)
			return
		}
		l.pump()
		if len(l.out) == 0 || l.dead {
			l.writing = false
			l.wrote.Broadcast()
			l.o.unlock(&list)
			return
		}
		b, n = l.take(), 0
		l.o.unlock(&list)
	}
}

// renew lets the peer send on, by what has gone from here.
func (l *link) renew() {
	if l.owed < linkWindow/2 || l.held > maxHeld {
		return
	}
	l.put(appendWindow(l.buffer(), uint32(l.owed)))
	l.recv += l.owed
	l.owed = 0
}

// received accounts for n bytes of DATA, padding included.
func (l *link) received(f frame) *failure {
	n := int64(f.length)
	if l.recv -= n; l.recv < 0 {
		return l.d.fail(codeFlow, f.stream, "more DATA than its connection's window")
	}
	l.owed += n
	l.renew()
	return nil
}

// settings follows the peer's SETTINGS. Streams' windows move with it.
func (l *link) settings(payload []byte) (maxStreams int64, fail *failure) {
	maxStreams = -1
	for ; len(payload) >= 6; payload = payload[6:] {
		value := binary.BigEndian.Uint32(payload[2:])
		switch binary.BigEndian.Uint16(payload) {
		case settingTableSize:
			l.enc.setMax(value)
		case settingPush:
			if value > 1 || value == 1 && l.from == server {
				return 0, l.d.fail(codeProtocol, 0, "a SETTINGS_ENABLE_PUSH out of range")
			}
		case settingStreams:
			maxStreams = int64(value)
		case settingWindow:
			if value > maxWindow {
				return 0, l.d.fail(codeFlow, 0, "a SETTINGS_INITIAL_WINDOW_SIZE out of range")
			}
			if fail := l.resizeWindows(int64(value)); fail != nil {
				return 0, fail
			}
		case settingFrameSize:
			if value < minFrameSize || value > maxFrameSize {
				return 0, l.d.fail(codeProtocol, 0, "a SETTINGS_MAX_FRAME_SIZE out of range")
			}
		}
	}
	l.put(appendFrame(l.buffer(), 0, frameSettings, flagAck, 0))
	return maxStreams, nil
}

func (l *link) resizeWindows(initial int64) (fail *failure) {
	change := initial - l.initial
	l.initial = initial
	l.streams.each(func(t *transfer) {
		h := t.toward(l.from)
		if h.window += change; h.window > maxWindow {
			fail = l.d.fail(codeFlow, 0, "a SETTINGS_INITIAL_WINDOW_SIZE that overflows a window")
		}
		h.wake()
	})
	if fail == nil {
		l.pump()
	}
	return fail
}

// windowUpdate follows the peer's WINDOW_UPDATE.
func (l *link) windowUpdate(f frame, payload []byte) *failure {
	n := int64(binary.BigEndian.Uint32(payload) & maxStreamID)
	t := l.streams.get(f.stream)
	switch {
	case f.stream == 0 && n == 0:
		return l.d.fail(codeProtocol, 0, "a WINDOW_UPDATE of 0")
	case f.stream == 0:
		if l.window += n; l.window > maxWindow {
			return l.d.fail(codeFlow, 0, "a WINDOW_UPDATE beyond the largest window")
		}
		l.pump()
	case t == nil:
	case n == 0:
		t.violate(l, codeProtocol)
	default:
		h := t.toward(l.from)
		if h.window += n; h.window > maxWindow {
			t.violate(l, codeFlow)
			return nil
		}
		h.wake()
		l.pump()
	}
	return nil
}

// pump sends what waits for this link, each stream a frame in turn.
func (l *link) pump() {
	for l.first != nil && l.window > 0 && len(l.out) < maxOut && !l.dead {
		h := l.first
		h.unqueue()
		h.send()
		h.wake()
	}
	if l.first != nil && l.window <= 0 {
		// Ends of streams need no window.
		for h := l.first; h != nil; {
			next := h.next
			if len(h.pending()) == 0 {
				h.unqueue()
				h.send()
			}
			h = next
		}
	}
}

// control takes the frames that are the same for clients and servers; known is
// false for others.
func (l *link) control(f frame, payload []byte) (known bool, fail *failure) {
	switch f.kind {
	case framePing:
		if !f.has(flagAck) {
			l.put(append(appendFrame(l.buffer(), len(payload), framePing, flagAck, 0), payload...))
		}
	case frameWindow:
		if fail := l.windowUpdate(f, payload); fail != nil {
			return true, fail
		}
		if l.from == server {
			return true, nil // it follows what is sent there
		}
	case framePriority:
		switch {
		case l.from == server:
		case f.stream == 0:
			return true, l.d.fail(codeProtocol, 0, "PRIORITY of the connection")
		case dependsOnItself(f, payload):
			return true, l.d.fail(codeProtocol, 0, "PRIORITY of a stream that depends on itself")
		}
	default:
		if f.kind <= frameContinuation {
			return false, nil
		}
	}
	return true, l.d.charge(f)
}

// body is a DATA frame's payload without padding.
func body(f frame, payload []byte) ([]byte, bool) {
	if !f.has(flagPadded) {
		return payload, true
	}
	if len(payload) < 1 || len(payload) < 1+int(payload[0]) {
		return nil, false
	}
	return payload[1 : len(payload)-int(payload[0])], true
}

// frames handles the whole frames that b begins with, and returns how much of b
// they are.
func (l *link) frames(b []byte, now time.Time, handle func(f frame, payload []byte, size int, now time.Time) *failure) (used int, fail *failure) {
	l.s.leak(now)
	if n := len(l.d.preface); n > 0 {
		if n = l.d.start(b); n < 0 {
			return 0, l.d.fail(codeProtocol, 0, "no HTTP/2 connection preface")
		}
		used = n
	}
	for len(b)-used >= headerLen {
		f := parseFrame(b[used:])
		if fail := l.d.check(f); fail != nil {
			return used, fail
		}
		size := f.size()
		var payload []byte
		if f.kind == frameHeaders {
			var fail *failure
			if size, payload, fail = l.d.headBlock(f, b[used:]); fail != nil {
				return used, fail
			}
			if size == 0 {
				return used, nil
			}
			if l.from == client && f.has(flagPriority) && dependsOnItself(f, b[used+headerLen:]) {
				return used, l.d.fail(codeProtocol, f.stream, "HEADERS of a stream that depends on itself")
			}
		} else {
			if len(b)-used < size {
				return used, nil
			}
			payload = b[used+headerLen : used+size]
		}
		if fail := handle(f, payload, size, now); fail != nil {
			return used, fail
		}
		if l.full() {
			return used, l.d.fail(codeCalm, 0, "frames whose answers it does not read")
		}
		if l.s.resets > maxResets {
			// Whoever reset them: the client made it so.
			return used, l.d.fail(codeCalm, f.stream, "too many streams that were reset")
		}
		used += size
	}
	return used, nil
}

// decode decodes a header block into l.s.head and its fields.
func (l *link) decode(f frame, block []byte) *failure {
	switch err := l.d.decode(block, true); {
	case err == nil:
		return nil
	case errors.Is(err, errListTooLong):
		return l.d.tooLong(f)
	}
	return l.d.fail(codeCompression, f.stream, "a header block that is no valid HPACK")
}

// headers appends a header block to the output.
func (l *link) headers(stream uint32, flags uint8, list []byte) {
	o := l.o
	out := l.buffer()
	at := len(out)
	out = l.enc.append(appendFrame(out, 0, frameHeaders, flags|flagEndHeaders, stream), list)
	n := len(out) - at - headerLen
	if n <= minFrameSize {
		out[at], out[at+1], out[at+2] = byte(n>>16), byte(n>>8), byte(n)
		l.put(out)
		return
	}
	o.block = append(o.block[:0], out[at+headerLen:]...)
	l.put(appendHeaders(out[:at], stream, flags, o.block))
	o.block = nil
}

// shut closes the connection at once where the link is not over.
func (l *link) shut() {
	l.dead = true
	if l.conn != nil {
		_ = l.conn.Close()
	}
}
