package tcp

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/weirmesh/weir/proxy/socket"
)

// loopback returns both ends of a connection.
func loopback(t testing.TB) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close(); _ = b.Close() })
	return a, b
}

// TestReaderHoldsNothing reads, waits in vain and reads the end, and finds no
// memory held but while there are bytes.
func TestReaderHoldsNothing(t *testing.T) {
	near, far := loopback(t)
	var r Reader
	var b Buffer
	r.Init(near)
	for range 3 {
		_ = near.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
		if _, err := r.Fill(&b); !errors.Is(err, os.ErrDeadlineExceeded) || b.mem != nil {
			t.Fatalf("got %v, memory held: %t", err, b.mem != nil)
		}
		_ = near.SetReadDeadline(time.Time{})
		_, _ = far.Write([]byte("abc"))
		if n, err := r.Fill(&b); n != 3 || err != nil || string(b.Bytes()) != "abc" {
			t.Fatalf("got %d, %v, %q", n, err, b.Bytes())
		}
		_, _ = far.Write([]byte("de"))
		if n, err := r.Fill(&b); n != 2 || err != nil || string(b.Bytes()) != "abcde" {
			t.Fatalf("got %d, %v, %q", n, err, b.Bytes())
		}
		b.Advance(4)
		if string(b.Bytes()) != "e" {
			t.Fatalf("got %q", b.Bytes())
		}
		if b.Advance(1); b.mem != nil {
			t.Fatal("an empty buffer holds memory")
		}
	}
	_ = far.Close()
	if _, err := r.Fill(&b); err != io.EOF || b.mem != nil {
		t.Fatalf("got %v, memory held: %t", err, b.mem != nil)
	}
}

func TestBufferGrows(t *testing.T) {
	var b Buffer
	var want []byte
	for i := range 100 {
		piece := bytes.Repeat([]byte{byte(i)}, i*31)
		b.Append(piece)
		want = append(want, piece...)
		drop := min(len(want), i*7)
		b.Advance(drop)
		want = want[drop:]
		if !bytes.Equal(b.Bytes(), want) {
			t.Fatalf("after %d pieces the buffer holds other bytes", i+1)
		}
	}
	b.Release()
	if b.Len() != 0 || b.mem != nil {
		t.Fatal("a released buffer holds something")
	}
}

// TestFillAllocatesNothing holds that reading and writing borrows memory only.
func TestFillAllocatesNothing(t *testing.T) {
	near, far := loopback(t)
	var r Reader
	var b Buffer
	r.Init(near)
	msg := []byte("message")
	n := testing.AllocsPerRun(200, func() {
		_, _ = far.Write(msg)
		if _, err := r.Fill(&b); err != nil {
			t.Fatal(err)
		}
		b.Release()
	})
	if n > 1 { // Under the race detector the pool drops some at random.
		t.Errorf("a read allocates %v times", n)
	}
}

// TestAsk writes and reads the answer in one call.
func TestAsk(t *testing.T) {
	near, far := loopback(t)
	var r Reader
	var w socket.Writer
	var b Buffer
	r.Init(near)
	w.Init(near)
	go func() { // until far is closed
		p := make([]byte, 16)
		for {
			n, err := far.Read(p)
			if err != nil {
				return
			}
			_, _ = far.Write(bytes.ToUpper(p[:n]))
		}
	}()
	for range 3 {
		if sent, asked, err := r.Ask(&w, []byte("abc"), &b); sent != 3 || !asked || err != nil || string(b.Bytes()) != "ABC" {
			t.Fatalf("got %d, %t, %v, %q", sent, asked, err, b.Bytes())
		}
		b.Release()
	}
	// Where the deadline has passed, nothing is written.
	_ = near.SetReadDeadline(time.Unix(1, 0))
	if sent, asked, err := r.Ask(&w, []byte("abc"), &b); sent != 0 || asked || err != nil {
		t.Errorf("after the deadline: %d, %t, %v", sent, asked, err)
	}
	_ = near.SetReadDeadline(time.Time{})
	_ = near.Close()
	if sent, asked, err := r.Ask(&w, []byte("abc"), &b); sent != 0 || asked || err != nil {
		t.Errorf("closed: %d, %t, %v", sent, asked, err)
	}
}

// TestAskMidway has the deadline pass, and the other side end, while the answer
// is waited for.
func TestAskMidway(t *testing.T) {
	near, far := loopback(t)
	var r Reader
	var w socket.Writer
	var b Buffer
	r.Init(near)
	w.Init(near)
	_ = near.SetReadDeadline(time.Now().Add(time.Second))
	if sent, asked, err := r.Ask(&w, []byte("abc"), &b); sent != 3 || !asked || !errors.Is(err, os.ErrDeadlineExceeded) || b.mem != nil {
		t.Fatalf("got %d, %t, %v, memory held: %t", sent, asked, err, b.mem != nil)
	}
	_ = near.SetReadDeadline(time.Time{})
	go func() {
		_, _ = io.ReadFull(far, make([]byte, 6))
		_ = far.Close()
	}()
	if sent, asked, err := r.Ask(&w, []byte("def"), &b); sent != 3 || !asked || err != io.EOF {
		t.Fatalf("got %d, %t, %v", sent, asked, err)
	}
}
