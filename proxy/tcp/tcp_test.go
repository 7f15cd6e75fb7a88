package tcp_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/relay"
	"github.com/weirmesh/weir/proxy/tcp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder keeps what was recorded.
type recorder struct {
	mu     sync.Mutex
	events []event.Event
}

func (r *recorder) Record(e *event.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, *e)
}

func (r *recorder) all() []event.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]event.Event(nil), r.events...)
}

// wrapped hides that a connection is a *net.TCPConn.
type wrapped struct{ net.Conn }

func (w wrapped) CloseWrite() error { return w.Conn.(*net.TCPConn).CloseWrite() }

// pair returns both ends of a loopback connection.
func pair(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{a, b} {
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		t.Cleanup(func() { _ = c.Close() })
	}
	_ = b.SetDeadline(time.Time{})
	return a.(*net.TCPConn), b.(*net.TCPConn)
}

// served is a connection that Serve carries.
type served struct {
	client, server *net.TCPConn
	conn           *relay.Conn
	rec            recorder
	cancel         context.CancelFunc
	done           chan struct{}
}

// serve starts Serve between a client and a server, after change.
func serve(t testing.TB, change func(*relay.Conn)) *served {
	t.Helper()
	s := &served{done: make(chan struct{})}
	var clientFar, serverFar *net.TCPConn
	s.client, clientFar = pair(t)
	s.server, serverFar = pair(t)
	s.conn = &relay.Conn{
		Client: clientFar, Server: serverFar, Direction: event.Inbound, ID: 7,
		Accepted: time.Now(), Recorder: &s.rec,
	}
	if change != nil {
		change(s.conn)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	go func() {
		defer close(s.done)
		tcp.Serve(ctx, s.conn)
	}()
	t.Cleanup(func() { cancel(); s.wait(t) })
	return s
}

// wait waits for Serve's return.
func (s *served) wait(t testing.TB) {
	t.Helper()
	select {
	case <-s.done:
	case <-time.After(30 * time.Second):
		t.Fatal("Serve does not return")
	}
}

// end returns the only End event and the bytes of all events.
func (s *served) end(t testing.TB) (end event.Event, up, down uint64) {
	t.Helper()
	s.wait(t)
	events := s.rec.all()
	for i, e := range events {
		if last := i == len(events)-1; last != (e.Kind == event.End) {
			t.Fatalf("event %d of %d has kind %d", i, len(events), e.Kind)
		}
		up += e.RequestBytes
		down += e.ResponseBytes
		end = e
	}
	if len(events) == 0 {
		t.Fatal("no event")
	}
	return end, up, down
}

func send(t testing.TB, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
}

func expect(t testing.TB, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got[:n], err, want)
	}
}

func expectEOF(t testing.TB, c net.Conn) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("read %d bytes, %v; want the end of the stream", n, err)
	}
}

func expectReset(t testing.TB, c net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, c); !tcp.IsReset(err) {
		t.Fatalf("got %v, want a reset", err)
	}
}

func TestHalfClose(t *testing.T) {
	for name, change := range map[string]func(*relay.Conn){
		"tcp":     nil,
		"wrapped": func(c *relay.Conn) { c.Client, c.Server = wrapped{c.Client}, wrapped{c.Server} },
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, change)
			send(t, s.client, "question")
			expect(t, s.server, "question")
			_ = s.client.CloseWrite()
			expectEOF(t, s.server)
			send(t, s.server, "answer after the end")
			expect(t, s.client, "answer after the end")
			_ = s.server.CloseWrite()
			expectEOF(t, s.client)
			e, up, down := s.end(t)
			if e.Error != "" || up != 8 || down != 20 || e.Protocol != event.TCP || e.Connection != 7 || e.Stream != 1 {
				t.Fatalf("got %+v, %d up, %d down", e, up, down)
			}
			if e.Latency > e.Duration || e.GRPCStatus != event.NoGRPCStatus {
				t.Fatalf("got latency %d of %d, grpc status %d", e.Latency, e.Duration, e.GRPCStatus)
			}
		})
	}
}

func TestServerFirstAndEarly(t *testing.T) {
	s := serve(t, func(c *relay.Conn) {
		c.Early, c.ServerEarly = []byte("early client "), []byte("220 ready\r\n")
		c.ServerName, c.Security = "db.example", event.Passthrough
	})
	expect(t, s.client, "220 ready\r\n")
	send(t, s.client, "more")
	expect(t, s.server, "early client more")
	_ = s.server.Close()
	expectEOF(t, s.client)
	_ = s.client.Close()
	e, up, down := s.end(t)
	if e.Error != "" || up != 17 || down != 11 || e.Protocol != event.TLS || e.Authority != "db.example" {
		t.Fatalf("got %+v, %d up, %d down", e, up, down)
	}
}

func TestReset(t *testing.T) {
	t.Run("client", func(t *testing.T) {
		s := serve(t, nil)
		send(t, s.client, "x")
		expect(t, s.server, "x")
		tcp.Reset(s.client)
		expectReset(t, s.server)
		if e, _, _ := s.end(t); e.Error != event.ErrClientReset {
			t.Fatalf("got %+v", e)
		}
	})
	t.Run("server", func(t *testing.T) {
		s := serve(t, nil)
		send(t, s.server, "x")
		expect(t, s.client, "x")
		tcp.Reset(s.server)
		expectReset(t, s.client)
		if e, _, _ := s.end(t); e.Error != event.ErrServerReset {
			t.Fatalf("got %+v", e)
		}
	})
	t.Run("server while spliced", func(t *testing.T) {
		s := serve(t, nil)
		go func() { _, _ = s.server.Write(make([]byte, 64<<20)) }()
		_, _ = io.ReadFull(s.client, make([]byte, 8<<20))
		tcp.Reset(s.server)
		expectReset(t, s.client)
		if e, _, _ := s.end(t); e.Error != event.ErrServerReset {
			t.Fatalf("got %+v", e)
		}
	})
	t.Run("client while spliced", func(t *testing.T) {
		s := serve(t, nil)
		written := make(chan error, 1)
		go func() {
			_, err := s.server.Write(make([]byte, 64<<20))
			written <- err
		}()
		_, _ = io.ReadFull(s.client, make([]byte, 8<<20))
		tcp.Reset(s.client)
		if err := <-written; !tcp.IsReset(err) {
			t.Fatalf("the server's write ended with %v, want a reset", err)
		}
		if e, _, _ := s.end(t); e.Error != event.ErrClientReset {
			t.Fatalf("got %+v", e)
		}
	})
}

func TestDialFailed(t *testing.T) {
	s := serve(t, func(c *relay.Conn) {
		_ = c.Server.Close()
		c.Server, c.DialError = nil, event.ErrConnectRefused
	})
	expectEOF(t, s.client)
	if e, up, down := s.end(t); e.Error != event.ErrConnectRefused || up+down != 0 {
		t.Fatalf("got %+v", e)
	}
}

func TestHardStop(t *testing.T) {
	s := serve(t, nil)
	send(t, s.client, "x")
	expect(t, s.server, "x")
	s.cancel()
	expectEOF(t, s.client)
	expectEOF(t, s.server)
	if e, _, _ := s.end(t); e.Error != "" || e.Fate != event.Drained {
		t.Fatalf("got %+v", e)
	}
}

// TestBulkBothWays carries much both ways at once, spliced and not, and finds
// every byte in the events.
func TestBulkBothWays(t *testing.T) {
	const size = 32<<20 + 4321
	for name, change := range map[string]func(*relay.Conn){
		"spliced": nil,
		"wrapped": func(c *relay.Conn) { c.Client = wrapped{c.Client} },
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(c *relay.Conn) {
				c.Progress = 5 * time.Millisecond
				if change != nil {
					change(c)
				}
			})
			data := make([]byte, size)
			random := rand.NewChaCha8([32]byte{1})
			_, _ = random.Read(data)
			want := sha256.Sum256(data)
			var wg sync.WaitGroup
			for _, c := range []*net.TCPConn{s.client, s.server} {
				wg.Go(func() {
					_, _ = io.Copy(c, bytes.NewReader(data))
					_ = c.CloseWrite()
				})
				wg.Go(func() {
					h := sha256.New()
					n, err := io.Copy(h, c)
					if err != nil || n != size || [32]byte(h.Sum(nil)) != want {
						t.Errorf("got %d bytes, %v", n, err)
					}
				})
			}
			wg.Wait()
			if e, up, down := s.end(t); e.Error != "" || up != size || down != size {
				t.Fatalf("got %+v, %d up, %d down", e, up, down)
			}
		})
	}
}

// TestProgress sees the bytes of a connection while it is open.
func TestProgress(t *testing.T) {
	s := serve(t, func(c *relay.Conn) { c.Progress = 10 * time.Millisecond })
	send(t, s.client, "hello")
	expect(t, s.server, "hello")
	send(t, s.server, "you")
	expect(t, s.client, "you")
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		var up, down uint64
		events := s.rec.all()
		for _, e := range events {
			up, down = up+e.RequestBytes, down+e.ResponseBytes
			if e.Kind != event.Progress {
				t.Fatalf("the connection is open, got %+v", e)
			}
		}
		if up == 5 && down == 3 && len(events) > 2 {
			break
		}
		if time.Now().After(until) {
			t.Fatalf("progress tells %d and %d bytes", up, down)
		}
	}
	_ = s.client.Close()
	_ = s.server.Close()
	s.end(t)
}

func BenchmarkEcho(b *testing.B) {
	s := serve(b, nil)
	msg := make([]byte, 512)
	_ = s.client.SetDeadline(time.Time{})
	_ = s.server.SetDeadline(time.Time{})
	go func() { _, _ = io.Copy(struct{ io.Writer }{s.server}, struct{ io.Reader }{s.server}) }()
	b.ReportAllocs()
	for b.Loop() {
		_, _ = s.client.Write(msg)
		if _, err := io.ReadFull(s.client, msg); err != nil {
			b.Fatal(err)
		}
	}
}
