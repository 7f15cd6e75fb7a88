package conformance

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// corpus is the proxy's own list of shapes, see there.
const corpus = "../../proxy/http1/testdata/smuggling.txt"

// shape is one way of saying a request.
type shape struct {
	verdict, bytes string
}

func readCorpus(t *testing.T) []shape {
	t.Helper()
	data, err := os.ReadFile(corpus)
	if err != nil {
		t.Fatal(err)
	}
	unescape := strings.NewReplacer(`\r`, "\r", `\n`, "\n", `\t`, "\t", `\0`, "\x00", `\v`, "\v", `\f`, "\f",
		`\d`, "\x7f", `\u`, "\u00e9", `\h`, "\xff", `\\`, `\`)
	var all []shape
	for line := range strings.Lines(string(data)) {
		if verdict, escaped, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t"); ok && line[0] != '#' {
			all = append(all, shape{verdict, unescape.Replace(escaped)})
		}
	}
	if len(all) < 60 {
		t.Fatalf("%d shapes, want 60 or more", len(all))
	}
	return all
}

// rawServer notes the bytes of each connection, and answers where it sees the
// end of a request.
type rawServer struct {
	addr     string
	received chan []byte // of connections that have ended
}

func startRawServer(t *testing.T) *rawServer {
	t.Helper()
	ln := listenLocal(t)
	s := &rawServer{addr: ln.Addr().String(), received: make(chan []byte, 1024)}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { s.received <- answerRaw(conn) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		wg.Wait()
	})
	return s
}

func answerRaw(conn net.Conn) []byte {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	var all []byte
	answered := 0
	p := make([]byte, 4096)
	for {
		n, err := conn.Read(p)
		all = append(all, p[:n]...)
		for ends := leniences[0].ends(all); answered < len(ends); answered++ {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
		if err != nil {
			return all
		}
	}
}

// next returns what the next connection to end had received.
func (s *rawServer) next(t *testing.T) []byte {
	t.Helper()
	select {
	case b := <-s.received:
		return b
	case <-time.After(patience):
		t.Fatal("the server's connection does not end")
		return nil
	}
}

// splits are ways of sending the same bytes.
var splits = map[string]func(string) []string{
	"at once":       func(s string) []string { return []string{s} },
	"after a head":  func(s string) []string { return strings.SplitAfter(s, "\r\n\r\n") },
	"line by line":  func(s string) []string { return strings.SplitAfter(s, "\n") },
	"byte for byte": func(s string) []string { return strings.Split(s, "") },
}

// attempt sends the parts, and returns the statuses that come back. Where the
// answers end in no way that HTTP knows, the last is 0.
func attempt(t *testing.T, address string, parts []string) []int {
	t.Helper()
	conn := dial(t, address)
	defer conn.Close()
	go func() {
		for _, part := range parts {
			if _, err := io.WriteString(conn, part); err != nil {
				return // Refused before all was sent.
			}
		}
		_ = conn.CloseWrite()
	}()
	var statuses []int
	r := bufio.NewReader(conn)
	for {
		if _, err := r.Peek(1); err != nil {
			return statuses
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return append(statuses, 0)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return append(statuses, 0)
		}
		statuses = append(statuses, resp.StatusCode)
	}
}

// TestSmuggling sends the corpus through a proxy, each shape followed by a
// request that must not be taken for a part of it, to a server that notes
// every byte. What is refused in one piece never reaches the server; and
// whatever does reach it, servers of all leniences see the same requests in
// it, as many as the client has answers to.
func TestSmuggling(t *testing.T) {
	server := startRawServer(t)
	p := startProxy(t, "inbound", server.addr+",protocol=http/1")
	const next = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
	for name, split := range splits {
		t.Run(name, func(t *testing.T) {
			for _, s := range readCorpus(t) {
				statuses := attempt(t, p.addr, split(s.bytes+next))
				received := server.next(t)
				agree(t, s, statuses, received)
				refused := strings.HasPrefix(s.verdict, "refused: ") && !strings.HasPrefix(s.bytes, "\r\n")
				if refused && name == "at once" && (len(received) > 0 || len(statuses) != 1 || statuses[0] < 400) {
					t.Errorf("%q: want it refused; got %d, and the server received %q", s.bytes, statuses, received)
				}
				if refused && (len(statuses) == 0 || statuses[len(statuses)-1] < 400) {
					t.Errorf("%q: want it refused; got %d", s.bytes, statuses)
				}
				if s.verdict == "whole" && fmt.Sprint(statuses) != "[200 200]" {
					t.Errorf("%q: want it forwarded; got %d", s.bytes, statuses)
				}
			}
		})
	}
}

// agree holds what the server received against what the client was answered.
func agree(t *testing.T, s shape, statuses []int, received []byte) {
	t.Helper()
	answered := 0
	for _, status := range statuses {
		if status == http.StatusOK {
			answered++
		}
	}
	want := fmt.Sprint(leniences[0].ends(received))
	for i := range leniences {
		l := &leniences[i]
		ends := l.ends(received)
		if len(ends) != answered {
			t.Errorf("%q: the client has %d answers, a server that is %s sees %d requests in %q", s.bytes, answered, l.name, len(ends), received)
		}
		if got := fmt.Sprint(ends); got != want {
			t.Errorf("%q: a server that is %s sees requests end at %s, a strict one at %s, in %q", s.bytes, l.name, got, want, received)
		}
	}
	if !bytes.HasPrefix([]byte(strings.TrimPrefix(s.bytes, "\r\n")+"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"), received) {
		t.Errorf("%q: the server received other bytes than were sent: %q", s.bytes, received)
	}
}

// TestSmugglingDetected sends the corpus to a proxy that finds out what its
// connections speak: what is no HTTP to it is one TCP connection, in which it
// sees no requests to disagree about; all else is treated as above.
func TestSmugglingDetected(t *testing.T) {
	server := startRawServer(t)
	p := startProxy(t, "inbound", server.addr)
	carried := func() float64 { return p.metric(`weir_proxy_detections_total{detection="bytes",protocol="http/1"}`) }
	asHTTP := 0
	for _, s := range readCorpus(t) {
		before := carried()
		statuses := attempt(t, p.addr, []string{s.bytes})
		received := server.next(t)
		if carried() == before {
			if string(received) != s.bytes {
				t.Errorf("%q was carried as TCP and changed: %q", s.bytes, received)
			}
			continue
		}
		asHTTP++
		agree(t, s, statuses, received)
	}
	if asHTTP < 60 {
		t.Errorf("only %d shapes were taken for HTTP", asHTTP)
	}
}
