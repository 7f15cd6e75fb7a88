package http2_test

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"github.com/weirmesh/weir/event"
)

// rawBalancer is a balancer to one raw server.
type rawBalancer struct {
	*balancer
	t testing.TB
	l net.Listener
}

func newRawBalancer(t testing.TB) *rawBalancer {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return &rawBalancer{balancer: balanceTo(t, l.Addr().String()), t: t, l: l}
}

// client connects a client that has said its settings.
func (b *rawBalancer) client(settings ...xhttp2.Setting) *peer {
	b.t.Helper()
	conn, err := net.Dial("tcp", b.addr)
	if err != nil {
		b.t.Fatal(err)
	}
	p := newPeer(b.t, conn)
	_, err = io.WriteString(conn, xhttp2.ClientPreface)
	p.ok(err)
	p.ok(p.WriteSettings(settings...))
	return p
}

// server accepts the balancer's connection and says its settings.
func (b *rawBalancer) server(settings ...xhttp2.Setting) *peer {
	b.t.Helper()
	conn, err := b.l.Accept()
	if err != nil {
		b.t.Fatal(err)
	}
	p := newPeer(b.t, conn)
	_, err = io.ReadFull(conn, make([]byte, len(xhttp2.ClientPreface)))
	p.ok(err)
	p.ok(p.WriteSettings(settings...))
	return p
}

// frame reads the next frame that says something of streams.
func (p *peer) frame() xhttp2.Frame {
	p.t.Helper()
	for {
		f := p.next()
		if w, ok := f.(*xhttp2.WindowUpdateFrame); ok && w.StreamID == 0 {
			continue
		}
		return f
	}
}

// head reads a HEADERS frame.
func (p *peer) head() *xhttp2.MetaHeadersFrame {
	p.t.Helper()
	f, ok := p.frame().(*xhttp2.MetaHeadersFrame)
	if !ok {
		p.t.Fatalf("got %v, want HEADERS", f)
	}
	return f
}

// headOf reads a HEADERS frame of a stream.
func (p *peer) headOf(id uint32) *xhttp2.MetaHeadersFrame {
	p.t.Helper()
	f := p.head()
	if f.StreamID != id {
		p.t.Fatalf("got %v, want HEADERS of %d", f, id)
	}
	return f
}

// data reads n bytes of DATA, in frames of at most most, and tells whether they
// ended the stream.
func (p *peer) data(id uint32, n, most int) (body []byte, end bool) {
	p.t.Helper()
	for len(body) < n {
		f, ok := p.frame().(*xhttp2.DataFrame)
		if !ok || f.StreamID != id || len(f.Data()) > most {
			p.t.Fatalf("got %v, want at most %d bytes of DATA of %d", f, most, id)
		}
		body = append(body, f.Data()...)
		end = f.StreamEnded()
	}
	return body, end
}

// TestOutboundTinyWindows has both peers allow 10 bytes at a time.
func TestOutboundTinyWindows(t *testing.T) {
	b := newRawBalancer(t)
	tiny := xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 10}
	c := b.client(tiny)
	c.request(1, false)
	s := b.server(tiny)
	head := s.head()
	body := bytes.Repeat([]byte("0123456789abcdef"), 20)
	c.ok(c.WriteDataPadded(1, true, body, make([]byte, 30)))
	forward := func(to *peer, id uint32) {
		t.Helper()
		var got []byte
		for end := false; !end; {
			var piece []byte
			piece, end = to.data(id, min(10, len(body)-len(got)), 10)
			got = append(got, piece...)
			to.ok(to.WriteWindowUpdate(id, 10))
		}
		if !bytes.Equal(got, body) {
			t.Fatalf("got %q", got)
		}
	}
	// The balancer may have sent before it knew the server's window.
	if first, _ := s.frame().(*xhttp2.DataFrame); first == nil || len(first.Data()) != len(body) && len(first.Data()) != 10 {
		t.Fatalf("got %v", first)
	} else if len(first.Data()) == 10 {
		s.ok(s.WriteWindowUpdate(head.StreamID, uint32(len(body))))
		s.data(head.StreamID, len(body)-10, len(body))
	}
	s.respond(head.StreamID, false, ":status", "200")
	s.ok(s.WriteData(head.StreamID, true, body))
	c.headOf(1)
	forward(c, 1)
	if e := b.wait(t, 1)[0]; e.Error != "" || e.Status != 200 {
		t.Errorf("wrong event %+v", e)
	}
}

// TestOutboundWindowChange lowers a window below zero and raises it again.
func TestOutboundWindowChange(t *testing.T) {
	b := newRawBalancer(t)
	c := b.client(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 100})
	c.request(1, true)
	s := b.server()
	id := s.head().StreamID
	s.respond(id, false, ":status", "200")
	s.ok(s.WriteData(id, false, make([]byte, 300)))
	c.headOf(1)
	c.data(1, 100, 100)
	c.ok(c.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 50}))
	c.ok(c.WriteWindowUpdate(1, 50))
	c.ok(c.WriteWindowUpdate(1, 30))
	c.data(1, 30, 30)
	c.ok(c.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 1000}))
	c.data(1, 170, 170)
	s.respond(id, true, "x-trailer", "end")
	if f := c.headOf(1); !f.StreamEnded() {
		t.Error("no end")
	}
	b.wait(t, 1)
}

// TestOutboundOverflow has a client send more than a stream's window: the
// stream ends, and another goes on.
func TestOutboundOverflow(t *testing.T) {
	b := newRawBalancer(t)
	c := b.client()
	c.request(1, false)
	s := b.server(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 0})
	s.ok(s.WritePing(false, [8]byte{}))
	id := s.head().StreamID
	for {
		if f, ok := s.frame().(*xhttp2.PingFrame); ok && f.IsAck() {
			break // it knows the window
		}
	}
	for range 5 {
		c.ok(c.WriteData(1, false, make([]byte, 16384)))
	}
	c.resetOf(1, xhttp2.ErrCodeFlowControl)
	c.request(3, true)
	other := s.frame()
	if r, ok := other.(*xhttp2.RSTStreamFrame); !ok || r.StreamID != id {
		t.Fatalf("got %v", other)
	}
	s.respond(s.head().StreamID, true, ":status", "204")
	c.headOf(3)
	if e := b.wait(t, 2)[0]; e.Error != event.ErrMalformed || e.Fate != event.Refused {
		t.Errorf("wrong event %+v", e)
	}
}

// TestOutboundSlowReader has a client that does not take a response: the server
// is not let send more than two windows of it, one on its way to the client and
// one held, and another client's stream of the same connection goes on.
func TestOutboundSlowReader(t *testing.T) {
	b := newRawBalancer(t)
	slow := b.client()
	slow.request(1, true)
	s := b.server()
	id := s.head().StreamID
	s.respond(id, false, ":status", "200")
	sent, allowed := 0, 65535
	for sent < allowed {
		for sent < allowed {
			n := min(16384, allowed-sent)
			s.ok(s.WriteData(id, false, make([]byte, n)))
			sent += n
		}
		s.ok(s.WritePing(false, [8]byte{}))
		for acked := false; !acked; {
			switch f := s.frame().(type) {
			case *xhttp2.WindowUpdateFrame:
				allowed += int(f.Increment)
			case *xhttp2.PingFrame:
				acked = true
			}
		}
	}
	if sent > 2*65535 {
		t.Errorf("the server could send %d bytes that nobody takes", sent)
	}
	quick := b.client()
	quick.request(1, true)
	other := s.head().StreamID
	s.respond(other, false, ":status", "200")
	s.ok(s.WriteData(other, true, make([]byte, 1000)))
	quick.headOf(1)
	quick.data(1, 1000, 1000)

	s.respond(id, true, "x-trailer", "end")
	slow.headOf(1)
	slow.data(1, 65535, 16384)
	slow.ok(slow.WriteWindowUpdate(0, 1<<20))
	slow.ok(slow.WriteWindowUpdate(1, 1<<20))
	slow.data(1, sent-65535, 16384)
	if !slow.headOf(1).StreamEnded() {
		t.Error("no end")
	}
	b.wait(t, 2)
}

// TestOutboundResets passes RST_STREAM on, both ways.
func TestOutboundResets(t *testing.T) {
	b := newRawBalancer(t)
	c := b.client()
	c.request(1, false)
	s := b.server()
	id := s.head().StreamID
	c.ok(c.WriteRSTStream(1, xhttp2.ErrCodeCancel))
	if f, ok := s.frame().(*xhttp2.RSTStreamFrame); !ok || f.StreamID != id || f.ErrCode != xhttp2.ErrCodeCancel {
		t.Fatalf("got %v", f)
	}
	if e := b.wait(t, 1)[0]; e.Error != event.ErrClientReset {
		t.Errorf("wrong event %+v", e)
	}
	c.request(3, false)
	id = s.head().StreamID
	s.ok(s.WriteRSTStream(id, xhttp2.ErrCodeEnhanceYourCalm))
	c.resetOf(3, xhttp2.ErrCodeEnhanceYourCalm)
	if e := b.wait(t, 2)[1]; e.Error != event.ErrServerReset {
		t.Errorf("wrong event %+v", e)
	}
	// The response is whole, and the rest of the request of no interest.
	c.request(5, false)
	id = s.head().StreamID
	s.respond(id, true, ":status", "200")
	s.ok(s.WriteRSTStream(id, xhttp2.ErrCodeNo))
	c.headOf(5)
	c.resetOf(5, xhttp2.ErrCodeNo)
	if e := b.wait(t, 3)[2]; e.Error != "" || e.Status != 200 {
		t.Errorf("wrong event %+v", e)
	}
	b.idle(t)
}

// resetOf reads a RST_STREAM, past updates of windows.
func (p *peer) resetOf(id uint32, code xhttp2.ErrCode) {
	p.t.Helper()
	f, ok := p.frame().(*xhttp2.RSTStreamFrame)
	if !ok || f.StreamID != id || f.ErrCode != code {
		p.t.Fatalf("got %v, want RST_STREAM of %d with %v", f, id, code)
	}
}

// TestOutboundRefused has a stream refused, and one that GOAWAY leaves out, go
// again.
func TestOutboundRefused(t *testing.T) {
	b := newRawBalancer(t)
	c := b.client()
	c.request(1, false, "x-again", "yes")
	c.ok(c.WriteData(1, true, []byte("body")))
	s := b.server()
	id := s.head().StreamID
	s.data(id, 4, 4)
	s.ok(s.WriteRSTStream(id, xhttp2.ErrCodeRefusedStream))
	again := s.head()
	if body, end := s.data(again.StreamID, 4, 4); string(body) != "body" || !end {
		t.Errorf("got %q, %v", body, end)
	}
	s.ok(s.WriteGoAway(id, xhttp2.ErrCodeNo, nil))
	s2 := b.server()
	last := s2.head()
	if last.RegularFields()[0].Name != "x-again" {
		t.Errorf("got %v", last.Fields)
	}
	if body, end := s2.data(last.StreamID, 4, 4); string(body) != "body" || !end {
		t.Errorf("got %q, %v", body, end)
	}
	s2.respond(last.StreamID, true, ":status", "200")
	c.headOf(1)
	e := b.wait(t, 1)[0]
	if e.Attempt != 2 || e.Fate != event.Retried || e.Error != "" || b.set.Retries() != 2 {
		t.Errorf("wrong event %+v", e)
	}
	s.closed() // nothing is left on it
}

// TestOutboundMalformed resets streams whose requests are not valid, and the
// server sees nothing of them.
func TestOutboundMalformed(t *testing.T) {
	b := newRawBalancer(t)
	c := b.client()
	id := uint32(1)
	f := func(name string, fields ...string) {
		t.Helper()
		c.ok(c.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, EndStream: true, EndHeaders: true, BlockFragment: c.block(fields...)}))
		c.resetOf(id, xhttp2.ErrCodeProtocol)
		if e := b.wait(t, int(id+1)/2)[id/2]; e.Error != event.ErrMalformed || e.Fate != event.Refused {
			t.Errorf("%s: wrong event %+v", name, e)
		}
		id += 2
	}
	valid := []string{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a"}
	with := func(more ...string) []string { return append(append([]string(nil), valid...), more...) }
	f("upper case", with("X-Upper", "1")...)
	f("connection", with("connection", "close")...)
	f("te", with("te", "gzip")...)
	f("late pseudo", with("x", "1", ":path", "/")...)
	f("twice", with(":path", "/")...)
	f("no path", ":method", "GET", ":scheme", "http")
	f("status", with(":status", "200")...)
	f("unknown pseudo", with(":foo", "1")...)
	f("line break", with("x", "a\r\nb")...)
	f("length", with("content-length", "5")...)
	f("lengths", with("content-length", "0", "content-length", "1")...)
	f("empty path", ":method", "GET", ":scheme", "http", ":path", "")
	if b.dials.Load() != 0 {
		t.Error("a server was asked")
	}
}

// TestOutboundHostile has clients end for what they do, each with GOAWAY.
func TestOutboundHostile(t *testing.T) {
	_, addr := grpcServer(t)
	f := func(name string, code xhttp2.ErrCode, attack func(c *peer)) {
		t.Run(name, func(t *testing.T) {
			b := &rawBalancer{balancer: balanceTo(t, addr), t: t}
			c := b.client()
			var reading sync.WaitGroup
			got := xhttp2.ErrCode(1 << 30)
			reading.Go(func() {
				for {
					f, err := c.ReadFrame()
					if err != nil {
						return
					}
					if g, ok := f.(*xhttp2.GoAwayFrame); ok {
						got = g.ErrCode
					}
				}
			})
			attack(c)
			reading.Wait()
			if got != code {
				t.Errorf("got %v, want %v", got, code)
			}
			b.idle(t)
			for _, e := range b.all() {
				if e.Kind != event.End {
					t.Errorf("wrong event %+v", e)
				}
			}
		})
	}
	until := func(c *peer, do func(i int) error) {
		late := time.Now().Add(patience)
		for i := 0; do(i) == nil && time.Now().Before(late); i++ {
		}
	}
	f("rapid reset", xhttp2.ErrCodeEnhanceYourCalm, func(c *peer) {
		until(c, func(i int) error {
			id := uint32(2*i + 1)
			_ = c.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, EndHeaders: true,
				BlockFragment: c.block(":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a")})
			return c.WriteRSTStream(id, xhttp2.ErrCodeCancel)
		})
	})
	f("pings", xhttp2.ErrCodeEnhanceYourCalm, func(c *peer) {
		until(c, func(int) error { return c.WritePing(false, [8]byte{}) })
	})
	f("settings", xhttp2.ErrCodeEnhanceYourCalm, func(c *peer) {
		until(c, func(int) error { return c.WriteSettings() })
	})
	f("continuation", xhttp2.ErrCodeEnhanceYourCalm, func(c *peer) {
		_ = c.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: c.block(":method", "GET")})
		until(c, func(int) error { return c.WriteContinuation(1, false, nil) })
	})
	f("window", xhttp2.ErrCodeFlowControl, func(c *peer) {
		_ = c.WriteWindowUpdate(0, 1<<31-1)
	})
	f("data of no stream", xhttp2.ErrCodeProtocol, func(c *peer) {
		c.request(1, false)
		until(c, func(int) error { return c.WriteData(3, false, nil) })
	})
	f("hpack", xhttp2.ErrCodeCompression, func(c *peer) {
		_ = c.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: []byte{0xff, 0xff, 0xff, 0xff, 0xff}})
	})
	f("even stream", xhttp2.ErrCodeProtocol, func(c *peer) {
		_ = c.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 2, EndHeaders: true, BlockFragment: c.block(":method", "GET")})
	})
}
