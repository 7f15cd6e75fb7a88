package listen

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirmesh/weir/proxy/mtls/mtlstest"
)

// small is what a socket holds that is soon full.
const small = 16 << 10

// securedPair is a connection under mutual TLS, whose sockets hold so many bytes.
func securedPair(t *testing.T, holds int) (client, server *secured) {
	t.Helper()
	ca := mtlstest.New(t)
	one, two := ca.Identity(t, "spiffe://cluster.local/ns/test/sa/one"), ca.Identity(t, "spiffe://cluster.local/ns/test/sa/two")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	accepted := make(chan *secured, 1)
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			accepted <- nil
			return
		}
		accepted <- shakeAs(t, conn, holds, two.Server)
	}()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client = shakeAs(t, conn, holds, func(ctx context.Context, c net.Conn) (*tls.Conn, string, error) { return one.Client(ctx, c, "") })
	server = <-accepted
	if client == nil || server == nil {
		t.Fatal("no handshake")
	}
	return client, server
}

func shakeAs(t *testing.T, conn net.Conn, holds int, do func(context.Context, net.Conn) (*tls.Conn, string, error)) *secured {
	t.Cleanup(func() { _ = conn.Close() })
	tcp := conn.(*net.TCPConn)
	_ = tcp.SetReadBuffer(holds)
	_ = tcp.SetWriteBuffer(holds)
	w, err := newWire(tcp)
	if err != nil {
		t.Error(err)
		return nil
	}
	c, _, err := do(t.Context(), w)
	if err != nil {
		t.Error(err)
		return nil
	}
	return secure(c, w)
}

// TestWriteHoldsNothingBack has the last of several records go at once.
func TestWriteHoldsNothingBack(t *testing.T) {
	client, server := securedPair(t, 1<<20)
	for _, size := range []int{1, maxRecord, maxRecord + 1, 3*maxRecord + 7} {
		data := pattern(size)
		if _, err := client.Write(data); err != nil {
			t.Fatal(err)
		}
		unsent := 0
		var failed error
		err := client.wire.raw.Control(func(fd uintptr) { unsent, failed = unix.IoctlGetInt(int(fd), unix.SIOCOUTQNSD) })
		if err = errors.Join(err, failed); err != nil || unsent != 0 {
			t.Errorf("%d bytes lie in the socket after a Write of %d: %v", unsent, size, err)
		}
		got := make([]byte, size)
		if _, err := io.ReadFull(server, got); err != nil || !bytes.Equal(got, data) {
			t.Errorf("read other bytes than were written: %v", err)
		}
	}
}

// pattern is n bytes of which none are like those that follow.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>8) ^ byte(i*7)
	}
	return b
}

// stuff writes data without waiting until the socket takes no more, and returns
// how much was taken.
func stuff(t *testing.T, c *secured, data []byte) int {
	t.Helper()
	sent, held, err := c.WriteNow(data)
	if err != nil || !held || sent == 0 || sent == len(data) {
		t.Fatalf("of a peer that does not read: %d of %d bytes, held %v, %v", sent, len(data), held, err)
	}
	return sent
}

func TestWriteNowDoesNotWait(t *testing.T) {
	client, server := securedPair(t, small)
	data := pattern(4 << 20)
	sent := stuff(t, client, data)
	if n, held, err := client.WriteNow(data[sent:]); n != 0 || !held || err != nil {
		t.Errorf("while something is held: %d bytes, %v, %v", n, held, err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := client.Write(nil) // what is held
		if _, held, e := client.WriteNow(nil); err == nil && (held || e != nil) {
			err = errors.New("held after a Write that waits")
		}
		if err == nil {
			_, err = client.Write(data[sent:])
		}
		if err == nil {
			err = client.CloseWrite()
		}
		done <- err
	}()
	_ = server.SetReadDeadline(time.Now().Add(time.Minute))
	got, err := io.ReadAll(server)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %d of %d bytes as they were written: %v, %v", len(got), len(data), bytes.Equal(got, data), err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestCloseDoesNotWait(t *testing.T) {
	client, server := securedPair(t, small)
	data := pattern(4 << 20)
	sent := stuff(t, client, data)
	waits := make(chan error, 1)
	go func() { _, err := client.Write(data[sent:]); waits <- err }()
	closed := make(chan error, 1)
	go func() { closed <- client.Close() }()
	select {
	case <-closed:
	case <-time.After(30 * time.Second):
		t.Fatal("Close waits for a peer that does not read")
	}
	if err := <-waits; err == nil {
		t.Error("a Write that waited has no error")
	}
	_ = server.SetReadDeadline(time.Now().Add(time.Minute))
	got, err := io.ReadAll(server)
	if err == nil {
		t.Error("what was cut off has an orderly end")
	}
	if len(got) > sent || !bytes.Equal(got, data[:len(got)]) {
		t.Errorf("read %d bytes, %d were taken", len(got), sent)
	}
}

// TestAnswersAreBounded has crypto/tls answer a peer that does not read.
func TestAnswersAreBounded(t *testing.T) {
	client, _ := securedPair(t, small)
	stuff(t, client, pattern(4<<20))
	answer := make([]byte, 1<<10)
	for range maxKept/len(answer) + 1 {
		if _, err := client.wire.Write(answer); err != nil {
			if !errors.Is(err, errStuck) {
				t.Errorf("error %v", err)
			}
			return
		}
	}
	t.Error("no bound")
}

func TestReadNow(t *testing.T) {
	client, server := securedPair(t, small)
	raw, err := server.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	parts := []string{"one", "two", "three"}
	go func() {
		for _, p := range parts {
			_, _ = io.WriteString(client, p)
			time.Sleep(time.Millisecond)
		}
		_ = client.CloseWrite()
	}()
	_ = server.SetReadDeadline(time.Now().Add(time.Minute))
	var got []byte
	buf := make([]byte, 4) // less than a record
	for {
		var n int
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			n, failed = server.ReadNow(fd, buf)
			return n > 0 || !errors.Is(failed, syscall.EAGAIN)
		})
		got = append(got, buf[:n]...)
		if err == nil && n == 0 {
			err = failed
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			break
		}
	}
	if string(got) != "onetwothree" {
		t.Errorf("read %q", got)
	}
}

// TestDeadlineEndsFlush has the write deadline pass while something is held.
func TestDeadlineEndsFlush(t *testing.T) {
	client, _ := securedPair(t, small)
	data := pattern(4 << 20)
	for range 1000 { // the kernel may find some more room meanwhile
		data = data[stuff(t, client, data):]
		_ = client.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := client.Write(nil); err == nil {
			_ = client.SetWriteDeadline(time.Time{})
			continue
		}
		if n, held, err := client.WriteNow([]byte("x")); n != 0 || !held || err != nil {
			t.Errorf("%d bytes, held %v, %v", n, held, err)
		}
		return
	}
	t.Error("no deadline passed")
}
