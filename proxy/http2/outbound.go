package http2

import (
	"context"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/balance"
	"github.com/weirmesh/weir/proxy/relay"
)

const (
	// streamWindow is what either peer may send on a stream before it was
	// taken by the other; so much of a stream is held at most in a direction.
	// It is the protocol's default, so that nobody has to be told.
	streamWindow = 1<<16 - 1
	// linkWindow is what a peer may send on all streams of a connection.
	linkWindow = 1 << 20
	// maxHeld is how much of a connection's streams is held before the peer's
	// window is no longer renewed.
	maxHeld = 4 << 20
	// maxOut is how much waits to be written to a connection before DATA
	// stays with its stream, and maxControl how much of other frames may come
	// on top.
	maxOut     = outSize - minFrameSize - headerLen
	maxControl = 1 << 20
	// outSize is how large output buffers are.
	outSize = 64 << 10
	// maxFrontStreams is how many streams a client may have open.
	maxFrontStreams = 2048
	// unsettledStreams is how many streams a server is given before it has
	// said how many it takes.
	unsettledStreams = 100
	// maxBacks is how many connections are made to one endpoint where each is
	// full.
	maxBacks = 8
	// maxAttempts bounds how often one request is tried.
	maxAttempts = 3
	// maxReplay is how much of a request's body is kept to try it again.
	maxReplay = 64 << 10
	// maxKept is how much of all requests of a client is kept to be tried
	// again; one more is refused.
	maxKept = 8 << 20
	// backIdle is how long a connection to a server is kept without streams.
	backIdle = 60 * time.Second
	// maxDeferred is how many times in a row writing is left to whoever waits
	// for the lock.
	maxDeferred = 8
	// settleTime is how long a server may take for its SETTINGS.
	settleTime = 10 * time.Second
)

// OutboundOptions configures an Outbound. Set and Dial must be given.
type OutboundOptions struct {
	// Set chooses the endpoint of each request.
	Set *balance.Set
	// Dial connects to one.
	Dial balance.Dial
	// MaxHeadBytes bounds a response's head; 0 means 64 KiB.
	MaxHeadBytes int
	// IdleTimeout is how long a connection without streams is kept; 0 means
	// one minute.
	IdleTimeout time.Duration
}

// Outbound carries the requests of many HTTP/2 clients to the endpoints of a
// set, each to the one that the set picks. It ends HTTP/2 on both sides:
// clients share the connections to an endpoint, of which there is one until it
// has no room for another stream.
//
// A stream that no server has taken (the endpoint cannot be connected to; its
// connection is lost before the request went out; GOAWAY with an earlier last
// stream; RST_STREAM with REFUSED_STREAM) goes to another endpoint, three times
// in all, if its body was not longer than 64 KiB. Other streams of a connection
// that is lost end: with 502 or gRPC status 14 where nothing of the response
// was passed on, with trailers that say status 14 where only the status was
// still to come, else with RST_STREAM.
//
// DATA is taken from a peer as fast as the other side takes it: 64 KiB of a
// stream are held in each direction. A stream that its reader does not take
// does not hold up others, neither of the same client nor of other clients of
// the same server. Informational responses and trailers pass; PING, SETTINGS
// and GOAWAY are each connection's own; padding and priorities end here.
//
// All state is guarded by one lock, which nobody holds while waiting: reading,
// writing and dialling are done without it. A goroutine that has read from one
// connection writes to the others what came of it, unless that would block, and
// unless another one waits for the lock, to which it is left; so a request costs
// no more wakes than bytes on its way need.
type Outbound struct {
	o      OutboundOptions
	seed   maphash.Seed
	ctx    context.Context
	cancel context.CancelFunc
	wait   sync.WaitGroup // of goroutines of backs
	// entering is how many wait for mu with what they have read.
	entering atomic.Int32

	mu    sync.Mutex // guards all below and all of links, streams and pools
	pools map[*balance.Member]*pool
	dirty []*link   // that have something to write
	now   time.Time // of what is being handled; zero: look
	// deferred is how many times in a row writing was left to others.
	deferred int
	free     []*transfer // to be used again
	block    []byte      // scratch
	timer    *time.Timer // looks for idle connections; nil where there are none
	closed   bool
}

// pool is the connections to one endpoint.
type pool struct {
	member  *balance.Member
	backs   []*back
	waiting []*transfer // for a connection with room
}

// NewOutbound makes an Outbound; Close ends it.
func NewOutbound(o OutboundOptions) *Outbound {
	if o.MaxHeadBytes <= 0 {
		o.MaxHeadBytes = relay.DefaultMaxHeadBytes
	}
	if o.IdleTimeout <= 0 {
		o.IdleTimeout = backIdle
	}
	ob := &Outbound{o: o, seed: maphash.MakeSeed(), pools: make(map[*balance.Member]*pool)}
	ob.ctx, ob.cancel = context.WithCancel(context.Background())
	o.Set.OnRemove(ob.retire)
	return ob
}

// Close ends all connections to servers, and returns when they have ended. No
// Serve may be running or come later.
func (o *Outbound) Close() {
	o.cancel()
	o.mu.Lock()
	o.closed = true
	if o.timer != nil {
		o.timer.Stop()
	}
	for _, p := range o.pools {
		for _, b := range p.backs {
			b.kill()
		}
	}
	o.mu.Unlock()
	o.wait.Wait()
}

// retire ends the connections of a removed endpoint that have no streams; the
// others end with their last.
func (o *Outbound) retire(m *balance.Member) {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := o.pools[m]
	if p == nil {
		return
	}
	for _, b := range p.backs {
		b.retired = true
		b.endIfIdle()
	}
}

// sweep ends connections that have been idle for long.
func (o *Outbound) sweep() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return
	}
	left := 0
	for _, p := range o.pools {
		for _, b := range p.backs {
			left++
			if b.open == 0 && time.Since(b.idleSince) >= o.o.IdleTimeout {
				b.kill()
			}
		}
	}
	if left == 0 {
		o.timer = nil
		return
	}
	o.timer.Reset(o.o.IdleTimeout / 2)
}

// assign gives a stream an endpoint, and sends its request there as soon as a
// connection has room.
func (o *Outbound) assign(t *transfer, now time.Time) {
	m := t.f.first
	t.f.first = nil
	if m == nil || m.Removed() {
		m = o.o.Set.Pick(t.member)
	}
	if m == nil {
		t.fail(event.ErrNoEndpoints, "503", "the service has no endpoints: "+event.ErrNoEndpoints, now)
		return
	}
	m.Begin()
	t.member, t.picked, t.began = m, now, true
	o.pool(m).place(o, t)
}

// pool is that of an endpoint, which is made where there is none.
func (o *Outbound) pool(m *balance.Member) *pool {
	p := o.pools[m]
	if p == nil {
		p = &pool{member: m}
		o.pools[m] = p
	}
	return p
}

// adopt makes a connection that was made before one of the endpoint's.
func (o *Outbound) adopt(m *balance.Member, conn balance.Connection) {
	var list []*link
	o.mu.Lock()
	if p := o.pool(m); len(p.backs) < maxBacks {
		o.connect(p, conn)
	} else {
		_ = conn.Close()
	}
	o.unlock(&list)
}

// room finds a connection for one more stream; dial tells that one is to be
// made. A connection that is clogged, by clients that do not read or by a
// server that does not, is the last choice, lest they hold up the others.
func (p *pool) room(o *Outbound) (b *back, dial bool) {
	active, coming := 0, false
	var clogged *back
	for _, b := range p.backs {
		switch {
		case b.retired:
			continue
		case b.open >= b.limit:
		case b.held <= maxHeld/2 && !b.full():
			return b, false
		case !b.full() && (clogged == nil || b.held < clogged.held):
			clogged = b
		}
		active++
		coming = coming || !b.settled
	}
	if !coming && active < maxBacks && !o.closed {
		return nil, true
	}
	return clogged, false
}

// place opens a stream on a connection of the pool with room, or has it wait
// for one, which is made unless one is being made.
func (p *pool) place(o *Outbound, t *transfer) {
	b, dial := p.room(o)
	switch {
	case b != nil:
		b.begin(t)
	case dial:
		o.connect(p, balance.Connection{}).begin(t)
	default:
		t.waits = p
		p.waiting = append(p.waiting, t)
	}
}

// dispatch gives streams that wait to connections with room.
func (p *pool) dispatch(o *Outbound) {
	for len(p.waiting) > 0 {
		if b, dial := p.room(o); b == nil && !dial {
			return
		}
		t := p.waiting[0]
		p.unwait(t)
		p.place(o, t)
	}
}

// unwait takes a stream out of the queue.
func (p *pool) unwait(t *transfer) {
	for i, w := range p.waiting {
		if w == t {
			p.waiting = append(p.waiting[:i], p.waiting[i+1:]...)
			break
		}
	}
	t.waits = nil
}

// drop forgets a connection that is over.
func (o *Outbound) drop(b *back) {
	p := b.pool
	for i, have := range p.backs {
		if have == b {
			p.backs = append(p.backs[:i], p.backs[i+1:]...)
			break
		}
	}
	p.forget(o)
}

// forget drops a pool that has nothing.
func (p *pool) forget(o *Outbound) {
	if len(p.backs) == 0 && len(p.waiting) == 0 && o.pools[p.member] == p {
		delete(o.pools, p.member)
	}
}
