package http2_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"runtime"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/relay"
)

// wrapped hides that a connection is a socket, as TLS does.
type wrapped struct{ net.Conn }

// TestWrapped relays connections that cannot be waited for without reading.
func TestWrapped(t *testing.T) {
	wrap := func(c *relay.Conn) { c.Client, c.Server = wrapped{c.Client}, wrapped{c.Server} }
	m := relayTo(t, h2Server(t, &xhttp2.Server{}, http.HandlerFunc(echo)), wrap)
	client := h2Client(t)
	for _, size := range []int{0, 1, 470, 512, 513, 40000, 2 << 20} {
		want := bytes.Repeat([]byte("w"), size)
		if _, got := fetch(t, client, "POST", "http://"+m.addr+"/echo", bytes.NewReader(want)); !bytes.Equal(got, want) {
			t.Fatalf("got %d bytes, want %d", len(got), size)
		}
	}
	for _, e := range m.wait(t, 7) {
		if e.Error != "" || e.Status != 200 {
			t.Errorf("wrong event %+v", e)
		}
	}
	_, addr := grpcServer(t)
	m = relayTo(t, addr, wrap)
	cc := grpcClient(t, m.addr)
	for range 100 {
		if err := cc.Invoke(testContext(t), "/test.Echo/Unary", wrapperspb.String("x"), new(wrapperspb.StringValue)); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range m.wait(t, 100) {
		if codes.Code(e.GRPCStatus) != codes.OK || e.Error != "" {
			t.Errorf("wrong event %+v", e)
		}
	}
}

// TestStreamLimit opens more streams than the relay keeps state of.
func TestStreamLimit(t *testing.T) {
	const limit = 8192
	c, s, m := rawPair(t, nil)
	go func() { _, _ = io.Copy(io.Discard, s.conn) }()
	go func() {
		for i := range uint32(limit + 10) {
			_ = c.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 2*i + 1, EndStream: true, EndHeaders: true, BlockFragment: []byte{0x82, 0x84, 0x86}})
		}
	}()
	c.goAway(2*limit-1, xhttp2.ErrCodeNo)
	for i := range uint32(10) {
		c.reset(2*limit+1+2*i, xhttp2.ErrCodeRefusedStream)
	}
	for i, e := range m.wait(t, 10) {
		if e.Error != event.ErrLimit || e.Fate != event.Refused || e.Stream != uint32(limit+1+i) {
			t.Errorf("wrong event %+v", e)
		}
	}
	_ = c.conn.Close()
	m.ended(t)
	m.wait(t, limit+10)
}

// TestSlowReader sends to a client that does not read: the server is held up,
// and the relay keeps nothing.
func TestSlowReader(t *testing.T) {
	c, s, m := rawPair(t, nil)
	c.request(1, true)
	s.headers(1)
	s.respond(1, false, ":status", "200")
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	blocked, sent := false, 0
	_ = s.conn.SetWriteDeadline(time.Now().Add(2 * time.Second))
	payload := make([]byte, 16384)
	for range 8192 { // 128 MiB
		if err := s.WriteData(1, false, payload); err != nil {
			blocked = true
			break
		}
		sent += len(payload)
	}
	runtime.ReadMemStats(&after)
	if !blocked {
		t.Errorf("the server could send %d bytes", sent)
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 8<<20 {
		t.Errorf("%d bytes of memory grown for %d bytes sent", grown, sent)
	}
	// The other direction goes on, and a hard stop ends it all.
	c.ok(c.WritePing(false, [8]byte{1}))
	if f, ok := s.next().(*xhttp2.PingFrame); !ok || f.Data[0] != 1 {
		t.Errorf("got %v", f)
	}
	m.cancel()
	m.ended(t)
}

// TestPartialHead sends a header block a byte at a time.
func TestPartialHead(t *testing.T) {
	c, s, m := rawPair(t, nil)
	var buf bytes.Buffer
	f := xhttp2.NewFramer(&buf, nil)
	block := c.block(":method", "GET", ":path", "/slow?x", ":authority", "a")
	_ = f.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, EndStream: true, BlockFragment: block[:3]})
	_ = f.WriteContinuation(1, true, block[3:])
	for _, b := range buf.Bytes() {
		_, err := c.conn.Write([]byte{b})
		c.ok(err)
		time.Sleep(100 * time.Microsecond)
	}
	s.headers(1)
	s.respond(1, true, ":status", "204")
	c.headers(1)
	if e := m.wait(t, 1)[0]; e.Path != "/slow" || e.RequestBytes != uint64(buf.Len()) || e.ResponseBytes != 9+1 {
		t.Errorf("wrong event %+v, want %d bytes", e, buf.Len())
	}
}

// TestIdleMemory holds idle connections that have carried something to little
// memory. What is measured includes the test's own sockets.
func TestIdleMemory(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	m := relayTo(t, l.Addr().String(), nil)
	const n = 200
	hello := append([]byte(xhttp2.ClientPreface), 0, 0, 0, 4, 0, 0, 0, 0, 0)
	hello = append(hello, 0, 0, 3, 1, 4, 0, 0, 0, 1, 0x82, 0x84, 0x86)
	hello = append(append(hello, 0, 0x40, 0, 0, 1, 0, 0, 0, 1), make([]byte, 16384)...)
	got := make([]byte, len(hello))
	settings := []byte{0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88}
	memory := func() int {
		var stats runtime.MemStats
		runtime.GC()
		runtime.GC() // and what pools held
		runtime.ReadMemStats(&stats)
		return int(stats.HeapAlloc + stats.StackInuse)
	}
	before := memory()
	var conns []net.Conn
	for range n {
		c, err := net.Dial("tcp", m.addr)
		if err != nil {
			t.Fatal(err)
		}
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c, s)
		_, _ = c.Write(hello)
		if _, err := io.ReadFull(s, got); err != nil {
			t.Fatal(err)
		}
		_, _ = s.Write(settings)
		if _, err := io.ReadFull(c, got[:len(settings)]); err != nil {
			t.Fatal(err)
		}
	}
	m.wait(t, n)
	each := (memory() - before) / n
	t.Logf("%d bytes a connection", each)
	if each > 48<<10 {
		t.Errorf("%d bytes a connection", each)
	}
	for _, conn := range conns {
		_ = conn.Close()
	}
	for range n {
		m.ended(t)
	}
}

// TestHeadTimeout begins header blocks and frames and never ends them.
func TestHeadTimeout(t *testing.T) {
	for name, begin := range map[string]func(c *peer){
		"header block": func(c *peer) {
			c.ok(c.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}}))
		},
		"frame header": func(c *peer) {
			_, err := c.conn.Write([]byte{0, 0, 8, byte(xhttp2.FramePing)})
			c.ok(err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, s, m := rawPair(t, func(c *relay.Conn) { c.HeadTimeout = 200 * time.Millisecond })
			begin(c)
			c.goAway(0, xhttp2.ErrCodeEnhanceYourCalm)
			c.closed()
			s.closed()
			if e := m.wait(t, 1)[0]; e.Error != relay.ReasonHeadTimeout || e.Fate != event.Refused|event.TimedOut {
				t.Errorf("wrong event %+v", e)
			}
		})
	}
}
