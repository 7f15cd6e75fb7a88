package http1_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/relay"
)

// wrapped hides that a connection is a *net.TCPConn, as TLS does.
type wrapped struct{ net.Conn }

func (w wrapped) CloseWrite() error { return w.Conn.(*net.TCPConn).CloseWrite() }

func wrapBoth(c *relay.Conn) { c.Client, c.Server = wrapped{c.Client}, wrapped{c.Server} }

// random is size bytes that look random, and are the same each time.
func random(size int64) io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{7}), size) }

func sum(t testing.TB, r io.Reader) (int64, [32]byte) {
	h := sha256.New()
	n, err := io.Copy(h, r)
	if err != nil {
		t.Error(err)
	}
	return n, [32]byte(h.Sum(nil))
}

// TestLargeBodies streams 64 MiB each way at once, with and without a known
// length, in memory that does not grow with them.
func TestLargeBodies(t *testing.T) {
	const size = 64 << 20
	_, hash := sum(t, random(size))
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		if r.ContentLength >= 0 {
			w.Header().Set("Content-Length", fmt.Sprint(r.ContentLength))
		}
		_, _ = io.Copy(w, r.Body)
	})
	for name, tc := range map[string]struct {
		length int64
		change func(*relay.Conn)
	}{
		"length": {size, nil}, "chunked": {-1, nil}, "length, wrapped": {size, wrapBoth}, "chunked, wrapped": {-1, wrapBoth},
	} {
		t.Run(name, func(t *testing.T) {
			p, client := httpServer(t, echo, tc.change)
			req, _ := http.NewRequest("POST", "http://h/echo", random(size))
			req.ContentLength = tc.length
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if n, h := sum(t, resp.Body); n != size || h != hash {
				t.Errorf("got %d bytes", n)
			}
			runtime.ReadMemStats(&after)
			if grown := after.TotalAlloc - before.TotalAlloc; grown > size/4*(1+poolLoss) {
				t.Errorf("%d bytes were allocated", grown)
			}
			client.CloseIdleConnections()
			e := p.ended(1)[0]
			check(t, e, want{method: "POST", authority: "h", path: "/echo", status: 200})
			if e.RequestBytes < size || e.RequestBytes > size+size/100 || e.ResponseBytes < size || e.ResponseBytes > size+size/100 {
				t.Errorf("events tell %d and %d bytes", e.RequestBytes, e.ResponseBytes)
			}
		})
	}
}

// application answers in the ways that net/http has.
func application() http.Handler {
	handler := http.NewServeMux()
	handler.HandleFunc("/plain", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "plain") })
	handler.HandleFunc("/trailers", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Got")
		_, _ = w.Write(body)
		w.Header().Set("X-Got", r.Trailer.Get("X-Sent"))
	})
	handler.HandleFunc("/hints", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusAccepted)
	})
	handler.HandleFunc("/reject", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	handler.HandleFunc("/panic", func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) })
	return handler
}

// TestNetHTTP has net/http's client and server talk in the ways they do.
func TestNetHTTP(t *testing.T) {
	for name, change := range map[string]func(*relay.Conn){"tcp": nil, "wrapped": wrapBoth} {
		t.Run(name, func(t *testing.T) {
			p, client := httpServer(t, application(), change)
			client.Transport.(*http.Transport).ExpectContinueTimeout = patience
			do := func(method, path string, body io.Reader, header, trailer http.Header) (*http.Response, string) {
				t.Helper()
				req, _ := http.NewRequest(method, "http://h"+path, body)
				if header != nil {
					req.Header = header
				}
				req.Trailer = trailer
				resp, err := client.Do(req)
				if err != nil {
					if path != "/panic" {
						t.Fatal(err)
					}
					return nil, ""
				}
				defer resp.Body.Close()
				got, err := io.ReadAll(resp.Body)
				if err != nil {
					t.Fatal(err)
				}
				return resp, string(got)
			}
			if _, got := do("GET", "/plain?q", nil, nil, nil); got != "plain" {
				t.Errorf("got %q", got)
			}
			if resp, _ := do("HEAD", "/plain", nil, nil, nil); resp.ContentLength != 5 {
				t.Errorf("got length %d", resp.ContentLength)
			}
			resp, got := do("POST", "/trailers", io.MultiReader(strings.NewReader("body")), nil, http.Header{"X-Sent": {"sum"}})
			if got != "body" || resp.Trailer.Get("X-Got") != "sum" {
				t.Errorf("got %q, trailer %v", got, resp.Trailer)
			}
			if resp, _ := do("GET", "/hints", nil, nil, nil); resp.StatusCode != 202 {
				t.Errorf("got %s", resp.Status)
			}
			resp, got = do("POST", "/trailers", strings.NewReader(strings.Repeat("x", 10000)), http.Header{"Expect": {"100-continue"}}, nil)
			if resp.StatusCode != 200 || len(got) != 10000 {
				t.Errorf("got %s and %d bytes", resp.Status, len(got))
			}
			if resp, _ := do("POST", "/reject", random(1<<20), http.Header{"Expect": {"100-continue"}}, nil); resp.StatusCode != 403 {
				t.Errorf("got %s", resp.Status)
			}
			do("POST", "/panic", strings.NewReader("x"), nil, nil)
			client.CloseIdleConnections()
			wants := []want{{method: "GET", path: "/plain", status: 200}, {method: "HEAD", path: "/plain", status: 200},
				{method: "POST", path: "/trailers", status: 200}, {method: "GET", path: "/hints", status: 202},
				{method: "POST", path: "/trailers", status: 200}, {method: "POST", path: "/reject", status: 403},
				{method: "POST", path: "/panic", err: event.ErrServerClosed}}
			ends := p.ended(len(wants))
			for _, w := range wants {
				w.authority = "h"
				// A client may go on before the relay is done with the last
				// exchange, so the order is not fixed.
				at := slices.IndexFunc(ends, func(e event.Event) bool {
					return e.Path == w.path && e.Method == w.method
				})
				if at < 0 {
					t.Errorf("no event for %+v", w)
					continue
				}
				check(t, ends[at], w)
				ends = slices.Delete(ends, at, at+1)
			}
		})
	}
}

// TestManyAtOnce counts: what the clients sent is what the events tell.
func TestManyAtOnce(t *testing.T) {
	const clients, each = 16, 100
	p, client := httpServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		if n%7 == 0 {
			w.WriteHeader(http.StatusTeapot)
		}
		_, _ = w.Write(make([]byte, n))
	}), nil)
	client.Transport.(*http.Transport).MaxIdleConnsPerHost = clients
	var wg sync.WaitGroup
	var mu sync.Mutex
	sent := map[uint16]int{}
	for c := range clients {
		wg.Go(func() {
			for i := range each {
				size := (c*each + i) * 37 % 40000
				resp, err := client.Post(fmt.Sprintf("http://h/%d", size), "", bytes.NewReader(make([]byte, size)))
				if err != nil {
					t.Error(err)
					return
				}
				n, _ := io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				if int(n) != size {
					t.Errorf("sent %d bytes, got %d", size, n)
				}
				mu.Lock()
				sent[uint16(resp.StatusCode)]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	client.CloseIdleConnections()
	got := map[uint16]int{}
	for _, e := range p.ended(clients * each) {
		got[e.Status]++
		if e.Error != "" {
			t.Errorf("got %+v", e)
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(sent) {
		t.Errorf("events tell %v, the clients %v", got, sent)
	}
}

// TestSmugglingEndToEnd sends what must be refused through a relay: it is
// answered, recorded, and no byte reaches the server.
func TestSmugglingEndToEnd(t *testing.T) {
	data, err := os.ReadFile("testdata/smuggling.txt")
	if err != nil {
		t.Fatal(err)
	}
	unescape := strings.NewReplacer(`\r`, "\r", `\n`, "\n", `\t`, "\t", `\0`, "\x00", `\v`, "\v", `\f`, "\f", `\d`, "\x7f", `\u`, "\u00e9", `\h`, "\xff")
	for line := range strings.Lines(string(data)) {
		verdict, shape, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		reason, refused := strings.CutPrefix(verdict, "refused: ")
		if !refused || strings.HasPrefix(shape, `\r\n`) { // An empty line first is skipped by the relay.
			continue
		}
		p, client, server := raw(t, nil)
		client.send(unescape.Replace(shape))
		status := "400"
		if reason == "Transfer-Encoding is not chunked" {
			status = "501"
		}
		got := client.rest()
		if !strings.HasPrefix(got, "HTTP/1.1 "+status+" ") || !strings.Contains(got, "\r\nConnection: close\r\n") ||
			!strings.HasSuffix(got, "\r\n\r\nweir: "+reason+"\n") {
			t.Errorf("%s: got %q", shape, got)
		}
		server.expectEnd()
		_ = client.Close()
		e := p.ended(1)[0]
		if e.Fate != event.Refused || e.Error != event.ErrMalformed || fmt.Sprint(e.Status) != status || e.RequestBytes == 0 || e.ResponseBytes != uint64(len(got)) {
			t.Errorf("%s: got %+v", shape, e)
		}
	}
}

func TestHeadLimit(t *testing.T) {
	p, client, server := raw(t, func(c *relay.Conn) { c.MaxHeadBytes = 40 << 10 })
	fits := "GET / HTTP/1.1\r\nHost: h\r\nA: " + strings.Repeat("a", 39<<10) + "\r\n\r\n"
	client.send(fits)
	server.expect(fits)
	server.send(ok2)
	client.expect(ok2)
	client.send("GET / HTTP/1.1\r\nHost: h\r\nA: " + strings.Repeat("a", 80<<10) + "\r\n\r\n")
	if got := client.rest(); !strings.HasPrefix(got, "HTTP/1.1 431 Request Header Fields Too Large\r\n") {
		t.Errorf("got %q", got)
	}
	_ = client.Close()
	server.expectEnd()
	ends := p.ended(2)
	check(t, ends[0], want{method: "GET", authority: "h", path: "/", status: 200, up: uint64(len(fits)), stream: 1})
	check(t, ends[1], want{status: 431, err: event.ErrHeadTooLarge, fate: event.Refused, stream: 2})
}

// TestSlow sends and reads byte by byte.
func TestSlow(t *testing.T) {
	p, client, server := raw(t, nil)
	request := "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nT: v\r\n\r\n"
	response := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
	_ = client.SetNoDelay(true)
	_ = server.SetNoDelay(true)
	for range 3 {
		for i := range request {
			client.send(request[i : i+1])
			runtime.Gosched()
		}
		server.expect(request)
		for i := range response {
			server.send(response[i : i+1])
			runtime.Gosched()
		}
		client.expect(response)
	}
	_ = client.Close()
	for _, e := range p.ended(3) {
		check(t, e, want{method: "POST", authority: "h", path: "/", status: 200, up: uint64(len(request)), down: uint64(len(response))})
	}
}

// TestLongWait has nothing happen for longer than the relay's tick, in both
// places where it may, and the ends seen that come then.
func TestLongWait(t *testing.T) {
	for name, change := range map[string]func(*relay.Conn){"tcp": nil, "wrapped": wrapBoth} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, client, server := raw(t, change)
			for range 2 {
				client.send(get)
				server.expect(get)
				time.Sleep(1200 * time.Millisecond)
				client.send(get) // pipelined into the watch
				server.send(ok2)
				client.expect(ok2)
				server.expect(get)
				server.send(ok2)
				client.expect(ok2)
				time.Sleep(400 * time.Millisecond)
			}
			_ = server.Close()
			client.expectEnd()
			for _, e := range p.ended(4) {
				check(t, e, want{method: "GET", authority: "web.example", path: "/a/b", status: 200})
			}
		})
	}
}

// TestUpgradeEcho carries a megabyte through a protocol switched to.
func TestUpgradeEcho(t *testing.T) {
	const head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
	p, _ := httpServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, head)
		_, _ = io.Copy(c, rw)
	}), nil)
	client := p.dial()
	const request = "GET /chat HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
	client.send(request)
	client.expect(head)
	const size = 1 << 20
	go func() {
		_, _ = io.Copy(client.TCPConn, random(size))
		_ = client.CloseWrite()
	}()
	n, got := sum(t, client.r)
	if _, hash := sum(t, random(size)); n != size || got != hash {
		t.Errorf("got %d bytes", n)
	}
	check(t, p.ended(1)[0], want{method: "GET", authority: "h", path: "/chat", status: 101, protocol: event.WebSocket,
		up: uint64(len(request)) + size, down: uint64(len(head)) + size})
}

// TestEarlyBytes begins with bytes that were read before.
func TestEarlyBytes(t *testing.T) {
	p, client, server := raw(t, func(c *relay.Conn) {
		early := make([]byte, 5)
		if _, err := io.ReadFull(c.Client, early); err != nil {
			t.Error(err)
		}
		c.Early = early
	})
	client.send(get)
	server.expect(get)
	server.send(ok2)
	client.expect(ok2)
	_ = client.Close()
	check(t, p.ended(1)[0], want{method: "GET", authority: "web.example", path: "/a/b", status: 200, up: 44, down: 40})
}

// TestClientStopsReading resets a client in a large response: the server
// notices, and so does the event.
func TestClientStopsReading(t *testing.T) {
	broken := make(chan error, 1)
	p, _ := httpServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, err := io.Copy(w, random(256<<20))
		broken <- err
	}), nil)
	client := p.dial()
	client.send(get)
	if _, err := bufio.NewReader(client.r).Discard(1 << 20); err != nil {
		t.Fatal(err)
	}
	client.reset()
	select {
	case err := <-broken:
		if err == nil {
			t.Error("the server wrote everything")
		}
	case <-time.After(patience):
		t.Error("the server does not notice")
	}
	if e := p.ended(1)[0]; e.Error != event.ErrClientReset || e.Status != 200 {
		t.Errorf("got %+v", e)
	}
}
