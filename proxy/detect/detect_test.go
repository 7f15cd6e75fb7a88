package detect_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/weirmesh/weir/proxy/detect"
)

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

func TestClient(t *testing.T) {
	f := func(in string, want detect.Verdict) {
		t.Helper()
		if got, _ := detect.Client([]byte(in)); got != want {
			t.Errorf("Client(%q) = %v, want %v", in, got, want)
		}
	}
	f("", detect.NeedMore)
	f("G", detect.NeedMore)
	f("GET", detect.NeedMore)
	f("GET ", detect.NeedMore)
	f("GET /", detect.HTTP1)
	f("GET http://a/ HTTP/1.1\r\n", detect.HTTP1)
	f("GET  / HTTP/1.1\r\n", detect.HTTP1)
	f("OPTIONS * HTTP/1.1\r\n", detect.HTTP1)
	f("PROPFIND /dav HTTP/1.1\r\n", detect.HTTP1)
	f("CONNECT host:443 HTTP/1.1\r\n", detect.HTTP1)
	f("CONNECT [::1]:443 HTTP/1.1\r\n", detect.HTTP1)
	f("M-SEARCH * HTTP/1.1\r\n", detect.HTTP1)

	f("P", detect.NeedMore)
	f("PR", detect.NeedMore)
	f("PRI", detect.NeedMore)
	f("PRI * HTTP/2.0\r\n", detect.NeedMore)
	f(preface, detect.HTTP2)
	f(preface+"\x00\x00\x00\x04", detect.HTTP2)
	f("PRI /", detect.HTTP1)

	// Protocols that begin with a word and a space, or like one.
	f("EHLO mail.example.com\r\n", detect.TCP)
	f("USER anonymous\r\n", detect.TCP)
	f("CONNECT {\"verbose\":false}\r\n", detect.TCP)
	f("get /key\r\n", detect.TCP)
	f("*1\r\n$4\r\nPING\r\n", detect.TCP)
	f("SSH-2.0-OpenSSH_9.6\r\n", detect.TCP)
	f("PING\r\n", detect.TCP)
	f("\x00\x00\x00\x08\x04\xd2\x16\x2f", detect.TCP) // Postgres SSLRequest
	f(" GET /", detect.TCP)
	f("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", detect.TCP)
	f("\xff\xfe\xfd", detect.TCP)

	f("\xf7", detect.NeedMore)
	f("\xf7WEI", detect.NeedMore)
	f("\xf7WEIR", detect.Hello)
	f("\xf7WEIS", detect.TCP)

	f("\x16", detect.NeedMore)
	f("\x16\x03\x01\x02\x00", detect.NeedMore)
	f("\x16\x03\x01\x02\x00\x01", detect.NeedMore)
	f("\x16\x03\x01\x02\x00\x02", detect.TCP) // a ServerHello
	f("\x16\x02", detect.TCP)
	f("\x16\x03\x09", detect.TCP)
	f("\x16\x03\x01\xff\xff\x01", detect.TCP)
	f("\x16\x03\x01\x00\x04\x01\xff\xff\xff", detect.TLS) // malformed inside: TLS, no name
}

func TestServer(t *testing.T) {
	f := func(in string, want detect.Verdict) {
		t.Helper()
		if got := detect.Server([]byte(in)); got != want {
			t.Errorf("Server(%q) = %v, want %v", in, got, want)
		}
	}
	f("", detect.NeedMore)
	f("2", detect.TCP)
	f("220 mail ESMTP\r\n", detect.TCP)
	f("INFO {}", detect.TCP)
	f("HT", detect.NeedMore)
	f("HTTP/1.1 408 Request Timeout\r\n", detect.HTTP1)
	f("\x4a\x00\x00\x00\x0a5.7", detect.TCP) // MySQL
	f("\x00\x00\x06\x04\x00", detect.NeedMore)
	f("\x00\x00\x06\x04\x00\x00\x00\x00\x00", detect.HTTP2)
	f("\x00\x00\x00\x04\x00\x00\x00\x00\x00", detect.HTTP2)
	f("\x00\x00\x05\x04\x00\x00\x00\x00\x00", detect.TCP)
	f("\x00\x00\x06\x04\x01", detect.TCP) // an acknowledgement of nothing
	f("\x00\x00\x06\x05", detect.TCP)
}

// recorder is a connection that keeps what is written and then fails.
type recorder struct {
	net.Conn
	b []byte
}

func (r *recorder) Write(p []byte) (int, error) { r.b = append(r.b, p...); return len(p), nil }
func (r *recorder) Read([]byte) (int, error)    { return 0, net.ErrClosed }

// clientHello is what crypto/tls really sends.
func clientHello(name string) []byte {
	r := &recorder{}
	_ = tls.Client(r, &tls.Config{ServerName: name, InsecureSkipVerify: name == ""}).HandshakeContext(context.Background())
	return r.b
}

func TestServerName(t *testing.T) {
	f := func(name, want string) {
		t.Helper()
		b := clientHello(name)
		for n := range len(b) {
			if v, _ := detect.Client(b[:n]); v != detect.NeedMore {
				t.Fatalf("%d of %d bytes: %v", n, len(b), v)
			}
		}
		v, got := detect.Client(append(b, "rest"...))
		if v != detect.TLS || got != want {
			t.Fatalf("got %v %q, want tls %q", v, got, want)
		}
	}
	f("web.emojivoto.svc.cluster.local", "web.emojivoto.svc.cluster.local")
	f("a", "a")
	f("", "")
}

func TestMemory(t *testing.T) {
	now := time.Unix(1000, 0)
	m := detect.NewMemory(3, time.Minute)
	if m.Knows("a", now) {
		t.Fatal("knows what it was never told")
	}
	for _, d := range []string{"a", "b", "c"} {
		m.Remember(d, now)
	}
	if !m.Knows("a", now) { // now the most recently used
		t.Fatal("forgot a")
	}
	m.Remember("d", now)
	if m.Knows("b", now) || !m.Knows("a", now) || !m.Knows("d", now) {
		t.Fatal("not the least recently used went")
	}
	m.Remember("a", now.Add(30*time.Second))
	if m.Knows("d", now.Add(time.Minute)) || !m.Knows("a", now.Add(time.Minute)) {
		t.Fatal("the time to live is not kept")
	}
	m.Forget("a")
	m.Forget("never known")
	if m.Knows("a", now) {
		t.Fatal("knows what it was told to forget")
	}
	for i := range 100 {
		m.Remember(fmt.Sprint(i), now)
	}
	if m.Len() != 3 {
		t.Fatalf("%d entries, the bound is 3", m.Len())
	}
}

// FuzzClient checks what the listener relies on: no panic, a decision within
// the bound, and one that more bytes never change.
func FuzzClient(f *testing.F) {
	for _, s := range []string{"GET / HTTP/1.1\r\n\r\n", preface, "\xf7WEIR\x01\x00\x00", "EHLO x\r\n"} {
		f.Add([]byte(s))
	}
	f.Add(clientHello("web.example"))
	f.Fuzz(func(t *testing.T, b []byte) {
		full, name := detect.Client(b)
		for n := range min(len(b), 4*detect.PeekSize) {
			v, early := detect.Client(b[:n])
			if v != detect.NeedMore && (v != full || early != name) {
				t.Fatalf("%d bytes say %v %q, %d say %v %q", n, v, early, len(b), full, name)
			}
		}
		if full == detect.NeedMore && len(b) >= detect.MaxPrefix {
			t.Fatalf("undecided after %d bytes", len(b))
		}
		if full == detect.NeedMore && len(b) >= detect.PeekSize && b[0] != 0x16 {
			t.Fatalf("undecided after %d bytes that are no TLS", len(b))
		}
		detect.Server(b)
	})
}
