package http2

import (
	"encoding/binary"
	"strconv"
	"time"

	"github.com/weirmesh/weir/event"
)

// direction is what one side sends to the other. All of it but in is guarded
// by the session's mu, and but for maxFrame and hpack.limit, which the other
// direction's SETTINGS change, used by one goroutine.
type direction struct {
	s    *session
	from side
	in   reader

	hpack    decoder
	heads    heads
	maxFrame uint32 // that the receiver takes
	preface  string // what of the preface is still to come
	settled  bool   // the first SETTINGS came

	// passing is the frame whose payload goes by unread, left how much of it
	// is still to come; dropping keeps it from the receiver.
	passing  frame
	left     uint32
	dropping bool

	// transcode: the receiver's HPACK table no longer follows the sender's,
	// so that blocks go as literals; emptied: the receiver was told so.
	transcode, emptied bool

	block  []byte // a header block of several frames
	insert []byte // frames in place of dropped ones
	reply  []byte // frames for the client
}

// step is what observe found.
type step struct {
	forward  int // bytes to forward
	boundary int // the last end of a frame in them, or -1
	used     int // bytes done with; those after forward are dropped
	insert   []byte
	more     bool     // there is more to observe
	fail     *failure // the first frame after used is a violation
}

// observe reads the frames in b until something must happen between two of
// them, or b ends, perhaps inside a frame.
func (d *direction) observe(b []byte, now time.Time) step {
	st := step{boundary: -1}
	p := 0
	for p < len(b) {
		var n int
		var drop bool
		switch {
		case len(d.preface) > 0:
			if n = d.start(b[p:]); n < 0 {
				st.fail = d.fail(codeProtocol, 0, "no HTTP/2 connection preface")
				return st
			}
			drop = d.s.answering
		case d.left > 0:
			n, drop = int(min(d.left, uint32(len(b)-p))), d.dropping
			d.pass(uint32(n), now)
		default:
			n, drop, st.fail = d.frame(b[p:], now)
		}
		st.used = p
		if st.fail != nil {
			d.left = 0 // its frame is not passed on
			return st
		}
		if n == 0 {
			return st
		}
		if drop {
			st.used, st.insert, st.more = p+n, d.insert, p+n < len(b)
			d.insert = d.insert[:0]
			return st
		}
		p += n
		st.forward, st.used = p, p
		if d.left == 0 && d.preface == "" {
			st.boundary = p
		}
	}
	return st
}

// start takes the client's preface, or as much as is there of it; -1 where it
// is another.
func (d *direction) start(b []byte) int {
	n := min(len(b), len(d.preface))
	if string(b[:n]) != d.preface[:n] {
		return -1
	}
	d.preface = d.preface[n:]
	return n
}

// pass counts n bytes of the payload of a frame that goes by unread.
func (d *direction) pass(n uint32, now time.Time) {
	d.left -= n
	if d.passing.kind != frameData || d.dropping {
		return
	}
	st := d.s.streams.get(d.passing.stream)
	if st == nil {
		return
	}
	d.count(st, int(n))
	if d.left == 0 && d.passing.has(flagEndStream) {
		d.s.ended(d.from, st, now)
	}
}

// count adds bytes to a stream.
func (d *direction) count(st *stream, n int) {
	if d.from == client {
		st.sent += uint64(n)
	} else {
		st.received += uint64(n)
	}
}

// frame reads the frame that b begins with: all of it or, where its payload
// need not be known, its header. n is how long that is, 0 where there is too
// little of it, and drop whether it is to be kept from the receiver.
func (d *direction) frame(b []byte, now time.Time) (n int, drop bool, fail *failure) {
	if len(b) < headerLen {
		return 0, false, nil
	}
	f := parseFrame(b)
	if fail := d.check(f); fail != nil {
		return 0, false, fail
	}
	s := d.s
	refused := d.from == client && f.stream > s.refuseAbove
	switch {
	case f.kind == frameHeaders:
		return d.headers(f, b, now)
	case f.kind == frameData || refused:
		return d.data(f, refused, now)
	case f.kind == frameGoAway:
		if len(b) < headerLen+8 {
			return 0, false, nil
		}
		if d.from == server {
			last := b[headerLen : headerLen+4]
			if binary.BigEndian.Uint32(last)&maxStreamID > s.refuseAbove {
				// The client was told less already, and may not be told more.
				binary.BigEndian.PutUint32(last, s.refuseAbove)
			}
			s.goneAway(binary.BigEndian.Uint32(last)&maxStreamID, now)
		}
		d.skip(f, 8, s.answering)
		return headerLen + 8, s.answering, nil
	case f.kind > frameContinuation:
		d.skip(f, 0, s.answering)
		return headerLen, s.answering, d.charge(f)
	case len(b) < f.size():
		return 0, false, nil
	}
	fail = d.control(f, b[headerLen:f.size()], now)
	if s.answering {
		d.answerControl(f, b[headerLen:f.size()])
	}
	return f.size(), s.answering, fail
}

// skip lets the payload of f go by, but for the n bytes that were read.
func (d *direction) skip(f frame, n uint32, drop bool) {
	d.passing, d.left, d.dropping = f, f.length-n, drop
}

// check judges a frame by its header.
func (d *direction) check(f frame) *failure {
	if !d.settled && (f.kind != frameSettings || f.has(flagAck)) {
		return d.fail(codeProtocol, 0, "a frame before its SETTINGS")
	}
	d.settled = true
	if f.length > d.maxFrame {
		return d.fail(codeFrameSize, f.stream, "a frame of "+strconv.Itoa(int(f.length))+
			" bytes where the other side allows "+strconv.Itoa(int(d.maxFrame)))
	}
	wrong := false
	switch f.kind {
	case framePush:
		return d.fail(codeProtocol, f.stream, "PUSH_PROMISE, which is not relayed")
	case frameContinuation:
		return d.fail(codeProtocol, f.stream, "CONTINUATION without HEADERS")
	case framePriority:
		wrong = f.length != 5
	case frameReset, frameWindow:
		wrong = f.length != 4
	case framePing:
		wrong = f.length != 8
	case frameGoAway:
		wrong = f.length < 8
	case frameSettings:
		wrong = f.length%6 != 0 || f.has(flagAck) && f.length > 0
		if f.length > maxSettings {
			return d.fail(codeCalm, f.stream, "SETTINGS with too many settings")
		}
	}
	if wrong {
		return d.fail(codeFrameSize, f.stream, "a frame of type "+strconv.Itoa(int(f.kind))+
			" with a payload of "+strconv.Itoa(int(f.length))+" bytes")
	}
	return d.checkStream(f)
}

// checkStream judges a frame's stream identifier.
func (d *direction) checkStream(f frame) *failure {
	ok := true
	switch f.kind {
	case frameSettings, framePing, frameGoAway:
		ok = f.stream == 0
	case framePriority:
		return nil // allowed on idle streams; on 0 it is the receiver's to judge
	case frameWindow:
		ok = f.stream == 0 || f.stream&1 == 1 && f.stream <= d.s.maxID
	case frameHeaders:
		ok = f.stream&1 == 1 && (d.from == client || f.stream <= d.s.maxID)
	case frameData, frameReset:
		ok = f.stream&1 == 1 && f.stream <= d.s.maxID
	}
	if ok {
		return nil
	}
	return d.fail(codeProtocol, 0, "a frame of type "+strconv.Itoa(int(f.kind))+
		" on stream "+strconv.Itoa(int(f.stream))+", which is not open")
}

// data takes a DATA frame, or any frame of a stream that was refused.
func (d *direction) data(f frame, refused bool, now time.Time) (n int, drop bool, fail *failure) {
	s := d.s
	drop = refused || s.answering
	d.skip(f, 0, drop)
	if f.length == 0 && !f.has(flagEndStream) {
		fail = d.charge(f)
	}
	if drop {
		if f.kind == frameData && f.length > 0 {
			// The server will not give back what it never saw.
			d.reply = appendWindow(d.reply, f.length)
		}
		return headerLen, true, fail
	}
	if f.length > 0 {
		s.credit(dataCredit)
	}
	if st := s.streams.get(f.stream); st != nil {
		d.count(st, headerLen)
		if f.length == 0 && f.has(flagEndStream) {
			s.ended(d.from, st, now)
		}
	}
	return headerLen, false, fail
}

// control takes a frame of a known type that is all there.
func (d *direction) control(f frame, payload []byte, now time.Time) *failure {
	s := d.s
	switch f.kind {
	case frameReset:
		st := s.streams.get(f.stream)
		if st == nil {
			return d.charge(f)
		}
		code := errorCode(binary.BigEndian.Uint32(payload))
		if !st.serverDone {
			if fail := d.chargeReset(f, code); fail != nil {
				return fail
			}
		}
		s.reset(d.from, st, code, now)
		return nil
	case frameSettings:
		if f.has(flagAck) {
			return nil
		}
		if fail := d.settings(payload); fail != nil {
			return fail
		}
	case framePing:
		if f.has(flagAck) {
			return nil
		}
	}
	return d.charge(f)
}

// settings follows what the sender announces to take. Both directions stay at
// the largest value that was announced: until it is acknowledged either may be
// used, and the receiver judges by what it knows.
func (d *direction) settings(payload []byte) *failure {
	opposite := &d.s.dirs[1-d.from]
	for ; len(payload) >= 6; payload = payload[6:] {
		value := binary.BigEndian.Uint32(payload[2:])
		switch binary.BigEndian.Uint16(payload) {
		case settingTableSize:
			if value > maxTable {
				value = maxTable
				binary.BigEndian.PutUint32(payload[2:], value)
			}
			opposite.hpack.limit = max(opposite.hpack.limit, value)
		case settingFrameSize:
			if value < minFrameSize || value > maxFrameSize {
				return d.fail(codeProtocol, 0, "a SETTINGS_MAX_FRAME_SIZE out of range")
			}
			opposite.maxFrame = max(opposite.maxFrame, value)
		}
	}
	return nil
}

// response takes a header block of the server.
func (d *direction) response(f frame, size int, now time.Time) {
	s := d.s
	s.credit(dataCredit)
	st := s.streams.get(f.stream)
	if st == nil {
		return
	}
	d.count(st, size)
	if h := s.head; h.status >= 200 && st.status == 0 {
		st.status = h.status
		st.latency = max(1, now.Sub(st.start))
	}
	if s.head.grpcStatus != event.NoGRPCStatus {
		st.grpcStatus = s.head.grpcStatus
	}
	if f.has(flagEndStream) {
		s.ended(server, st, now)
	}
}
