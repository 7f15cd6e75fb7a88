package client

import (
	"io"
	"net"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// socket reads and writes a connection without telling the Go runtime of each
// system call, which could block as far as it knows: the socket is in
// non-blocking mode, so that a call copies bytes and returns. Told of them, the
// runtime looks every 20 µs whether they are over, which takes more processor
// time than the calls (docs/decisions/0008-raw-system-calls.md). One goroutine at
// a time may read, and one may write.
type socket struct {
	*net.TCPConn
	raw      syscall.RawConn
	in, out  transfer
	receives func(fd uintptr) bool // kept, for a method value allocates
	pace     *pace
	// gathers: the kernel wakes nobody up for less than paceBytes.
	gathers bool
	sends   func(fd uintptr) bool
	looks   func(fd uintptr) bool
}

// transfer is what is to be read or written, and what became of it.
type transfer struct {
	left []byte
	n    int
	// most is how much was asked for.
	most  int
	ended bool
	err   error
}

// direct makes calls on a connection direct ones, where that can be done. Its reads
// keep to a pace.
func direct(conn net.Conn, pace *pace) net.Conn {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return conn
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return conn
	}
	s := &socket{TCPConn: tcp, raw: raw, pace: pace}
	s.receives, s.looks, s.sends = s.receive, s.look, s.send
	return s
}

// Read implements net.Conn.
func (s *socket) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if full := s.in.n > 0 && s.in.n == s.in.most; full && s.gathers {
		// More is there, unless that was all, just so.
		if err := s.read(p, s.looks); s.done(err) {
			return s.result(err)
		}
	} else if full {
		return s.result(s.read(p, s.receives))
	}
	for s.rests() {
		time.Sleep(paceEvery)
		if err := s.read(p, s.looks); s.done(err) {
			return s.result(err)
		}
	}
	return s.result(s.read(p, s.receives))
}

// rests tells whether the reader is to let bytes gather. Meanwhile the kernel wakes
// nobody up for less than paceBytes, so nobody may wait for it to.
func (s *socket) rests() bool {
	rests := s.pace.rests(s.in.n > 0)
	if rests != s.gathers {
		least := 1
		if rests {
			least = paceBytes
		}
		var err error
		if controlErr := s.raw.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, least) }); controlErr != nil || err != nil {
			return s.gathers // the next read tells why
		}
		s.gathers = rests
	}
	return rests
}

func (s *socket) read(p []byte, attempt func(fd uintptr) bool) error {
	s.in = transfer{left: p, most: len(p)}
	err := s.raw.Read(attempt)
	s.in.left = nil
	if err == nil {
		err = s.in.err
	}
	return err
}

// done tells whether a read that did not wait got anything, or the end.
func (s *socket) done(err error) bool { return err != nil || s.in.n > 0 || s.in.ended }

func (s *socket) result(err error) (int, error) {
	if err == nil && s.in.ended {
		err = io.EOF
	}
	return s.in.n, err
}

// look is receive, but never asks to be called again.
func (s *socket) look(fd uintptr) bool {
	_ = s.receive(fd)
	return true
}

// receive reads what there is; false asks to be called again when there is more.
func (s *socket) receive(fd uintptr) bool {
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(unsafe.SliceData(s.in.left))), uintptr(len(s.in.left)), syscall.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			s.in.n, s.in.ended = int(n), n == 0
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return false
		default:
			s.in.err = os.NewSyscallError("read", errno)
		}
		return true
	}
}

// Write implements net.Conn.
func (s *socket) Write(p []byte) (int, error) {
	s.out = transfer{left: p}
	err := s.raw.Write(s.sends)
	s.out.left = nil
	if err == nil {
		err = s.out.err
	}
	return s.out.n, err
}

// send writes what the socket takes; false asks to be called again when it takes
// more.
func (s *socket) send(fd uintptr) bool {
	for len(s.out.left) > 0 {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(s.out.left))), uintptr(len(s.out.left)), syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			s.out.left = s.out.left[n:]
			s.out.n += int(n)
		case syscall.EINTR:
		case syscall.EAGAIN:
			return false
		default:
			s.out.err = os.NewSyscallError("write", errno)
			return true
		}
	}
	return true
}
