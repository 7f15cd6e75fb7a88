package tcp

import (
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// pipeSize is how much a pipe is to hold, in bytes, leastPipe what it must. The
	// kernel bounds what all pipes of a user may hold (64 MiB, see pipe(7)), and
	// all proxies of a node may be one user's.
	pipeSize  = 1 << 20
	leastPipe = 128 << 10
	// maxPipes bounds the pipes that are open, each two descriptors; keptPipes
	// those that nobody uses, and keptTime how long they are kept.
	maxPipes  = 128
	keptPipes = 16
	keptTime  = time.Second
)

// pipe is a pipe of the kernel, empty while it is not lent.
type pipe struct {
	r, w uintptr
	size int // how much it holds, in bytes
}

// pipePool is the pipes that are not lent.
type pipePool struct {
	mu    sync.Mutex
	free  []*pipe
	open  int         // with those that are lent
	spare int         // how many were free all the time since the last sweep
	timer *time.Timer // of the next sweep; nil where nothing is kept
}

// pipes is shared by all connections, as buffers is.
var pipes pipePool

// get lends a pipe, or nil where there is none to be had.
func (p *pipePool) get() *pipe {
	p.mu.Lock()
	if n := len(p.free) - 1; n >= 0 {
		one := p.free[n]
		p.free = p.free[:n]
		p.spare = min(p.spare, n)
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
	defer p.mu.Unlock()
	if !empty || len(p.free) >= keptPipes {
		p.open--
		one.close()
		return
	}
	p.free = append(p.free, one)
	if p.timer == nil {
		p.timer = time.AfterFunc(keptTime, p.sweep)
	}
}

// sweep closes pipes that nobody needed lately.
func (p *pipePool) sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range p.free[:p.spare] {
		one.close()
	}
	p.open -= p.spare
	p.free = slices.Delete(p.free, 0, p.spare)
	if p.spare = len(p.free); p.open == 0 {
		p.timer = nil
		return
	}
	p.timer.Reset(keptTime)
}

// newPipe opens a pipe. There is none where descriptors have run out, or where
// the user's pipes hold so much that a new one is too small to be worth it.
func newPipe() *pipe {
	var fd [2]int
	if unix.Pipe2(fd[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	one := &pipe{r: uintptr(fd[0]), w: uintptr(fd[1])}
	for want := pipeSize; want >= leastPipe; want /= 2 {
		if size, err := unix.FcntlInt(one.w, unix.F_SETPIPE_SZ, want); err == nil {
			one.size = size
			return one
		}
	}
	one.close()
	return nil
}

func (p *pipe) close() {
	_ = unix.Close(int(p.r))
	_ = unix.Close(int(p.w))
}
