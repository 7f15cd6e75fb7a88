package http2

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/weirmesh/weir/proxy/socket"
)

const (
	// bufferSize is how much one read takes; a frame of the default maximum
	// size and its header fit.
	bufferSize = 32 << 10
	// smallSize is the buffer of a connection that cannot be waited for
	// without reading (neither a socket nor a layer over one): it is kept, a large
	// one is borrowed where a read fills it.
	smallSize = 512
)

// buffers lends the buffers of reads, so that idle connections hold none.
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// reader reads a connection into borrowed memory. What was read and not yet
// consumed stays; where nothing is left the memory goes back before the next
// wait.
type reader struct {
	conn  net.Conn
	raw   syscall.RawConn // nil where readability cannot be waited for
	layer socket.Layer    // where conn is one
	early []byte          // read before; comes first
	limit int             // how much may have to be held at once

	buf      []byte // buf[r:w] is not consumed
	r, w     int
	borrowed *[bufferSize]byte
	small    []byte
	since    time.Time // when the first of the bytes not consumed came
	last     time.Time // when the last of them came
	first    time.Time // when the first read's bytes came, if known better
	try      func(fd uintptr) bool
	n        int
	err      error
}

func (rd *reader) init(conn net.Conn, early []byte, limit int) {
	rd.conn, rd.early, rd.limit = conn, early, limit
	switch c := conn.(type) {
	case *net.TCPConn:
		if raw, err := c.SyscallConn(); err == nil {
			rd.raw = raw
			rd.try = rd.readOnce
		}
	case socket.Layer:
		if raw, err := c.SyscallConn(); err == nil {
			rd.raw, rd.layer = raw, c
			rd.try = rd.readLayer
		}
	}
}

// fill waits for bytes and returns all that are not consumed, and when the
// last came. The bytes may be written to, and are valid until the next call.
func (rd *reader) fill() ([]byte, time.Time, error) {
	if len(rd.early) > 0 {
		rd.reserve(min(len(rd.early), bufferSize))
		n := copy(rd.buf[rd.w:], rd.early)
		rd.early = rd.early[n:]
		return rd.got(n)
	}
	if rd.raw == nil {
		return rd.read()
	}
	rd.n, rd.err = 0, nil
	if err := rd.raw.Read(rd.try); err != nil {
		return nil, time.Time{}, err
	}
	if rd.err != nil {
		return nil, time.Time{}, rd.err
	}
	if rd.n == 0 {
		return nil, time.Time{}, io.EOF
	}
	return rd.got(rd.n)
}

// readOnce reads what is there. It returns false where that is nothing, for
// the runtime to wait; no memory is held then but for a part of a frame.
func (rd *reader) readOnce(fd uintptr) bool {
	rd.reserve(bufferSize)
	for {
		n, errno := socket.Read(fd, rd.buf[rd.w:])
		switch errno {
		case 0:
			rd.n = n
			return true
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			rd.release()
			return false
		default:
			rd.err = os.NewSyscallError("read", errno)
			return true
		}
	}
}

// readLayer is readOnce of a layer.
func (rd *reader) readLayer(fd uintptr) bool {
	rd.reserve(bufferSize)
	n, err := rd.layer.ReadNow(fd, rd.buf[rd.w:])
	if n == 0 && errors.Is(err, syscall.EAGAIN) {
		rd.release()
		return false
	}
	if rd.n = n; n == 0 {
		rd.err = err
	}
	return true
}

// read reads a connection that is more than a socket.
func (rd *reader) read() ([]byte, time.Time, error) {
	if rd.small == nil {
		rd.small = make([]byte, smallSize)
	}
	switch {
	case rd.r < rd.w || rd.buf != nil && rd.w == len(rd.buf):
		rd.reserve(bufferSize) // the last read filled its buffer, or a frame's
	default:
		rd.release()
		rd.buf = rd.small
	}
	n, err := rd.conn.Read(rd.buf[rd.w:])
	if n == 0 {
		if err == nil {
			err = io.ErrNoProgress
		}
		return nil, time.Time{}, err
	}
	return rd.got(n)
}

func (rd *reader) got(n int) ([]byte, time.Time, error) {
	rd.last = time.Now()
	if rd.r == rd.w {
		rd.since = rd.last
	}
	rd.w += n
	at := rd.last
	if !rd.first.IsZero() {
		at, rd.first = rd.first, time.Time{}
	}
	return rd.buf[rd.r:rd.w], at, nil
}

// consume takes n of the bytes that fill returned.
func (rd *reader) consume(n int) {
	if n > 0 {
		rd.r += n
		rd.since = rd.last
	}
}

// pending is when the first of the bytes that are not consumed came; zero where
// all are.
func (rd *reader) pending() time.Time {
	if rd.r == rd.w {
		return time.Time{}
	}
	return rd.since
}

// reserve makes room to read at least one byte, where nothing is held into a
// buffer of the given size.
func (rd *reader) reserve(size int) {
	if rd.r == rd.w {
		rd.r, rd.w = 0, 0
		if len(rd.buf) < size {
			rd.release()
			rd.borrow()
		}
		return
	}
	if rd.w < len(rd.buf) {
		return
	}
	held := rd.buf[rd.r:rd.w]
	switch {
	case rd.r > 0:
		copy(rd.buf, held)
	case len(rd.buf) < bufferSize: // small
		rd.borrow()
		copy(rd.buf, held)
	default: // a header block larger than a read
		larger := make([]byte, rd.limit)
		copy(larger, held)
		if rd.borrowed != nil {
			buffers.Put(rd.borrowed)
		}
		rd.borrowed, rd.buf = nil, larger
	}
	rd.r, rd.w = 0, len(held)
}

func (rd *reader) borrow() {
	rd.borrowed = buffers.Get().(*[bufferSize]byte)
	rd.buf = rd.borrowed[:]
}

// release gives the memory back unless something in it is not consumed.
func (rd *reader) release() {
	if rd.r < rd.w {
		return
	}
	if rd.borrowed != nil {
		buffers.Put(rd.borrowed)
	}
	rd.borrowed, rd.buf, rd.r, rd.w = nil, nil, 0, 0
}

// close gives the memory back.
func (rd *reader) close() {
	rd.r, rd.w = 0, 0
	rd.release()
	rd.early, rd.small = nil, nil
}
