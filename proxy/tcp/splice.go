package tcp

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// Splicer moves bytes from one TCP connection to another inside the kernel. It
// is for one goroutine at a time.
type Splicer struct {
	Src, Dst *net.TCPConn
	limited  io.LimitedReader
}

// Ready tells whether both ends are set, so that Move can be called.
func (s *Splicer) Ready() bool { return s.Src != nil && s.Dst != nil }

// Move moves up to limit bytes, waiting for them, and returns how many it
// moved. A shorter count comes with the reason: srcErr is io.EOF at the end of
// the source's stream, os.ErrDeadlineExceeded at its read deadline (nothing is
// lost, call again), or what broke it; dstErr is what broke the destination.
func (s *Splicer) Move(limit int64) (n int64, srcErr, dstErr error) {
	s.limited.R, s.limited.N = s.Src, limit
	n, err := s.Dst.ReadFrom(&s.limited)
	switch {
	case err == nil && n < limit:
		return n, io.EOF, nil
	case err == nil:
		return n, nil, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, os.ErrDeadlineExceeded, nil
	case errors.Is(err, syscall.EPIPE):
		return n, nil, err
	case Dead(s.Src) && !Dead(s.Dst):
		return n, err, nil
	}
	return n, nil, err
}
