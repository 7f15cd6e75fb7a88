package http2_test

import (
	"testing"

	xhttp2 "golang.org/x/net/http2"
)

// TestOutboundLateFrames sends on streams that are over: what cannot know that
// yet is let pass, what can is a connection error.
func TestOutboundLateFrames(t *testing.T) {
	data := func(c *peer) { c.ok(c.WriteData(1, true, []byte("late"))) }
	head := func(c *peer) { c.request(1, true) }
	f := func(name string, server func(s *peer, id uint32), late func(c *peer), want xhttp2.ErrCode) {
		t.Run(name, func(t *testing.T) {
			b := newRawBalancer(t)
			c := b.client()
			c.request(1, want != xhttp2.ErrCodeNo)
			s := b.server()
			server(s, s.head().StreamID)
			for over := false; !over; {
				switch fr := c.frame().(type) {
				case *xhttp2.MetaHeadersFrame:
					over = fr.StreamEnded()
				case *xhttp2.RSTStreamFrame:
					over = true
				}
			}
			late(c)
			if want == xhttp2.ErrCodeNo {
				c.ok(c.WritePing(false, [8]byte{1}))
				c.skipTo(xhttp2.FramePing)
				return
			}
			if g := c.skipTo(xhttp2.FrameGoAway).(*xhttp2.GoAwayFrame); g.ErrCode != want {
				t.Errorf("got %v", g)
			}
			c.closed()
		})
	}
	answer := func(s *peer, id uint32) { s.respond(id, true, ":status", "200") }
	reset := func(s *peer, id uint32) { s.ok(s.WriteRSTStream(id, xhttp2.ErrCodeInternal)) }
	f("data after the answer", answer, data, xhttp2.ErrCodeStreamClosed)
	f("head after the answer", answer, head, xhttp2.ErrCodeStreamClosed)
	f("data after a reset", reset, data, xhttp2.ErrCodeNo)
	f("priority by itself", answer, func(c *peer) { c.ok(c.WritePriority(3, xhttp2.PriorityParam{StreamDep: 3})) }, xhttp2.ErrCodeProtocol)
	f("head by itself", answer, func(c *peer) {
		c.ok(c.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 3, BlockFragment: []byte{0x82, 0x86, 0x84}, EndHeaders: true, EndStream: true,
			PadLength: 2, Priority: xhttp2.PriorityParam{StreamDep: 3}}))
	}, xhttp2.ErrCodeProtocol)
}
