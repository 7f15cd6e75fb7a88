package http2_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/relay"
)

// h2Server serves h with x/net's HTTP/2 server and returns its address.
func h2Server(t testing.TB, conf *xhttp2.Server, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[conn] = true
			mu.Unlock()
			all.Go(func() {
				conf.ServeConn(conn, &xhttp2.ServeConnOpts{Handler: h})
				_ = conn.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for conn := range conns {
			_ = conn.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return l.Addr().String()
}

// h2Client is a client of one connection with prior knowledge.
func h2Client(t testing.TB) *http.Client {
	tr := &xhttp2.Transport{
		AllowHTTP: true, DisableCompression: true,
		DialTLSContext: func(ctx context.Context, network, addr string, _ *tls.Config) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr)
		},
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

func echo(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(w, r.Body)
}

func fetch(t testing.TB, c *http.Client, method, url string, body io.Reader) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Traceparent", "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, got
}

func TestRequest(t *testing.T) {
	m := relayTo(t, h2Server(t, &xhttp2.Server{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "hello")
	})), nil)
	resp, body := fetch(t, h2Client(t), "GET", "http://"+m.addr+"/a/b?secret=1", nil)
	if resp.StatusCode != http.StatusTeapot || string(body) != "hello" {
		t.Fatalf("got %d %q", resp.StatusCode, body)
	}
	e := m.wait(t, 1)[0]
	if e.Kind != event.End || e.Protocol != event.HTTP2 || e.Method != "GET" || e.Path != "/a/b" ||
		e.Authority != m.addr || e.Status != 418 || e.Error != "" || e.Fate != 0 ||
		e.GRPCStatus != event.NoGRPCStatus || e.Stream != 1 || e.Connection != 1 || e.Direction != event.Inbound ||
		fmt.Sprintf("%x", e.TraceID) != "0123456789abcdef0123456789abcdef" {
		t.Fatalf("wrong event %+v", e)
	}
	if e.Latency > e.Duration || e.RequestBytes < 30 || e.ResponseBytes < 9+9+5 {
		t.Fatalf("wrong measures %+v", e)
	}
	if age := time.Since(time.UnixMicro(e.Start)); age < 0 || age > patience {
		t.Fatalf("wrong start %v", age)
	}
}

func TestBodies(t *testing.T) {
	m := relayTo(t, h2Server(t, &xhttp2.Server{}, http.HandlerFunc(echo)), nil)
	client := h2Client(t)
	want := bytes.Repeat([]byte("0123456789abcdef"), 3<<16) // 3 MiB
	for range 3 {
		if _, got := fetch(t, client, "POST", "http://"+m.addr+"/echo", bytes.NewReader(want)); !bytes.Equal(got, want) {
			t.Fatalf("got %d bytes that differ", len(got))
		}
	}
	for i, e := range m.wait(t, 3) {
		if e.Stream != uint32(i+1) || e.Method != "POST" || e.Status != 200 || e.Error != "" ||
			e.RequestBytes < uint64(len(want)) || e.RequestBytes > uint64(len(want))*101/100 ||
			e.ResponseBytes < uint64(len(want)) || e.ResponseBytes > uint64(len(want))*101/100 {
			t.Errorf("wrong event %+v", e)
		}
	}
}

func TestBigHeaders(t *testing.T) {
	big := strings.Repeat("v", 40000) // needs CONTINUATION, both ways
	m := relayTo(t, h2Server(t, &xhttp2.Server{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Big", r.Header.Get("X-Big"))
		w.Header().Set("Trailer", "X-After")
		w.WriteHeader(200)
		w.Header().Set("X-After", "done")
	})), nil)
	client := h2Client(t)
	for range 3 {
		req, _ := http.NewRequest("GET", "http://"+m.addr+"/big", nil)
		req.Header.Set("X-Big", big)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.Header.Get("X-Big") != big || resp.Trailer.Get("X-After") != "done" {
			t.Fatal("headers differ")
		}
	}
	for _, e := range m.wait(t, 3) {
		if e.Error != "" || e.Status != 200 || e.RequestBytes < 20000 || e.ResponseBytes < 20000 {
			t.Errorf("wrong event %+v", e)
		}
	}
}

func TestConcurrent(t *testing.T) {
	const n = 1000
	var mu sync.Mutex
	waiting, all := 0, make(chan struct{})
	m := relayTo(t, h2Server(t, &xhttp2.Server{MaxConcurrentStreams: n}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		if waiting++; waiting == n {
			close(all)
		}
		mu.Unlock()
		<-all // until all are here at once
		echo(w, r)
	})), nil)
	client := h2Client(t)
	// The transport must know the server's limit before it opens so many.
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			text := fmt.Sprint("body ", i)
			resp, err := client.Post(fmt.Sprintf("http://%s/%d", m.addr, i), "text/plain", strings.NewReader(text))
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if got, _ := io.ReadAll(resp.Body); string(got) != text {
				t.Errorf("got %q, want %q", got, text)
			}
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	for _, e := range m.wait(t, n) {
		if seen[e.Path] || e.Status != 200 || e.Error != "" {
			t.Fatalf("wrong event %+v", e)
		}
		seen[e.Path] = true
	}
}

func TestClientCancel(t *testing.T) {
	m := relayTo(t, h2Server(t, &xhttp2.Server{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})), nil)
	ctx, cancel := context.WithCancel(context.Background())
	req, _ := http.NewRequestWithContext(ctx, "GET", "http://"+m.addr+"/slow", nil)
	resp, err := h2Client(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	_ = resp.Body.Close()
	if e := m.wait(t, 1)[0]; e.Error != event.ErrClientReset || e.Status != 200 {
		t.Fatalf("wrong event %+v", e)
	}
}

func TestServerReset(t *testing.T) {
	m := relayTo(t, h2Server(t, &xhttp2.Server{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})), nil)
	resp, err := h2Client(t).Get("http://" + m.addr + "/")
	if err == nil {
		_, err = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
	}
	if err == nil {
		t.Error("no error for a stream that was reset")
	}
	if e := m.wait(t, 1)[0]; e.Error != event.ErrServerReset {
		t.Fatalf("wrong event %+v", e)
	}
}

func TestProgress(t *testing.T) {
	step := make(chan struct{})
	m := relayTo(t, h2Server(t, &xhttp2.Server{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(make([]byte, 1000))
		w.(http.Flusher).Flush()
		<-step
		_, _ = w.Write(make([]byte, 500))
	})), func(c *relay.Conn) { c.Progress = 50 * time.Millisecond })
	resp, err := h2Client(t).Get("http://" + m.addr + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	deadline := time.Now().Add(patience)
	for {
		m.mu.Lock()
		n := len(m.events)
		m.mu.Unlock()
		if n >= 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no progress events")
		}
		time.Sleep(time.Millisecond)
	}
	close(step)
	_, _ = io.ReadAll(resp.Body)
	var total uint64
	deadline = time.Now().Add(patience)
	for done := false; !done; time.Sleep(time.Millisecond) {
		m.mu.Lock()
		events := m.events
		m.mu.Unlock()
		total = 0
		for i, e := range events {
			total += e.ResponseBytes
			if e.Kind == event.End {
				done = true
				if i != len(events)-1 {
					t.Fatal("an event after the end")
				}
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("no end event")
		}
	}
	if total < 1500 || total > 1700 {
		t.Errorf("events count %d bytes of 1500 and some headers", total)
	}
}

func TestNoServer(t *testing.T) {
	m := relayTo(t, "", nil)
	resp, _ := fetch(t, h2Client(t), "POST", "http://"+m.addr+"/x", strings.NewReader(strings.Repeat("b", 200000)))
	if resp.StatusCode != http.StatusBadGateway || !strings.Contains(resp.Header.Get("Weir-Error"), event.ErrConnectRefused) {
		t.Fatalf("got %d %v", resp.StatusCode, resp.Header)
	}
	if e := m.wait(t, 1)[0]; e.Error != event.ErrConnectRefused || e.Status != 502 || e.Path != "/x" {
		t.Fatalf("wrong event %+v", e)
	}
	m.ended(t) // by itself, as it is idle
}

func TestDrain(t *testing.T) {
	step := make(chan struct{})
	m := relayTo(t, h2Server(t, &xhttp2.Server{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-step
		_, _ = io.WriteString(w, "whole")
	})), nil)
	resp, err := h2Client(t).Get("http://" + m.addr + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	close(m.drain)
	time.AfterFunc(500*time.Millisecond, func() { close(step) })
	if got, err := io.ReadAll(resp.Body); string(got) != "whole" || err != nil {
		t.Fatalf("got %q, %v", got, err)
	}
	m.ended(t)
	if e := m.wait(t, 1)[0]; e.Error != "" || e.Status != 200 {
		t.Fatalf("wrong event %+v", e)
	}
}
