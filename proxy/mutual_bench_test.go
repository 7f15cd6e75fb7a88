package proxy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy"
	"github.com/weirmesh/weir/proxy/listen"
	"github.com/weirmesh/weir/proxy/mtls/mtlstest"
)

// BenchmarkHop carries HTTP/1.1 requests over 32 connections that are kept,
// through a pair of proxies, in plain text and by mutual TLS. Client, server and
// both proxies are this process: cpu-µs/op is all of their time, so that the
// difference is what TLS takes in both proxies. Handshakes are before it.
func BenchmarkHop(b *testing.B) {
	for _, size := range []int{128, 16 << 10} {
		for _, mutual := range []bool{false, true} {
			b.Run(fmt.Sprintf("%d bytes/mutual=%v", size, mutual), func(b *testing.B) { benchmarkHop(b, size, mutual) })
		}
	}
}

func benchmarkHop(b *testing.B, size int, mutual bool) {
	const connections = 32
	to := hop(b, size, mutual)
	var conns []*bufio.ReadWriter
	for range connections {
		c, err := net.Dial("tcp", to)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = c.Close() })
		rw := bufio.NewReadWriter(bufio.NewReaderSize(c, 32<<10), bufio.NewWriter(c))
		if err := request(rw, size); err != nil {
			b.Fatal(err)
		}
		conns = append(conns, rw)
	}
	b.ResetTimer()
	before := cpuTime(b)
	var wg sync.WaitGroup
	for i, c := range conns {
		n := b.N / connections
		if i < b.N%connections {
			n++
		}
		wg.Go(func() {
			for range n {
				if err := request(c, size); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
}

// hop begins a server, that answers with as many bytes, and a pair of proxies in
// front of it, and returns where the outer one listens.
func hop(b *testing.B, size int, mutual bool) string {
	in := config("server", listen.Spec{Direction: event.Inbound, Target: fixedServer(b, size)})
	out := listen.Spec{Direction: event.Outbound, Mesh: true}
	identities := func(c proxy.Config, _ string) proxy.Config { return c }
	if mutual {
		ca := mtlstest.New(b)
		identities = func(c proxy.Config, name string) proxy.Config {
			f := ca.Files(b, identityOf(name), time.Hour)
			c.Identity.Certificate, c.Identity.Key, c.Identity.Anchors = f.Certificate, f.Key, f.Anchors
			return c
		}
		out.Identity = identityOf("server")
	}
	server := begin(b, identities(in, "server"))
	out.Target = server.Addrs()[0].String()
	client := begin(b, identities(config("client", out), "client"))
	time.Sleep(100 * time.Millisecond) // certificates
	return client.Addrs()[0].String()
}

// request sends one and reads its answer.
func request(c *bufio.ReadWriter, size int) error {
	_, _ = c.WriteString("GET / HTTP/1.1\r\nHost: server\r\n\r\n")
	if err := c.Flush(); err != nil {
		return err
	}
	for {
		line, err := c.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) == 2 {
			break
		}
	}
	_, err := c.Discard(size)
	return err
}

// fixedServer answers each request with as many bytes.
func fixedServer(b *testing.B, size int) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	body := make([]byte, size)
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(size))
		_, _ = w.Write(body)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(ln) }()
	b.Cleanup(func() { _ = s.Close(); <-done })
	return ln.Addr().String()
}

// begin runs a proxy without telemetry until the benchmark ends.
func begin(b *testing.B, cfg proxy.Config) *proxy.Proxy {
	b.Helper()
	cfg.Traffic.DrainTimeout = time.Millisecond
	p, err := proxy.New(context.Background(), cfg, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = p.Run(ctx) }()
	b.Cleanup(func() { cancel(); <-done })
	return p
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkConnect measures a new connection through a pair of proxies, with one
// request: the handshake is most of the difference.
func BenchmarkConnect(b *testing.B) {
	for _, mutual := range []bool{false, true} {
		b.Run(fmt.Sprintf("mutual=%v", mutual), func(b *testing.B) {
			in := config("server", listen.Spec{Direction: event.Inbound, Target: fixedServer(b, 128)})
			out := listen.Spec{Direction: event.Outbound, Mesh: true}
			cc := config("client")
			if mutual {
				ca := mtlstest.New(b)
				for name, c := range map[string]*proxy.Config{"server": &in, "client": &cc} {
					f := ca.Files(b, identityOf(name), time.Hour)
					c.Identity.Certificate, c.Identity.Key, c.Identity.Anchors = f.Certificate, f.Key, f.Anchors
				}
				out.Identity = identityOf("server")
			}
			server := begin(b, in)
			out.Target, out.Listen = server.Addrs()[0].String(), "127.0.0.1:0"
			cc.Traffic.Listeners = []listen.Spec{out}
			client := begin(b, cc)
			time.Sleep(100 * time.Millisecond) // certificates
			b.ResetTimer()
			before := cpuTime(b)
			for range b.N {
				c, err := net.Dial("tcp", client.Addrs()[0].String())
				if err != nil {
					b.Fatal(err)
				}
				if _, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n"); err == nil {
					_, err = io.Copy(io.Discard, c)
				}
				_ = c.Close()
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
		})
	}
}

// BenchmarkIdle measures the memory of connections through a pair of proxies
// that have carried a request and are silent: heap and stacks of both proxies,
// the client's and the server's ends among them.
func BenchmarkIdle(b *testing.B) {
	for _, mutual := range []bool{false, true} {
		b.Run(fmt.Sprintf("mutual=%v", mutual), func(b *testing.B) {
			const connections = 500
			to := hop(b, 128, mutual)
			for range b.N {
				before := inUse()
				var conns []net.Conn
				for range connections {
					c, err := net.Dial("tcp", to)
					if err != nil {
						b.Fatal(err)
					}
					conns = append(conns, c)
					if err := request(bufio.NewReadWriter(bufio.NewReader(c), bufio.NewWriter(c)), 128); err != nil {
						b.Fatal(err)
					}
				}
				time.Sleep(time.Second) // until they count as idle
				b.ReportMetric(float64(inUse()-before)/connections, "B/connection")
				for _, c := range conns {
					_ = c.Close()
				}
			}
		})
	}
}

// inUse is the memory of heap and stacks, in bytes.
func inUse() uint64 {
	runtime.GC()
	runtime.GC() // what pools dropped
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}
