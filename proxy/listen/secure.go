package listen

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/weirmesh/weir/proxy/socket"
)

const (
	// maxRecord is how many bytes a record of TLS carries, sealedRecord how many
	// it takes on the wire at most.
	maxRecord    = 16 << 10
	sealedRecord = maxRecord + 256
	// maxKept bounds what a wire keeps that the socket did not take: a record, and
	// answers to a peer that changes its keys.
	maxKept = 4 * sealedRecord
	// goodbyeTime is how long a peer may take to accept that nothing more comes.
	goodbyeTime = 5 * time.Second
)

// errStuck ends a connection whose peer has much answered and reads nothing.
var errStuck = errors.New("the peer does not read what TLS answers it")

// keeping lends what is kept in.
var keeping = sync.Pool{New: func() any { return new([sealedRecord]byte) }}

// wire is the TCP connection under TLS. It is read and written with the system
// calls alone, as package socket says; crypto/tls lets one goroutine at a time
// read, and one write.
//
// After the handshake no write waits: what the socket does not take is kept, and
// goes before anything else. flush waits for it, outside of crypto/tls, whose
// locks are then free.
type wire struct {
	*net.TCPConn
	raw syscall.RawConn
	try func(fd uintptr) bool // these are kept, for a method value allocates

	into []byte
	n    int
	err  error
	// polled: reads are from fd, in a call of raw's Read, and do not wait; dry:
	// they find nothing. Both are the reader's.
	polled, dry bool
	fd          uintptr

	// shaking: the handshake is under way, whose writes wait.
	shaking bool
	// more: what is written is followed by more at once. secured's writer's.
	more atomic.Bool
	// closing: the connection is about to be closed, and what is written now, the
	// goodbye of TLS, must not wait for a peer that does not read. aborted: there
	// is to be no goodbye.
	closing, aborted atomic.Bool

	// flushing is held by who empties kept, all the time; nobody else does.
	flushing sync.Mutex
	flushErr error
	drain    func(fd uintptr) bool

	// mu guards what follows. Who holds it may write to raw only where nothing is
	// kept: otherwise somebody may wait in raw's Write for the socket.
	mu    sync.Mutex
	once  func(fd uintptr) bool
	out   []byte
	flags bool // more, of out
	sent  int
	fault syscall.Errno
	kept  []byte
	// holds tells without the lock that something is kept.
	holds atomic.Bool
}

func newWire(c *net.TCPConn) (*wire, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	w := &wire{TCPConn: c, raw: raw, shaking: true}
	w.try, w.once, w.drain = w.readOnce, w.writeOnce, w.drainOnce
	return w, nil
}

// Read implements net.Conn.
func (w *wire) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	w.into, w.n, w.err = p, 0, nil
	var err error
	switch {
	case w.dry:
		err = syscall.EAGAIN
	case w.polled:
		if !w.readOnce(w.fd) {
			err = syscall.EAGAIN
		}
	default:
		err = w.raw.Read(w.try)
	}
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
	n, err := w.write(p)
	if err == nil && w.shaking {
		err = w.flush()
	}
	return n, err
}

// write writes what the socket takes of p at once, and keeps the rest.
func (w *wire) write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	closing := w.closing.Load()
	if len(w.kept) > 0 {
		switch {
		case closing:
			return len(p), nil // the peer would not come to read it
		case len(w.kept)+len(p) > maxKept:
			return 0, errStuck
		}
		w.kept = append(w.kept, p...)
		return len(p), nil
	}
	w.out, w.flags, w.sent, w.fault = p, w.more.Load(), 0, 0
	err := w.raw.Write(w.once)
	w.out = nil
	switch {
	case err != nil:
		return w.sent, err
	case w.fault != 0:
		return w.sent, &net.OpError{Op: "write", Net: "tcp", Source: w.LocalAddr(), Addr: w.RemoteAddr(), Err: os.NewSyscallError("write", w.fault)}
	case w.sent < len(p) && !closing:
		w.kept = append(keeping.Get().(*[sealedRecord]byte)[:0], p[w.sent:]...)
		w.holds.Store(true)
	}
	return len(p), nil
}

// writeOnce writes what the socket takes of out at once.
func (w *wire) writeOnce(fd uintptr) bool {
	for w.sent < len(w.out) {
		write := socket.Write
		if w.flags {
			write = socket.WriteMore
		}
		n, errno := write(fd, w.out[w.sent:])
		switch errno {
		case 0:
			w.sent += n
		case syscall.EINTR:
		case syscall.EAGAIN:
			return true
		default:
			w.fault = errno
			return true
		}
	}
	return true
}

// flush waits until nothing is kept any more; the connection's write deadline and
// its Close end that.
func (w *wire) flush() error {
	if !w.holds.Load() {
		return nil
	}
	w.flushing.Lock()
	defer w.flushing.Unlock()
	w.flushErr = nil
	if err := w.raw.Write(w.drain); err != nil {
		return err
	}
	return w.flushErr
}

// drainOnce writes what the socket takes of what is kept.
func (w *wire) drainOnce(fd uintptr) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	rest := w.kept
	for len(rest) > 0 {
		n, errno := socket.Write(fd, rest)
		switch errno {
		case 0:
			rest = rest[n:]
		case syscall.EINTR:
		case syscall.EAGAIN:
			w.kept = append(w.kept[:0], rest...)
			return false
		default:
			w.flushErr = &net.OpError{Op: "write", Net: "tcp", Source: w.LocalAddr(), Addr: w.RemoteAddr(), Err: os.NewSyscallError("write", errno)}
			return true
		}
	}
	if cap(w.kept) == sealedRecord {
		keeping.Put((*[sealedRecord]byte)(w.kept[:sealedRecord]))
	}
	w.kept = nil
	w.holds.Store(false)
	return true
}

// secured is a connection of a meshed hop under mutual TLS, whose handshake is
// over. It is a socket.Layer.
type secured struct {
	*tls.Conn
	wire *wire
}

func secure(t *tls.Conn, w *wire) *secured {
	w.shaking = false
	return &secured{t, w}
}

// Write implements net.Conn. The records of one call leave together.
func (s *secured) Write(p []byte) (int, error) {
	sent := 0
	for {
		if err := s.wire.flush(); err != nil {
			return sent, err
		}
		if sent == len(p) {
			return sent, nil
		}
		n, err := s.record(p[sent:])
		sent += n
		if err != nil {
			return sent, err
		}
	}
}

// record writes as much of p as a record carries, or keeps that.
func (s *secured) record(p []byte) (int, error) {
	if len(p) <= maxRecord {
		return s.Conn.Write(p)
	}
	s.wire.more.Store(true)
	n, err := s.Conn.Write(p[:maxRecord])
	s.wire.more.Store(false)
	return n, err
}

// WriteNow implements socket.Layer.
func (s *secured) WriteNow(p []byte) (sent int, held bool, err error) {
	for sent < len(p) && !s.wire.holds.Load() {
		n, err := s.record(p[sent:])
		sent += n
		if err != nil {
			return sent, false, err
		}
	}
	return sent, s.wire.holds.Load(), nil
}

// ReadNow implements socket.Layer.
func (s *secured) ReadNow(fd uintptr, p []byte) (n int, err error) {
	w := s.wire
	w.polled, w.fd = true, fd
	n, err = s.Conn.Read(p)
	if n > 0 {
		// Records that came with this one. What else there is to say of the
		// connection is said again at the next call.
		w.dry, err = true, nil
		for n < len(p) {
			m, err := s.Conn.Read(p[n:])
			n += m
			if err != nil || m == 0 {
				break
			}
		}
		w.dry = false
	}
	w.polled = false
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

// CloseWrite says that nothing more is written, and waits, not for long, until
// the peer took that.
func (s *secured) CloseWrite() error {
	if err := s.wire.flush(); err != nil {
		return err
	}
	if err := s.Conn.CloseWrite(); err != nil || !s.wire.holds.Load() {
		return err
	}
	_ = s.wire.SetWriteDeadline(time.Now().Add(goodbyeTime)) // crypto/tls has let it pass
	return s.wire.flush()
}

// Close says goodbye, without waiting for a peer that does not read, and closes.
func (s *secured) Close() error {
	if s.wire.aborted.Load() {
		return s.wire.Close()
	}
	s.wire.closing.Store(true)
	return s.Conn.Close()
}
