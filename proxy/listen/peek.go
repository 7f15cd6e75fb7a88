package listen

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/weirmesh/weir/proxy/detect"
)

// peeker looks at what a connection has received without taking it. Nothing is
// held while it waits.
type peeker struct {
	raw   syscall.RawConn
	small [detect.PeekSize]byte
	// large is borrowed for a ClientHello, see grow.
	large *[detect.MaxPrefix]byte
}

// largeBuffers are for ClientHellos.
var largeBuffers = sync.Pool{New: func() any { return new([detect.MaxPrefix]byte) }}

func (p *peeker) init(c *net.TCPConn) (err error) {
	p.raw, err = c.SyscallConn()
	return err
}

// wait returns what has been received once that is more than have bytes (or all
// that it can look at). The error is io.EOF where the peer sends no more, that
// of the read deadline, or the connection's.
func (p *peeker) wait(have int) ([]byte, error) { return p.peek(have, true) }

// now returns what has been received, without waiting.
func (p *peeker) now() ([]byte, error) { return p.peek(0, false) }

func (p *peeker) peek(have int, wait bool) ([]byte, error) {
	buf := p.small[:]
	if p.large != nil {
		buf = p.large[:]
	}
	var n int
	var failed error
	err := p.raw.Read(func(fd uintptr) bool {
		n, failed = recvPeek(int(fd), buf)
		if errors.Is(failed, syscall.EAGAIN) {
			n, failed = 0, nil
			return !wait
		}
		if failed == nil && (n == 0 || wait && n <= have && hungUp(int(fd))) {
			failed = io.EOF
		}
		return failed != nil || n > have || n == len(buf) || !wait
	})
	if err == nil {
		err = failed
	}
	return buf[:max(n, 0)], err
}

func recvPeek(fd int, buf []byte) (int, error) {
	for {
		n, _, err := syscall.Recvfrom(fd, buf, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		if !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}

// hungUp tells whether the peer has ended its stream. Peeking does not show that
// while there are bytes before the end.
func hungUp(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(p, 0)
	return err == nil && n > 0
}

// grow makes room for a whole ClientHello, and release gives it back.
func (p *peeker) grow() {
	if p.large == nil {
		p.large = largeBuffers.Get().(*[detect.MaxPrefix]byte)
	}
}

func (p *peeker) release() {
	if p.large != nil {
		largeBuffers.Put(p.large)
		p.large = nil
	}
}
