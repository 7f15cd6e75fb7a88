package http2

import (
	"errors"
	"time"

	"github.com/weirmesh/weir/event"
)

// headers takes a HEADERS frame and the CONTINUATION frames that follow it, as
// soon as all of them are there.
func (d *direction) headers(f frame, b []byte, now time.Time) (n int, drop bool, fail *failure) {
	n, block, fail := d.headBlock(f, b)
	if n == 0 || fail != nil {
		return 0, false, fail
	}
	switch err := d.decode(block, false); {
	case err == nil:
	case errors.Is(err, errListTooLong):
		return 0, false, d.tooLong(f)
	default:
		return 0, false, d.fail(codeCompression, f.stream, "a header block that is no valid HPACK")
	}
	if d.from == server {
		d.response(f, n, now)
		return n, false, nil
	}
	return n, d.request(f, n, now), nil
}

// headBlock finds the header block that begins with f at the start of b. n is
// the length of its frames, 0 where they are not all there.
func (d *direction) headBlock(f frame, b []byte) (n int, block []byte, fail *failure) {
	first := f
	total, frames := 0, 0
	for next := f; ; { // find the end before anything is copied
		total += int(next.length)
		if total > d.s.maxHead+256+5 {
			return 0, nil, d.tooLong(first)
		}
		if len(b) < n+next.size() {
			return 0, nil, nil
		}
		n += next.size()
		if next.has(flagEndHeaders) {
			break
		}
		if frames++; frames > maxContinuations {
			return 0, nil, d.fail(codeCalm, first.stream, "too many CONTINUATION frames")
		}
		if len(b) < n+headerLen {
			return 0, nil, nil
		}
		next = parseFrame(b[n:])
		if next.kind != frameContinuation || next.stream != first.stream {
			return 0, nil, d.fail(codeProtocol, first.stream, "another frame inside a header block")
		}
		if next.length > d.maxFrame {
			return 0, nil, d.fail(codeFrameSize, first.stream, "a CONTINUATION that is too long")
		}
	}
	block, ok := fragment(first, b[headerLen:first.size()])
	if !ok {
		return 0, nil, d.fail(codeProtocol, first.stream, "HEADERS with more padding than payload")
	}
	if frames == 0 {
		return n, block, nil
	}
	d.block = append(d.block[:0], block...)
	for at := first.size(); at < n; {
		next := parseFrame(b[at:])
		d.block = append(d.block, b[at+headerLen:at+next.size()]...)
		at += next.size()
	}
	block = d.block
	if cap(d.block) > bufferSize {
		d.block = nil
	}
	return n, block, nil
}

// tooLong is the failure of a head over the bound.
func (d *direction) tooLong(f frame) *failure {
	fail := d.fail(codeCalm, f.stream, "a header block larger than the proxy allows")
	fail.reason = event.ErrHeadTooLarge
	return fail
}

// request takes a header block of the client, size bytes of frames: that of a
// new stream, or trailers. It tells whether to keep it from the server.
func (d *direction) request(f frame, size int, now time.Time) (drop bool) {
	s := d.s
	s.credit(dataCredit)
	st := s.streams.get(f.stream)
	if st == nil && f.stream > s.maxID {
		if s.streams.count >= maxStreams && s.refuseAbove == maxStreamID {
			s.refuseFrom(event.ErrLimit, event.Refused)
			d.reply = appendGoAway(d.reply, s.refuseAbove, codeNone, "too many streams on one connection")
		}
		s.maxID = f.stream
		st = s.open(f.stream, d.in.since)
		d.count(st, size)
		switch {
		case f.stream > s.refuseAbove:
			d.reply = appendReset(d.reply, f.stream, codeRefused)
			d.transcode = true
			s.finish(st, s.refuseReason, s.refuseFate, now)
			return true
		case s.answering:
			d.answer(f, st, now)
			return true
		case f.stream > s.goAway:
			// The server will take no notice; it needs the block for HPACK.
			s.finish(st, event.ErrGoAway, 0, now)
			st = nil
		}
	} else if st != nil {
		d.count(st, size)
	} else if f.stream > s.refuseAbove {
		d.transcode = true // trailers of a stream that the server never saw
		return true
	}
	if s.answering {
		return true
	}
	if st != nil && f.has(flagEndStream) {
		s.ended(client, st, now)
	}
	if !d.transcode {
		return false
	}
	d.literalBlock(f)
	return true
}

// literalBlock puts the block just decoded in place of the one that came, all
// of it literal, the first time with the server's table emptied.
func (d *direction) literalBlock(f frame) {
	block := d.s.head.literal
	if !d.emptied {
		d.emptied = true
		block = append([]byte{0x20}, block...)
	}
	d.insert = appendHeaders(d.insert[:0], f.stream, f.flags&flagEndStream, block)
}

// refuseFrom refuses all streams that are not yet there, and ends the session
// when those that are have ended.
func (s *session) refuseFrom(reason string, fate event.Fate) {
	s.refuseAbove = min(s.maxID, s.goAway)
	s.refuseReason, s.refuseFate = reason, fate
	s.closing = true
}
