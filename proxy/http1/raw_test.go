package http1_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/relay"
	"github.com/weirmesh/weir/proxy/tcp"
)

const (
	get = "GET /a/b?c=d HTTP/1.1\r\nHost: web.example\r\n\r\n"
	ok2 = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
)

// step is one move in a conversation: "c" and "s" send, and the other side
// expects the same bytes.
type step struct{ who, bytes string }

// TestShapes passes every shape of exchange through and finds the bytes as
// they were, and the events.
func TestShapes(t *testing.T) {
	web := want{method: "GET", authority: "web.example", path: "/a/b", status: 200}
	with := func(change func(*want)) want { w := web; change(&w); return w }
	post := func(w *want) { w.method = "POST"; w.path = "/" }
	cases := map[string]struct {
		steps []step
		end   string // who closes: "c" or "s"; "" nobody has to
		want  []want
	}{
		"one exchange": {[]step{{"c", get}, {"s", ok2}}, "c", []want{with(func(w *want) { w.up, w.down, w.stream = 44, 40, 1 })}},
		"keep-alive": {[]step{{"c", get}, {"s", ok2}, {"c", get}, {"s", ok2}}, "s",
			[]want{with(func(w *want) { w.stream = 1 }), with(func(w *want) { w.stream = 2 })}},
		"empty line before the request": {[]step{{"c", get}, {"s", ok2}}, "c", []want{web}},
		"HTTP/1.0": {[]step{{"c", "GET / HTTP/1.0\r\n\r\n"}, {"s", "HTTP/1.0 200 OK\r\n\r\nto the end"}}, "s",
			[]want{{method: "GET", path: "/", status: 200}}},
		"HTTP/1.0 keep-alive": {[]step{
			{"c", "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"},
			{"s", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx"},
			{"c", "GET /2 HTTP/1.0\r\n\r\n"}, {"s", "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\ny"}}, "",
			[]want{{method: "GET", path: "/", status: 200}, {method: "GET", path: "/2", status: 200}}},
		"no reason": {[]step{{"c", get}, {"s", "HTTP/1.1 404\r\ncontent-LENGTH:  0 \r\n\r\n"}}, "c",
			[]want{with(func(w *want) { w.status = 404 })}},
		"close-delimited": {[]step{{"c", get}, {"s", "HTTP/1.1 200 OK\r\n\r\nsome"}, {"s", "more"}}, "s",
			[]want{with(func(w *want) { w.down = 27 })}},
		"server closes": {[]step{{"c", get}, {"s", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx"}}, "",
			[]want{web}},
		"HEAD": {[]step{{"c", "HEAD /a/b HTTP/1.1\r\nHost: web.example\r\n\r\n"}, {"s", "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"},
			{"c", get}, {"s", ok2}}, "c", []want{with(func(w *want) { w.method = "HEAD" }), web}},
		"204 and 304": {[]step{{"c", get}, {"s", "HTTP/1.1 204 No Content\r\n\r\n"},
			{"c", get}, {"s", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"}}, "c",
			[]want{with(func(w *want) { w.status = 204 }), with(func(w *want) { w.status = 304 })}},
		"chunked both ways, with extensions and trailers": {[]step{
			{"c", "POST / HTTP/1.1\r\nHost: web.example\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"b;c\"\r\nhello\r\n"},
			{"c", "a\r\n012345"}, {"c", "6789\r\n0\r\nX-Sum: 1\r\n\r\n"},
			{"s", "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nTrailer: X\r\n\r\n3\r\nabc\r\n"}, {"s", "0\r\nX: y\r\n\r\n"},
			{"c", get}, {"s", ok2}}, "c", []want{with(post), web}},
		"body in pieces": {[]step{{"c", "POST / HTTP/1.1\r\nHost: web.example\r\nContent-Length: 10\r\n\r\n"}, {"c", "01234"}, {"c", "56789"},
			{"s", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"}, {"s", "ab"}, {"s", "cd"}, {"c", get}, {"s", ok2}}, "c", []want{with(post), web}},
		"100 and 103": {[]step{
			{"c", "POST / HTTP/1.1\r\nHost: web.example\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"},
			{"s", "HTTP/1.1 100 Continue\r\n\r\n"}, {"c", "abc"},
			{"s", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"}, {"s", ok2}, {"c", get}, {"s", ok2}}, "c", []want{with(post), web}},
		"answer while the request goes on": {[]step{
			{"c", "POST / HTTP/1.1\r\nHost: web.example\r\nContent-Length: 6\r\n\r\nabc"},
			{"s", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nABC"}, {"c", "def"}, {"s", "DEF"}, {"c", get}, {"s", ok2}}, "c",
			[]want{with(post), web}},
		"whole answer before the request's end": {[]step{
			{"c", "POST / HTTP/1.1\r\nHost: web.example\r\nContent-Length: 6\r\n\r\nabc"}, {"s", ok2}, {"c", "def"}, {"c", get}, {"s", ok2}}, "c",
			[]want{with(post), web}},
		"absolute-form": {[]step{{"c", "GET http://Web.example/x?y HTTP/1.1\r\nHost: web.example\r\n\r\n"}, {"s", ok2}}, "c",
			[]want{{method: "GET", authority: "Web.example", path: "/x", status: 200}}},
		"asterisk": {[]step{{"c", "OPTIONS * HTTP/1.1\r\nHost: web.example\r\n\r\n"}, {"s", ok2}}, "c",
			[]want{{method: "OPTIONS", authority: "web.example", path: "*", status: 200}}},
		"WebSocket": {[]step{
			{"c", "GET /ws HTTP/1.1\r\nHost: web.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n"},
			{"s", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nfirst"},
			{"c", "ping"}, {"s", "pong"}, {"c", get}}, "c",
			[]want{{method: "GET", authority: "web.example", path: "/ws", status: 101, protocol: event.WebSocket, up: 92 + 4 + 44, down: 82 + 4}}},
		"upgrade refused": {[]step{
			{"c", "GET /a/b HTTP/1.1\r\nHost: web.example\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"}, {"s", ok2}, {"c", get}, {"s", ok2}}, "c",
			[]want{web, web}},
		"CONNECT": {[]step{{"c", "CONNECT db.example:5432 HTTP/1.1\r\nHost: db.example:5432\r\n\r\n"},
			{"s", "HTTP/1.1 200 OK\r\n\r\n"}, {"c", "\x00\x01"}, {"s", "\x02"}}, "s",
			[]want{{method: "CONNECT", authority: "db.example:5432", status: 200, down: 20}}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, client, server := raw(t, nil)
			if strings.HasPrefix(name, "empty line") {
				client.send("\r\n")
			}
			for _, s := range tc.steps {
				from, to := client, server
				if s.who == "s" {
					from, to = server, client
				}
				from.send(s.bytes)
				to.expect(s.bytes)
			}
			switch tc.end {
			case "c":
				_ = client.CloseWrite()
				server.expectEnd()
				_ = server.Close()
				client.expectEnd()
			case "s":
				_ = server.CloseWrite()
				client.expectEnd()
				_ = client.Close()
				server.expectEnd()
			default:
				client.expectEnd()
				server.expectEnd()
				_ = client.Close()
			}
			for i, e := range p.ended(len(tc.want)) {
				check(t, e, tc.want[i])
			}
		})
	}
}

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

// TestBroken breaks exchanges in every way.
func TestBroken(t *testing.T) {
	const post = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc"
	const half = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"
	posted := want{method: "POST", authority: "h", path: "/"}
	got := want{method: "GET", authority: "web.example", path: "/a/b"}
	result := func(w want, status uint16, reason string) want { w.status, w.err = status, reason; return w }
	for name, tc := range map[string]struct {
		play func(client, server *conn)
		want []want
	}{
		"nothing at all": {func(c, s *conn) { _ = c.Close(); s.expectEnd() }, nil},
		"client closes in the head": {func(c, s *conn) { c.send("GET / HT"); _ = c.Close(); s.expectEnd() },
			[]want{{err: event.ErrClientClosed, up: 8}}},
		"client closes in the body": {func(c, s *conn) { c.send(post); s.expect(post); _ = c.Close(); s.expectEnd() },
			[]want{result(posted, 0, event.ErrClientClosed)}},
		"client resets in the body": {func(c, s *conn) { c.send(post); s.expect(post); c.reset(); s.expectReset() },
			[]want{result(posted, 0, event.ErrClientReset)}},
		"client resets while it waits": {func(c, s *conn) { c.send(get); s.expect(get); c.reset(); s.expectReset() },
			[]want{result(got, 0, event.ErrClientReset)}},
		"client ends its side while it waits": {func(c, s *conn) {
			c.send(get)
			_ = c.CloseWrite()
			s.expect(get)
			s.expectEnd()
			s.send(ok2)
			c.expect(ok2)
			c.expectEnd()
		}, []want{result(got, 200, "")}},
		"server closes instead of answering": {func(c, s *conn) { c.send(get); s.expect(get); _ = s.Close(); c.expectEnd() },
			[]want{result(got, 0, event.ErrServerClosed)}},
		"server resets instead of answering": {func(c, s *conn) { c.send(get); s.expect(get); s.reset(); c.expectReset() },
			[]want{result(got, 0, event.ErrServerReset)}},
		"server closes in the head": {func(c, s *conn) {
			c.send(get)
			s.expect(get)
			s.send("HTTP/1.1 20")
			_ = s.Close()
			c.expectEnd()
		}, []want{result(got, 0, event.ErrServerClosed)}},
		"server closes in the body": {func(c, s *conn) {
			c.send(get)
			s.expect(get)
			s.send(half)
			_ = s.Close()
			c.expect(half)
			c.expectEnd()
		}, []want{result(got, 200, event.ErrServerClosed)}},
		"server resets in the body": {func(c, s *conn) {
			c.send(get)
			s.expect(get)
			s.send(half)
			c.expect(half)
			s.reset()
			c.expectReset()
		}, []want{result(got, 200, event.ErrServerReset)}},
		"server closes in a chunk": {func(c, s *conn) {
			c.send(get)
			s.expect(get)
			s.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab")
			_ = s.Close()
			_ = c.rest()
		}, []want{result(got, 200, event.ErrServerClosed)}},
		"server answers early and closes": {func(c, s *conn) {
			const early = "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"
			c.send(post)
			s.expect(post)
			s.send(early)
			_ = s.CloseWrite()
			c.expect(early)
			c.expectEnd()
			_ = c.Close()
		}, []want{result(posted, 413, "")}},
		"client goes on sending to a server that answered and left": {func(c, s *conn) {
			const early = "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"
			c.send(post)
			s.expect(post)
			s.send(early)
			_ = s.Close()
			c.expect(early)
			c.expectEnd()
			_ = c.Close()
		}, []want{result(posted, 413, "")}},
		"final answer to Expect": {func(c, s *conn) {
			const expect = "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n"
			c.send(expect)
			s.expect(expect)
			s.send("HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")
			c.expect("HTTP/1.1 417 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			c.expectEnd()
			_ = c.Close()
		}, []want{result(posted, 417, "")}},
		"server talks out of turn": {func(c, s *conn) {
			c.send(get)
			s.expect(get)
			s.send(ok2 + ok2)
			c.expect(ok2)
			c.expectEnd()
			_ = c.Close()
		}, []want{result(got, 200, "")}},
		"server closes while idle": {func(c, s *conn) {
			c.send(get)
			s.expect(get)
			s.send(ok2)
			c.expect(ok2)
			_ = s.Close()
			c.expectEnd()
		}, []want{result(got, 200, "")}},
		"server resets while the body is sent": {func(c, s *conn) {
			c.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
			go func() { // Until the client's connection breaks.
				for {
					if _, err := io.WriteString(c.TCPConn, "3e8\r\n"+strings.Repeat("x", 1000)+"\r\n"); err != nil {
						return
					}
				}
			}()
			_, _ = io.CopyN(io.Discard, s.r, 1<<20)
			s.reset()
			if _, err := io.Copy(io.Discard, c.r); err == nil && !tcp.Dead(c.TCPConn) {
				c.t.Error("the client is not reset")
			}
		}, []want{result(posted, 0, event.ErrServerReset)}},
		"bad chunk later on": {func(c, s *conn) {
			const chunked = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
			c.send(chunked)
			s.expect(chunked)
			c.send("zz\r\n")
			s.expectEnd()
			if got := c.rest(); !strings.HasPrefix(got, "HTTP/1.1 400 Bad Request\r\n") || !strings.HasSuffix(got, "weir: a chunk size is not valid\n") {
				c.t.Errorf("got %q", got)
			}
			_ = c.Close()
		}, []want{result(posted, 400, event.ErrMalformed)}},
		"bad chunk of the server": {func(c, s *conn) {
			const chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
			c.send(get)
			s.expect(get)
			s.send(chunked)
			c.expect(chunked)
			s.send("\n")
			c.expectReset()
		}, []want{result(got, 200, event.ErrMalformedServer)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, client, server := raw(t, nil)
			tc.play(client, server)
			for i, e := range p.ended(len(tc.want)) {
				check(t, e, tc.want[i])
			}
		})
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
