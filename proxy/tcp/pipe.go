package tcp

import (
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// pipeSize is how much a pipe holds, in bytes. The kernel bounds what all
	// pipes of a user may hold (64 MiB, see pipe(7)), and all proxies of a node may
	// be one user's.
	pipeSize = 256 << 10
	// maxPipes bounds the pipes that are open, each two descriptors; keptPipes
	// those that nobody uses.
	maxPipes  = 128
	keptPipes = 8
)

// pipe is a pipe of the kernel, empty while it is not lent.
type pipe struct{ r, w uintptr }

// pipePool is the pipes that are not lent.
type pipePool struct {
	mu   sync.Mutex
	free []*pipe
	open int // with those that are lent
}

// pipes is shared by all connections, as buffers is.
var pipes pipePool

// get lends a pipe, or nil where there is none to be had.
func (p *pipePool) get() *pipe {
	p.mu.Lock()
	if n := len(p.free); n > 0 {
		one := p.free[n-1]
		p.free = p.free[:n-1]
		p.mu.Unlock()
		return one
	}
	if p.open >= maxPipes {
		p.mu.Unlock()
		return nil
	}
	p.open++
	p.mu.Unlock()
	one := newPipe()
	if one == nil {
		p.mu.Lock()
		p.open--
		p.mu.Unlock()
	}
	return one
}

// put takes a pipe back. It is closed where it is not empty, or not needed.
func (p *pipePool) put(one *pipe, empty bool) {
	p.mu.Lock()
	if empty && len(p.free) < keptPipes {
		p.free = append(p.free, one)
		p.mu.Unlock()
		return
	}
	p.open--
	p.mu.Unlock()
	one.close()
}

// newPipe opens a pipe. There is none where descriptors have run out, or where
// the user's pipes hold so much that a new one is too small to be worth it.
func newPipe() *pipe {
	var fd [2]int
	if unix.Pipe2(fd[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	one := &pipe{uintptr(fd[0]), uintptr(fd[1])}
	if size, err := unix.FcntlInt(one.w, unix.F_SETPIPE_SZ, pipeSize); err != nil || size < pipeSize {
		one.close()
		return nil
	}
	return one
}

func (p *pipe) close() {
	_ = unix.Close(int(p.r))
	_ = unix.Close(int(p.w))
}
