package http2

import (
	"errors"
	"net"
	"sync"

	"github.com/weirmesh/weir/proxy/socket"
)

// maxInjected bounds what waits to be injected toward a client, in bytes.
const maxInjected = 256 << 10

var errInjected = errors.New("the client does not take the relay's own frames")

// writer writes to the client: the server's bytes, by one goroutine, and the
// relay's own frames, by any, which never come inside a frame or before the
// server's first.
type writer struct {
	conn socket.Writer

	mu sync.Mutex
	// free is broadcast when an injection has been written.
	free      sync.Cond
	injecting bool
	// forwarding tells that the server's bytes are being written, or that
	// those written end inside a frame.
	forwarding bool
	started    bool // something was written
	waiting    []byte
	spare      []byte
	err        error // the first of a write
}

func (w *writer) init(conn net.Conn) {
	w.conn.Init(conn)
	w.free.L = &w.mu
	w.forwarding = true // until the server's SETTINGS: nothing may precede them
}

// forward writes bytes of the server. boundary is the last place in b where a
// frame ends, or -1; inside tells that b ends within a frame.
func (w *writer) forward(b []byte, boundary int, inside bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.injecting {
		w.free.Wait()
	}
	w.forwarding, w.started = true, true
	if len(w.waiting) > 0 && boundary >= 0 {
		w.write(b[:boundary])
		w.flush()
		b = b[boundary:]
	}
	w.write(b)
	if !inside {
		w.flush()
		w.forwarding = false
	}
	return w.err
}

// write writes b with the lock given up meanwhile.
func (w *writer) write(b []byte) {
	if w.err != nil || len(b) == 0 {
		return
	}
	w.mu.Unlock()
	_, err := w.conn.Write(b)
	w.mu.Lock()
	if err != nil && w.err == nil {
		w.err = err
	}
}

// flush writes what waits to be injected.
func (w *writer) flush() {
	for len(w.waiting) > 0 && w.err == nil {
		b := w.waiting
		w.waiting, w.spare = w.spare[:0], nil
		w.write(b)
		w.spare = b
	}
	if cap(w.spare) > maxScratch {
		w.spare = nil
	}
}

// open lets frames be injected although nothing came from a server.
func (w *writer) open() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forwarding, w.started = false, true
}

// inject writes whole frames of the relay's own as soon as the server's bytes
// allow. It keeps nothing of b.
func (w *writer) inject(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	if len(w.waiting)+len(b) > maxInjected {
		w.err = errInjected
		return w.err
	}
	w.waiting = append(w.waiting, b...)
	if !w.forwarding && !w.injecting {
		w.injecting = true
		w.flush()
		w.injecting = false
		w.free.Broadcast()
	}
	return w.err
}

// last writes the connection's last frame, when no one else writes any more.
// It does nothing where the server's bytes ended inside a frame. An empty
// SETTINGS frame goes first where the client has not had the server's.
func (w *writer) last(b []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.started {
		w.write(appendFrame(nil, 0, frameSettings, 0, 0))
	} else if w.forwarding {
		return w.err
	}
	w.waiting = append(w.waiting, b...)
	w.flush()
	return w.err
}
