package socket

import (
	"errors"
	"syscall"
)

// Waiting looks, without taking anything and whatever the deadlines, at what
// conn has to read: n is 1 where there are bytes and 0 where there are none;
// open tells that the stream has neither ended nor broken before that. A closed
// connection is not open.
func Waiting(conn syscall.Conn) (n int, open bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, false
	}
	_ = raw.Control(func(fd uintptr) {
		var b [1]byte
		for {
			n, _, err = syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			if !errors.Is(err, syscall.EINTR) {
				break
			}
		}
		n = max(n, 0)
		open = n > 0 || errors.Is(err, syscall.EAGAIN)
	})
	return n, open
}
