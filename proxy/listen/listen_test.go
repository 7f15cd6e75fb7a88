package listen_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/hello"
	"github.com/weirmesh/weir/proxy/listen"
	"github.com/weirmesh/weir/proxy/relay"
	"github.com/weirmesh/weir/proxy/tcp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder keeps events; their strings are copied by the conversion.
type recorder struct {
	mu     sync.Mutex
	events []event.Event
}

func (r *recorder) Record(e *event.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, *e)
}

func (r *recorder) ended() []event.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []event.Event
	for _, e := range r.events {
		if e.Kind == event.End {
			out = append(out, e)
		}
	}
	return out
}

// node is a Group with one listener, whose HTTP relays are TCP's under other
// names: what the listener found is in the connections it handed over.
type node struct {
	*recorder
	group *listen.Group
	addr  string

	mu    sync.Mutex
	conns []relay.Conn
	as    []event.Protocol
}

func (n *node) serve(as event.Protocol) func(context.Context, *relay.Conn) {
	return func(ctx context.Context, c *relay.Conn) {
		n.mu.Lock()
		n.conns = append(n.conns, *c)
		n.as = append(n.as, as)
		n.mu.Unlock()
		tcp.Serve(ctx, c)
	}
}

// last waits for the i-th connection that was handed to a relay.
func (n *node) conn(t *testing.T, i int) (relay.Conn, event.Protocol) {
	t.Helper()
	eventually(t, "a relay", func() bool { n.mu.Lock(); defer n.mu.Unlock(); return len(n.conns) > i })
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.conns[i], n.as[i]
}

var (
	web   = event.Source{Workload: event.Workload{Cluster: "local", Namespace: "emojivoto", Kind: "deploy", Name: "web"}, Pod: "web-0"}
	emoji = event.Source{Workload: event.Workload{Cluster: "local", Namespace: "emojivoto", Kind: "deploy", Name: "emoji"}, Pod: "emoji-0"}
)

func start(t *testing.T, o listen.Options, s listen.Spec) *node {
	t.Helper()
	n := &node{recorder: &recorder{}}
	o.Recorder = n.recorder
	o.Relays = listen.Relays{HTTP1: n.serve(event.HTTP1), HTTP2: n.serve(event.HTTP2), TCP: n.serve(event.TCP)}
	n.group = listen.New(o)
	t.Cleanup(n.group.Close)
	if s.Listen == "" {
		s.Listen = "127.0.0.1:0"
	}
	addr, err := n.group.Listen(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	n.addr = addr.String()
	n.group.Serve()
	return n
}

// server accepts and hands each connection to f, which may keep it until the
// test ends.
func server(t *testing.T, f func(c net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			wg.Go(func() { defer c.Close(); f(c) })
		}
	})
	return ln.Addr().String()
}

func echo(c net.Conn) { _, _ = io.Copy(c, c) }

// greeter speaks first, then echoes.
func greeter(c net.Conn) {
	_, _ = io.WriteString(c, "220 ready\r\n")
	echo(c)
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// exchange sends a message and reads it back.
func exchange(t *testing.T, c net.Conn, message string) {
	t.Helper()
	if _, err := io.WriteString(c, message); err != nil {
		t.Fatal(err)
	}
	expect(t, c, message)
}

func expect(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got[:n], err, want)
	}
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestDetectsByFirstBytes(t *testing.T) {
	target := server(t, echo)
	for _, d := range []event.Direction{event.Inbound, event.Outbound} {
		n := start(t, listen.Options{Self: web}, listen.Spec{Direction: d, Target: target, Peer: emoji.Workload})
		i := 0
		f := func(first string, want event.Protocol) {
			t.Helper()
			c := dial(t, n.addr)
			exchange(t, c, first)
			rc, got := n.conn(t, i)
			i++
			if got != want || rc.Detection != event.DetectBytes || rc.Direction != d || rc.ID == 0 {
				t.Fatalf("%q: to the relay of %v with %+v", first, got, rc)
			}
			addr := target
			if d == event.Inbound {
				addr = c.LocalAddr().String()
			}
			if rc.Peer.Addr.String() != addr || rc.Peer.Workload != emoji.Workload || rc.Peer.Meshed {
				t.Fatalf("%q: peer %+v, want %s at %s", first, rc.Peer, emoji.Workload, addr)
			}
			if rc.Security != event.Plain || rc.SecurityReason != listen.ReasonUnmeshed {
				t.Fatalf("%q: security %v %q", first, rc.Security, rc.SecurityReason)
			}
		}
		f("GET / HTTP/1.1\r\n\r\n", event.HTTP1)
		f("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", event.HTTP2)
		f("\x00\x01\x02\x03", event.TCP)
		f("\xff", event.TCP)
		f("x", event.TCP)
	}
}

func TestPartialPrefix(t *testing.T) {
	target := server(t, echo)
	n := start(t, listen.Options{Self: web, DetectTimeout: 50 * time.Millisecond}, listen.Spec{Direction: event.Inbound, Target: target})
	// One that stops in the middle is TCP after the bound.
	exchange(t, dial(t, n.addr), "PR")
	if _, got := n.conn(t, 0); got != event.TCP {
		t.Fatalf("got %v", got)
	}
	// A hello that stops in its magic is TCP, too.
	exchange(t, dial(t, n.addr), "\xf7WE")
	if _, got := n.conn(t, 1); got != event.TCP {
		t.Fatalf("got %v", got)
	}
	// One that ends in the middle need not be waited for.
	long := start(t, listen.Options{Self: web, DetectTimeout: time.Hour}, listen.Spec{Direction: event.Inbound, Target: target})
	for _, part := range []string{"PR", "GET", "\xf7", "\x16\x03"} {
		c := dial(t, long.addr)
		if _, err := io.WriteString(c, part); err != nil {
			t.Fatal(err)
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		expect(t, c, part)
	}
	// One that goes on in time is what it says.
	slow := start(t, listen.Options{Self: web, DetectTimeout: time.Minute}, listen.Spec{Direction: event.Inbound, Target: target})
	c := dial(t, slow.addr)
	for _, b := range []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") {
		if _, err := c.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	if _, got := slow.conn(t, 0); got != event.HTTP2 {
		t.Fatalf("got %v", got)
	}
}

func TestTLSPassthrough(t *testing.T) {
	n := start(t, listen.Options{Self: web}, listen.Spec{Direction: event.Outbound, Target: server(t, echo)})
	c := dial(t, n.addr)
	exchange(t, c, clientHello(t, "secret.example"))
	rc, got := n.conn(t, 0)
	if got != event.TCP || rc.ServerName != "secret.example" || rc.Security != event.Passthrough || rc.SecurityReason != "" {
		t.Fatalf("%v %+v", got, rc)
	}
	_ = c.Close()
	eventually(t, "the event", func() bool { return len(n.ended()) == 1 })
	if e := n.ended()[0]; e.Protocol != event.TLS || e.Authority != "secret.example" {
		t.Fatalf("%+v", e)
	}
}

func TestServerSpeaksFirst(t *testing.T) {
	for _, d := range []event.Direction{event.Inbound, event.Outbound} {
		n := start(t, listen.Options{Self: web}, listen.Spec{Direction: d, Target: server(t, greeter)})
		for i, want := range []event.Detection{event.DetectServerFirst, event.DetectRemembered, event.DetectRemembered} {
			c := dial(t, n.addr)
			expect(t, c, "220 ready\r\n")
			exchange(t, c, "EHLO\r\n")
			if rc, got := n.conn(t, i); got != event.TCP || rc.Detection != want {
				t.Fatalf("%v, connection %d: %v %v, want %v", d, i, got, rc.Detection, want)
			}
		}
	}
}

// An HTTP/2 server may send its SETTINGS before the client's preface.
func TestHTTP2ServerSpeaksFirst(t *testing.T) {
	settings := "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	target := server(t, func(c net.Conn) { _, _ = io.WriteString(c, settings); echo(c) })
	n := start(t, listen.Options{Self: web}, listen.Spec{Direction: event.Outbound, Target: target})
	for i := range 2 {
		c := dial(t, n.addr)
		time.Sleep(20 * time.Millisecond) // the server's bytes are there first
		if _, err := io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		expect(t, c, settings+"PRI * ")
		if _, got := n.conn(t, i); got != event.HTTP2 {
			t.Fatalf("got %v", got)
		}
	}
}

// A timeout's 408 that nobody asked for does not make its server one of TCP.
func TestUnaskedResponseIsNotRemembered(t *testing.T) {
	var once sync.Once
	target := server(t, func(c net.Conn) {
		once.Do(func() { _, _ = io.WriteString(c, "HTTP/1.1 408 Request Timeout\r\n\r\n") })
		echo(c)
	})
	n := start(t, listen.Options{Self: web}, listen.Spec{Direction: event.Outbound, Target: target})
	expect(t, dial(t, n.addr), "HTTP/1.1 408")
	exchange(t, dial(t, n.addr), "GET / HTTP/1.1\r\n\r\n")
	if rc, got := n.conn(t, 1); got != event.HTTP1 || rc.Detection != event.DetectBytes {
		t.Fatalf("%v %v", got, rc.Detection)
	}
}

func TestFixed(t *testing.T) {
	f := func(s listen.Spec, protocol event.Protocol, detection event.Detection) {
		t.Helper()
		for _, d := range []event.Direction{event.Inbound, event.Outbound} {
			s.Direction, s.Target = d, server(t, echo)
			n := start(t, listen.Options{Self: web}, s)
			exchange(t, dial(t, n.addr), "GET / HTTP/1.1\r\n\r\n")
			if rc, got := n.conn(t, 0); got != protocol || rc.Detection != detection {
				t.Fatalf("%v: %v %v", d, got, rc.Detection)
			}
		}
	}
	f(listen.Spec{Opaque: true}, event.TCP, event.DetectOpaque)
	f(listen.Spec{Protocol: event.HTTP2}, event.HTTP2, event.DetectConfig)
	f(listen.Spec{Protocol: event.TCP}, event.TCP, event.DetectConfig)
}

// closedPort refuses connections, and is nobody else's until the test ends.
func closedPort(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", sa.(*unix.SockaddrInet4).Port)
}

func TestDialErrors(t *testing.T) {
	closed := closedPort(t)
	f := func(target, first, want string, relayed event.Protocol) {
		t.Helper()
		detect := patience
		if first == "" {
			detect = 50 * time.Millisecond
		}
		n := start(t, listen.Options{Self: web, DetectTimeout: detect, ConnectTimeout: patience},
			listen.Spec{Direction: event.Outbound, Target: target})
		c := dial(t, n.addr)
		if _, err := io.WriteString(c, first); err != nil {
			t.Fatal(err)
		}
		rc, p := n.conn(t, 0)
		if rc.Server != nil || rc.DialError != want || p != relayed {
			t.Fatalf("%s: %v, error %q, want %v, %q", target, p, rc.DialError, relayed, want)
		}
		if got := n.group.Stats().DialErrors[event.Outbound]; got != 1 {
			t.Fatalf("%d dial errors counted", got)
		}
	}
	f(closed, "GET / HTTP/1.1\r\n\r\n", event.ErrConnectRefused, event.HTTP1)
	f(closed, "", event.ErrConnectRefused, event.TCP)
	f("name.invalid:80", "", event.ErrConnectFailed, event.TCP)
}

// freePort is one that nobody listens on now, and that the system gives to nobody.
func freePort(t *testing.T) int {
	t.Helper()
	for range 100 {
		ln, err := net.Listen("tcp", fmt.Sprintf(":%d", 5_000+rand.IntN(5_000)))
		if err != nil {
			continue
		}
		_ = ln.Close()
		return ln.Addr().(*net.TCPAddr).Port
	}
	t.Fatal("no free port")
	return 0
}

func TestLoops(t *testing.T) {
	port := freePort(t)
	for _, at := range []string{"127.0.0.1", "0.0.0.0"} {
		n := start(t, listen.Options{Self: web}, listen.Spec{
			Direction: event.Outbound,
			Listen:    fmt.Sprintf("%s:%d", at, port), Target: fmt.Sprintf("localhost:%d", port),
		})
		c := dial(t, fmt.Sprintf("127.0.0.1:%d", port))
		if _, err := io.WriteString(c, "x"); err != nil {
			t.Fatal(err)
		}
		if rc, _ := n.conn(t, 0); rc.DialError != event.ErrLoop {
			t.Fatalf("%s: %q", at, rc.DialError)
		}
		if got := n.group.Stats().Accepted[event.Outbound]; got != 1 {
			t.Fatalf("%d connections accepted", got)
		}
		n.group.Close()
	}
}

func TestMaxConnections(t *testing.T) {
	n := start(t, listen.Options{Self: web, MaxConnections: 2}, listen.Spec{Direction: event.Inbound, Target: server(t, echo)})
	a, b := dial(t, n.addr), dial(t, n.addr)
	exchange(t, a, "a")
	exchange(t, b, "b")
	c := dial(t, n.addr)
	if _, err := bufio.NewReader(c).ReadByte(); err == nil {
		t.Fatal("one too many was served")
	}
	eventually(t, "the event", func() bool { return len(n.ended()) == 1 })
	if e := n.ended()[0]; e.Error != event.ErrLimit || e.Fate != event.Refused || !e.Peer.Addr.IsValid() {
		t.Fatalf("%+v", e)
	}
	_ = a.Close()
	eventually(t, "room", func() bool { return n.group.Open() == 1 })
	exchange(t, dial(t, n.addr), "d")
	if st := n.group.Stats(); st.Limited[event.Inbound] != 1 || st.Accepted[event.Inbound] != 4 {
		t.Fatalf("%+v", st)
	}
}

func TestSilentConnectionsEnd(t *testing.T) {
	n := start(t, listen.Options{Self: web}, listen.Spec{Direction: event.Inbound, Target: server(t, echo)})
	c := dial(t, n.addr)
	eventually(t, "the connection", func() bool { return n.group.Open() == 1 })
	_ = c.Close()
	eventually(t, "its end", func() bool { return n.group.Open() == 0 && len(n.ended()) == 1 })
}

func TestDrain(t *testing.T) {
	for range 20 {
		if drains(t) {
			return
		}
		t.Log("too slow to tell; again")
	}
	t.Fatal("always too slow to tell")
}

// drains is false where more than a second was over before a client spoke, so that
// it was let go rightly.
func drains(t *testing.T) bool {
	n := start(t, listen.Options{Self: web}, listen.Spec{Direction: event.Inbound, Target: server(t, echo)})
	busy := dial(t, n.addr)
	exchange(t, busy, "busy")
	silent := dial(t, n.addr)
	dialled := time.Now()
	late := dial(t, n.addr)
	eventually(t, "three connections", func() bool { return n.group.Open() == 3 })
	n.group.Drain()
	if c, err := net.Dial("tcp", n.addr); err == nil {
		_ = c.Close()
		t.Fatal("still accepting")
	}
	const text = "connected before, spoke after"
	_, _ = io.WriteString(late, text)
	got := make([]byte, len(text))
	if _, err := io.ReadFull(late, got); err != nil && time.Since(dialled) > 900*time.Millisecond {
		_, _ = busy.Close(), late.Close()
		return false
	} else if err != nil || string(got) != text {
		t.Fatalf("read %q, %v", got, err)
	}
	exchange(t, busy, "still served")
	// Nobody spoke on this one: it is let go.
	if b, err := io.ReadAll(silent); err != nil || len(b) != 0 {
		t.Fatalf("read %q, %v", b, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := n.group.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	_ = busy.Close()
	_ = late.Close()
	if err := n.group.Wait(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := len(n.ended()); got != 3 {
		t.Fatalf("%d events of 3 connections", got)
	}
	return true
}

func TestCloseEndsAllAtOnce(t *testing.T) {
	// In every state: silent, relayed, and in a hello that does not come.
	mute := server(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	n := start(t, listen.Options{Self: web, HelloTimeout: time.Hour}, listen.Spec{Direction: event.Outbound, Target: mute, Mesh: true})
	for range 10 {
		dial(t, n.addr)
	}
	m := start(t, listen.Options{Self: web, HelloTimeout: time.Hour}, listen.Spec{Direction: event.Inbound, Target: mute})
	for i := range 10 {
		c := dial(t, m.addr)
		if i%3 > 0 {
			first := []string{"", "data", hello.Magic}[i%3]
			if _, err := io.WriteString(c, first); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "connections", func() bool { return n.group.Open() == 10 && m.group.Open() == 10 })
	time.Sleep(20 * time.Millisecond)
	n.group.Close()
	m.group.Close()
	if n.group.Open() != 0 || m.group.Open() != 0 {
		t.Fatal("connections are left")
	}
}

func TestListenErrors(t *testing.T) {
	n := start(t, listen.Options{Self: web}, listen.Spec{Direction: event.Inbound, Target: "127.0.0.1:1"})
	_, err := n.group.Listen(context.Background(), listen.Spec{Listen: n.addr})
	if err == nil || netip.MustParseAddrPort(n.addr).Port() == 0 {
		t.Fatal("two listeners on one address")
	}
}

// Many connections at a time, each of another kind, through two proxies.
func TestManyConnections(t *testing.T) {
	client, srv := pair(t, server(t, echo), listen.Spec{}, listen.Spec{})
	const each = 250
	var wg sync.WaitGroup
	errs := make(chan error, 4*each)
	for _, first := range []string{"GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x01\x02", "SSH-2.0-x\r\n"} {
		for range each {
			wg.Go(func() {
				c, err := net.Dial("tcp", client.addr)
				if err != nil {
					errs <- err
					return
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(time.Minute))
				got := make([]byte, len(first))
				_, _ = io.WriteString(c, first)
				if _, err := io.ReadFull(c, got); err != nil || string(got) != first {
					errs <- fmt.Errorf("read %q, %w", got, err)
				}
			})
		}
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Fatal(err)
	}
	eventually(t, "all events", func() bool { return len(client.ended()) == 4*each && len(srv.ended()) == 4*each })
	numbers := make(map[uint64]bool)
	for _, e := range client.ended() {
		numbers[e.Connection] = true
	}
	for _, e := range srv.ended() {
		if !numbers[e.Connection] || e.Peer.Workload != web.Workload {
			t.Fatalf("%+v has no counterpart", e)
		}
	}
	if len(numbers) != 4*each {
		t.Fatalf("%d numbers of %d connections", len(numbers), 4*each)
	}
}
