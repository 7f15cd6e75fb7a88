// Package socket reads and writes sockets that never block with the system
// calls alone.
//
// The Go runtime announces each system call, in case it blocks: the call's
// processor may then be handed to another thread. A watcher looks for such
// calls, and while there are long ones it looks every 20 µs. On a socket in
// non-blocking mode a call copies bytes and returns, so none of that is needed:
// relaying HTTP/1.1 takes 18 % less CPU without it (measured with wrk, 32
// connections, see docs/decisions/0008-raw-system-calls.md).
package socket

import (
	"net"
	"os"
	"syscall"
)

// Writer writes to a connection. Init comes first. It is not safe for
// concurrent use, but may be used beside others that read.
type Writer struct {
	conn net.Conn
	raw  syscall.RawConn
	try  func(fd uintptr) bool // kept, for a method value allocates

	left []byte
	more bool // what is written is followed by more at once
	sent int
	err  error
}

// Init readies w for conn. What is no TCP connection is written to as it wants.
func (w *Writer) Init(conn net.Conn) {
	*w = Writer{conn: conn}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return // conn's own Write tells why
	}
	w.raw, w.try = raw, w.attempt
}

// Write writes all of p and returns how much of it went out; if not all, why.
// It waits while the socket is full; the connection's deadline and its Close
// end that.
func (w *Writer) Write(p []byte) (int, error) {
	if w.raw == nil {
		return w.conn.Write(p)
	}
	return w.write(p, false)
}

// WriteMore is Write of what is followed by more at once: the kernel may keep
// the end of it until then, to send both together. Who does not write more
// leaves it lying there.
func (w *Writer) WriteMore(p []byte) (int, error) {
	if w.raw == nil {
		return w.conn.Write(p)
	}
	return w.write(p, true)
}

func (w *Writer) write(p []byte, more bool) (int, error) {
	w.left, w.more, w.sent, w.err = p, more, 0, nil
	err := w.raw.Write(w.try)
	w.left = nil
	if err == nil && w.err != nil {
		err = &net.OpError{Op: "write", Net: "tcp", Source: w.conn.LocalAddr(), Addr: w.conn.RemoteAddr(), Err: w.err}
	}
	return w.sent, err
}

// attempt writes what the socket takes; false asks to be called again when it
// takes more.
func (w *Writer) attempt(fd uintptr) bool {
	for len(w.left) > 0 {
		n, errno := write(fd, w.left, w.more)
		switch errno {
		case 0:
			w.left = w.left[n:]
			w.sent += n
		case syscall.EINTR:
		case syscall.EAGAIN:
			return false
		default:
			w.err = os.NewSyscallError("write", errno)
			return true
		}
	}
	return true
}

// Layer is a connection that goes over a socket in another form, as TLS does, and
// whose calls can be told not to wait. One goroutine at a time may read and one
// may write.
type Layer interface {
	net.Conn
	syscall.Conn
	// ReadNow reads what is there into p, of which there must be some. fd is the
	// socket; it is called by a function that was given to Read of the RawConn that
	// SyscallConn returns. Where nothing is there yet that can be given out, err is
	// syscall.EAGAIN: more must come to the socket.
	ReadNow(fd uintptr, p []byte) (n int, err error)
	// WriteNow takes what can be written of p at once. held tells that the last of
	// that is kept although the socket did not take it yet: another Write, be it of
	// nothing, waits for that.
	WriteNow(p []byte) (n int, held bool, err error)
}

// Read reads what the non-blocking socket fd has, at most len(p) bytes, which
// must not be 0. At the end of the stream it returns 0 and 0. EAGAIN says that
// there is nothing yet.
func Read(fd uintptr, p []byte) (int, syscall.Errno) {
	return read(fd, p)
}

// Write writes what the non-blocking socket fd takes of p, which must not be
// empty, at once. EAGAIN says that this is nothing.
func Write(fd uintptr, p []byte) (int, syscall.Errno) {
	return write(fd, p, false)
}

// WriteMore is Write of what is followed by more at once, as the method of Writer.
func WriteMore(fd uintptr, p []byte) (int, syscall.Errno) {
	return write(fd, p, true)
}
