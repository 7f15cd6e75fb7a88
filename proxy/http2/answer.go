package http2

import (
	"time"

	"github.com/weirmesh/weir/event"
)

// grpcUnavailable is the gRPC status where there is no server.
const grpcUnavailable = 14

// answer answers a request whose server could not be reached.
func (d *direction) answer(f frame, st *stream, now time.Time) {
	s := d.s
	s.answered = now
	reason := "cannot connect to server: " + s.c.DialError
	var block []byte
	if st.protocol == event.GRPC {
		st.status, st.grpcStatus = 200, grpcUnavailable
		block = append(block, 0x88) // :status 200
		block = appendField(block, bytesOf("content-type"), bytesOf("application/grpc"))
		block = appendField(block, bytesOf("grpc-status"), bytesOf("14"))
		block = appendField(block, bytesOf("grpc-message"), bytesOf(reason))
	} else {
		st.status = 502
		block = appendField(block, bytesOf(":status"), bytesOf("502"))
		block = appendField(block, bytesOf("content-length"), bytesOf("0"))
		block = appendField(block, bytesOf("weir-error"), bytesOf(reason))
	}
	before := len(d.reply)
	d.reply = appendHeaders(d.reply, st.id, flagEndStream, block)
	st.received += uint64(len(d.reply) - before)
	if !f.has(flagEndStream) {
		d.reply = appendReset(d.reply, st.id, codeNone)
	}
	s.finish(st, s.c.DialError, 0, now)
}

// answerControl answers the frames of a connection that has no server.
func (d *direction) answerControl(f frame, payload []byte) {
	if f.has(flagAck) {
		return
	}
	switch f.kind {
	case frameSettings:
		d.reply = appendFrame(d.reply, 0, frameSettings, flagAck, 0)
	case framePing:
		d.reply = append(appendFrame(d.reply, len(payload), framePing, flagAck, 0), payload...)
	}
}

// checkIdle ends a session without a server that has been idle for long, and
// says when to look again.
func (s *session) checkIdle() time.Duration {
	s.mu.Lock()
	left := answerIdle - time.Since(s.answered)
	s.mu.Unlock()
	if left > 0 {
		return left
	}
	s.stop(&cause{goAway: true, code: codeNone, text: "no server: " + s.c.DialError, linger: true})
	return answerIdle
}
