package tcp

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/weirmesh/weir/proxy/relay"
)

const (
	// bulkChunk is how much is spliced before the bytes are counted.
	bulkChunk = 1 << 20
	// bulkPatience is how long a quiet source is taken for one that sends much.
	bulkPatience = 100 * time.Millisecond
)

// Tunnel is two connections whose bytes are carried as they are.
type Tunnel struct {
	Client, Server net.Conn
	// ClientEarly are bytes that were read from the client already and go to
	// the server first; ServerEarly the same the other way.
	ClientEarly, ServerEarly []byte
	// Check, where it is not nil, is shown the client's first bytes: where it
	// returns a reason, an event.Error, the tunnel ends by it, and none of them is
	// carried. It keeps nothing of them.
	Check func(first []byte) (reason string)
	// Progress is how often OnProgress is called; 0 means
	// relay.DefaultProgress.
	Progress time.Duration
	// OnProgress is told, while the tunnel is open, what was carried since it
	// was called before. Calls never overlap. Nil: nobody is told.
	OnProgress func(Traffic)
}

// Traffic is what a tunnel carried, in bytes, since it was last asked.
type Traffic struct {
	FromClient, FromServer uint64
	// FirstByte is how long after the tunnel's begin the server's first byte
	// was there; negative while there was none.
	FirstByte time.Duration
}

// Outcome is how a tunnel ended.
type Outcome struct {
	// Traffic is what OnProgress was not told yet.
	Traffic
	// Error is the event.Err constant of what broke the tunnel, or "" where
	// both sides ended their stream.
	Error string
	// Stopped tells that the context ended the tunnel.
	Stopped bool
}

// tunnel is a Tunnel at work.
type tunnel struct {
	*Tunnel
	start     time.Time
	up, down  flow
	firstByte atomic.Int64 // ns after start, plus 1; 0: none yet

	mu       sync.Mutex // guards what follows, and calls of OnProgress
	told     time.Time
	toldUp   uint64
	toldDown uint64
	ended    bool // a reason to end is known
	stopped  bool
	reason   string
}

// Run carries bytes until both sides have ended their stream, one of them
// broke, or ctx is done. It closes both connections before it returns, and
// passes an end of stream on as such and a reset as a reset.
func (t *Tunnel) Run(ctx context.Context) Outcome {
	if t.Progress <= 0 {
		t.Progress = relay.DefaultProgress
	}
	x := &tunnel{Tunnel: t, start: time.Now()}
	x.told = x.start
	x.up.init(x, t.Client, t.Server, t.ClientEarly, ClientError, ServerError)
	x.down.init(x, t.Server, t.Client, t.ServerEarly, ServerError, ClientError)
	x.up.check, x.down.first = t.Check, &x.firstByte
	x.up.back, x.down.back = &x.down, &x.up
	stop := context.AfterFunc(ctx, x.stop)

	var wg sync.WaitGroup
	wg.Go(x.up.run)
	x.down.run()
	wg.Wait()
	stop()
	_ = t.Client.Close()
	_ = t.Server.Close()

	x.mu.Lock()
	defer x.mu.Unlock()
	return Outcome{Traffic: x.traffic(), Error: x.reason, Stopped: x.stopped}
}

// stop is the hard stop.
func (x *tunnel) stop() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.stopped = true
	x.end("", false)
}

// fail ends the tunnel because one side broke.
func (x *tunnel) fail(reason string, reset bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.end(reason, reset)
}

// end closes both sides, for the first reason there is. Callers hold mu.
func (x *tunnel) end(reason string, reset bool) {
	if x.ended {
		return
	}
	x.ended, x.reason = true, reason
	if reset {
		Reset(x.Client)
		Reset(x.Server)
		return
	}
	_ = x.Client.Close()
	_ = x.Server.Close()
}

// tick reports progress where it is due.
func (x *tunnel) tick() {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := time.Now()
	if x.ended || x.OnProgress == nil || now.Sub(x.told) < x.Progress {
		return
	}
	x.told = now
	x.OnProgress(x.traffic())
}

// traffic returns what came since it was called before. Callers hold mu.
func (x *tunnel) traffic() Traffic {
	up, down := x.up.bytes.Load(), x.down.bytes.Load()
	t := Traffic{FromClient: up - x.toldUp, FromServer: down - x.toldDown, FirstByte: -1}
	x.toldUp, x.toldDown = up, down
	if ns := x.firstByte.Load(); ns > 0 {
		t.FirstByte = time.Duration(ns - 1)
	}
	return t
}

// flow is one direction of a tunnel.
type flow struct {
	tunnel   *tunnel
	src, dst net.Conn
	srcError func(error) string
	dstError func(error) string
	early    []byte
	first    *atomic.Int64       // set at the first byte; nil: not asked for
	check    func([]byte) string // of the first bytes; nil: none, or done
	bytes    atomic.Uint64
	back     *flow       // the other direction
	eof      atomic.Bool // src has ended its stream
	reader   Reader
	buf      Buffer
	splicer  Splicer
}

func (f *flow) init(x *tunnel, src, dst net.Conn, early []byte, srcError, dstError func(error) string) {
	f.tunnel, f.src, f.dst, f.early = x, src, dst, early
	f.srcError, f.dstError = srcError, dstError
	f.reader.Init(src)
	f.splicer.Join(src, dst)
}

// run carries the flow to its end.
func (f *flow) run() {
	defer f.buf.Release()
	if len(f.early) > 0 && !f.write(f.early) {
		return
	}
	f.arm(f.tunnel.Progress)
	for {
		n, err := f.reader.Fill(&f.buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			f.arm(f.tunnel.Progress)
			f.tunnel.tick()
			continue
		case errors.Is(err, io.EOF):
			f.finish()
			return
		case err != nil:
			f.tunnel.fail(f.srcError(err), IsReset(err))
			return
		}
		if !f.write(f.buf.Bytes()) {
			return
		}
		f.buf.Release()
		if n >= BufferSize && f.splicer.Ready() && !f.bulk() {
			return
		}
	}
}

// arm sets when the flow is to be woken to report progress.
func (f *flow) arm(d time.Duration) { _ = f.src.SetReadDeadline(time.Now().Add(d)) }

// write carries p and tells whether the flow goes on.
func (f *flow) write(p []byte) bool {
	if f.check != nil {
		if reason := f.check(p); reason != "" {
			f.tunnel.fail(reason, false)
			return false
		}
		f.check = nil
	}
	f.mark()
	n, err := f.dst.Write(p)
	f.bytes.Add(uint64(n))
	if err != nil {
		f.unwritten(err)
	}
	return err == nil
}

// finish passes the end of the stream on. The kernel tells of a reset once: if
// the other direction was told, this one sees an end of stream, but on a
// socket that is dead although nobody ended the stream towards it.
func (f *flow) finish() {
	if !f.back.eof.Load() && Dead(f.src) {
		f.tunnel.fail(f.srcError(syscall.ECONNRESET), true)
		return
	}
	f.eof.Store(true)
	CloseWrite(f.dst)
}

// unwritten ends the tunnel after an error of writing. A broken pipe is a
// reset too, of which the kernel told the other direction first or which came
// after the end of the stream; only the latter is what an orderly close looks
// like. Either way the source is to see what it would see without us.
func (f *flow) unwritten(err error) {
	broken := errors.Is(err, syscall.EPIPE)
	if broken && !f.back.eof.Load() {
		err = syscall.ECONNRESET
	}
	f.tunnel.fail(f.dstError(err), broken || IsReset(err))
}

// mark remembers when the first byte came.
func (f *flow) mark() {
	if f.first != nil {
		f.first.Store(int64(time.Since(f.tunnel.start)) + 1)
		f.first = nil
	}
}

// bulk splices, in chunks so that the bytes are counted while they flow, until
// the source pauses or there is no pipe; whoever sends little is served through
// a buffer. It tells whether the flow goes on.
func (f *flow) bulk() bool {
	for {
		f.arm(bulkPatience)
		n, srcErr, dstErr := f.splicer.Move(bulkChunk)
		f.bytes.Add(uint64(n))
		f.tunnel.tick()
		switch {
		case dstErr != nil:
			f.unwritten(dstErr)
			return false
		case errors.Is(srcErr, os.ErrDeadlineExceeded), errors.Is(srcErr, ErrNoPipe):
			f.arm(f.tunnel.Progress)
			return true
		case errors.Is(srcErr, io.EOF):
			f.finish()
			return false
		case srcErr != nil:
			f.tunnel.fail(f.srcError(srcErr), IsReset(srcErr))
			return false
		}
	}
}
