package http1_test

import (
	"io"
	"strings"
	"testing"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/tcp"
)

// breaking is what both ends do, and the events it makes.
type breaking struct {
	play func(client, server *conn)
	want []want
}

const (
	posting = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc"
	half    = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"
)

// posted and got are the events of a POST and of get, as they end.
func posted(status uint16, reason string) []want {
	return []want{{method: "POST", authority: "h", path: "/", status: status, err: reason}}
}

func got(status uint16, reason string) []want {
	return []want{{method: "GET", authority: "web.example", path: "/a/b", status: status, err: reason}}
}

// clientBreaks are clients that end or break an exchange.
func clientBreaks() map[string]breaking {
	return map[string]breaking{
		"nothing at all": {func(c, s *conn) { _ = c.Close(); s.expectEnd() }, nil},
		"client closes in the head": {func(c, s *conn) { c.send("GET / HT"); _ = c.Close(); s.expectEnd() },
			[]want{{err: event.ErrClientClosed, up: 8}}},
		"client closes in the body": {func(c, s *conn) { c.send(posting); s.expect(posting); _ = c.Close(); s.expectEnd() },
			posted(0, event.ErrClientClosed)},
		"client resets in the body": {func(c, s *conn) { c.send(posting); s.expect(posting); c.reset(); s.expectReset() },
			posted(0, event.ErrClientReset)},
		"client resets while it waits": {func(c, s *conn) { c.send(get); s.expect(get); c.reset(); s.expectReset() },
			got(0, event.ErrClientReset)},
		"client ends its side while it waits": {func(c, s *conn) {
			c.send(get)
			_ = c.CloseWrite()
			s.expect(get)
			s.expectEnd()
			s.send(ok2)
			c.expect(ok2)
			c.expectEnd()
		}, got(200, "")},
	}
}

// serverBreaks are servers that do.
func serverBreaks() map[string]breaking {
	return map[string]breaking{
		"server closes instead of answering": {func(c, s *conn) { c.send(get); s.expect(get); _ = s.Close(); c.expectEnd() },
			got(0, event.ErrServerClosed)},
		"server resets instead of answering": {func(c, s *conn) { c.send(get); s.expect(get); s.reset(); c.expectReset() },
			got(0, event.ErrServerReset)},
		"server closes in the head": {func(c, s *conn) {
			c.send(get)
			s.expect(get)
			s.send("HTTP/1.1 20")
			_ = s.Close()
			c.expectEnd()
		}, got(0, event.ErrServerClosed)},
		"server closes in the body": {func(c, s *conn) {
			c.send(get)
			s.expect(get)
			s.send(half)
			_ = s.Close()
			c.expect(half)
			c.expectEnd()
		}, got(200, event.ErrServerClosed)},
		"server resets in the body": {func(c, s *conn) {
			c.send(get)
			s.expect(get)
			s.send(half)
			c.expect(half)
			s.reset()
			c.expectReset()
		}, got(200, event.ErrServerReset)},
		"server closes in a chunk": {func(c, s *conn) {
			c.send(get)
			s.expect(get)
			s.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab")
			_ = s.Close()
			_ = c.rest()
		}, got(200, event.ErrServerClosed)},
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
		}, posted(0, event.ErrServerReset)},
	}
}

// earlyAnswers are servers that end what the client has not.
func earlyAnswers() map[string]breaking {
	return map[string]breaking{
		"server answers early and closes": {func(c, s *conn) {
			const early = "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"
			c.send(posting)
			s.expect(posting)
			s.send(early)
			_ = s.CloseWrite()
			c.expect(early)
			c.expectEnd()
			_ = c.Close()
		}, posted(413, "")},
		"client goes on sending to a server that answered and left": {func(c, s *conn) {
			const early = "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"
			c.send(posting)
			s.expect(posting)
			s.send(early)
			_ = s.Close()
			c.expect(early)
			c.expectEnd()
			_ = c.Close()
		}, posted(413, "")},
		"final answer to Expect": {func(c, s *conn) {
			const expect = "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n"
			c.send(expect)
			s.expect(expect)
			s.send("HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")
			c.expect("HTTP/1.1 417 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			c.expectEnd()
			_ = c.Close()
		}, posted(417, "")},
		"server talks out of turn": {func(c, s *conn) {
			c.send(get)
			s.expect(get)
			s.send(ok2 + ok2)
			c.expect(ok2)
			c.expectEnd()
			_ = c.Close()
		}, got(200, "")},
		"server closes while idle": {func(c, s *conn) {
			c.send(get)
			s.expect(get)
			s.send(ok2)
			c.expect(ok2)
			_ = s.Close()
			c.expectEnd()
		}, got(200, "")},
	}
}

// badBytes are bodies that go wrong after they began.
func badBytes() map[string]breaking {
	return map[string]breaking{
		"bad chunk later on": {func(c, s *conn) {
			const chunked = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
			c.send(chunked)
			s.expect(chunked)
			c.send("zz\r\n")
			s.expectEnd()
			if answer := c.rest(); !strings.HasPrefix(answer, "HTTP/1.1 400 Bad Request\r\n") || !strings.HasSuffix(answer, "weir: a chunk size is not valid\n") {
				c.t.Errorf("got %q", answer)
			}
			_ = c.Close()
		}, posted(400, event.ErrMalformed)},
		"bad chunk of the server": {func(c, s *conn) {
			const chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
			c.send(get)
			s.expect(get)
			s.send(chunked)
			c.expect(chunked)
			s.send("\n")
			c.expectReset()
		}, got(200, event.ErrMalformedServer)},
	}
}

// TestBroken breaks exchanges in every way.
func TestBroken(t *testing.T) {
	for _, cases := range []map[string]breaking{clientBreaks(), serverBreaks(), earlyAnswers(), badBytes()} {
		for name, tc := range cases {
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
}
