package conformance

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestRestart ends the inbound proxy of a pair again and again under load,
// with SIGTERM, and starts another at its address at once, as a deployment
// does that has two of them. Clients with connections that are kept, HTTP/1,
// HTTP/2 and gRPC, lose no request.
func TestRestart(t *testing.T) {
	web, calls := webServer(t), grpcServer(t)
	drain := []string{"--drain-delay", "100ms", "--drain-timeout", "30s"}
	rounds := 4
	relayed := [2]*switching{newSwitching(t), newSwitching(t)}
	for i, target := range []string{web, calls} {
		relayed[i].to.Store(startProxy(t, "inbound", target, drain...))
	}
	outWeb := startProxy(t, "inbound", relayed[0].addr, drain...)
	outCalls := startProxy(t, "inbound", relayed[1].addr, drain...)

	l := &load{ledger: newLedger(), http: outWeb.addr, grpc: outCalls.addr}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var served atomic.Int64
	l.begin(ctx, 0, 4, func(c *client) { c.steady(false, &served) })
	l.begin(ctx, 10, 4, func(c *client) { c.steady(true, &served) })
	l.begin(ctx, 20, 4, func(c *client) { c.grpcClient() })
	for range rounds {
		at := served.Load()
		eventually(t, func() string {
			if n := served.Load(); n < at+200 {
				return fmt.Sprintf("only %d requests since the last restart", n-at)
			}
			return ""
		})
		for i, target := range []string{web, calls} {
			// The new one first, as in a rolling restart; then the old one ends.
			old := relayed[i].to.Swap(startProxy(t, "inbound", target, drain...))
			old.stop()
			if code := old.cmd.ProcessState.ExitCode(); code != 0 {
				t.Errorf("exit code %d", code)
			}
		}
	}
	cancel()
	l.wg.Wait()
	l.failures.Range(func(what, _ any) bool {
		t.Errorf("a request was lost: %v", what)
		return true
	})
	t.Logf("%d requests of HTTP over %d restarts, %d failed", served.Load(), rounds, l.failed.Load())
}

// switching is a Service: it carries each new connection to the proxy of the
// moment, byte by byte, and both ways of ending.
type switching struct {
	addr string
	to   atomic.Pointer[proxy]
}

func newSwitching(t *testing.T) *switching {
	t.Helper()
	ln := listenLocal(t)
	s := &switching{addr: ln.Addr().String()}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { s.carry(conn.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		wg.Wait()
	})
	return s
}

func (s *switching) carry(client *net.TCPConn) {
	defer client.Close()
	conn, err := net.Dial("tcp", s.to.Load().addr)
	if err != nil {
		return
	}
	server := conn.(*net.TCPConn)
	defer server.Close()
	var wg sync.WaitGroup
	copied := func(dst, src *net.TCPConn) {
		_, _ = io.Copy(dst, src)
		_ = dst.CloseWrite()
	}
	wg.Go(func() { copied(server, client) })
	wg.Go(func() { copied(client, server) })
	wg.Wait()
}

// steady sends requests over kept connections, and expects each to be answered.
func (c *client) steady(http2 bool, served *atomic.Int64) {
	transport := &http.Transport{DisableCompression: true, Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP1(!http2)
	transport.Protocols.SetUnencryptedHTTP2(http2)
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: patience}
	for !c.over() {
		resp, err := client.Get("http://" + c.http + "/soak/steady?n=3000")
		if err != nil {
			c.fail("steady client", err)
			continue
		}
		n, err := io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if err != nil || n != 3000 || resp.StatusCode != http.StatusOK {
			c.fail("steady client", fmt.Errorf("%s, %d bytes, %w", resp.Status, n, err))
		}
		served.Add(1)
		c.pause(4 * time.Millisecond)
	}
}

// hello is a server with nothing to it.
func hello(t *testing.T) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// works fails unless a request on a connection of its own is answered, in time.
func works(t *testing.T, address string) {
	t.Helper()
	eventually(t, func() string {
		client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Get("http://" + address + "/")
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || string(body) != "hello" {
			return fmt.Sprintf("%s %q, %v", resp.Status, body, err)
		}
		return ""
	})
}

// TestDescriptorsExhausted takes all files that a proxy may open. It lives,
// and serves again once there are some.
func TestDescriptorsExhausted(t *testing.T) {
	server := hello(t)
	p := startProxy(t, "inbound", server, "--telemetry", "off")
	limit := limitFiles(t, p, 64)
	works(t, p.addr)
	conns := make([]*net.TCPConn, 0, 200)
	for range cap(conns) {
		conn, err := net.DialTimeout("tcp", p.addr, patience)
		if err != nil {
			t.Fatal(err) // The system accepts where the proxy does not.
		}
		conns = append(conns, conn.(*net.TCPConn))
	}
	eventually(t, func() string {
		if n := p.descriptors(); n < limit-2 {
			return fmt.Sprintf("%d descriptors of %d are open", n, limit)
		}
		return ""
	})
	for _, conn := range conns {
		_ = conn.Close()
	}
	works(t, p.addr)
	if n := p.metric("weir_proxy_accept_errors_total") + p.metric(`weir_proxy_dial_errors_total{direction="inbound"}`); n == 0 {
		t.Error("the exhaustion was not counted")
	}
	eventually(t, func() string {
		if n := p.descriptors(); n > 30 {
			return fmt.Sprintf("%d descriptors are still open", n)
		}
		return ""
	})
}

// TestSlowloris holds many connections with heads that never end: others are
// served meanwhile, and the head timeout frees what they hold.
func TestSlowloris(t *testing.T) {
	server := hello(t)
	p := startProxy(t, "inbound", server, "--head-timeout", "2s")
	conns := make([]net.Conn, 0, 500)
	for i := range cap(conns) {
		conn := dial(t, p.addr)
		head := "GET / HTTP/1.1\r\nHost: a\r\n"
		if i%2 == 0 { // HTTP/2: a header block without its end
			head = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x01\x01\x00\x00\x00\x00\x01\x82"
		}
		if _, err := io.WriteString(conn, head); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	works(t, p.addr)
	for i, conn := range conns {
		answer, err := io.ReadAll(conn)
		if err != nil || len(answer) == 0 {
			t.Errorf("connection %d: %q, %v; want an answer and the end", i, answer, err)
		}
		_ = conn.Close()
	}
	eventually(t, func() string {
		if n := p.metric(`weir_proxy_connections_open{direction="inbound"}`); n != 0 {
			return fmt.Sprintf("%v connections are still open", n)
		}
		return ""
	})
	works(t, p.addr)
}

// TestConnectionLimit reaches the bound on connections.
func TestConnectionLimit(t *testing.T) {
	server := hello(t)
	p := startProxy(t, "inbound", server, "--max-connections", "20")
	conns := make([]*net.TCPConn, 0, 20)
	for range cap(conns) {
		conns = append(conns, dial(t, p.addr))
	}
	eventually(t, func() string {
		if n := p.metric(`weir_proxy_connections_open{direction="inbound"}`); n != 20 {
			return fmt.Sprintf("%v connections are open", n)
		}
		return ""
	})
	over := dial(t, p.addr)
	if n, err := over.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("one connection too many was served: %d bytes, %v", n, err)
	}
	_ = conns[0].Close()
	works(t, p.addr)
	if n := p.metric(`weir_proxy_connections_refused_by_limit_total{direction="inbound"}`); n == 0 {
		t.Error("no refused connection was counted")
	}
}

// limitFiles lowers how many files p may open, and returns how many.
func limitFiles(t *testing.T, p *proxy, n uint64) int {
	t.Helper()
	if err := unix.Prlimit(p.cmd.Process.Pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: n}, nil); err != nil {
		t.Fatalf("cannot limit the files of the proxy: %v", err)
	}
	return int(n)
}
