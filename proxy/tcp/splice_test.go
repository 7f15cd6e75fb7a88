package tcp

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirmesh/weir/proxy/socket"
)

// spliced is a splicer from one connection to another, with their far ends.
func spliced(t *testing.T) (s *Splicer, w *socket.Writer, src, dst, in, out net.Conn) {
	t.Helper()
	src, in = loopback(t)
	out, dst = loopback(t)
	for _, c := range []net.Conn{src, dst, in, out} {
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	}
	s, w = new(Splicer), new(socket.Writer)
	s.Join(src, dst)
	w.Init(dst)
	if !s.Ready() {
		t.Fatal("two TCP connections cannot be spliced")
	}
	return s, w, src, dst, in, out
}

func expectBytes(t *testing.T, c net.Conn, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("other bytes came than were sent, or an error: %v", err)
	}
}

// arrived waits until n bytes wait in the socket.
func arrived(t *testing.T, c net.Conn, n int) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, n)
	err = raw.Read(func(fd uintptr) bool {
		got, _, err := syscall.Recvfrom(int(fd), b, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return got >= n || err != nil && !errors.Is(err, syscall.EAGAIN)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestMoveAfter has a head written with what there is after it: nothing, a part
// of what is asked for, more than that.
func TestMoveAfter(t *testing.T) {
	for name, tc := range map[string]struct{ there, limit, want int }{
		"nothing":       {0, 1000, 0},
		"a part":        {300, 1000, 300},
		"more than all": {1200, 1000, 1000},
	} {
		t.Run(name, func(t *testing.T) {
			s, w, src, _, in, out := spliced(t)
			body := bytes.Repeat([]byte("body"), 300)
			if tc.there > 0 {
				_, _ = in.Write(body[:tc.there])
				arrived(t, src, tc.there)
			}
			wrote, n, err := s.MoveAfter(w, []byte("head"), int64(tc.limit))
			if wrote != 4 || int(n) != tc.want || err != nil || s.pipe != nil {
				t.Fatalf("wrote %d, moved %d, %v, pipe held: %t", wrote, n, err, s.pipe != nil)
			}
			expectBytes(t, out, []byte("head"))
			expectBytes(t, out, body[:tc.want])
		})
	}
}

// TestMoveAfterKeepsTheError has the source break before a head is written: that
// is told by Move, once the head has gone out.
// TestMoveAfterHoldsNothingBack has a body pause just after its beginning, which
// must not lie in the socket until more comes.
func TestMoveAfterHoldsNothingBack(t *testing.T) {
	s, w, src, dst, in, out := spliced(t)
	for _, there := range []int{0, 1, 300, 20_000} {
		body := bytes.Repeat([]byte("b"), there)
		if there > 0 {
			_, _ = in.Write(body)
			arrived(t, src, there)
		}
		if _, n, err := s.MoveAfter(w, []byte("head"), 1<<20); int(n) != there || err != nil {
			t.Fatalf("moved %d of %d, %v", n, there, err)
		}
		if n := unsent(t, dst); n != 0 {
			t.Errorf("%d bytes after %d of a body lie in the socket", n, there)
		}
		expectBytes(t, out, append([]byte("head"), body...))
	}
}

// unsent is how many bytes lie in the socket that the kernel has not sent yet.
func unsent(t *testing.T, c net.Conn) (n int) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	err = raw.Control(func(fd uintptr) { n, failed = unix.IoctlGetInt(int(fd), unix.SIOCOUTQNSD) })
	if err = errors.Join(err, failed); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestMoveAfterKeepsTheError(t *testing.T) {
	s, w, _, _, in, out := spliced(t)
	Reset(in)
	for wait := time.Now().Add(30 * time.Second); !Dead(s.src) && time.Now().Before(wait); {
		time.Sleep(time.Millisecond)
	}
	if wrote, n, err := s.MoveAfter(w, []byte("head"), 1000); wrote != 4 || n != 0 || err != nil {
		t.Fatalf("wrote %d, moved %d, %v", wrote, n, err)
	}
	expectBytes(t, out, []byte("head"))
	if n, srcErr, dstErr := s.Move(1000); n != 0 || !IsReset(srcErr) || dstErr != nil {
		t.Errorf("moved %d, %v, %v; want a reset of the source", n, srcErr, dstErr)
	}
}

// TestMove moves more than a pipe holds to who reads late, to the byte; then
// waits in vain, holding no pipe, and sees the end.
func TestMove(t *testing.T) {
	s, _, src, _, in, out := spliced(t)
	body := make([]byte, 5*pipeSize+123)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(body)
	go func() { _, _ = in.Write(append(body[:len(body):len(body)], "rest"...)) }()
	type result struct {
		n        int64
		src, dst error
	}
	moved := make(chan result)
	go func() {
		n, srcErr, dstErr := s.Move(int64(len(body)))
		moved <- result{n, srcErr, dstErr}
	}()
	time.Sleep(10 * time.Millisecond) // the destination is full
	expectBytes(t, out, body)
	if got := <-moved; got.n != int64(len(body)) || got.src != nil || got.dst != nil {
		t.Fatalf("moved %d, %v, %v; want %d", got.n, got.src, got.dst, len(body))
	}
	_ = src.SetReadDeadline(time.Now().Add(time.Second))
	n, srcErr, dstErr := s.Move(1000)
	if n != 4 || !errors.Is(srcErr, os.ErrDeadlineExceeded) || dstErr != nil || s.pipe != nil {
		t.Errorf("moved %d, %v, %v, pipe held: %t; want the rest and a deadline", n, srcErr, dstErr, s.pipe != nil)
	}
	_ = src.SetReadDeadline(time.Time{})
	_ = in.(*net.TCPConn).CloseWrite()
	if n, srcErr, dstErr = s.Move(1000); n != 0 || !errors.Is(srcErr, io.EOF) || dstErr != nil {
		t.Errorf("moved %d, %v, %v; want the end of the source", n, srcErr, dstErr)
	}
}

// TestMoveToBroken has the destination gone: its error is told as its own, and
// the pipe, which is not empty, is not used again.
func TestMoveToBroken(t *testing.T) {
	s, _, _, _, in, out := spliced(t)
	Reset(out)
	for wait := time.Now().Add(30 * time.Second); !Dead(s.dst) && time.Now().Before(wait); {
		time.Sleep(time.Millisecond)
	}
	_, _ = in.Write([]byte("lost"))
	if _, srcErr, dstErr := s.Move(4); srcErr != nil || dstErr == nil || s.pipe != nil {
		t.Errorf("got %v, %v; want an error of the destination", srcErr, dstErr)
	}
	one := pipes.get()
	if one == nil {
		t.Fatal("no pipe")
	}
	defer pipes.put(one, true)
	var b [8]byte
	if n, err := syscall.Read(int(one.r), b[:]); !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("a pipe that is lent holds %q, %v", b[:max(n, 0)], err)
	}
}

// TestNoPipes takes all pipes there are: a splicer says so, a tunnel copies, and
// no more than some are kept when all come back.
func TestNoPipes(t *testing.T) {
	var all []*pipe
	for one := pipes.get(); one != nil; one = pipes.get() {
		all = append(all, one)
	}
	if len(all) == 0 || len(all) > maxPipes {
		t.Errorf("%d pipes were lent, want up to %d", len(all), maxPipes)
	}
	s, w, src, _, in, out := spliced(t)
	_, _ = in.Write([]byte("body"))
	arrived(t, src, 4)
	if wrote, n, err := s.MoveAfter(w, []byte("head"), 4); wrote != 4 || n != 0 || err != nil {
		t.Errorf("wrote %d, moved %d, %v; want the head alone", wrote, n, err)
	}
	expectBytes(t, out, []byte("head"))
	if n, srcErr, dstErr := s.Move(4); n != 0 || !errors.Is(srcErr, ErrNoPipe) || dstErr != nil {
		t.Errorf("moved %d, %v, %v; want ErrNoPipe", n, srcErr, dstErr)
	}

	client, near := loopback(t)
	far, server := loopback(t)
	done := make(chan Outcome)
	go func() {
		tunnel := Tunnel{Client: near, Server: far}
		done <- tunnel.Run(context.Background())
	}()
	body := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	go func() {
		_, _ = client.Write(body)
		_ = client.(*net.TCPConn).CloseWrite()
	}()
	expectBytes(t, server, body)
	_ = server.Close()
	if o := <-done; o.FromClient != uint64(len(body)) {
		t.Errorf("%d bytes were carried, want %d", o.FromClient, len(body))
	}
	for _, one := range all {
		pipes.put(one, true)
	}
	pipes.mu.Lock()
	if len(pipes.free) > keptPipes || pipes.open != len(pipes.free) {
		t.Errorf("%d pipes are kept and %d open, want at most %d", len(pipes.free), pipes.open, keptPipes)
	}
	pipes.mu.Unlock()
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		pipes.mu.Lock()
		open, timer := pipes.open, pipes.timer
		pipes.mu.Unlock()
		if open == 0 && timer == nil {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("%d pipes are open that nobody uses", open)
		}
	}
}

// TestBufferSizes has a buffer borrow as it was told, grow without loss, and
// follow what reads give.
func TestBufferSizes(t *testing.T) {
	var b Buffer
	b.Frugal = true
	if got := len(b.free(1)); got != FrugalSize {
		t.Errorf("a frugal buffer borrows %d bytes, want %d", got, FrugalSize)
	}
	b.Append(bytes.Repeat([]byte("a"), FrugalSize))
	b.Append([]byte("b"))
	if string(b.Bytes()) != string(bytes.Repeat([]byte("a"), FrugalSize))+"b" || b.pooled == nil {
		t.Error("a frugal buffer lost bytes, or did not borrow more")
	}
	b.Release()
	if !b.Frugal || b.mem != nil {
		t.Error("a buffer that is released forgets what it was told, or holds memory")
	}

	near, far := loopback(t)
	_ = near.SetDeadline(time.Now().Add(30 * time.Second))
	b = Buffer{}
	var r Reader
	r.Init(near)
	for _, step := range []struct {
		limit, arrive, read int
		roomy               bool
	}{
		{0, BufferSize + 10, BufferSize, true}, // a read that fills the buffer
		{0, 0, 10, false},
		{100, 300, 100, false},
		{0, 0, 200, false},
	} {
		if step.arrive > 0 {
			_, _ = far.Write(make([]byte, step.arrive))
			arrived(t, near, step.arrive)
		}
		r.Limit = step.limit
		if n, err := r.Fill(&b); n != step.read || err != nil || b.Roomy != step.roomy {
			t.Errorf("%+v: read %d, %v; roomy: %t", step, n, err, b.Roomy)
		}
		b.Release()
	}
}
