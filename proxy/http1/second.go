package http1

import (
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/weirmesh/weir/proxy/tcp"
)

// second is a goroutine beside the one that carries the connection. Its fields
// but done, over and stop are the goroutine's while it runs.
type second struct {
	running bool // of the first goroutine: started and not joined
	done    chan struct{}
	over    atomic.Bool
	stop    atomic.Bool
}

// begin prepares s for a run.
func (s *second) begin() {
	if s.done == nil {
		s.done = make(chan struct{}, 1)
	}
	s.running = true
	s.over.Store(false)
	s.stop.Store(false)
}

// end is the goroutine's last deed: it wakes whoever reads from.
func (s *second) end(from *side) {
	s.over.Store(true)
	from.wake()
	s.done <- struct{}{}
}

// finished tells whether the goroutine has come to an end by itself.
func (s *second) finished() bool { return s.running && s.over.Load() }

// watch looks at a connection that nobody else reads.
type watch struct {
	second
	on   *side
	wake *side // whose reader is told
	err  error
}

// start has on watched until it has bytes or ends.
func (w *watch) start(on, wake *side) {
	w.begin()
	w.on, w.wake, w.err = on, wake, nil
	on.disarm()
	on.buf.Frugal = on.tcp == nil
	go w.run()
}

func (w *watch) run() {
	defer w.end(w.wake)
	for {
		_, w.err = w.on.reader.Fill(&w.on.buf)
		if w.err == nil || !woken(w.err) {
			return
		}
		w.on.disarm()
		if w.stop.Load() {
			w.err = nil
			return
		}
	}
}

// join stops the watch, waits for it and tells whether nothing was seen. The
// deadlines of both sides must be armed anew.
func (w *watch) join() bool {
	w.stop.Store(true)
	w.on.wake()
	<-w.done
	w.running = false
	w.on.buf.Frugal = false
	return w.err == nil && w.on.buf.Len() == 0
}

// pump carries the rest of a request's body while the first goroutine carries
// the response.
type pump struct {
	second
	clientErr error        // the client ended or broke before the body was whole
	serverErr error        // the server takes no more
	fault     *fault       // the body's framing is not valid
	splicer   *tcp.Splicer // of the first large body on
}

// startPump begins with the rest of the request's body.
func (r *relayer) startPump() {
	p := &r.pump
	p.begin()
	p.clientErr, p.serverErr, p.fault = nil, nil, nil
	go r.runPump()
}

func (r *relayer) runPump() {
	p, b := &r.pump, &r.x.requestBody
	defer p.end(&r.server)
	for !b.done() {
		err := r.pumpOnce(p, b)
		if err == nil {
			continue
		}
		if !woken(err) {
			p.clientErr = err
			return
		}
		r.client.disarm()
		if p.stop.Load() {
			return
		}
	}
	if r.client.buf.Len() > 0 {
		r.received = time.Now()
	}
}

// pumpOnce carries what one read gives. The error is one of reading; others
// are left in p.
func (r *relayer) pumpOnce(p *pump, b *body) error {
	if r.client.buf.Len() == 0 && b.large() && joined(&p.splicer, &r.client, &r.server) {
		n, srcErr, dstErr := p.splicer.Move(int64(min(b.left, spliceChunk)))
		b.left -= uint64(n)
		r.x.up.Add(uint64(n))
		if !errors.Is(srcErr, tcp.ErrNoPipe) {
			return p.sent(dstErr, srcErr)
		}
	}
	if r.client.buf.Len() == 0 {
		if _, err := r.client.reader.Fill(&r.client.buf); err != nil {
			return err
		}
	}
	n, f := b.scan(r.client.buf.Bytes())
	if f != nil {
		p.fault = f
		return io.ErrUnexpectedEOF
	}
	sent, err := r.server.write(r.client.buf.Bytes()[:n])
	r.x.up.Add(uint64(sent))
	r.client.buf.Advance(n)
	return p.sent(err, nil)
}

// sent passes err on, unless the server took no more.
func (p *pump) sent(serverErr, err error) error {
	if serverErr == nil {
		return err
	}
	p.serverErr = serverErr
	return io.ErrClosedPipe
}

// joinPump waits for the pump's end.
func (r *relayer) joinPump() {
	if r.pump.running {
		<-r.pump.done
		r.pump.running = false
		r.server.arm(r.tick)
		r.client.arm(idlePatience)
	}
}

// stopPump makes the pump end, which closes the server's connection, and waits
// for it.
func (r *relayer) stopPump() {
	if r.pump.running {
		r.pump.stop.Store(true)
		_ = r.server.conn.Close()
		r.client.wake()
		r.joinPump()
	}
}
