package http1_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/http1"
	"github.com/weirmesh/weir/proxy/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test.
const patience = 30 * time.Second

// recorder keeps copies of what was recorded.
type recorder struct {
	quiet  atomic.Bool // nothing is kept
	mu     sync.Mutex
	events []event.Event
}

func (r *recorder) Record(e *event.Event) {
	if r.quiet.Load() {
		return
	}
	c := *e
	for _, s := range []*string{&c.Method, &c.Authority, &c.Path} {
		*s = strings.Clone(*s) // The memory behind them is used again.
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, c)
}

func (r *recorder) all() []event.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]event.Event(nil), r.events...)
}

// proxy relays every connection to one server.
type proxy struct {
	t       testing.TB
	addr    string // where the proxy listens
	rec     recorder
	change  func(*relay.Conn)
	drain   chan struct{}
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	serving atomic.Int32 // connections
	begun   atomic.Bool  // there was a connection
	l       net.Listener
}

// newProxy starts a proxy to the server at addr; "" is a server that cannot
// be reached.
func newProxy(t testing.TB, addr string, change func(*relay.Conn)) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &proxy{t: t, addr: l.Addr().String(), change: change, drain: make(chan struct{}), cancel: cancel, l: l}
	p.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.serving.Add(1)
			p.begun.Store(true)
			p.wg.Go(func() {
				defer p.serving.Add(-1)
				p.serve(ctx, c, addr)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		cancel()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) serve(ctx context.Context, client net.Conn, addr string) {
	c := &relay.Conn{
		Client: client, Direction: event.Inbound, ID: 9, Accepted: time.Now(),
		Recorder: &p.rec, Drain: p.drain, DialError: event.ErrConnectRefused,
	}
	if addr != "" {
		server, err := net.Dial("tcp", addr)
		if err != nil {
			p.t.Error(err)
			_ = client.Close()
			return
		}
		c.Server, c.DialError = server, ""
	}
	if p.change != nil {
		p.change(c)
	}
	http1.Serve(ctx, c)
}

// dial connects to the proxy.
func (p *proxy) dial() *conn {
	p.t.Helper()
	c, err := net.Dial("tcp", p.addr)
	if err != nil {
		p.t.Fatal(err)
	}
	return newConn(p.t, c.(*net.TCPConn))
}

// ended waits until n exchanges have ended and no connection is served, and
// returns their End events with the bytes of their Progress events added.
func (p *proxy) ended(n int) []event.Event {
	p.t.Helper()
	for until := time.Now().Add(patience); !p.begun.Load() || p.serving.Load() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			p.t.Fatalf("connections go on; events: %+v", p.rec.all())
		}
	}
	ends := fold(p.t, p.rec.all())
	if len(ends) != n {
		p.t.Fatalf("got %d End events, want %d: %+v", len(ends), n, ends)
	}
	return ends
}

// fold adds Progress events to the End events after them. It serves where
// exchanges do not overlap.
func fold(t testing.TB, events []event.Event) []event.Event {
	t.Helper()
	var ends []event.Event
	var up, down uint64
	for _, e := range events {
		up, down = up+e.RequestBytes, down+e.ResponseBytes
		if e.Kind == event.Progress {
			continue
		}
		e.RequestBytes, e.ResponseBytes = up, down
		up, down = 0, 0
		ends = append(ends, e)
	}
	if up+down != 0 {
		t.Errorf("progress without an end: %+v", events)
	}
	return ends
}

// want is what a test expects of an event.
type want struct {
	method, authority, path, err string
	status                       uint16
	up, down                     uint64 // 0: not looked at
	fate                         event.Fate
	protocol                     event.Protocol // 0: http/1
	stream                       uint32         // 0: not looked at
}

func check(t testing.TB, e event.Event, w want) {
	t.Helper()
	if w.protocol == 0 {
		w.protocol = event.HTTP1
	}
	got := want{e.Method, e.Authority, e.Path, e.Error, e.Status, e.RequestBytes, e.ResponseBytes, e.Fate, e.Protocol, e.Stream}
	if w.up == 0 {
		got.up = 0
	}
	if w.down == 0 {
		got.down = 0
	}
	if w.stream == 0 {
		got.stream = 0
	}
	if got != w {
		t.Errorf("got event %+v\nwant      %+v", got, w)
	}
	if e.Latency > e.Duration || e.Start == 0 || e.Connection != 9 || e.GRPCStatus != event.NoGRPCStatus {
		t.Errorf("latency %d of %d, start %d, connection %d, grpc %d", e.Latency, e.Duration, e.Start, e.Connection, e.GRPCStatus)
	}
}

// conn is one end of a connection, spoken raw.
type conn struct {
	*net.TCPConn
	t testing.TB
	r *bufio.Reader
}

func newConn(t testing.TB, c *net.TCPConn) *conn {
	_ = c.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { _ = c.Close() })
	return &conn{TCPConn: c, t: t, r: bufio.NewReader(c)}
}

func (c *conn) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.TCPConn, s); err != nil {
		c.t.Fatalf("cannot send: %v", err)
	}
}

func (c *conn) expect(s string) {
	c.t.Helper()
	got := make([]byte, len(s))
	if n, err := io.ReadFull(c.r, got); err != nil || string(got) != s {
		c.t.Fatalf("read %q, %v\nwant %q", got[:n], err, s)
	}
}

// rest reads to the end of the stream.
func (c *conn) rest() string {
	c.t.Helper()
	p, err := io.ReadAll(c.r)
	if err != nil {
		c.t.Fatalf("read %q, then %v; want the end of the stream", p, err)
	}
	return string(p)
}

func (c *conn) expectEnd() {
	c.t.Helper()
	if s := c.rest(); s != "" {
		c.t.Fatalf("read %q, want the end of the stream", s)
	}
}

func (c *conn) expectReset() {
	c.t.Helper()
	if _, err := io.Copy(io.Discard, c.r); err == nil || !strings.Contains(err.Error(), "reset") {
		c.t.Fatalf("got %v, want a reset", err)
	}
}

func (c *conn) reset() {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// raw starts a server that is spoken raw, a proxy to it, and one connection
// through both.
func raw(t testing.TB, change func(*relay.Conn)) (p *proxy, client, server *conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p = newProxy(t, l.Addr().String(), change)
	client = p.dial()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return p, client, newConn(t, s.(*net.TCPConn))
}

// httpServer starts a net/http server and a proxy to it, and returns a client
// that goes through the proxy.
func httpServer(t testing.TB, h http.Handler, change func(*relay.Conn)) (*proxy, *http.Client) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() { _ = s.Close(); wg.Wait() })
	p := newProxy(t, l.Addr().String(), change)
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", p.addr)
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return p, &http.Client{Transport: transport, Timeout: 2 * patience}
}
