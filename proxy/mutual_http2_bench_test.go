package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy"
	"github.com/weirmesh/weir/proxy/listen"
	"github.com/weirmesh/weir/proxy/mtls/mtlstest"
)

// BenchmarkHopHTTP2 carries HTTP/2 requests on 32 streams of one connection
// through a pair of proxies of which the outer one balances, in plain text and by
// mutual TLS. Client, server and both proxies are this process, as in
// BenchmarkHop.
func BenchmarkHopHTTP2(b *testing.B) {
	for _, size := range []int{128, 16 << 10} {
		for _, mutual := range []bool{false, true} {
			b.Run(fmt.Sprintf("%d bytes/mutual=%v", size, mutual), func(b *testing.B) { benchmarkHopHTTP2(b, size, mutual) })
		}
	}
}

func benchmarkHopHTTP2(b *testing.B, size int, mutual bool) {
	const streams = 32
	to := balancedHop(b, fixedServerHTTP2(b, size), mutual)
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	t := &http.Transport{Protocols: &p}
	b.Cleanup(t.CloseIdleConnections)
	c := &http.Client{Transport: t}
	get := func() error {
		resp, err := c.Get("http://" + to + "/")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != int64(size) {
			return fmt.Errorf("%d bytes: %w", n, err)
		}
		return nil
	}
	if err := get(); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	before := cpuTime(b)
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	for range streams {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := get(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
}

// balancedHop begins a pair of proxies in front of a server, the outer one with a
// balanced listener, and returns where that is.
func balancedHop(b *testing.B, server string, mutual bool) string {
	in := config("server", listen.Spec{Direction: event.Inbound, Target: server})
	out := listen.Spec{Direction: event.Outbound, Mesh: true, Listen: "127.0.0.1:0"}
	cc := config("client")
	if mutual {
		ca := mtlstest.New(b)
		for name, c := range map[string]*proxy.Config{"server": &in, "client": &cc} {
			f := ca.Files(b, identityOf(name), time.Hour)
			c.Identity.Certificate, c.Identity.Key, c.Identity.Anchors = f.Certificate, f.Key, f.Anchors
		}
		out.Identity = identityOf("server")
	}
	out.Endpoints = []string{begin(b, in).Addrs()[0].String()}
	cc.Traffic.Listeners = []listen.Spec{out}
	client := begin(b, cc)
	time.Sleep(100 * time.Millisecond) // certificates
	return client.Addrs()[0].String()
}

// fixedServerHTTP2 answers each request with as many bytes.
func fixedServerHTTP2(b *testing.B, size int) string {
	ln, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	body := make([]byte, size)
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	s := &http.Server{Protocols: &p, ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(body)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(ln) }()
	b.Cleanup(func() { _ = s.Close(); <-done })
	return ln.Addr().String()
}
