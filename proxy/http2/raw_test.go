package http2_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/relay"
)

// peer speaks raw frames.
type peer struct {
	*xhttp2.Framer
	t    testing.TB
	conn net.Conn
	buf  bytes.Buffer
	enc  *hpack.Encoder
}

func newPeer(t testing.TB, conn net.Conn) *peer {
	p := &peer{Framer: xhttp2.NewFramer(conn, conn), t: t, conn: conn}
	p.AllowIllegalWrites = true
	p.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	p.enc = hpack.NewEncoder(&p.buf)
	_ = conn.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { _ = conn.Close() })
	return p
}

// block encodes fields given as name, value, name, value.
func (p *peer) block(fields ...string) []byte {
	p.buf.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = p.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(p.buf.Bytes())
}

// request opens a stream.
func (p *peer) request(id uint32, end bool, more ...string) {
	p.t.Helper()
	p.ok(p.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, EndStream: end, EndHeaders: true,
		BlockFragment: p.block(append([]string{":method", "GET", ":scheme", "http", ":path", "/raw", ":authority", "a"}, more...)...)}))
}

// respond answers one.
func (p *peer) respond(id uint32, end bool, fields ...string) {
	p.t.Helper()
	p.ok(p.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, EndStream: end, EndHeaders: true, BlockFragment: p.block(fields...)}))
}

func (p *peer) ok(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// next reads the next frame that is no SETTINGS.
func (p *peer) next() xhttp2.Frame {
	p.t.Helper()
	for {
		f, err := p.ReadFrame()
		if err != nil {
			p.t.Fatalf("cannot read a frame: %v", err)
		}
		if _, ok := f.(*xhttp2.SettingsFrame); !ok {
			return f
		}
	}
}

// headers reads a HEADERS frame of a stream.
func (p *peer) headers(id uint32) *xhttp2.MetaHeadersFrame {
	p.t.Helper()
	f, ok := p.next().(*xhttp2.MetaHeadersFrame)
	if !ok || f.StreamID != id {
		p.t.Fatalf("got another frame than HEADERS of stream %d: %v", id, f)
	}
	return f
}

// reset reads a RST_STREAM.
func (p *peer) reset(id uint32, code xhttp2.ErrCode) {
	p.t.Helper()
	f := p.next()
	if r, ok := f.(*xhttp2.RSTStreamFrame); !ok || r.StreamID != id || r.ErrCode != code {
		p.t.Fatalf("got %v, want RST_STREAM of %d with %v", f, id, code)
	}
}

// goAway reads a GOAWAY.
func (p *peer) goAway(last uint32, code xhttp2.ErrCode) string {
	p.t.Helper()
	f := p.next()
	g, ok := f.(*xhttp2.GoAwayFrame)
	if !ok || g.LastStreamID != last || g.ErrCode != code {
		p.t.Fatalf("got %v, want GOAWAY of %d with %v", f, last, code)
	}
	return string(g.DebugData())
}

// closed reads the end of the connection.
func (p *peer) closed() {
	p.t.Helper()
	for {
		f, err := p.ReadFrame()
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			p.t.Fatal("the connection stays open")
		}
		if err != nil {
			return
		}
		if f.Header().Type == xhttp2.FrameHeaders {
			p.t.Fatalf("got %v, want the end of the connection", f)
		}
	}
}

// rawPair connects two raw peers through the relay; both have had each
// other's SETTINGS.
func rawPair(t testing.TB, change func(*relay.Conn)) (c, s *peer, m *mesh) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	m = relayTo(t, l.Addr().String(), change)
	conn, err := net.Dial("tcp", m.addr)
	if err != nil {
		t.Fatal(err)
	}
	c = newPeer(t, conn)
	if conn, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	s = newPeer(t, conn)
	_, err = io.WriteString(c.conn, xhttp2.ClientPreface)
	c.ok(err)
	c.ok(c.WriteSettings())
	s.ok(s.WriteSettings())
	got := make([]byte, len(xhttp2.ClientPreface))
	if _, err := io.ReadFull(s.conn, got); err != nil || string(got) != xhttp2.ClientPreface {
		t.Fatalf("got preface %q, %v", got, err)
	}
	for _, p := range []*peer{c, s} {
		if f, err := p.ReadFrame(); err != nil || f.Header().Type != xhttp2.FrameSettings {
			t.Fatalf("got %v, %v, want SETTINGS", f, err)
		}
	}
	return c, s, m
}

// hostileClient lets a client send what the relay must refuse, while another
// stream is under way.
func hostileClient(t *testing.T, name string, code xhttp2.ErrCode, reason string, send func(c *peer)) {
	t.Run(name, func(t *testing.T) {
		c, s, m := rawPair(t, nil)
		c.request(1, false)
		s.headers(1)
		go func() { _, _ = io.Copy(io.Discard, s.conn) }()
		send(c)
		if text := c.goAway(1, code); !strings.HasPrefix(text, "the client sent ") {
			t.Errorf("the client is told %q", text)
		}
		c.closed()
		_ = c.conn.Close()
		m.ended(t)
		refused, streams := 0, 0
		for _, e := range m.recorder.events {
			if e.Kind != event.End || e.Error != reason {
				t.Errorf("wrong event %+v", e)
			}
			if e.Fate == event.Refused {
				refused++
			}
			if e.Stream == 1 {
				streams++
			}
		}
		if refused != 1 || streams != 1 || len(m.recorder.events) > 2 {
			t.Errorf("wrong events: %+v", m.recorder.events)
		}
	})
}

func TestHostileClient(t *testing.T) {
	f := func(name string, code xhttp2.ErrCode, reason string, send func(c *peer)) {
		hostileClient(t, name, code, reason, send)
	}
	raw := func(kind xhttp2.FrameType, flags xhttp2.Flags, id uint32, payload ...byte) func(*peer) {
		return func(c *peer) { c.ok(c.WriteRawFrame(kind, flags, id, payload)) }
	}
	const malformed = event.ErrMalformed
	protocol, size := xhttp2.ErrCodeProtocol, xhttp2.ErrCodeFrameSize
	f("even stream", protocol, malformed, func(c *peer) { c.request(2, true) })
	f("stream 0", protocol, malformed, func(c *peer) { c.request(0, true) })
	f("data on stream 0", protocol, malformed, raw(xhttp2.FrameData, 0, 0, 1))
	f("data on idle stream", protocol, malformed, raw(xhttp2.FrameData, 0, 7, 1))
	f("reset of idle stream", protocol, malformed, raw(xhttp2.FrameRSTStream, 0, 7, 0, 0, 0, 8))
	f("window of idle stream", protocol, malformed, raw(xhttp2.FrameWindowUpdate, 0, 7, 0, 0, 0, 8))
	f("settings on stream", protocol, malformed, raw(xhttp2.FrameSettings, 0, 1))
	f("ping on stream", protocol, malformed, raw(xhttp2.FramePing, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0))
	f("push", protocol, malformed, raw(xhttp2.FramePushPromise, 4, 1, 0, 0, 0, 2))
	f("continuation", protocol, malformed, raw(xhttp2.FrameContinuation, 4, 1, 0x82))
	f("headers then data", protocol, malformed, func(c *peer) {
		raw(xhttp2.FrameHeaders, 0, 3, 0x82)(c)
		raw(xhttp2.FrameData, 0, 1, 1)(c)
	})
	f("padding", protocol, malformed, raw(xhttp2.FrameHeaders, 0xc, 3, 9, 0x82))
	f("priority flag", protocol, malformed, raw(xhttp2.FrameHeaders, 0x24, 3, 0x82))
	f("frame size setting", protocol, malformed, raw(xhttp2.FrameSettings, 0, 0, 0, 5, 0, 0, 0, 1))
	f("ping size", size, malformed, raw(xhttp2.FramePing, 0, 0, 1))
	f("reset size", size, malformed, raw(xhttp2.FrameRSTStream, 0, 1, 1))
	f("window size", size, malformed, raw(xhttp2.FrameWindowUpdate, 0, 1, 1))
	f("priority size", size, malformed, raw(xhttp2.FramePriority, 0, 1, 1))
	f("settings size", size, malformed, raw(xhttp2.FrameSettings, 0, 0, 1))
	f("goaway size", size, malformed, raw(xhttp2.FrameGoAway, 0, 0, 1))
	f("data size", size, malformed, raw(xhttp2.FrameData, 0, 1, make([]byte, 16385)...))
	f("hpack", xhttp2.ErrCodeCompression, malformed, raw(xhttp2.FrameHeaders, 5, 3, 0xff, 0xff))
	calm := xhttp2.ErrCodeEnhanceYourCalm
	f("settings", calm, malformed, raw(xhttp2.FrameSettings, 0, 0, make([]byte, 6*600)...))
	f("ping flood", calm, malformed, flood(func(c *peer, i int) { _ = c.WritePing(false, [8]byte{}) }))
	f("settings flood", calm, malformed, flood(func(c *peer, i int) { _ = c.WriteSettings() }))
	f("empty data flood", calm, malformed, flood(func(c *peer, i int) { _ = c.WriteData(1, false, nil) }))
	f("window flood", calm, malformed, flood(func(c *peer, i int) { _ = c.WriteWindowUpdate(1, 1) }))
	f("unknown flood", calm, malformed, flood(func(c *peer, i int) { _ = c.WriteRawFrame(0xbe, 0, 0, nil) }))
	f("header bytes", calm, event.ErrHeadTooLarge, func(c *peer) {
		_ = c.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 3, BlockFragment: make([]byte, 16000)})
		for range 5 {
			_ = c.WriteContinuation(3, false, make([]byte, 16000))
		}
	})
	f("hpack bomb", calm, event.ErrHeadTooLarge, func(c *peer) {
		block := c.block("x", strings.Repeat("y", 3900))
		for range 40 {
			block = append(block, 0xbe)
		}
		_ = c.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 3, BlockFragment: block, EndHeaders: true})
	})
	f("continuation flood", calm, malformed, func(c *peer) {
		_ = c.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 3, BlockFragment: []byte{0x82}})
		for range 100 {
			_ = c.WriteContinuation(3, false, nil)
		}
	})
}

// flood writes more frames than may come in surplus.
func flood(write func(c *peer, i int)) func(*peer) {
	return func(c *peer) {
		var all bytes.Buffer
		to := &peer{Framer: xhttp2.NewFramer(&all, nil)}
		for i := range 6000 {
			write(to, i)
		}
		_, _ = c.conn.Write(all.Bytes())
	}
}

func TestRapidReset(t *testing.T) {
	c, s, m := rawPair(t, nil)
	go func() { _, _ = io.Copy(io.Discard, s.conn) }()
	go func() {
		for id := uint32(1); id < 6000; id += 2 {
			_ = c.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, EndStream: true, EndHeaders: true, BlockFragment: []byte{0x82, 0x84, 0x86}})
			_ = c.WriteRSTStream(id, xhttp2.ErrCodeCancel)
		}
	}()
	g, ok := c.next().(*xhttp2.GoAwayFrame)
	if !ok || g.ErrCode != xhttp2.ErrCodeEnhanceYourCalm {
		t.Fatalf("got %v", g)
	}
	_ = c.conn.Close()
	m.ended(t)
	if n := len(m.recorder.events); n < 1000 || n > 2999 {
		t.Errorf("%d streams passed", n)
	}
	for i, e := range m.recorder.events {
		if last := i == len(m.recorder.events)-1; e.Stream != uint32(i+1) || last != (e.Fate == event.Refused) {
			t.Fatalf("wrong event %d: %+v", i, e)
		}
	}
}

func TestNoPreface(t *testing.T) {
	m := relayTo(t, h2Server(t, &xhttp2.Server{}, nil), nil)
	conn, err := net.Dial("tcp", m.addr)
	if err != nil {
		t.Fatal(err)
	}
	c := newPeer(t, conn)
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	c.goAway(0, xhttp2.ErrCodeProtocol)
	_ = conn.Close()
	m.ended(t)
	if e := m.wait(t, 1)[0]; e.Error != event.ErrMalformed || e.Fate != event.Refused || e.Stream != 0 {
		t.Errorf("wrong event %+v", e)
	}
}

func TestHostileServer(t *testing.T) {
	f := func(name string, reason string, send func(s *peer)) {
		t.Run(name, func(t *testing.T) {
			c, s, m := rawPair(t, nil)
			c.request(1, false)
			s.headers(1)
			go func() { _, _ = io.Copy(io.Discard, s.conn) }()
			send(s)
			if text := c.goAway(1, xhttp2.ErrCodeInternal); !strings.HasPrefix(text, "the server sent ") {
				t.Errorf("the client is told %q", text)
			}
			c.closed()
			_ = c.conn.Close()
			m.ended(t)
			got := false
			for _, e := range m.wait(t, len(m.recorder.events)) {
				got = got || e.Stream == 1
				if e.Error != reason || e.Fate != 0 {
					t.Errorf("wrong event %+v", e)
				}
			}
			if !got {
				t.Error("no event of the stream")
			}
		})
	}
	raw := func(kind xhttp2.FrameType, flags xhttp2.Flags, id uint32, payload ...byte) func(*peer) {
		return func(s *peer) { s.ok(s.WriteRawFrame(kind, flags, id, payload)) }
	}
	const malformed = event.ErrMalformedServer
	f("push", malformed, raw(xhttp2.FramePushPromise, 4, 1, 0, 0, 0, 2, 0x82))
	f("headers of idle stream", malformed, func(s *peer) { s.respond(3, true, ":status", "200") })
	f("headers of even stream", malformed, func(s *peer) { s.respond(2, true, ":status", "200") })
	f("hpack", malformed, raw(xhttp2.FrameHeaders, 4, 1, 0xff, 0xff))
	f("data size", malformed, raw(xhttp2.FrameData, 0, 1, make([]byte, 16385)...))
	f("head", event.ErrHeadTooLarge, func(s *peer) {
		block := s.block("x", strings.Repeat("y", 3900))
		for range 40 {
			block = append(block, 0xbe)
		}
		_ = s.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndHeaders: true})
	})
}

// TestMadeReset has the server reset streams for the client's errors, which
// counts as if the client had reset them.
func TestMadeReset(t *testing.T) {
	c, s, m := rawPair(t, nil)
	go func() {
		for id := uint32(1); id < 4000; id += 2 {
			if c.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, EndStream: true, EndHeaders: true, BlockFragment: []byte{0x82, 0x84, 0x86}}) != nil {
				return
			}
			_ = c.WriteWindowUpdate(id, 0) // an error
		}
	}()
	go func() {
		for {
			f, err := s.ReadFrame()
			if err != nil && f == nil {
				var wrong xhttp2.StreamError
				if !errors.As(err, &wrong) {
					return
				}
				if s.WriteRSTStream(wrong.StreamID, xhttp2.ErrCodeProtocol) != nil {
					return
				}
			}
		}
	}()
	for {
		f := c.next()
		if g, ok := f.(*xhttp2.GoAwayFrame); ok {
			if g.ErrCode != xhttp2.ErrCodeEnhanceYourCalm {
				t.Errorf("got %v", g)
			}
			break
		}
	}
	_ = c.conn.Close()
	m.ended(t)
	resets, refused := 0, 0
	for _, e := range m.recorder.events {
		if e.Error == event.ErrServerReset {
			resets++
		}
		if e.Fate == event.Refused {
			refused++
		}
	}
	if resets < 1000 || refused != 1 {
		t.Errorf("%d resets, %d refused", resets, refused)
	}
}

// TestClientReset has the client's connection reset.
func TestClientReset(t *testing.T) {
	c, s, m := rawPair(t, nil)
	c.request(1, false)
	s.headers(1)
	c.ok(c.conn.(*net.TCPConn).SetLinger(0))
	_ = c.conn.Close()
	s.closed()
	m.ended(t)
	if e := m.wait(t, 1)[0]; e.Error != event.ErrClientReset {
		t.Errorf("wrong event %+v", e)
	}
}

// TestServerGone ends the server's connection inside a response.
func TestServerGone(t *testing.T) {
	for _, hard := range []bool{false, true} {
		c, s, m := rawPair(t, nil)
		c.request(1, true)
		s.headers(1)
		s.respond(1, false, ":status", "200")
		c.headers(1)
		want := event.ErrServerClosed
		if hard {
			want = event.ErrServerReset
			s.ok(s.conn.(*net.TCPConn).SetLinger(0))
		}
		_ = s.conn.Close()
		c.closed()
		_ = c.conn.Close()
		m.ended(t)
		if e := m.wait(t, 1)[0]; e.Error != want || e.Status != 200 {
			t.Errorf("wrong event %+v", e)
		}
	}
}
