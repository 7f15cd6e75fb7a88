package listen

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"

	"github.com/weirmesh/weir/proxy/socket"
)

// wire is the TCP connection under TLS. It is read and written with the system
// calls alone, as package socket says; crypto/tls lets one goroutine at a time
// read, and one write.
type wire struct {
	*net.TCPConn
	raw    syscall.RawConn
	writer socket.Writer
	try    func(fd uintptr) bool // kept, for a method value allocates
	once   func(fd uintptr) bool

	into []byte
	n    int
	err  error

	last []byte
	// follow is how many of the next writes are followed by another at once.
	follow atomic.Int32
	// closing: the connection is about to be closed, and what is written now, the
	// goodbye of TLS, must not wait for a peer that does not read. aborted: there
	// is to be no goodbye.
	closing, aborted atomic.Bool
}

func newWire(c *net.TCPConn) (*wire, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	w := &wire{TCPConn: c, raw: raw}
	w.try, w.once = w.readOnce, w.writeOnce
	w.writer.Init(c)
	return w, nil
}

// Read implements net.Conn.
func (w *wire) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	w.into, w.n, w.err = p, 0, nil
	err := w.raw.Read(w.try)
	w.into = nil
	if err == nil {
		err = w.err
	}
	if err != nil {
		return 0, err
	}
	if w.n == 0 {
		return 0, io.EOF
	}
	return w.n, nil
}

func (w *wire) readOnce(fd uintptr) bool {
	for {
		n, errno := socket.Read(fd, w.into)
		switch errno {
		case 0:
			w.n = n
			return true
		case syscall.EINTR:
		case syscall.EAGAIN:
			return false
		default:
			w.err = &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", errno)}
			return true
		}
	}
}

// Write implements net.Conn.
func (w *wire) Write(p []byte) (int, error) {
	if !w.closing.Load() {
		if w.follow.Load() > 0 {
			w.follow.Add(-1)
			return w.writer.WriteMore(p)
		}
		return w.writer.Write(p)
	}
	w.last = p
	err := w.raw.Write(w.once)
	w.last = nil
	return len(p), err // what did not fit is not waited for
}

// writeOnce writes what the socket takes at once.
func (w *wire) writeOnce(fd uintptr) bool {
	_, _ = socket.Write(fd, w.last)
	return true
}

// secured is a connection of a meshed hop under mutual TLS.
type secured struct {
	*tls.Conn
	wire *wire
}

// maxRecord is how many bytes a record of TLS carries.
const maxRecord = 16 << 10

// Write implements net.Conn. The records of one call leave together.
func (s *secured) Write(p []byte) (int, error) {
	if len(p) <= maxRecord {
		return s.Conn.Write(p)
	}
	s.wire.follow.Store(int32((len(p) - 1) / maxRecord))
	n, err := s.Conn.Write(p)
	s.wire.follow.Store(0)
	return n, err
}

// SyscallConn shows the socket, to be looked at only: what waits there says
// that the peer spoke or ended. Neither side sends anything after the handshake
// but what is written (and the goodbye), so silence there is silence.
func (s *secured) SyscallConn() (syscall.RawConn, error) { return s.wire.SyscallConn() }

// SetLinger has a later Close drop what is not delivered and say no goodbye, so
// that the peer sees a reset and not an orderly end.
func (s *secured) SetLinger(sec int) error {
	s.wire.aborted.Store(sec == 0)
	return s.wire.SetLinger(sec)
}

// Close says goodbye, without waiting for a peer that does not read, and closes.
func (s *secured) Close() error {
	if s.wire.aborted.Load() {
		return s.wire.Close()
	}
	s.wire.closing.Store(true)
	return s.Conn.Close()
}
