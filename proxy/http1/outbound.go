package http1

import (
	"context"
	"sync"
	"syscall"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/balance"
	"github.com/weirmesh/weir/proxy/relay"
	"github.com/weirmesh/weir/proxy/socket"
	"github.com/weirmesh/weir/proxy/tcp"
)

// Defaults of OutboundOptions, and bounds.
const (
	DefaultMaxIdle        = 100
	DefaultMaxConnections = 2048
	DefaultIdleTimeout    = 60 * time.Second
	// maxAttempts bounds how often one request is tried.
	maxAttempts = 3
	// maxReplay is how long a request may be, head and body, to be kept for
	// another try, in bytes.
	maxReplay = 16 << 10
)

// OutboundOptions configures an Outbound. Set and Dial must be given; zero
// values of the others mean their defaults.
type OutboundOptions struct {
	// Set chooses the endpoint of each request.
	Set *balance.Set
	// Dial connects to one.
	Dial balance.Dial
	// MaxIdle bounds the connections to one endpoint that are kept for later
	// requests, MaxConnections all of them.
	MaxIdle, MaxConnections int
	// IdleTimeout is how long a connection is kept for a later request.
	IdleTimeout time.Duration
}

// Outbound carries the requests of many HTTP/1 clients to the endpoints of a
// set, each to the one that the set picks, over connections that are used
// again.
//
// A request goes to another endpoint where the first cannot be connected to. It
// is tried once more where a connection that was there before ends before the
// first byte of the response, as such connections do when the server has just
// closed them: if nothing of it went out, or its method is idempotent (RFC
// 9110, section 9.2.2), and it was not longer than 16 KiB, body and all.
type Outbound struct {
	o OutboundOptions

	mu     sync.Mutex // guards all below
	pools  map[*balance.Member]*pool
	timer  *time.Timer // closes what is idle for long; nil where nothing is
	closed bool
}

// pool is the connections to one endpoint.
type pool struct {
	idle  []*pooled // the one used last at the end
	total int
}

// pooled is a connection to an endpoint, lent to one request at a time.
type pooled struct {
	balance.Connection
	member *balance.Member
	uses   uint32 // requests so far, with the one it is lent to
	// waited: it was idle before this request, and may have been closed by then.
	waited bool
	since  time.Time // it is idle
}

// NewOutbound makes an Outbound; Close ends it.
func NewOutbound(o OutboundOptions) *Outbound {
	if o.MaxIdle <= 0 {
		o.MaxIdle = DefaultMaxIdle
	}
	if o.MaxConnections <= 0 {
		o.MaxConnections = DefaultMaxConnections
	}
	if o.IdleTimeout <= 0 {
		o.IdleTimeout = DefaultIdleTimeout
	}
	ob := &Outbound{o: o, pools: make(map[*balance.Member]*pool)}
	o.Set.OnRemove(ob.retire)
	return ob
}

// Serve carries one client's connection to its end, as package relay says;
// c.Server is not used. See Serve of the package for what it records: the peer
// of each event is the endpoint that the request went to.
func (o *Outbound) Serve(ctx context.Context, c *relay.Conn) { serve(ctx, c, o, nil) }

// ServeOver is Serve for a client for which m was picked and connected to before
// it was known what it speaks: its first request goes there, over conn, which is
// the Outbound's from now on. Whoever calls has ended what it began with m.
func (o *Outbound) ServeOver(ctx context.Context, c *relay.Conn, m *balance.Member, conn balance.Connection) {
	serve(ctx, c, o, o.adopt(m, conn))
}

// adopt lends a connection that nobody has used yet; nil: there are too many, and
// it is closed.
func (o *Outbound) adopt(m *balance.Member, conn balance.Connection) *pooled {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := o.pools[m]
	if p == nil {
		p = new(pool)
		o.pools[m] = p
	}
	if p.total >= o.o.MaxConnections {
		_ = conn.Close()
		return nil
	}
	p.total++
	return &pooled{Connection: conn, member: m, waited: true}
}

// Close closes all idle connections, and those that are returned later. It must
// be called when no Serve runs any more.
func (o *Outbound) Close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	if o.timer != nil {
		o.timer.Stop()
	}
	for m, p := range o.pools {
		o.prune(m, p, func(*pooled) bool { return true })
	}
}

// retire closes the idle connections of an endpoint that was removed.
func (o *Outbound) retire(m *balance.Member) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if p := o.pools[m]; p != nil {
		o.prune(m, p, func(*pooled) bool { return true })
	}
}

// prune closes idle connections that are over.
func (o *Outbound) prune(m *balance.Member, p *pool, over func(*pooled) bool) {
	kept := p.idle[:0]
	for _, c := range p.idle {
		if over(c) {
			_ = c.Close()
			p.total--
		} else {
			kept = append(kept, c)
		}
	}
	clear(p.idle[len(kept):])
	if p.idle = kept; p.total == 0 {
		delete(o.pools, m)
	}
}

// sweep closes connections that have been idle for long.
func (o *Outbound) sweep() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return
	}
	idle := 0
	for m, p := range o.pools {
		o.prune(m, p, func(c *pooled) bool { return time.Since(c.since) >= o.o.IdleTimeout })
		idle += len(p.idle)
	}
	if idle == 0 {
		o.timer = nil
		return
	}
	o.timer.Reset(o.o.IdleTimeout / 2)
}

// get lends a connection to m. Unless fresh is asked for it may have been used
// before. Where there is none, reason is an event.Err constant.
func (o *Outbound) get(ctx context.Context, m *balance.Member, fresh bool) (c *pooled, reason string) {
	o.mu.Lock()
	p := o.pools[m]
	if p == nil {
		p = new(pool)
		o.pools[m] = p
	}
	for n := len(p.idle); n > 0 && !fresh; n = len(p.idle) {
		c := p.idle[n-1]
		p.idle[n-1] = nil
		p.idle = p.idle[:n-1]
		if quiet(c) {
			o.mu.Unlock()
			c.uses++
			return c, ""
		}
		_ = c.Close()
		p.total--
	}
	if p.total >= o.o.MaxConnections || o.closed {
		o.mu.Unlock()
		return nil, event.ErrLimit
	}
	p.total++
	o.mu.Unlock()
	conn, reason := o.o.Dial(ctx, m.Endpoint(), event.HTTP1)
	if conn.Conn != nil {
		m.Connected()
		return &pooled{Connection: conn, member: m, uses: 1}, ""
	}
	if ctx.Err() == nil {
		m.Failed()
	}
	o.lose(m)
	return nil, reason
}

// lose forgets a connection that was lent.
func (o *Outbound) lose(m *balance.Member) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if p := o.pools[m]; p != nil {
		if p.total--; p.total == 0 {
			delete(o.pools, m)
		}
	}
}

// put takes a connection back, to be used again where it may.
func (o *Outbound) put(c *pooled, reusable bool) {
	m := c.member
	if reusable {
		_ = c.SetDeadline(time.Time{})
		o.mu.Lock()
		if p := o.pools[m]; p != nil && !o.closed && !m.Removed() && len(p.idle) < o.o.MaxIdle {
			c.since, c.waited = time.Now(), true
			p.idle = append(p.idle, c)
			if o.timer == nil {
				o.timer = time.AfterFunc(o.o.IdleTimeout/2, o.sweep)
			}
			o.mu.Unlock()
			return
		}
		o.mu.Unlock()
	}
	_ = c.Close()
	o.lose(m)
}

// quiet tells whether an idle connection is there and silent: what a server
// says now answers no request.
func quiet(c *pooled) bool {
	t, ok := c.Conn.(syscall.Conn)
	if !ok {
		return true
	}
	n, open := socket.Waiting(t)
	return n == 0 && open
}

// connected tells whether the relay has a server to look at a request for: where
// it balances that is chosen once the request is known to be valid.
func (r *relayer) connected() bool { return r.out != nil || r.server.conn != nil }

// connect sees to a server's connection for the request, and says why there is
// none: an event.Err constant.
func (r *relayer) connect() (reason string) {
	switch {
	case r.out != nil:
		r.attempt, r.member = 0, nil
		return r.acquire(false)
	case r.server.conn == nil:
		return r.c.DialError
	}
	return ""
}

// acquire gives the request a server's connection, and says why it cannot: an
// event.Err constant.
func (r *relayer) acquire(fresh bool) (reason string) {
	if r.takeFirst() {
		return ""
	}
	set := r.out.o.Set
	for {
		m := set.Pick(r.member)
		if m == nil {
			return event.ErrNoEndpoints
		}
		r.member, r.picked = m, time.Now()
		r.event.Peer = event.Peer{Workload: m.Endpoint().Workload}
		c, reason := r.out.get(r.ctx, m, fresh)
		if c != nil {
			m.Begin()
			r.lend(c)
			return ""
		}
		if r.attempt+1 >= maxAttempts || r.ctx.Err() != nil {
			return reason
		}
		r.again()
	}
}

// takeFirst gives the request the connection that was made before there was one,
// if it still may.
func (r *relayer) takeFirst() bool {
	c := r.first
	if c == nil {
		return false
	}
	r.first = nil
	if c.member.Removed() || !quiet(c) {
		r.out.put(c, false)
		return false
	}
	r.member, r.picked = c.member, time.Now()
	c.uses++
	c.member.Begin()
	r.lend(c)
	return true
}

// again counts another try.
func (r *relayer) again() {
	r.attempt++
	r.out.o.Set.Retry()
	r.event.Attempt = r.attempt
	r.event.Fate |= event.Retried
}

// lend makes c the server's connection.
func (r *relayer) lend(c *pooled) {
	e := &r.event
	e.Peer, e.Connection, e.Security, e.SecurityReason, e.Stream = c.Peer, c.ID, c.Security, c.SecurityReason, c.uses
	r.swap.Lock()
	r.lent = c
	r.server.init(c.Conn)
	if r.stopped.Load() {
		_ = c.Close()
	}
	r.swap.Unlock()
	r.server.arm(r.tick)
}

// giveBack returns the server's connection, if there is one.
func (r *relayer) giveBack(reusable bool) {
	c := r.lent
	if c == nil {
		return
	}
	r.server.buf.Release()
	r.swap.Lock()
	r.lent, r.server.conn, r.server.tcp = nil, nil, nil
	reusable = reusable && !r.stopped.Load()
	r.swap.Unlock()
	c.member.End()
	r.out.put(c, reusable)
}

// keep keeps a request that may have to be sent once more; it is all of it.
func (r *relayer) keep(request []byte) {
	r.replay = r.replay[:0]
	if r.out != nil && r.lent.waited && r.x.requestBody.done() && len(request) <= maxReplay {
		r.replay = append(r.replay, request...)
	}
}

// retry sends the request once more where its connection ended before the
// response began, and tells whether it did.
func (r *relayer) retry(c *cut) bool {
	x := &r.x
	if r.out == nil || r.lent == nil || !r.lent.waited || len(r.replay) == 0 || r.attempt > 0 || x.first >= 0 ||
		x.halfClose || r.stopped.Load() || c.reason != event.ErrServerClosed && c.reason != event.ErrServerReset ||
		x.up.Load() > 0 && !idempotent(r.event.Method) {
		return false
	}
	r.endWatch()
	r.giveBack(false)
	r.again()
	if r.acquire(true) != "" {
		return false
	}
	sent, err := r.server.write(r.replay)
	x.up.Store(uint64(sent))
	x.last, x.unsent = err != nil, tcp.IsReset(err)
	return true
}

// idempotent tells whether a request with this method may be sent twice.
func idempotent(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}

// observe tells the balancer of the response's head.
func (r *relayer) observe(status uint16) {
	if r.lent != nil {
		r.lent.member.Observe(time.Since(r.picked), status >= 502 && status <= 504)
	}
}

// blame tells the balancer of a server that did not answer.
func (r *relayer) blame(c *cut) {
	if r.lent != nil && (c.reason == event.ErrServerClosed || c.reason == event.ErrServerReset) {
		r.lent.member.Observe(time.Since(r.picked), true)
	}
}

// forget takes the last request's endpoint out of the event.
func (r *relayer) forget() {
	if r.out != nil {
		e, c := &r.event, r.c
		e.Peer, e.Connection, e.Security, e.SecurityReason = c.Peer, c.ID, c.Security, c.SecurityReason
	}
}
