package http2_test

import (
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/socket"
)

// layered is a connection that, as a layer, takes a piece of what is written at
// once and keeps the end of that until it is written to in the other way. It
// gives out what it read in pieces.
type layered struct {
	*net.TCPConn
	kept  []byte
	held  *atomic.Int64
	piece int
}

func (l *layered) Write(p []byte) (int, error) {
	if len(l.kept) > 0 {
		if _, err := l.TCPConn.Write(l.kept); err != nil {
			return 0, err
		}
		l.kept = nil
	}
	if len(p) == 0 {
		return 0, nil
	}
	return l.TCPConn.Write(p)
}

func (l *layered) WriteNow(p []byte) (int, bool, error) {
	if len(l.kept) > 0 {
		return 0, true, nil
	}
	if l.piece++; l.piece%3 > 0 {
		n, err := l.TCPConn.Write(p)
		return n, false, err
	}
	l.held.Add(1)
	n := max(1, len(p)*(l.piece%5)/4) // 4 of 4, too: all is taken, and kept
	n = min(n, len(p))
	l.kept = append([]byte(nil), p[:n]...)
	return n, true, nil
}

func (l *layered) ReadNow(fd uintptr, p []byte) (int, error) {
	n, errno := socket.Read(fd, p[:min(len(p), 1000)])
	switch {
	case n > 0:
		return n, nil
	case errno == syscall.EAGAIN:
		return 0, syscall.EAGAIN
	case errno != 0:
		return 0, os.NewSyscallError("read", errno)
	}
	return 0, nil
}

// TestOutboundOverLayer has the endpoints behind a layer.
func TestOutboundOverLayer(t *testing.T) {
	_, one := grpcServer(t)
	_, two := grpcServer(t)
	b := balanceTo(t, one, two)
	held := new(atomic.Int64)
	wrap := func(c *net.TCPConn) net.Conn { return &layered{TCPConn: c, held: held} }
	b.wrap.Store(&wrap)
	cc, ctx := grpcClient(t, b.addr), testContext(t)
	var wait sync.WaitGroup
	const clients, calls = 8, 30
	for i := range clients {
		wait.Go(func() {
			for range calls {
				if err := call(ctx, cc, strings.Repeat("x", 1+i*20_000)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wait.Wait()
	for _, e := range b.wait(t, clients*calls) {
		if e.Error != "" || e.Protocol != event.GRPC {
			t.Fatalf("wrong event %+v", e)
		}
	}
	if held.Load() == 0 {
		t.Error("nothing was ever held")
	}
	b.idle(t)
}
