package conformance

import (
	"context"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/weirmesh/weir/bus/bustest"
)

// defaultSoak is how long TestSoak goes on; SOAK says otherwise ("30m").
const defaultSoak = 15 * time.Second

func soakTime(t *testing.T) time.Duration {
	t.Helper()
	v := os.Getenv("SOAK")
	if v == "" {
		return defaultSoak
	}
	d, err := time.ParseDuration(v)
	if err != nil || d <= 0 {
		t.Fatalf("SOAK=%q: want a duration, for example SOAK=30m", v)
	}
	return d
}

// footprint is what a proxy holds.
type footprint struct{ descriptors, goroutines, rss int }

func (p *proxy) footprint() footprint {
	return footprint{p.descriptors(), int(p.metric("go_goroutines")), p.rss()}
}

// TestSoak puts mixed load on a pair of proxies, with all the ways in which
// exchanges break off. Afterwards they hold what they held before, and each
// exchange has exactly one end on either side.
func TestSoak(t *testing.T) {
	duration := soakTime(t)
	b := bustest.Run(t)
	book := newLedger()
	book.read(t, b)
	web, calls, echo := webServer(t), grpcServer(t), echoServer(t)

	inGRPC, inTCP, outGRPC, outTCP := freeAddr(t), freeAddr(t), freeAddr(t), freeAddr(t)
	in := startProxy(t, "inbound", web, "--inbound", inGRPC+"="+calls, "--inbound", inTCP+"="+echo,
		"--workload", "soak/deploy/server", "--bus", b.URL(), "--telemetry-buffer", "64MiB")
	out := startProxy(t, "outbound", in.addr+",mesh", "--outbound", outGRPC+"="+inGRPC+",mesh", "--outbound", outTCP+"="+inTCP+",mesh",
		"--workload", "soak/deploy/client", "--bus", b.URL(), "--telemetry-buffer", "64MiB")
	l := &load{ledger: book, http: out.addr, grpc: outGRPC, tcp: outTCP}

	// A first round lets the proxies open what they keep.
	l.run(t, time.Second)
	l.quiet(t, out, in)
	before := [2]footprint{out.footprint(), in.footprint()}
	idle := make([]net.Conn, 0, 200)
	for range cap(idle) {
		idle = append(idle, dial(t, out.addr))
	}
	l.tcpMaybe.Add(uint64(len(idle)))
	l.run(t, duration)
	busy := [2]footprint{out.footprint(), in.footprint()}
	for _, conn := range idle {
		_ = conn.Close()
	}
	l.quiet(t, out, in)
	for i, p := range []*proxy{out, in} {
		held(t, p, before[i], busy[i])
		p.stop()
	}
	book.settled(t, 2)
	book.check(t)
	l.checkTotals(t)
}

// run is a round of load.
func (l *load) run(t *testing.T, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	l.begin(ctx, 0, 6, func(c *client) { c.webClient(false) })
	l.begin(ctx, 10, 4, func(c *client) { c.webClient(true) })
	l.begin(ctx, 20, 6, (*client).rudeClient)
	l.begin(ctx, 30, 4, (*client).grpcClient)
	l.begin(ctx, 40, 3, (*client).tcpClient)
	l.wg.Wait()
	l.failures.Range(func(what, _ any) bool {
		t.Errorf("a client failed: %v", what)
		return true
	})
}

// quiet waits until the proxies have no connection left.
func (l *load) quiet(t *testing.T, proxies ...*proxy) {
	t.Helper()
	eventually(t, func() string {
		for _, p := range proxies {
			if n := p.metric(`weir_proxy_connections_open{direction="inbound"}`) + p.metric(`weir_proxy_connections_open{direction="outbound"}`); n != 0 {
				return fmt.Sprintf("%v connections are open", n)
			}
		}
		return ""
	})
}

// held compares what a proxy holds with what it held before.
func held(t *testing.T, p *proxy, before, busy footprint) {
	t.Helper()
	const (
		someDescriptors = 4  // the admin port's, and pipes kept for the next
		someGoroutines  = 10 // likewise
		someMemory      = 16 << 20
	)
	var now footprint
	eventually(t, func() string {
		now = p.footprint()
		switch {
		case now.descriptors > before.descriptors+someDescriptors:
			return fmt.Sprintf("%d descriptors, before %d", now.descriptors, before.descriptors)
		case now.goroutines > before.goroutines+someGoroutines:
			return fmt.Sprintf("%d goroutines, before %d", now.goroutines, before.goroutines)
		case !raced && now.rss > before.rss+someMemory:
			return fmt.Sprintf("%d bytes resident, before %d", now.rss, before.rss)
		}
		return ""
	})
	t.Logf("descriptors, goroutines and resident bytes before %v, under load %v, after %v", before, busy, now)
}

// checkTotals compares what has no path.
func (l *load) checkTotals(t *testing.T) {
	t.Helper()
	sure, maybe := l.tcpSure.Load(), l.tcpMaybe.Load()+l.pathless.Load()
	for d, n := range l.ledger.tcp {
		if n < sure || n > sure+maybe {
			t.Errorf("direction %d: %d ends of TCP connections, want %d to %d", d+1, n, sure, sure+maybe)
		}
	}
	if n, most := l.ledger.other[1], l.pathless.Load(); n > most {
		t.Errorf("%d ends of requests without a path, want at most %d", n, most)
	}
}
