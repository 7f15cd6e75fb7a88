package conformance

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of resident memory, in bytes. They leave room beyond what is measured
// (docs/testing.md says that) for systems that count otherwise.
const (
	mostIdle  = 120 << 20 // with 10,000 idle connections
	mostAfter = 24 << 20  // a minute after 1,000 busy ones
)

// TestMemory measures a proxy with many idle connections, and after many busy
// ones have closed. Without SOAK set there are fewer of both.
func TestMemory(t *testing.T) {
	if raced {
		t.Skip("the race detector's memory is not the proxy's")
	}
	idle, busy, later := 2000, 200, 5*time.Second
	if os.Getenv("SOAK") != "" {
		idle, busy, later = 10_000, 1000, min(time.Minute, soakTime(t))
	}
	idle = affordable(t, idle)
	p := startProxy(t, "inbound", separateServer(t), "--max-connections", "20000")
	began := p.rss()
	conns := make([]net.Conn, 0, idle)
	for i := range idle {
		conn := dial(t, p.addr)
		if i%2 == 0 { // Half of them have carried a request.
			fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			if _, err := conn.Read(make([]byte, 4096)); err != nil {
				t.Fatal(err)
			}
		}
		conns = append(conns, conn)
	}
	time.Sleep(later) // memory settles; nothing to wait for
	withIdle := p.rss()
	for _, conn := range conns {
		_ = conn.Close()
	}
	q := startProxy(t, "inbound", webServer(t))
	ctx, cancel := context.WithTimeout(t.Context(), later)
	defer cancel()
	l := &load{ledger: newLedger(), http: q.addr}
	l.begin(ctx, 0, busy, func(c *client) { c.webClient(c.worker%4 == 0) })
	highest := 0
	for ctx.Err() == nil {
		highest = max(highest, q.rss())
		wait(ctx, 100*time.Millisecond)
	}
	l.wg.Wait()
	l.failures.Range(func(what, _ any) bool {
		t.Errorf("a client failed: %v", what)
		return true
	})
	time.Sleep(later)
	after := q.rss()
	t.Logf("resident: %d bytes at the start, %d with %d idle connections, at most %d with %d busy ones, %d in %v after",
		began, withIdle, idle, highest, busy, after, later)
	if withIdle > mostIdle {
		t.Errorf("%d bytes resident with %d idle connections, want at most %d", withIdle, idle, mostIdle)
	}
	if later == time.Minute && after > mostAfter {
		t.Errorf("%d bytes resident in %v after %d busy connections, want at most %d", after, later, busy, mostAfter)
	}
}

// affordable lowers n to the connections that a proxy may have here: each takes
// two files.
func affordable(t *testing.T, n int) int {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	return min(n, int(min(limit.Max, 1<<20))/2-100)
}

// envServer has this program be a server instead of testing.
const envServer = "WEIR_CONFORMANCE_SERVER"

// serveHello is what it then does: it answers at the address until it is ended.
func serveHello(address string) error {
	return http.ListenAndServe(address, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "hello")
	}))
}

// separateServer is a server with files of its own.
func separateServer(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	address := freeAddr(t)
	start(t, "/usr/bin/env", envServer+"="+address, self)
	works(t, address)
	return address
}
