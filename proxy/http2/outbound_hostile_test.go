package http2_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/relay"
)

// rawClient is a raw client of the balancer that has had its SETTINGS.
func (b *balancer) rawClient(t testing.TB) *peer {
	t.Helper()
	conn, err := net.Dial("tcp", b.addr)
	if err != nil {
		t.Fatal(err)
	}
	c := newPeer(t, conn)
	_, err = io.WriteString(conn, xhttp2.ClientPreface)
	c.ok(err)
	c.ok(c.WriteSettings())
	return c
}

// rawServer is a listener whose connections greet turns into raw servers.
func rawServer(t testing.TB) (addr string, accept func() *peer) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String(), func() *peer {
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		s := newPeer(t, conn)
		got := make([]byte, len(xhttp2.ClientPreface))
		_, err = io.ReadFull(conn, got)
		s.ok(err)
		s.ok(s.WriteSettings())
		s.ok(s.WriteSettingsAck())
		return s
	}
}

// skipTo reads until a frame of the kind comes, or the connection's end.
func (p *peer) skipTo(kind xhttp2.FrameType) xhttp2.Frame {
	p.t.Helper()
	for {
		f, err := p.ReadFrame()
		if err != nil {
			p.t.Fatalf("no frame of type %s: %v", kind, err)
		}
		if f.Header().Type == kind {
			return f
		}
	}
}

// TestOutboundMadeReset has a client make the proxy reset its streams.
func TestOutboundMadeReset(t *testing.T) {
	for name, cause := range map[string]func(c *peer, id uint32){
		"window":      func(c *peer, id uint32) { _ = c.WriteWindowUpdate(id, 1<<31-1) },
		"zero window": func(c *peer, id uint32) { _ = c.WriteRawFrame(xhttp2.FrameWindowUpdate, 0, id, make([]byte, 4)) },
	} {
		t.Run(name, func(t *testing.T) {
			addr, accept := rawServer(t)
			b := balanceTo(t, addr)
			c := b.rawClient(t)
			go func() {
				for i := uint32(0); i < 6000; i++ {
					if c.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 2*i + 1, EndHeaders: true, BlockFragment: []byte{0x82, 0x86, 0x84, 0x41, 1, 'a'}}) != nil {
						return
					}
					cause(c, 2*i+1)
				}
				_ = c.WritePing(false, [8]byte{1})
			}()
			s := accept()
			go func() { _, _ = io.Copy(io.Discard, s.conn) }()
			for {
				f, err := c.ReadFrame()
				if err != nil {
					t.Fatal(err)
				}
				switch f := f.(type) {
				case *xhttp2.PingFrame:
					t.Fatal("6000 streams were reset, and the client goes on")
				case *xhttp2.GoAwayFrame:
					if f.ErrCode != xhttp2.ErrCodeEnhanceYourCalm {
						t.Fatal(f)
					}
					return
				}
			}
		})
	}
}

// TestOutboundClog has a client that reads nothing of many responses: another
// client of the same server is served.
func TestOutboundClog(t *testing.T) {
	var written atomic.Int64
	addr := h2Server(t, &xhttp2.Server{MaxConcurrentStreams: 1000}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for range 64 {
			n, err := w.Write(make([]byte, 16<<10))
			if err != nil {
				return
			}
			written.Add(int64(n))
		}
	}))
	b := balanceTo(t, addr)
	slow := b.rawClient(t)
	const streams = 200
	for i := range uint32(streams) {
		slow.request(2*i+1, true)
	}
	for late := time.Now().Add(patience); written.Load() < 4<<20; time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("the server could only write %d bytes", written.Load())
		}
	}
	c := h2Client(t)
	c.Timeout = patience
	for range 3 {
		res, err := c.Get("http://" + b.addr + "/")
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		if err != nil || n != 1<<20 {
			t.Fatalf("%d bytes, %v", n, err)
		}
	}
	_ = slow.conn.Close()
	b.wait(t, streams+3)
}

// TestOutboundInformational has a server send a client that does not read
// informational responses without end.
func TestOutboundInformational(t *testing.T) {
	addr, accept := rawServer(t)
	b := balanceTo(t, addr)
	c := b.rawClient(t)
	c.request(1, true)
	s := accept()
	s.skipTo(xhttp2.FrameHeaders)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	big := strings.Repeat("y", 15000)
	_ = s.conn.SetWriteDeadline(time.Now().Add(3 * time.Second))
	sent := 0
	for range 6000 { // 90 MB
		if s.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: s.block(":status", "103", "link", big)}) != nil {
			break
		}
		sent++
	}
	time.Sleep(200 * time.Millisecond)
	runtime.GC()
	runtime.ReadMemStats(&after)
	held := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	t.Logf("%d sent, %d KiB held", sent, held>>10)
	if held > 16<<20 {
		t.Errorf("%d MiB are held for a client that does not read", held>>20)
	}
	_ = c.conn.Close()
}

// TestOutboundHeads has a client send large heads to a server that takes none.
func TestOutboundHeads(t *testing.T) {
	addr, accept := rawServer(t)
	b := balanceTo(t, addr)
	c := b.rawClient(t)
	go func() { _, _ = io.Copy(io.Discard, c.conn) }()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	big := strings.Repeat("y", 15000)
	_ = c.conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
	for i := range uint32(2000) {
		b := c.block(":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a", "x-a", big, "x-b", big, "x-c", big)
		err := c.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: b[:16000]})
		for b = b[16000:]; len(b) > 0 && err == nil; b = b[min(len(b), 16000):] {
			err = c.WriteContinuation(2*i+1, len(b) <= 16000, b[:min(len(b), 16000)])
		}
		if err != nil {
			break
		}
	}
	_ = accept
	time.Sleep(500 * time.Millisecond)
	runtime.GC()
	runtime.ReadMemStats(&after)
	held := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	t.Logf("%d KiB held", held>>10)
	if held > 32<<20 {
		t.Errorf("%d MiB are held for one client", held>>20)
	}
	_ = c.conn.Close()
}

// TestOutboundHostileClient lets a client send what must be refused, while
// another stream is under way: the client gets GOAWAY, each stream one End, and
// the server's connection serves on.
func TestOutboundHostileClient(t *testing.T) {
	raw := func(kind xhttp2.FrameType, flags xhttp2.Flags, id uint32, payload ...byte) func(*peer) {
		return func(c *peer) { _ = c.WriteRawFrame(kind, flags, id, payload) }
	}
	protocol, size, calm := xhttp2.ErrCodeProtocol, xhttp2.ErrCodeFrameSize, xhttp2.ErrCodeEnhanceYourCalm
	for _, x := range []struct {
		name   string
		code   xhttp2.ErrCode
		reason string
		send   func(c *peer)
	}{
		{"even stream", protocol, event.ErrMalformed, func(c *peer) { c.request(2, true) }},
		{"data on idle stream", protocol, event.ErrMalformed, raw(xhttp2.FrameData, 0, 7, 1)},
		{"reset of idle stream", protocol, event.ErrMalformed, raw(xhttp2.FrameRSTStream, 0, 7, 0, 0, 0, 8)},
		{"push", protocol, event.ErrMalformed, raw(xhttp2.FramePushPromise, 4, 1, 0, 0, 0, 2)},
		{"continuation", protocol, event.ErrMalformed, raw(xhttp2.FrameContinuation, 4, 1, 0x82)},
		{"data padding", protocol, event.ErrMalformed, raw(xhttp2.FrameData, 8, 1, 9, 1)},
		{"ping size", size, event.ErrMalformed, raw(xhttp2.FramePing, 0, 0, 1)},
		{"data size", size, event.ErrMalformed, raw(xhttp2.FrameData, 0, 1, make([]byte, 16385)...)},
		{"window 0", protocol, event.ErrMalformed, raw(xhttp2.FrameWindowUpdate, 0, 0, 0, 0, 0, 0)},
		{"window overflow", xhttp2.ErrCodeFlowControl, event.ErrMalformed, raw(xhttp2.FrameWindowUpdate, 0, 0, 0x7f, 0xff, 0xff, 0xff)},
		{"initial window", xhttp2.ErrCodeFlowControl, event.ErrMalformed, raw(xhttp2.FrameSettings, 0, 0, 0, 4, 0xff, 0, 0, 0)},
		{"hpack", xhttp2.ErrCodeCompression, event.ErrMalformed, raw(xhttp2.FrameHeaders, 5, 3, 0xff, 0xff)},
		{"ping flood", calm, event.ErrMalformed, flood(func(c *peer, i int) { _ = c.WritePing(false, [8]byte{}) })},
		{"settings flood", calm, event.ErrMalformed, flood(func(c *peer, i int) { _ = c.WriteSettings() })},
		{"empty data flood", calm, event.ErrMalformed, flood(func(c *peer, i int) { _ = c.WriteData(1, false, nil) })},
		{"window flood", calm, event.ErrMalformed, flood(func(c *peer, i int) { _ = c.WriteWindowUpdate(1, 1) })},
		{"unknown flood", calm, event.ErrMalformed, flood(func(c *peer, i int) { _ = c.WriteRawFrame(0xbe, 0, 0, nil) })},
		{"continuation flood", calm, event.ErrMalformed, func(c *peer) {
			_ = c.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 3, BlockFragment: []byte{0x82}})
			for range 100 {
				_ = c.WriteContinuation(3, false, nil)
			}
		}},
		{"hpack bomb", calm, event.ErrHeadTooLarge, func(c *peer) {
			block := c.block("x", strings.Repeat("y", 3900))
			for range 40 {
				block = append(block, 0xbe)
			}
			_ = c.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 3, BlockFragment: block, EndHeaders: true})
		}},
		{"rapid reset", calm, event.ErrMalformed, rapidReset},
	} {
		t.Run(x.name, func(t *testing.T) {
			addr, accept := rawServer(t)
			b := balanceTo(t, addr)
			c := b.rawClient(t)
			c.request(1, false)
			s := accept()
			s.skipTo(xhttp2.FrameHeaders)
			go func() { _, _ = io.Copy(io.Discard, s.conn) }()
			go x.send(c)
			if g := c.skipTo(xhttp2.FrameGoAway).(*xhttp2.GoAwayFrame); g.ErrCode != x.code || !strings.HasPrefix(string(g.DebugData()), "the client sent ") {
				t.Errorf("got %v %q", g, g.DebugData())
			}
			c.closed()
			_ = c.conn.Close()
			b.idle(t)
			ones, refused := 0, 0
			for late := time.Now().Add(patience); (ones == 0 || refused == 0) && time.Now().Before(late); time.Sleep(5 * time.Millisecond) {
				ones, refused = 0, 0
				for _, e := range b.all() {
					if e.Peer.Addr.String() == addr && e.Path == "/raw" {
						ones++
					}
					if e.Fate&event.Refused != 0 && e.Error == x.reason {
						refused++
					}
				}
			}
			if ones != 1 || refused != 1 {
				t.Errorf("%d ends of the first stream, %d refusals: %d events", ones, refused, len(b.all()))
			}
		})
	}
}

// TestOutboundHostileServer has a server break the rules: the client gets an
// answer, one event says whose fault it was.
func TestOutboundHostileServer(t *testing.T) {
	for name, send := range map[string]func(s *peer, id uint32){
		"push":            func(s *peer, id uint32) { _ = s.WriteRawFrame(xhttp2.FramePushPromise, 4, id, []byte{0, 0, 0, 2}) },
		"data first":      func(s *peer, id uint32) { _ = s.WriteData(id, true, []byte("x")) },
		"no status":       func(s *peer, id uint32) { s.respond(id, true, "x", "y") },
		"connection":      func(s *peer, id uint32) { s.respond(id, true, ":status", "200", "connection", "close") },
		"upper case":      func(s *peer, id uint32) { s.respond(id, true, ":status", "200", "X", "y") },
		"line feed":       func(s *peer, id uint32) { s.respond(id, true, ":status", "200", "x", "y\nz: 1") },
		"ended informal":  func(s *peer, id uint32) { s.respond(id, true, ":status", "103") },
		"hpack":           func(s *peer, id uint32) { _ = s.WriteRawFrame(xhttp2.FrameHeaders, 5, id, []byte{0xff, 0xff}) },
		"frame size":      func(s *peer, id uint32) { _ = s.WriteRawFrame(xhttp2.FrameData, 0, id, make([]byte, 16385)) },
		"idle stream":     func(s *peer, id uint32) { s.respond(id+100, true, ":status", "200") },
		"window overflow": func(s *peer, id uint32) { _ = s.WriteWindowUpdate(0, 1<<31-1) },
		"ping flood":      flood2(func(s *peer) error { return s.WritePing(false, [8]byte{}) }),
		"garbage":         func(s *peer, id uint32) { _, _ = io.WriteString(s.conn, "HTTP/1.1 400 Bad Request\r\n\r\n") },
	} {
		t.Run(name, func(t *testing.T) {
			addr, accept := rawServer(t)
			b := balanceTo(t, addr)
			c := b.rawClient(t)
			c.request(1, true)
			s := accept()
			id := s.skipTo(xhttp2.FrameHeaders).Header().StreamID
			go func() { _, _ = io.Copy(io.Discard, s.conn) }()
			send(s, id)
			f := c.skipTo(xhttp2.FrameHeaders).(*xhttp2.MetaHeadersFrame)
			if f.PseudoValue("status") != "502" || !f.StreamEnded() {
				t.Errorf("the client got %v", f)
			}
			e := b.wait(t, 1)[0]
			if e.Error != event.ErrMalformedServer || e.Status != 502 || e.Peer.Addr.String() != addr {
				t.Errorf("wrong event %+v", e)
			}
			b.idle(t)
		})
	}
}

func rapidReset(c *peer) {
	for i := range uint32(6000) {
		if c.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 2*i + 3, EndHeaders: true, BlockFragment: []byte{0x82, 0x86, 0x84, 0x41, 1, 'a'}}) != nil || c.WriteRSTStream(2*i+3, 8) != nil {
			return
		}
	}
}

func flood2(write func(s *peer) error) func(*peer, uint32) {
	return func(s *peer, _ uint32) {
		for range 10000 {
			if write(s) != nil {
				return
			}
		}
	}
}

// TestOutboundHeadTimeout begins a header block and never ends it.
func TestOutboundHeadTimeout(t *testing.T) {
	addr, _ := rawServer(t)
	b := balanceTo(t, addr)
	near, far := pair(t)
	served := make(chan struct{})
	go func() {
		defer close(served)
		b.Serve(context.Background(), &relay.Conn{Client: far, Direction: event.Outbound, ID: 1, Accepted: time.Now(),
			Recorder: b.recorder, HeadTimeout: 200 * time.Millisecond})
	}()
	c := newPeer(t, near)
	_, err := io.WriteString(near, xhttp2.ClientPreface)
	c.ok(err)
	c.ok(c.WriteSettings())
	c.ok(c.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}}))
	if g := c.skipTo(xhttp2.FrameGoAway).(*xhttp2.GoAwayFrame); g.ErrCode != xhttp2.ErrCodeEnhanceYourCalm {
		t.Error(g)
	}
	c.closed()
	_ = near.Close()
	<-served
	if e := b.wait(t, 1)[0]; e.Error != relay.ReasonHeadTimeout || e.Fate != event.Refused|event.TimedOut {
		t.Errorf("wrong event %+v", e)
	}
}
