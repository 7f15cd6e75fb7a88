package http1_test

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/weirmesh/weir/event"
)

// TestSizesInTurn asks for bodies of many sizes on one connection, so that what
// is expected of the next response is right, too much and too little, and then
// for the heads alone.
func TestSizesInTurn(t *testing.T) {
	sizes := []int{100, 64 << 10, 64 << 10, 10, 20 << 10, 20 << 10, 300 << 10, 5, 17 << 10, 1 << 20, 3 << 10, 40 << 10, 41 << 10, 0, 1}
	p, client := httpServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.ParseInt(r.URL.Path[1:], 10, 64)
		w.Header().Set("Content-Length", r.URL.Path[1:])
		if r.Method != http.MethodHead {
			_, _ = io.Copy(w, random(n))
		}
	}), nil)
	for _, method := range []string{"GET", "HEAD", "GET"} {
		for _, size := range sizes {
			req, _ := http.NewRequest(method, "http://h/"+strconv.Itoa(size), nil)
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			want := int64(size)
			if method == "HEAD" {
				want = 0
			}
			_, hash := sum(t, random(want))
			if n, h := sum(t, resp.Body); n != want || h != hash {
				t.Errorf("%s of %d bytes: other bytes came, %d", method, size, n)
			}
			_ = resp.Body.Close()
		}
	}
	client.CloseIdleConnections()
	events := p.ended(3 * len(sizes))
	connection := events[0].Connection
	for i, e := range events {
		body := uint64(sizes[i%len(sizes)])
		if e.Method == "HEAD" {
			body = 0
		}
		if head := e.ResponseBytes - body; head < 50 || head > 300 || e.Connection != connection {
			t.Errorf("%s %s: the event tells %d bytes", e.Method, e.Path, e.ResponseBytes)
		}
	}
}

// TestUntilClosed carries a long body that ends with its connection, and one
// that is cut by a reset.
func TestUntilClosed(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nX: y\r\n\r\n"
	text := strings.Repeat("0123456789abcdef", 64<<10)
	for name, end := range map[string]func(c *conn){"closed": func(c *conn) { _ = c.Close() }, "reset": (*conn).reset} {
		t.Run(name, func(t *testing.T) {
			p, client, server := raw(t, nil)
			client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
			server.expect("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				_, _ = io.WriteString(server, head+text)
			}()
			client.expect(head + text)
			<-sent
			end(server)
			reason := ""
			if name == "reset" {
				reason = event.ErrServerReset
				client.expectReset()
			} else {
				client.expectEnd()
			}
			e := p.ended(1)[0]
			if e.Error != reason || e.ResponseBytes != uint64(len(head)+len(text)) {
				t.Errorf("the event tells %q and %d bytes", e.Error, e.ResponseBytes)
			}
		})
	}
}

// TestCutLargeBody has the server end in the midst of a body that is moved
// inside the kernel, and the client be told so, with exact counts.
func TestCutLargeBody(t *testing.T) {
	head := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", 1<<20)
	part := strings.Repeat("x", 100<<10)
	p, client, server := raw(t, nil)
	for range 2 { // the second time it is expected
		client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		server.expect("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		go func() { _, _ = io.WriteString(server, head+strings.Repeat("x", 1<<20)) }()
		client.expect(head + strings.Repeat("x", 1<<20))
	}
	client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	server.expect("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	server.send(head)
	client.expect(head)
	server.send(part)
	client.expect(part)
	_ = server.Close()
	client.expectEnd()
	e := p.ended(3)[2]
	if e.Error != event.ErrServerClosed || e.ResponseBytes != uint64(len(head)+len(part)) {
		t.Errorf("the event tells %q and %d bytes, want %d", e.Error, e.ResponseBytes, len(head)+len(part))
	}
}
