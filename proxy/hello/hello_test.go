package hello_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/hello"
)

var web = hello.Hello{
	Workload:    event.Workload{Cluster: "local", Namespace: "emojivoto", Kind: "deploy", Name: "web"},
	Pod:         "web-6b9c7-x2x4p",
	Connection:  0x0123456789abcdef,
	Protocol:    event.HTTP2,
	Destination: "10.0.0.7:8080",
}

func encode(t testing.TB, h hello.Hello) []byte {
	t.Helper()
	b, err := h.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// frame puts a header before body.
func frame(version byte, body []byte) []byte {
	b := append([]byte(hello.Magic), version, byte(len(body)>>8), byte(len(body)))
	return append(b, body...)
}

func TestRoundTrip(t *testing.T) {
	f := func(h hello.Hello) {
		t.Helper()
		data := append(encode(t, h), "GET / HTTP/1.1\r\n"...)
		r := bytes.NewReader(data)
		got, err := hello.Read(r)
		if err != nil {
			t.Fatal(err)
		}
		if got != h {
			t.Fatalf("got %+v, want %+v", got, h)
		}
		rest, _ := io.ReadAll(r)
		if string(rest) != "GET / HTTP/1.1\r\n" {
			t.Fatalf("the reader took too much: %q is left", rest)
		}
	}
	f(web)
	f(hello.Hello{Connection: 1})
	f(hello.Hello{Connection: 1<<64 - 1, Protocol: event.TLS, Pod: "p"})
}

func TestLongestNamesFit(t *testing.T) {
	h := hello.Hello{
		Workload: event.Workload{
			Cluster: strings.Repeat("c", 63), Namespace: strings.Repeat("n", 63),
			Kind: "cronjob", Name: strings.Repeat("w", 253),
		},
		Pod: strings.Repeat("p", 253), Connection: 7, Destination: strings.Repeat("d", 253) + ":65535",
	}
	if n := len(encode(t, h)); n > hello.MaxSize {
		t.Fatalf("%d bytes", n)
	}
	h.Pod = strings.Repeat("p", 700)
	if _, err := h.Append(nil); err == nil {
		t.Fatal("an oversized hello was encoded")
	}
}

func TestUnknownFieldsAreSkipped(t *testing.T) {
	body := encode(t, web)[hello.HeaderSize:]
	body = append(body, 15<<3|2, 3, 'n', 'e', 'w') // field 15, bytes
	body = append(body, 14<<3, 42)                 // field 14, varint
	got, err := hello.Parse(body)
	if err != nil || got != web {
		t.Fatalf("got %+v, %v", got, err)
	}
}

func TestHostile(t *testing.T) {
	f := func(name string, data []byte, want error) {
		t.Helper()
		_, err := hello.Read(bytes.NewReader(data))
		if !errors.Is(err, want) {
			t.Fatalf("%s: got %v, want %v", name, err, want)
		}
	}
	good := encode(t, web)
	f("empty", nil, io.EOF)
	f("other protocol", []byte("GET / HTTP/1.1\r\n\r\n"), hello.ErrNotHello)
	f("almost", []byte("\xf7WEIS\x01\x00\x00"), hello.ErrNotHello)
	f("truncated header", good[:4], io.ErrUnexpectedEOF)
	f("truncated body", good[:len(good)-1], io.ErrUnexpectedEOF)
	f("version", frame(9, good[hello.HeaderSize:]), hello.ErrVersion)
	f("length", []byte(hello.Magic+"\x01\xff\xff"), hello.ErrMalformed)
	f("no connection", frame(1, []byte{1<<3 | 2, 1, 'c'}), hello.ErrMalformed)
	f("wrong type", frame(1, []byte{1 << 3, 1}), hello.ErrMalformed)
	f("bad utf-8", frame(1, []byte{1<<3 | 2, 1, 0xff}), hello.ErrMalformed)
	f("control character", frame(1, []byte{1<<3 | 2, 2, 'a', '\n'}), hello.ErrMalformed)
	f("bad length", frame(1, []byte{1<<3 | 2, 200, 'a'}), hello.ErrMalformed)
}

// A server that speaks first with one byte must not be waited for.
func TestReadDecidesOnTheFirstByte(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if err := b.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _, _ = a.Write([]byte("2")) }()
	if _, err := hello.Read(b); !errors.Is(err, hello.ErrNotHello) {
		t.Fatal(err)
	}
	<-done
}

func FuzzRead(f *testing.F) {
	f.Add(encode(f, web))
	f.Add([]byte(hello.Magic))
	f.Add(frame(1, []byte{1<<3 | 2, 200, 'a'}))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := hello.Read(bytes.NewReader(data))
		if err != nil {
			return
		}
		again, err := hello.Read(bytes.NewReader(encode(t, h)))
		if err != nil || again != h {
			t.Fatalf("%+v came back as %+v, %v", h, again, err)
		}
	})
}
