package conformance

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

// large is a file that no buffer holds.
var large = bytes.Repeat([]byte("0123456789abcdef"), 1<<20)

// echo answers with all that it was sent: whatever is changed on the way shows.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	fmt.Fprintf(w, "%s %s %s\nhost %s\n", r.Method, r.RequestURI, r.Proto, r.Host)
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		fmt.Fprintf(w, "%s: %q\n", name, r.Header[name])
	}
	fmt.Fprintf(w, "coding %q, length %d, body of %d with sum %x, trailer %v, error %v\n",
		r.TransferEncoding, r.ContentLength, len(body), sha256.Sum256(body), r.Trailer, err)
}

// verbatim answers with bytes that net/http would not send, and closes.
func verbatim(answer string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, answer)
		_ = conn.Close()
	}
}

// shapesServer answers in every way that HTTP/1 knows.
func shapesServer(t *testing.T) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/", echo)
	for path, status := range map[string]int{"/204": 204, "/304": 304, "/401": 401, "/417": 417, "/500": 500} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Etag", `"tag"`)
			w.WriteHeader(status)
		})
	}
	mux.HandleFunc("/chunked", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "Sum")
		for i := range 5 {
			_, _ = io.WriteString(w, strings.Repeat("chunk", i+1))
			w.(http.Flusher).Flush()
		}
		w.Header().Set("Sum", "75")
	})
	mux.HandleFunc("/103", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusProcessing)
		_, _ = io.WriteString(w, "after two interim responses\n")
	})
	mux.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Unix(1e9, 0), bytes.NewReader(large))
	})
	mux.HandleFunc("/redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/to", http.StatusFound) })
	mux.HandleFunc("/large-head", func(w http.ResponseWriter, _ *http.Request) {
		for i := range 40 {
			w.Header().Set(fmt.Sprintf("X-Fill-%d", i), strings.Repeat("v", 1000))
		}
	})
	for path, answer := range map[string]string{
		"/close":        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil the end",
		"/1.0":          "HTTP/1.0 200 OK\r\n\r\nan old server",
		"/1.0-length":   "HTTP/1.0 200 OK\r\nContent-Length: 6\r\nConnection: keep-alive\r\n\r\nlength",
		"/no-reason":    "HTTP/1.1 299 \r\nContent-Length: 0\r\n\r\n",
		"/cut":          "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nnot a hundred",
		"/cut-chunked":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"/cut-head":     "HTTP/1.1 200 OK\r\nContent-Le",
		"/none":         "",
		"/lengthy-head": "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
		"/extension":    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;name=value\r\nhello\r\n0\r\nAfter: all\r\n\r\n",
	} {
		mux.HandleFunc(path, verbatim(answer))
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Date"] = nil
		if r.Method == http.MethodConnect {
			tunnel(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// tunnel is CONNECT: bytes go to and fro.
func tunnel(w http.ResponseWriter, r *http.Request) {
	target, err := net.Dial("tcp", r.Host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	client, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer client.Close()
	defer target.Close()
	_, _ = io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n")
	go func() {
		_, _ = io.Copy(target, buffered)
		_ = target.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(client, target)
}
