package tcp

import (
	"io"
	"net"
	"os"
	"syscall"

	"github.com/weirmesh/weir/proxy/socket"
)

// Reader reads a connection into a [Buffer] and borrows the buffer's memory
// only when there is something to read. Where the connection is no
// *net.TCPConn (TLS, a wrapper) the memory is held while it waits. A Reader is
// for one goroutine at a time.
type Reader struct {
	// Limit, where it is not 0, is how many bytes one read of a *net.TCPConn takes
	// at most.
	Limit int

	conn net.Conn
	raw  syscall.RawConn // nil where conn is no *net.TCPConn
	fn   func(fd uintptr) bool
	buf  *Buffer
	n    int
	err  error
	// say is what Ask has yet to write, told how that went.
	say    []byte
	writer *socket.Writer
	told   struct {
		n   int
		err error
	}
}

// Init makes r read conn. It must not be copied afterwards.
func (r *Reader) Init(conn net.Conn) {
	r.conn, r.raw, r.fn, r.Limit = conn, nil, nil, 0
	t, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return // Closed already: conn.Read will say so.
	}
	r.raw, r.fn = raw, r.attempt
}

// Fill waits until the connection has bytes and appends to b what one read
// gives, at least one byte. At the end of the stream it returns io.EOF. It is
// interrupted by the connection's read deadline, without loss.
func (r *Reader) Fill(b *Buffer) (int, error) {
	if r.raw == nil {
		n, err := r.conn.Read(b.free(1))
		b.w += n
		if n > 0 {
			return n, nil
		}
		if b.Len() == 0 {
			b.Release()
		}
		return 0, err
	}
	r.buf, r.n, r.err = b, 0, nil
	err := r.raw.Read(r.fn)
	r.buf = nil
	if err == nil {
		err = r.err
	}
	return r.n, err
}

// Ask writes p, through w, to the connection and then fills b as Fill does, with
// what came after it began: a read that would find nothing, as the answer to
// what was just written is hardly there yet, is saved. Bytes or an end that
// came before may be noticed only when the read deadline passes. sent is how
// much of p went out; asked is false where nothing was tried, because the
// connection is none that Ask can be used with or its read deadline has passed.
// Where the write fails, err says why and nothing is read.
func (r *Reader) Ask(w *socket.Writer, p []byte, b *Buffer) (sent int, asked bool, err error) {
	if r.raw == nil || len(p) == 0 {
		return 0, false, nil
	}
	r.say, r.writer = p, w
	_, err = r.Fill(b)
	asked = r.say == nil
	r.say, r.writer = nil, nil
	if !asked {
		return 0, false, nil
	}
	if r.told.err != nil {
		err = r.told.err
	}
	return r.told.n, true, err
}

// ask writes what Ask is to write, and tells whether that failed.
func (r *Reader) ask() (failed bool) {
	p := r.say
	r.say = nil
	r.told.n, r.told.err = r.writer.Write(p)
	return r.told.err != nil
}

// attempt is called by the runtime's poller: it reads what there is and tells
// whether it is done; if not, the goroutine is parked until there is more.
func (r *Reader) attempt(fd uintptr) bool {
	if r.say != nil {
		// What becomes readable from here on wakes the poller.
		return r.ask()
	}
	b := r.buf
	free := b.free(1)
	if r.Limit > 0 && r.Limit < len(free) {
		free = free[:r.Limit]
	}
	for {
		n, errno := socket.Read(fd, free)
		switch {
		case n > 0:
			r.n = n
			b.w += n
			b.Roomy = n > BufferSize || n == len(free) && n == BufferSize
			return true
		case errno == syscall.EINTR:
			continue
		case b.Len() == 0:
			b.Release()
		}
		if errno == syscall.EAGAIN {
			return false
		}
		if errno == 0 {
			r.err = io.EOF
		} else {
			r.err = os.NewSyscallError("read", errno)
		}
		return true
	}
}
