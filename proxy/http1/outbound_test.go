package http1_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/balance"
	"github.com/weirmesh/weir/proxy/http1"
	"github.com/weirmesh/weir/proxy/relay"
)

// balancer is a listener whose clients' requests are balanced.
type balancer struct {
	rec  recorder
	set  *balance.Set
	addr string
}

func balanceTo(t testing.TB, addrs ...string) *balancer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var endpoints []balance.Endpoint
	for _, addr := range addrs {
		endpoints = append(endpoints, balance.Endpoint{Addr: addr})
	}
	b := &balancer{set: balance.New(balance.Options{}, endpoints...), addr: l.Addr().String()}
	o := http1.NewOutbound(http1.OutboundOptions{Set: b.set, Dial: dial})
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				o.Serve(ctx, &relay.Conn{Client: conn, Direction: event.Outbound, ID: 9, Accepted: time.Now(), Recorder: &b.rec})
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		cancel()
		serving.Wait()
		o.Close()
		for _, m := range b.set.Members() {
			if n := m.Stats().Outstanding; n != 0 {
				t.Errorf("%d requests under way at the end", n)
			}
		}
	})
	return b
}

func dial(ctx context.Context, e balance.Endpoint, _ event.Protocol) (balance.Connection, string) {
	peer := event.Peer{Addr: netip.MustParseAddrPort(e.Addr)}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", e.Addr)
	if err != nil {
		return balance.Connection{Peer: peer}, event.ErrConnectRefused
	}
	return balance.Connection{Conn: conn, Peer: peer, ID: 77}, ""
}

// echoServer answers with its request's body.
func echoServer(t testing.TB) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// events waits for n events.
func (b *balancer) events(t testing.TB, n int) []event.Event {
	t.Helper()
	for late := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		events := b.rec.all()
		if len(events) == n {
			return events
		}
		if len(events) > n || time.Now().After(late) {
			t.Fatalf("%d events, want %d", len(events), n)
		}
	}
}

func httpClient(t testing.TB) *http.Client {
	tr := &http.Transport{MaxIdleConnsPerHost: 100}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

func TestOutboundSpreads(t *testing.T) {
	addrs := []string{echoServer(t), echoServer(t), echoServer(t)}
	b := balanceTo(t, addrs...)
	c := httpClient(t)
	const requests = 600
	var wait sync.WaitGroup
	for i := range 6 {
		wait.Go(func() {
			body := strings.Repeat("x", 1+i*40_000)
			for range requests / 6 {
				resp, err := c.Post("http://"+b.addr+"/echo", "text/plain", strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if err != nil || len(got) != len(body) {
					t.Errorf("%d bytes of %d, %v", len(got), len(body), err)
				}
			}
		})
	}
	wait.Wait()
	got := map[string]int{}
	for _, e := range b.events(t, requests) {
		got[e.Peer.Addr.String()]++
		if e.Error != "" || e.Status != 200 || e.Connection != 77 || e.Stream == 0 {
			t.Fatalf("wrong event %+v", e)
		}
	}
	for _, addr := range addrs {
		if got[addr] < requests/12 {
			t.Errorf("%s got %d of %d", addr, got[addr], requests)
		}
	}
}

// closing is a server that answers one request on each connection as if it went
// on, and closes the connection when it has the next.
func closing(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wait.Go(func() {
				defer conn.Close()
				r := bufio.NewReader(conn)
				for i := range 2 {
					req, err := http.ReadRequest(r)
					if err != nil || i > 0 {
						return
					}
					_, _ = io.Copy(io.Discard, req.Body)
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				}
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); wait.Wait() })
	return l.Addr().String()
}

// TestOutboundStale has connections end when they are used again.
func TestOutboundStale(t *testing.T) {
	b := balanceTo(t, closing(t))
	conn, err := net.Dial("tcp", b.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	r := bufio.NewReader(conn)
	send := func(request string) error {
		_, _ = io.WriteString(conn, request)
		resp, err := http.ReadResponse(r, nil)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
		}
		return err
	}
	for range 3 {
		if err := send("GET /a HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	events := b.events(t, 3)
	for i, e := range events {
		retried := i > 0
		if e.Error != "" || e.Status != 200 || (e.Fate == event.Retried) != retried || (e.Attempt == 1) != retried {
			t.Errorf("wrong event %d: %+v", i, e)
		}
	}
	if err := send("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx"); err == nil {
		t.Error("a request that is not idempotent was sent twice")
	}
	if e := b.events(t, 4)[3]; e.Error != event.ErrServerClosed && e.Error != event.ErrServerReset || e.Attempt != 0 {
		t.Errorf("wrong event %+v", e)
	}
}

// deadAddr refuses connections, and is nobody else's until the test ends.
func deadAddr(t *testing.T) string {
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

func TestOutboundConnectRetry(t *testing.T) {
	dead := deadAddr(t)
	b := balanceTo(t, dead, echoServer(t))
	b.set.Members()[1].Observe(time.Second, false) // the other seems better
	c := httpClient(t)
	for range 20 {
		resp, err := c.Post("http://"+b.addr+"/", "text/plain", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != 200 || string(body) != "hello" {
			t.Fatalf("%d %q", resp.StatusCode, body)
		}
	}
	retried := 0
	for _, e := range b.events(t, 20) {
		if e.Fate&event.Retried != 0 {
			retried++
		}
	}
	if retried == 0 {
		t.Error("nothing was retried")
	}
}

func TestOutboundNoServer(t *testing.T) {
	dead := deadAddr(t)
	b := balanceTo(t, dead)
	resp, err := httpClient(t).Get(fmt.Sprintf("http://%s/", b.addr))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 502 {
		t.Error(resp.Status)
	}
	if e := b.events(t, 1)[0]; e.Error != event.ErrConnectRefused || e.Status != 502 {
		t.Errorf("wrong event %+v", e)
	}
}

func TestOutboundNoEndpoints(t *testing.T) {
	b := balanceTo(t)
	resp, err := httpClient(t).Get(fmt.Sprintf("http://%s/", b.addr))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != 503 || !strings.Contains(string(body), event.ErrNoEndpoints) {
		t.Errorf("%s: %s", resp.Status, body)
	}
	if e := b.events(t, 1)[0]; e.Error != event.ErrNoEndpoints || e.Status != 503 || e.Success() {
		t.Errorf("wrong event %+v", e)
	}
}
