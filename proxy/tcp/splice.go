package tcp

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/weirmesh/weir/proxy/socket"
)

// ErrNoPipe is what a [Splicer] gives as the source's error where the kernel has
// no pipe left to carry the bytes in. They are to be copied instead.
var ErrNoPipe = errors.New("no pipe to splice through")

// Splicer moves bytes from one TCP connection to another inside the kernel,
// through a pipe that it borrows while there are bytes under way: who waits for
// the source holds none. Join comes first. It is for one goroutine at a time.
type Splicer struct {
	src, dst   *net.TCPConn
	in, out    syscall.RawConn
	pull, push func(fd uintptr) bool // kept, for a method value allocates

	pipe *pipe
	held int   // bytes in the pipe
	want int64 // how many pull may take
	wait bool
	err  error
	late error // what is wrong with the source, found when nobody asked
}

// Join readies s to move what src receives to dst.
func (s *Splicer) Join(src, dst net.Conn) {
	from, _ := src.(*net.TCPConn)
	to, _ := dst.(*net.TCPConn)
	if from == s.src && to == s.dst {
		return
	}
	s.src, s.dst, s.in, s.out, s.late = from, to, nil, nil, nil
	if from == nil || to == nil {
		return
	}
	in, err := from.SyscallConn()
	if err != nil {
		return // closed already: who reads it is told
	}
	out, err := to.SyscallConn()
	if err != nil {
		return
	}
	s.in, s.out = in, out
	if s.pull == nil {
		s.pull, s.push = s.pullOnce, s.pushOnce
	}
}

// Ready tells whether Move can be called: both ends are TCP connections.
func (s *Splicer) Ready() bool { return s.in != nil }

// Move moves up to limit bytes, waiting for them, and returns how many it
// moved. A shorter count comes with the reason: srcErr is io.EOF at the end of
// the source's stream, os.ErrDeadlineExceeded at its read deadline, [ErrNoPipe]
// (after both nothing is lost, go on), or what broke it; dstErr is what broke
// the destination.
func (s *Splicer) Move(limit int64) (n int64, srcErr, dstErr error) {
	defer s.giveBack()
	for n < limit {
		if srcErr = s.take(limit-n, true); srcErr != nil {
			return n, srcErr, nil
		}
		moved, err := s.deliver()
		n += moved
		if err != nil {
			return n, nil, err
		}
	}
	return n, nil, nil
}

// MoveAfter writes p, through w, to the destination and moves up to limit bytes
// after it that are there already, without waiting for more. Where there are
// some, they leave together with p, so that who receives them is woken once.
// wrote is how much of p went out, n how many bytes after it; err is what broke
// the destination. What is wrong with the source, Move tells.
func (s *Splicer) MoveAfter(w *socket.Writer, p []byte, limit int64) (wrote int, n int64, err error) {
	defer s.giveBack()
	s.late = nil
	if s.late = s.take(limit, false); s.held == 0 {
		wrote, err = w.Write(p)
		return wrote, 0, err
	}
	// p may wait for what follows it, which does at once.
	if wrote, err = w.WriteMore(p); err != nil {
		return wrote, 0, err
	}
	n, err = s.deliver()
	return wrote, n, err
}

// take fills the pipe with what the source has, where wait is set at least one
// byte.
func (s *Splicer) take(limit int64, wait bool) error {
	if err := s.late; err != nil {
		s.late = nil
		return err // the kernel tells of it once
	}
	s.want, s.wait, s.err = limit, wait, nil
	if err := s.in.Read(s.pull); err != nil {
		return err
	}
	return s.err
}

func (s *Splicer) pullOnce(fd uintptr) bool {
	if s.pipe == nil {
		if s.pipe = pipes.get(); s.pipe == nil {
			s.err = ErrNoPipe
			return true
		}
	}
	n, errno := socket.Splice(fd, s.pipe.w, int(min(s.want, int64(s.pipe.size))))
	switch {
	case n > 0:
		s.held = n
	case errno == syscall.EAGAIN:
		s.giveBack()
		return !s.wait
	case errno == 0:
		s.err = io.EOF
	default:
		s.err = os.NewSyscallError("splice", errno)
	}
	return true
}

// deliver empties the pipe into the destination, and returns how many bytes went
// out.
func (s *Splicer) deliver() (n int64, err error) {
	before := s.held
	s.err = nil
	if err = s.out.Write(s.push); err == nil {
		err = s.err
	}
	if err != nil {
		err = &net.OpError{Op: "splice", Net: "tcp", Source: s.src.RemoteAddr(), Addr: s.dst.RemoteAddr(), Err: err}
	}
	return int64(before - s.held), err
}

func (s *Splicer) pushOnce(fd uintptr) bool {
	for s.held > 0 {
		n, errno := socket.Splice(s.pipe.r, fd, s.held)
		switch errno {
		case 0:
			s.held -= n
		case syscall.EAGAIN:
			return false
		default:
			s.err = os.NewSyscallError("splice", errno)
			return true
		}
	}
	return true
}

// giveBack gives the pipe back; what a broken destination left in it is lost.
func (s *Splicer) giveBack() {
	if s.pipe != nil {
		pipes.put(s.pipe, s.held == 0)
		s.pipe, s.held = nil, 0
	}
}
