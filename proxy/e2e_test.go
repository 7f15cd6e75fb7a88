package proxy_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy"
	"github.com/weirmesh/weir/proxy/listen"
)

// httpServer answers /N with N bytes, and /fail with 500.
func httpServer(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var n int
		if _, err := fmt.Sscanf(r.URL.Path, "/%d", &n); err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		_, _ = io.WriteString(w, strings.Repeat("x", n))
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// get returns the status and the length of the answer.
func get(c *http.Client, url string) (int, int, error) {
	resp, err := c.Get(url)
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, int(n), err
}

func httpClient(t *testing.T) *http.Client {
	t.Helper()
	tr := &http.Transport{MaxIdleConnsPerHost: 1000}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

func TestHTTP(t *testing.T) {
	m := newMesh(t, httpServer(t), nil)
	c := httpClient(t)
	for i := range 100 {
		if code, n, err := get(c, fmt.Sprintf("http://%s/%d?secret", m.addr, i*100)); err != nil || code != 200 || n != i*100 {
			t.Fatalf("%d: %d, %d bytes, %v", i, code, n, err)
		}
	}
	if code, _, err := get(c, "http://"+m.addr+"/fail"); err != nil || code != 500 {
		t.Fatalf("%d, %v", code, err)
	}
	c.CloseIdleConnections()
	m.end(t)
	failed := 0
	for _, e := range m.joined(t, 101) {
		if e.Protocol != event.HTTP1 || e.Method != "GET" || e.Authority != m.addr || strings.Contains(e.Path, "?") {
			t.Fatalf("%+v", e)
		}
		if !e.Success() {
			failed++
		}
	}
	if failed != 1 {
		t.Fatalf("%d failed", failed)
	}
}

func TestGRPC(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	healthpb.RegisterHealthServer(srv, health.NewServer())
	var done sync.WaitGroup
	done.Go(func() { _ = srv.Serve(ln) })
	t.Cleanup(func() { srv.Stop(); done.Wait() })
	m := newMesh(t, ln.Addr().String(), nil)
	conn, err := grpc.NewClient(m.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	client := healthpb.NewHealthClient(conn)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for i := range 50 {
		want, service := codes.OK, ""
		if i%5 == 0 {
			want, service = codes.NotFound, "unknown"
		}
		if _, err := client.Check(ctx, &healthpb.HealthCheckRequest{Service: service}); status.Code(err) != want {
			t.Fatal(err)
		}
	}
	_ = conn.Close()
	m.end(t)
	notFound := 0
	for _, e := range m.joined(t, 50) {
		if e.Protocol != event.GRPC || e.Path != "/grpc.health.v1.Health/Check" {
			t.Fatalf("%+v", e)
		}
		if e.GRPCStatus == int16(codes.NotFound) {
			notFound++
		}
	}
	if notFound != 10 {
		t.Fatalf("%d not found", notFound)
	}
}

func TestTCP(t *testing.T) {
	m := newMesh(t, tcpServer(t, func(c net.Conn) { _, _ = io.Copy(c, c) }), nil)
	message := strings.Repeat("\x01not http ", 50_000)
	c := dial(t, m.addr)
	var writer sync.WaitGroup
	writer.Go(func() { _, _ = io.WriteString(c, message); _ = c.CloseWrite() })
	if got, err := io.ReadAll(c); err != nil || string(got) != message {
		t.Fatalf("%d of %d bytes, %v", len(got), len(message), err)
	}
	writer.Wait()
	_ = c.Close()
	m.end(t)
	e := m.joined(t, 1)[0]
	if e.Protocol != event.TCP || e.RequestBytes != uint64(len(message)) || e.ResponseBytes != uint64(len(message)) {
		t.Fatalf("%+v", e)
	}
}

func TestServerSpeaksFirst(t *testing.T) {
	target := tcpServer(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "220 ready\r\n")
		_, _ = io.Copy(c, c)
	})
	m := newMesh(t, target, func(c *proxy.Config) { c.Traffic.Listeners[0].Mesh = true })
	for range 5 {
		c := dial(t, m.addr)
		expect(t, c, "220 ready\r\n")
		_, _ = io.WriteString(c, "QUIT\r\n")
		expect(t, c, "QUIT\r\n")
		_ = c.Close()
	}
	m.end(t)
	m.joined(t, 5)
}

func TestServerAway(t *testing.T) {
	_, target := socket(t)
	m := newMesh(t, target, nil)
	c := httpClient(t)
	for range 3 {
		code, _, err := get(c, "http://"+m.addr+"/1")
		if err != nil || code != http.StatusBadGateway {
			t.Fatalf("%d, %v", code, err)
		}
	}
	c.CloseIdleConnections()
	m.end(t)
	in := m.ended(event.Inbound)
	if len(in) != 3 || len(m.ended(event.Outbound)) != 3 {
		t.Fatalf("%d inbound events", len(in))
	}
	for _, e := range in {
		if e.Error != event.ErrConnectRefused || e.Success() {
			t.Fatalf("%+v", e)
		}
	}
}

// socket is one that is bound, but does not listen: it refuses connections, and
// nobody else gets its address.
func socket(t *testing.T) (fd int, addr string) {
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
	return fd, fmt.Sprintf("127.0.0.1:%d", sa.(*unix.SockaddrInet4).Port)
}

// What connecting to a server takes is part of its client's latency.
func TestConnectTimeoutIsLatency(t *testing.T) {
	// A full backlog: the next connection is not answered.
	fd, target := socket(t)
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	for range 8 {
		conn, err := net.DialTimeout("tcp", target, 100*time.Millisecond)
		if err == nil {
			defer conn.Close()
		}
	}
	s := &sink{}
	cfg := config("client", listen.Spec{Direction: event.Outbound, Target: target})
	cfg.Traffic.ConnectTimeout = 200 * time.Millisecond
	r := run(t, cfg, s)
	c := httpClient(t)
	if code, _, err := get(c, "http://"+r.Addrs()[0].String()+"/1"); err != nil || code != http.StatusBadGateway && code != http.StatusGatewayTimeout {
		t.Fatalf("%d, %v", code, err)
	}
	c.CloseIdleConnections()
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	e := s.ended(event.Outbound)
	if len(e) != 1 || e[0].Error != event.ErrConnectTimeout || e[0].Latency < 150_000 {
		t.Fatalf("%+v", e)
	}
}

// Requests that are under way or arrive while a proxy drains are answered, and
// each is told of.
func TestDrainLosesNothing(t *testing.T) {
	var begun, served atomic.Int64
	release := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		begun.Add(1)
		<-release
		served.Add(1)
		_, _ = io.WriteString(w, "done")
	}))
	t.Cleanup(s.Close)
	m := newMesh(t, s.Listener.Addr().String(), func(c *proxy.Config) { c.Traffic.DrainDelay = 50 * time.Millisecond })
	c := httpClient(t)
	const n = 100
	var wg sync.WaitGroup
	var answered atomic.Int64
	for range n {
		wg.Go(func() {
			if code, size, err := get(c, "http://"+m.addr+"/"); err == nil && code == 200 && size == 4 {
				answered.Add(1)
			}
		})
	}
	eventually(t, "all requests", func() bool { return begun.Load() == n })
	m.out.begin()
	m.in.begin()
	eventually(t, "the end of accepting", func() bool {
		conn, err := net.Dial("tcp", m.addr)
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
	close(release)
	wg.Wait()
	if answered.Load() != n {
		t.Fatalf("%d of %d answered", answered.Load(), n)
	}
	m.end(t)
	requests := 0
	for _, e := range m.ended(event.Inbound) {
		if e.Protocol == event.HTTP1 {
			requests++
		}
	}
	if requests != n {
		t.Fatalf("%d events of %d requests", requests, n)
	}
}

func TestDrainTimeoutCuts(t *testing.T) {
	m := newMesh(t, tcpServer(t, func(c net.Conn) { _, _ = io.Copy(c, c) }), func(c *proxy.Config) {
		c.Traffic.DrainTimeout = 50 * time.Millisecond
	})
	c := dial(t, m.addr)
	_, _ = io.WriteString(c, "\x01")
	expect(t, c, "\x01")
	if err := m.out.end(); err == nil || !strings.Contains(err.Error(), "1 connections") {
		t.Fatalf("got %v", err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Fatal("not cut")
	}
	eventually(t, "the server's proxy sees that", func() bool {
		return strings.Contains(body(t, "http://"+m.in.AdminAddr().String()+"/metrics"), "weir_proxy_connections_open{direction=\"inbound\"} 0\n")
	})
	if err := m.in.end(); err != nil {
		t.Fatal(err)
	}
	m.check(t)
	if e := m.ended(event.Outbound); len(e) != 1 || e[0].Fate&event.Drained == 0 {
		t.Fatalf("%+v", e)
	}
}

// The bus is not needed for traffic; what happened without it is told later.
func TestBusAwayAtStart(t *testing.T) {
	m := &mesh{sink: &sink{}}
	m.setAway(true)
	target := httpServer(t)
	m.in = run(t, config("server", listen.Spec{Direction: event.Inbound, Target: target}), m.sink)
	c := httpClient(t)
	addr := m.in.Addrs()[0].String()
	for range 20 {
		if code, _, err := get(c, "http://"+addr+"/1"); err != nil || code != 200 {
			t.Fatalf("%d, %v", code, err)
		}
	}
	admin := "http://" + m.in.AdminAddr().String()
	if code, _, err := get(c, admin+"/ready"); err != nil || code != 200 {
		t.Fatalf("ready: %d, %v", code, err)
	}
	if len(m.sources()) != 0 {
		t.Fatal("the bus is not away")
	}
	m.setAway(false)
	eventually(t, "the proxy's batch", func() bool { return m.sources()["server"] })
	c.CloseIdleConnections()
	if err := m.in.end(); err != nil {
		t.Fatal(err)
	}
	m.check(t)
	if n := len(m.ended(event.Inbound)); n != 20 {
		t.Fatalf("%d events of 20 requests", n)
	}
}

// An idle proxy is known as soon as it runs.
func TestPresence(t *testing.T) {
	m := newMesh(t, "127.0.0.1:1", nil)
	eventually(t, "both", func() bool { s := m.sources(); return s["client"] && s["server"] })
	m.end(t)
}

// What is no request is not forwarded, or carried as what it is, and the next
// connection works.
func TestHostileFirstBytes(t *testing.T) {
	m := newMesh(t, httpServer(t), nil)
	inbound := m.in.Addrs()[0].String()
	hostile := []string{
		"\xf7WEIR\x01\xff\xff", "\xf7WEIR\x63\x00\x00", "\xf7WEIR\x01\x00\x02ab", "\xf7",
		"GET / HTTP/9.9\r\n\r\n", "GET / HTTP/1.1\r\nbad header\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
		"\x16\x03\x01\x00\xff\x01garbage", "\x00", "A", strings.Repeat("A", 100_000),
		"GET /" + strings.Repeat("a", 200_000),
	}
	for _, bytes := range hostile {
		for _, addr := range []string{m.addr, inbound} {
			c := dial(t, addr)
			// The proxy may close before it has read all.
			_, _ = io.WriteString(c, bytes)
			_ = c.CloseWrite()
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
		}
	}
	c := httpClient(t)
	if code, _, err := get(c, "http://"+m.addr+"/1"); err != nil || code != 200 {
		t.Fatalf("%d, %v", code, err)
	}
	c.CloseIdleConnections()
	m.end(t)
	// Each is told of by the proxy it came to, but for the HTTP/2 connection
	// that may end before anybody opened a stream. What that proxy refused may
	// have reached the next one as a connection without a request.
	if n := len(m.ended(event.Outbound)); n < len(hostile) {
		t.Fatalf("%d events of %d connections", n, len(hostile)+1)
	}
	refused := 0
	for _, e := range m.ended(event.Inbound) {
		if e.Fate&event.Refused != 0 {
			refused++
		}
	}
	if refused == 0 {
		t.Fatal("nothing was refused")
	}
}

// TestThousandConnections has a thousand connections open, and then a thousand
// requests under way at once. They are opened some at a time: a proxy gives
// another one 5 s to answer its hello, and a busy machine may take longer for a
// thousand.
func TestThousandConnections(t *testing.T) {
	m := newMesh(t, httpServer(t), func(c *proxy.Config) { c.Traffic.ConnectTimeout = time.Minute })
	const n, each, opening = 1000, 3, 50
	var wg, opened sync.WaitGroup
	turns := make(chan struct{}, opening)
	errs := make(chan error, n)
	opened.Add(n)
	for range n {
		wg.Go(func() {
			tr := &http.Transport{}
			defer tr.CloseIdleConnections()
			c := &http.Client{Transport: tr, Timeout: time.Minute}
			ask := func() bool {
				code, size, err := get(c, "http://"+m.addr+"/10")
				if err != nil || code != 200 || size != 10 {
					errs <- fmt.Errorf("%d, %d bytes, %v", code, size, err)
					return false
				}
				return true
			}
			turns <- struct{}{}
			ok := ask()
			<-turns
			opened.Done()
			opened.Wait()
			for i := 1; i < each && ok; i++ {
				ok = ask()
			}
		})
	}
	wg.Wait()
	close(errs)
	m.end(t)
	for err := range errs {
		t.Error(err)
	}
	connections := make(map[uint64]bool)
	for _, e := range append(m.ended(event.Outbound), m.ended(event.Inbound)...) {
		connections[e.Connection] = true
		if e.Error != "" {
			t.Errorf("direction %d, connection %d: %s after %d µs", e.Direction, e.Connection, e.Error, e.Duration)
		}
	}
	if len(connections) != n && !t.Failed() {
		t.Errorf("%d connections, want %d", len(connections), n)
	}
	m.joined(t, n*each)
}

func TestAdmin(t *testing.T) {
	m := newMesh(t, httpServer(t), func(c *proxy.Config) { c.Traffic.DrainDelay = time.Second })
	c := httpClient(t)
	for range 5 {
		if code, _, err := get(c, "http://"+m.addr+"/1"); err != nil || code != 200 {
			t.Fatalf("%d, %v", code, err)
		}
	}
	admin := "http://" + m.in.AdminAddr().String()
	var text string
	// An event is counted a moment after its client has the answer.
	eventually(t, "the count of requests", func() bool {
		resp, err := c.Get(admin + "/metrics")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		text = string(body)
		return err == nil && strings.Contains(text, `weir_proxy_requests_total{direction="inbound"} 5`)
	})
	mustContain(t, text,
		`weir_proxy_connections_open{direction="inbound"} 1`,
		`weir_proxy_connections_total{direction="inbound"} 1`,
		`weir_proxy_events_total{direction="inbound"} 5`,
		`protocol="http/1"} 1`,
		"weir_proxy_events_shed_total 0", "weir_proxy_batches_published_total", "weir_proxy_retained_bytes",
		"weir_proxy_publish_errors_total 0", "weir_proxy_bus_connected 1", "process_resident_memory_bytes")
	for path, want := range map[string]int{"/live": 200, "/ready": 200, "/nope": 404} {
		if code, _, err := get(c, admin+path); err != nil || code != want {
			t.Fatalf("%s: %d, %v", path, code, err)
		}
	}
	m.in.begin()
	eventually(t, "no readiness", func() bool { code, _, _ := get(c, admin+"/ready"); return code == 503 })
	if code, _, err := get(c, admin+"/live"); err != nil || code != 200 {
		t.Fatalf("live: %d, %v", code, err)
	}
	// Clients that have not heard yet are still served.
	if code, _, err := get(c, "http://"+m.addr+"/1"); err != nil || code != 200 {
		t.Fatalf("while draining: %d, %v", code, err)
	}
}

func TestPortInUse(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	used := ln.Addr().String()
	f := func(cfg proxy.Config, wants ...string) {
		t.Helper()
		err := proxy.Run(context.Background(), cfg, &sink{}, slog.New(slog.DiscardHandler))
		if err == nil {
			t.Fatal("no error")
		}
		mustContain(t, err.Error(), append(wants, used, "address already in use")...)
	}
	f(config("a", listen.Spec{Direction: event.Inbound, Listen: used, Target: "127.0.0.1:1"}), "--inbound")
	f(config("a", listen.Spec{Direction: event.Outbound, Listen: used, Target: "127.0.0.1:1"}), "--outbound")
	cfg := config("a", listen.Spec{Direction: event.Inbound, Target: "127.0.0.1:1"})
	cfg.Admin.Listen = used
	f(cfg, "--admin")
}

func TestTelemetryOff(t *testing.T) {
	cfg := config("a", listen.Spec{Direction: event.Inbound, Target: httpServer(t)})
	cfg.Telemetry.Off = true
	s := &sink{}
	r := run(t, cfg, s)
	c := httpClient(t)
	if code, _, err := get(c, "http://"+r.Addrs()[0].String()+"/1"); err != nil || code != 200 {
		t.Fatalf("%d, %v", code, err)
	}
	if code, _, err := get(c, "http://"+r.AdminAddr().String()+"/metrics"); err != nil || code != 200 {
		t.Fatalf("%d, %v", code, err)
	}
	c.CloseIdleConnections()
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	if len(s.sources()) != 0 {
		t.Fatal("published all the same")
	}
}
