package socket

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Poller tells when connections that nobody reads have something to read: one
// goroutine for all of them, where the runtime would have one wait for each.
// Its methods are safe for concurrent use.
type Poller struct {
	file *os.File // the epoll descriptor, which the runtime's own poller waits on
	done chan struct{}

	mu      sync.Mutex // guards all below, and is held while a ready is called
	next    uint64
	watched map[uint64]func()
}

// NewPoller starts a Poller; Close ends it.
func NewPoller() (*Poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot create an epoll descriptor: %w", err)
	}
	// What is non-blocking is given to the runtime's poller by os.NewFile.
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("cannot make an epoll descriptor non-blocking: %w", err)
	}
	p := &Poller{file: os.NewFile(uintptr(fd), "epoll"), done: make(chan struct{}), watched: make(map[uint64]func())}
	raw, err := p.file.SyscallConn()
	if err != nil {
		_ = p.file.Close()
		return nil, fmt.Errorf("cannot wait on an epoll descriptor: %w", err)
	}
	go func() {
		defer close(p.done)
		var events [64]unix.EpollEvent
		_ = raw.Read(func(fd uintptr) bool { // ends when the file is closed
			for p.poll(int(fd), events[:]) {
			}
			return false
		})
	}()
	return p, nil
}

// Close ends the Poller: nothing that is watched is told any more.
func (p *Poller) Close() {
	_ = p.file.Close()
	<-p.done
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.watched)
}

// poll tells of what is ready, and whether there may be more.
func (p *Poller) poll(fd int, events []unix.EpollEvent) bool {
	n, err := unix.EpollWait(fd, events, 0)
	if errors.Is(err, unix.EINTR) {
		return true
	}
	for _, e := range events[:max(n, 0)] {
		p.tell(token(&e))
	}
	return n > 0
}

// tell calls who waits for a connection, if somebody does still.
func (p *Poller) tell(id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ready := p.watched[id]; ready != nil {
		delete(p.watched, id)
		ready()
	}
}

// Watch calls ready once, as soon as conn has bytes to read, ends or breaks. The
// call comes from the Poller's goroutine, and must neither block nor call the
// Poller. The watch ends with it, or by stop, or when conn is closed and stop is
// called. stop tells whether ready was not called, and then never will be.
// Where conn cannot be watched, Watch returns nil.
//
// A connection is watched once at a time; it must not be read meanwhile.
func (p *Poller) Watch(conn syscall.Conn, ready func()) (stop func() bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil
	}
	p.mu.Lock()
	p.next++
	id := p.next
	p.watched[id] = ready
	p.mu.Unlock()
	if p.control(raw, unix.EPOLL_CTL_ADD, id) != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.watched, id)
		return nil
	}
	return func() bool {
		p.mu.Lock()
		_, quiet := p.watched[id]
		delete(p.watched, id)
		p.mu.Unlock()
		_ = p.control(raw, unix.EPOLL_CTL_DEL, id) // fails where closing did it
		return quiet
	}
}

// control changes what the kernel watches.
func (p *Poller) control(raw syscall.RawConn, op int, id uint64) error {
	poll, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		e := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: int32(id), Pad: int32(id >> 32)}
		err := poll.Control(func(p uintptr) { failed = unix.EpollCtl(int(p), op, int(fd), &e) })
		failed = errors.Join(failed, err)
	})
	return errors.Join(failed, err)
}

// token is the number that a watch was given.
func token(e *unix.EpollEvent) uint64 { return uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32 }
