package http1

import (
	"bytes"
	"os"
	"reflect"
	"strings"
	"testing"
)

const testLimit = 4096

// parseRequest parses p as the relay does and returns the parsed head and how
// many bytes of p are the request's.
func parseRequest(p []byte) (request, int, bool, *fault) {
	var q request
	whole, f := q.parse(p, testLimit)
	if f != nil || !whole {
		return q, 0, false, f
	}
	var b body
	b.begin(&q.head, framedNone, testLimit)
	n, f := b.scan(p[q.size:])
	return q, q.size + n, b.done(), f
}

func TestRequestHead(t *testing.T) {
	for _, tc := range []struct {
		in                      string
		method, authority, path string
		persistent              bool
		upTo                    int // of the body: length, -1 chunked
	}{
		{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET", "a", "/", true, 0},
		{"GET / HTTP/1.1\r\nhOST:\ta:80 \r\n\r\n", "GET", "a:80", "/", true, 0},
		{"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "GET", "[::1]:80", "/", true, 0},
		{"GET / HTTP/1.1\r\nHost:\r\n\r\n", "GET", "", "/", true, 0},
		{"GET /x?y=/?z HTTP/1.0\r\n\r\n", "GET", "", "/x", false, 0},
		{"GET / HTTP/1.0\r\nConnection: foo , Keep-Alive\r\n\r\n", "GET", "", "/", true, 0},
		{"GET / HTTP/1.1\r\nConnection: foo,CLOSE\r\nHost: a\r\n\r\n", "GET", "a", "/", false, 0},
		{"GET / HTTP/1.1\r\nConnection: foo\r\nConnection: close\r\nHost: a\r\n\r\n", "GET", "a", "/", false, 0},
		{"PUT http://a HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\n", "PUT", "a", "", true, 7},
		{"PUT https://a?q HTTP/1.1\r\nHost: A\r\nTransfer-Encoding: Chunked\r\n\r\n", "PUT", "a", "", true, -1},
		{"PUT HTTP://a:1/b/c?q HTTP/1.1\r\nHost: a:1\r\n\r\n", "PUT", "a:1", "/b/c", true, 0},
		{"CONNECT a:443 HTTP/1.1\r\nHost: other\r\n\r\n", "CONNECT", "a:443", "", true, 0},
		{"OPTIONS * HTTP/1.1\r\nHost: a\r\nX: \xff\xfe\tb\r\n\r\n", "OPTIONS", "a", "*", true, 0},
	} {
		var q request
		p := []byte(tc.in)
		whole, f := q.parse(p, testLimit)
		if !whole || f != nil || q.size != len(p) {
			t.Errorf("%q: whole %t, fault %v, size %d", tc.in, whole, f, q.size)
			continue
		}
		upTo := int(q.length)
		if q.chunked {
			upTo = -1
		}
		if string(q.method.of(p)) != tc.method || string(q.authority.of(p)) != tc.authority ||
			string(q.path.of(p)) != tc.path || q.persistent() != tc.persistent || upTo != tc.upTo {
			t.Errorf("%q: method %q, authority %q, path %q, persistent %t, body %d", tc.in,
				q.method.of(p), q.authority.of(p), q.path.of(p), q.persistent(), upTo)
		}
	}
}

func TestResponseHead(t *testing.T) {
	for in, want := range map[string]struct {
		status uint16
		fault  *fault
	}{
		"HTTP/1.1 200 OK\r\n\r\n":                       {200, nil},
		"HTTP/1.0 404\r\n\r\n":                          {404, nil},
		"HTTP/1.1 999 \r\n\r\n":                         {999, nil},
		"HTTP/1.1 200 \xe4\r\nA:\r\n\r\n":               {200, nil},
		"HTTP/1.1 099 x\r\n\r\n":                        {99, faultStatusLine},
		"HTTP/1.1  200 OK\r\n\r\n":                      {0, faultStatusLine},
		"HTTP/1.1 2000 OK\r\n\r\n":                      {0, faultStatusLine},
		"HTTP/1.1 20x OK\r\n\r\n":                       {0, faultStatusLine},
		"HTTP/1.2 200 OK\r\n\r\n":                       {0, faultVersion},
		"http/1.1 200 OK\r\n\r\n":                       {0, faultVersion},
		"\r\n\r\n":                                      {0, faultStatusLine},
		"HTTP/1.1 200 OK\r\n A: b\r\n\r\n":              {0, faultFold},
		"HTTP/1.1 200 OK\r\nA : b\r\n\r\n":              {0, faultSpace},
		"HTTP/1.1 200 OK\r\nA: b\x00\r\n\r\n":           {0, faultControl},
		"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n": {0, faultLength},
	} {
		var s response
		whole, f := s.parse([]byte(in), testLimit)
		if f != want.fault || f == nil && (!whole || s.status != want.status) {
			t.Errorf("%q: whole %t, status %d, fault %v; want %d, %v", in, whole, s.status, f, want.status, want.fault)
		}
	}
}

// TestSmuggling holds the verdict on each shape of testdata/smuggling.txt.
func TestSmuggling(t *testing.T) {
	data, err := os.ReadFile("testdata/smuggling.txt")
	if err != nil {
		t.Fatal(err)
	}
	unescape := strings.NewReplacer(`\r`, "\r", `\n`, "\n", `\t`, "\t", `\0`, "\x00", `\v`, "\v", `\f`, "\f", `\d`, "\x7f", `\u`, "\u00e9", `\h`, "\xff", `\\`, `\`)
	shapes := 0
	for i, line := range strings.Split(string(data), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		shapes++
		verdict, shape, ok := strings.Cut(line, "\t")
		if !ok {
			t.Fatalf("line %d has no tab", i+1)
		}
		_, n, done, f := parseRequest([]byte(unescape.Replace(shape)))
		got := "waits"
		switch {
		case f != nil:
			got = "refused: " + f.text
		case done:
			got = "whole"
			if rest := []byte(unescape.Replace(shape))[n:]; len(rest) > 0 {
				got = "whole, then " + string(rest[:min(len(rest), 3)])
			}
		}
		if got != verdict {
			t.Errorf("line %d: %s\ngot  %s\nwant %s", i+1, shape, got, verdict)
		}
	}
	if shapes < 60 {
		t.Errorf("%d shapes, want 60 or more", shapes)
	}
}

func TestHeadTooLarge(t *testing.T) {
	long := []byte("GET / HTTP/1.1\r\nHost: a\r\nA: " + strings.Repeat("x", testLimit) + "\r\n\r\n")
	var q request
	if _, f := q.parse(long, testLimit); f != faultTooLarge {
		t.Errorf("got %v", f)
	}
	var r request
	if whole, f := r.parse(long[:testLimit-1], testLimit); whole || f != nil {
		t.Errorf("below the limit: %t, %v", whole, f)
	}
	if _, f := r.parse(long[:testLimit], testLimit); f != faultTooLarge {
		t.Errorf("at the limit: %v", f)
	}
}

func TestControl(t *testing.T) {
	for size := range 40 {
		for at := range size {
			for c := range 256 {
				p := bytes.Repeat([]byte{'\xa0'}, size)
				p[at] = byte(c)
				want := -1
				if c < 0x20 || c == 0x7f {
					want = at
				}
				if got := control(p, 0); got != want {
					t.Fatalf("byte %#x at %d of %d: got %d, want %d", c, at, size, got, want)
				}
			}
		}
	}
}

// inPieces parses p byte by byte more; it must come to what one piece comes to.
func inPieces(p []byte, parse func(p []byte) (bool, *fault)) (bool, *fault) {
	for i := 1; i <= len(p); i++ {
		if whole, f := parse(p[:i]); whole || f != nil {
			return whole, f
		}
	}
	return false, nil
}

func FuzzRequestHead(f *testing.F) {
	f.Add([]byte("GET /a?b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"))
	f.Add([]byte("POST http://a/b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close, upgrade\r\n\r\n"))
	f.Add([]byte("GET / HTTP/1.0\r\nTraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n"))
	f.Fuzz(func(t *testing.T, p []byte) {
		var one, many request
		whole, fault1 := one.parse(p, testLimit)
		wholePieces, fault2 := inPieces(p, func(p []byte) (bool, *fault) { return many.parse(p, testLimit) })
		if whole != wholePieces || fault1 != fault2 {
			t.Fatalf("at once %t, %v; in pieces %t, %v", whole, fault1, wholePieces, fault2)
		}
		if !whole || fault1 != nil {
			return
		}
		if !reflect.DeepEqual(one, many) {
			t.Fatalf("at once %+v\nin pieces %+v", one, many)
		}
		head := p[:one.size]
		if !bytes.HasSuffix(head, []byte("\r\n\r\n")) || bytes.Contains(head[:len(head)-4], []byte("\r\n\r\n")) {
			t.Fatalf("the head is %q", head)
		}
		if bytes.Count(head, []byte("\n")) != bytes.Count(head, []byte("\r\n")) || bytes.Count(head, []byte("\r")) != bytes.Count(head, []byte("\r\n")) {
			t.Fatalf("a bare CR or LF in %q", head)
		}
		for _, s := range []span{one.method, one.authority, one.path} {
			if bytes.ContainsAny(s.of(head), " \t\r\n?#") {
				t.Fatalf("%q in %q", s.of(head), head)
			}
		}
	})
}

func FuzzResponseHead(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"))
	f.Add([]byte("HTTP/1.0 404\r\nConnection: keep-alive\r\n\r\n"))
	f.Fuzz(func(t *testing.T, p []byte) {
		var one, many response
		whole, fault1 := one.parse(p, testLimit)
		wholePieces, fault2 := inPieces(p, func(p []byte) (bool, *fault) { return many.parse(p, testLimit) })
		if whole != wholePieces || fault1 != fault2 {
			t.Fatalf("at once %t, %v; in pieces %t, %v", whole, fault1, wholePieces, fault2)
		}
		if whole && fault1 == nil && (!reflect.DeepEqual(one, many) || one.status < 100 || one.status > 999) {
			t.Fatalf("at once %+v\nin pieces %+v", one, many)
		}
	})
}
