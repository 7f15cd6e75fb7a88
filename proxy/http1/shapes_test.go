package http1_test

import (
	"strings"
	"testing"

	"github.com/weirmesh/weir/event"
)

const (
	get = "GET /a/b?c=d HTTP/1.1\r\nHost: web.example\r\n\r\n"
	ok2 = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
)

// step is one move in a conversation: "c" and "s" send, and the other side
// expects the same bytes.
type step struct{ who, bytes string }

// shape is a conversation and the events it makes.
type shape struct {
	steps []step
	end   string // who closes: "c" or "s"; "" nobody has to
	want  []want
}

// web is the event of the request get, answered with 200; with changes it.
var web = want{method: "GET", authority: "web.example", path: "/a/b", status: 200}

func with(change func(*want)) want {
	w := web
	change(&w)
	return w
}

func post(w *want) { w.method, w.path = "POST", "/" }

// plainShapes are exchanges whose bodies are short or none.
func plainShapes() map[string]shape {
	return map[string]shape{
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
	}
}

// bodyShapes are exchanges that take both directions at once.
func bodyShapes() map[string]shape {
	return map[string]shape{
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
	}
}

// targetShapes are requests with other targets, and those that leave HTTP.
func targetShapes() map[string]shape {
	return map[string]shape{
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
}

// TestShapes passes every shape of exchange through and finds the bytes as
// they were, and the events.
func TestShapes(t *testing.T) {
	for _, shapes := range []map[string]shape{plainShapes(), bodyShapes(), targetShapes()} {
		for name, sh := range shapes {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				playShape(t, strings.HasPrefix(name, "empty line"), sh)
			})
		}
	}
}

func playShape(t *testing.T, emptyLine bool, tc shape) {
	p, client, server := raw(t, nil)
	if emptyLine {
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
}
