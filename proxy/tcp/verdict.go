package tcp

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/weirmesh/weir/event"
)

// IsReset tells whether err says that the other end reset the connection,
// rather than closed it.
func IsReset(err error) bool { return errors.Is(err, syscall.ECONNRESET) }

// ClientError is the event.Err constant for an error of a client's connection.
func ClientError(err error) string {
	if IsReset(err) {
		return event.ErrClientReset
	}
	return event.ErrClientClosed
}

// ServerError is the event.Err constant for an error of a server's connection.
func ServerError(err error) string {
	if IsReset(err) {
		return event.ErrServerReset
	}
	return event.ErrServerClosed
}

// Reset closes conn so that the other end sees a reset and not an end of the
// stream, where conn is a TCP connection, or one that can do so too.
func Reset(conn net.Conn) {
	if t, ok := conn.(interface{ SetLinger(sec int) error }); ok {
		_ = t.SetLinger(0) // Fails only on a closed connection.
	}
	_ = conn.Close()
}

// CloseWrite tells the other end of conn that no more will be sent. Where conn
// has no half-close it is closed altogether.
func CloseWrite(conn net.Conn) {
	if h, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = h.CloseWrite() // Fails only where the connection is gone.
		return
	}
	_ = conn.Close()
}

// Dead tells whether conn is a TCP connection that the kernel has given up on.
// The kernel tells of a reset once, to whichever reads, writes or splices
// first; others then see an end of stream or a broken pipe. And splice(2) does
// not say which of its two sockets its error is about.
func Dead(conn net.Conn) bool {
	t, ok := conn.(*net.TCPConn)
	if !ok {
		return false
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return true
	}
	closed := true
	_ = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		closed = err != nil || info.State == unix.BPF_TCP_CLOSE
	})
	return closed
}
