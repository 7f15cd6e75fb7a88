package socket_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/weirmesh/weir/proxy/socket"
)

// pair returns the two ends of a TCP connection, until the test ends.
func pair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(); _ = s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

func writer(c net.Conn) *socket.Writer {
	var w socket.Writer
	w.Init(c)
	return &w
}

// random is more than any socket's buffers hold.
func random() []byte {
	p := make([]byte, 32<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(p) // never fails
	return p
}

func TestWriteAllToSlowReader(t *testing.T) {
	a, b := pair(t)
	want := random()
	done := make(chan error, 1)
	go func() {
		n, err := writer(a).Write(want)
		if n != len(want) && err == nil {
			err = io.ErrShortWrite
		}
		done <- errors.Join(err, a.CloseWrite())
	}()
	got, err := io.ReadAll(b)
	if err := errors.Join(err, <-done); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d arrived, %v", len(got), len(want), err)
	}
}

func TestWriteToWhatIsNoSocket(t *testing.T) {
	a, b := net.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := writer(a).Write([]byte("hello"))
		done <- errors.Join(err, a.Close())
	}()
	got, err := io.ReadAll(b)
	if err := errors.Join(err, <-done); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestWriteEnds(t *testing.T) {
	f := func(name string, end func(a, b *net.TCPConn), want func(error) bool) {
		t.Helper()
		a, b := pair(t)
		done := make(chan error, 1)
		go func() {
			n, err := writer(a).Write(random())
			if n == 32<<20 {
				err = errors.New("all was written")
			}
			done <- err
		}()
		end(a, b)
		if err := <-done; !want(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	f("deadline", func(a, _ *net.TCPConn) { _ = a.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)) },
		func(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) })
	f("closed here", func(a, _ *net.TCPConn) { time.Sleep(50 * time.Millisecond); _ = a.Close() },
		func(err error) bool { return errors.Is(err, net.ErrClosed) })
	f("reset there", func(_, b *net.TCPConn) { _ = b.SetLinger(0); _ = b.Close() },
		func(err error) bool { return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) })
}

func TestRead(t *testing.T) {
	a, b := pair(t)
	raw, err := b.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 4)
	read := func() (n int, errno syscall.Errno) {
		if e := raw.Read(func(fd uintptr) bool {
			n, errno = socket.Read(fd, p)
			return errno != syscall.EAGAIN
		}); e != nil {
			t.Fatal(e)
		}
		return n, errno
	}
	if err := raw.Control(func(fd uintptr) {
		if n, errno := socket.Read(fd, p); n != 0 || errno != syscall.EAGAIN {
			t.Errorf("nothing there: %d, %v", n, errno)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := writer(a).Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if n, err := read(); n != 4 || err != 0 || string(p) != "hell" {
		t.Errorf("%q, %d, %v", p, n, err)
	}
	if err := a.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n, err := read(); n != 1 || err != 0 || p[0] != 'o' {
		t.Errorf("%q, %d, %v", p, n, err)
	}
	if n, err := read(); n != 0 || err != 0 {
		t.Errorf("at the end: %d, %v", n, err)
	}
}

func TestWriteAllocatesNothing(t *testing.T) {
	a, b := pair(t)
	w := writer(a)
	p := make([]byte, 100)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := w.Write(p); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(b, p); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a write", n)
	}
}
