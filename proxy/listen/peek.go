package listen

import (
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/weirmesh/weir/proxy/detect"
	"github.com/weirmesh/weir/proxy/socket"
)

// peeker looks at what a connection has received without taking it. Nothing is
// held while it waits.
type peeker struct {
	raw   syscall.RawConn
	small [detect.PeekSize]byte
	// large is borrowed for a ClientHello, see grow.
	large *[detect.MaxPrefix]byte
	// stream, where it is not nil, is TLS: nothing can be looked at without taking
	// it, so it is read into held, which the relay is given as read before.
	stream *secured
	held   []byte
}

// heldSize is how much of a TLS stream is read at first.
const heldSize = 512

// over makes p look at what comes by TLS.
func (p *peeker) over(s *secured) { p.stream, p.held = s, nil }

// take is peek of TLS.
func (p *peeker) take(have int, wait bool) ([]byte, error) {
	limit := heldSize
	if p.large != nil {
		limit = len(p.large)
	}
	for wait && len(p.held) <= have && len(p.held) < limit {
		p.held = slices.Grow(p.held, limit-len(p.held))
		n, err := p.stream.Read(p.held[len(p.held):limit])
		p.held = p.held[:len(p.held)+n]
		if err != nil && n == 0 {
			return p.held, err
		}
	}
	return p.held, nil
}

// coming tells whether bytes are there, or on their way through TLS.
func (p *peeker) coming() bool {
	if p.stream == nil {
		b, _ := p.now()
		return len(b) > 0
	}
	n, _ := socket.Waiting(p.stream.wire)
	return len(p.held) > 0 || n > 0
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
	if p.stream != nil {
		return p.take(have, wait)
	}
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
