package http1_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/relay"
)

// TestPipelining sends 100 requests at once.
func TestPipelining(t *testing.T) {
	const n = 100
	p, client, server := raw(t, nil)
	var all strings.Builder
	for i := range n {
		fmt.Fprintf(&all, "POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 300\r\n\r\n%300d", i, i)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.WriteString(client.TCPConn, all.String())
	}()
	for i := range n {
		server.expect(fmt.Sprintf("POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 300\r\n\r\n%300d", i, i))
		server.send(ok2)
	}
	client.expect(strings.Repeat(ok2, n))
	<-done
	_ = client.Close()
	for i, e := range p.ended(n) {
		check(t, e, want{method: "POST", authority: "h", path: fmt.Sprintf("/%d", i), status: 200, stream: uint32(i + 1)})
	}
}

// TestBadResponses has responses that are not valid replaced by 502.
func TestBadResponses(t *testing.T) {
	for name, response := range map[string]string{
		"garbage":              "220 smtp.example ESMTP\r\n",
		"version":              "HTTP/2.0 200 OK\r\n\r\n",
		"two lengths":          "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
		"length and coding":    "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
		"unknown coding":       "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
		"bare LF":              "HTTP/1.1 200 OK\n\n",
		"bad first chunk":      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz",
		"upgrade of itself":    "HTTP/1.1 101 Switching Protocols\r\n\r\n",
		"head without any end": "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("a", 70<<10),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, client, server := raw(t, nil)
			client.send(get)
			server.expect(get)
			_, _ = io.WriteString(server.TCPConn, response)
			got := client.rest()
			if !strings.HasPrefix(got, "HTTP/1.1 502 Bad Gateway\r\n") || !strings.Contains(got, "weir: the server's response is malformed: ") {
				t.Errorf("got %q", got)
			}
			_ = client.Close()
			check(t, p.ended(1)[0], want{method: "GET", authority: "web.example", path: "/a/b", status: 502, err: event.ErrMalformedServer})
		})
	}
}

func TestNoServer(t *testing.T) {
	p := newProxy(t, "", nil)
	for range 2 {
		c := p.dial()
		c.send(get)
		if got := c.rest(); !strings.HasPrefix(got, "HTTP/1.1 502 Bad Gateway\r\n") || !strings.HasSuffix(got, "connect_refused\n") {
			t.Errorf("got %q", got)
		}
		_ = c.Close()
	}
	for _, e := range p.ended(2) {
		check(t, e, want{method: "GET", authority: "web.example", path: "/a/b", status: 502, err: event.ErrConnectRefused})
	}
}

func TestDrain(t *testing.T) {
	t.Run("idle", func(t *testing.T) {
		p, client, server := raw(t, nil)
		client.send(get)
		server.expect(get)
		server.send(ok2)
		client.expect(ok2)
		close(p.drain)
		client.expectEnd()
		server.expectEnd()
		check(t, p.ended(1)[0], want{method: "GET", authority: "web.example", path: "/a/b", status: 200})
	})
	t.Run("in an exchange", func(t *testing.T) {
		drain := make(chan func(), 1)
		p, client, server := raw(t, func(c *relay.Conn) {
			c.OnDrain = func(f func()) (stop func() bool) {
				drain <- f
				return func() bool { return true }
			}
		})
		client.send(get + get)
		server.expect(get)
		(<-drain)()
		server.send(ok2)
		client.expect("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
		client.expectEnd()
		_ = client.Close()
		check(t, p.ended(1)[0], want{method: "GET", authority: "web.example", path: "/a/b", status: 200})
	})
}

// TestDrainHook drains through Conn.OnDrain, which takes no goroutine.
func TestDrainHook(t *testing.T) {
	draining, drain := context.WithCancel(context.Background())
	p, client, server := raw(t, func(c *relay.Conn) {
		c.Drain = draining.Done()
		c.OnDrain = func(f func()) (stop func() bool) { return context.AfterFunc(draining, f) }
	})
	drain()
	client.expectEnd()
	server.expectEnd()
	p.ended(0)
}

// TestUpgradedEnds has upgraded connections outlive the drain, but not the
// hard stop.
func TestUpgradedEnds(t *testing.T) {
	const request = "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
	const response = "HTTP/1.1 101 Switching Protocols\r\n\r\n"
	p, client, server := raw(t, nil)
	client.send(request)
	server.expect(request)
	server.send(response)
	client.expect(response)
	close(p.drain)
	for range 3 {
		client.send("ping")
		server.expect("ping")
		server.send("pong")
		client.expect("pong")
	}
	p.cancel()
	client.expectEnd()
	server.expectEnd()
	check(t, p.ended(1)[0], want{method: "GET", authority: "h", path: "/ws", status: 101, protocol: event.WebSocket, fate: event.Drained,
		up: uint64(len(request)) + 12, down: uint64(len(response)) + 12})
}

func TestHardStop(t *testing.T) {
	p, client, server := raw(t, nil)
	client.send(get)
	server.expect(get)
	p.cancel()
	client.expectEnd()
	check(t, p.ended(1)[0], want{method: "GET", authority: "web.example", path: "/a/b", err: "stopped", fate: event.Drained})
}

func TestProgress(t *testing.T) {
	p, client, server := raw(t, func(c *relay.Conn) { c.Progress = 5 * time.Millisecond })
	client.send(get)
	server.expect(get)
	server.send("HTTP/1.1 200 OK\r\n\r\n")
	client.expect("HTTP/1.1 200 OK\r\n\r\n")
	for until := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		var up, down uint64
		events := p.rec.all()
		for _, e := range events {
			up, down = up+e.RequestBytes, down+e.ResponseBytes
			if e.Kind != event.Progress || e.Method != "GET" {
				t.Fatalf("got %+v", e)
			}
		}
		if len(events) > 2 && up == 44 && down == 19 {
			break
		}
		if time.Now().After(until) {
			t.Fatalf("progress tells %d and %d bytes", up, down)
		}
	}
	_ = server.Close()
	client.expectEnd()
	_ = client.Close()
	check(t, p.ended(1)[0], want{method: "GET", authority: "web.example", path: "/a/b", status: 200, up: 44, down: 19})
}

func TestTraceID(t *testing.T) {
	p, client := httpServer(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), nil)
	req, _ := http.NewRequest("GET", "http://h/", nil)
	req.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	client.CloseIdleConnections()
	if e := p.ended(1)[0]; fmt.Sprintf("%x", e.TraceID) != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("got %x", e.TraceID)
	}
}

// TestHeadTimeout sends heads that never end, at once and in drops.
func TestHeadTimeout(t *testing.T) {
	for name, drip := range map[string]bool{"silent": false, "dripping": true} {
		t.Run(name, func(t *testing.T) {
			p, client, server := raw(t, func(c *relay.Conn) { c.HeadTimeout = 200 * time.Millisecond })
			client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
			server.expect("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
			server.send(ok2)
			client.expect(ok2)
			client.send("GET / HTTP/1.1\r\nHost: h\r\nA: ")
			stop := make(chan struct{})
			var wg sync.WaitGroup
			if drip {
				wg.Go(func() {
					for {
						select {
						case <-stop:
							return
						case <-time.After(10 * time.Millisecond):
							_, _ = client.Write([]byte("a"))
						}
					}
				})
			}
			if got := client.rest(); !strings.HasPrefix(got, "HTTP/1.1 408 Request Timeout\r\n") {
				t.Errorf("got %q", got)
			}
			server.expectEnd()
			close(stop)
			wg.Wait()
			_ = client.Close()
			if e := p.ended(2)[1]; e.Status != 408 || e.Error != relay.ReasonHeadTimeout || e.Fate != event.Refused|event.TimedOut {
				t.Errorf("got %+v", e)
			}
		})
	}
}
