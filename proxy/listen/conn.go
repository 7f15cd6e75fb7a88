package listen

import (
	"context"
	"math"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/balance"
	"github.com/weirmesh/weir/proxy/detect"
	"github.com/weirmesh/weir/proxy/discover"
	"github.com/weirmesh/weir/proxy/hello"
	"github.com/weirmesh/weir/proxy/relay"
)

// verdict is what was found out about a connection.
type verdict struct {
	protocol   event.Protocol
	detection  event.Detection
	serverName string
	// refused is an event.Error where the connection is to be closed unserved,
	// denied says that this is for who the peer is; abandoned where the proxy
	// itself lets go of it.
	refused   string
	denied    bool
	abandoned bool
	// empty: the client ended without a word, and was not to be served.
	empty bool
}

// conn is a client's connection until a relay takes it over. Two goroutines
// work on it: serve waits on the client, connect dials and waits on the
// server. They wake each other by read deadlines.
type conn struct {
	g      *Group
	l      *listener
	client *net.TCPConn
	// tls is the client's connection under mutual TLS; nil: it is plain. serve's.
	tls *secured
	// target is where the connection goes: host:port; opaque says that it is
	// carried undetected.
	target   string
	opaque   bool
	protocol event.Protocol // fixed; ProtocolUnknown: to be detected
	// first is the verdict that needs no bytes, where sure; both are known before
	// connect begins, whose hello tells of it.
	first verdict
	sure  bool
	// to is how target is connected to, where nothing is balanced; found is what
	// was discovered of it, or nil.
	to       destination
	found    *discover.Destination
	balanced *balanced // nil where all goes to target
	accepted time.Time
	id       uint64
	peer     event.Peer
	peek     peeker        // of the client; used by serve
	done     chan struct{} // closed when connect and watch have ended
	// known, where the listener balances, is closed once the verdict is there;
	// member is the endpoint of a connection that is carried as TCP.
	known  chan struct{}
	member *balance.Member
	// firstByte is when either side was first heard; serve's.
	firstByte time.Time

	mu sync.Mutex // guards all below
	// verdict is valid once decided; connect then ends as soon as it can. Once
	// settled, nothing here changes any more.
	verdict  verdict
	decided  bool
	settled  bool
	deadline time.Time // the client's read deadline
	// helloing: serve reads a hello, and deadline must not be moved.
	helloing bool
	greeted  bool // a hello was received from the client
	server   *net.TCPConn
	// hop is server with all that is known of it.
	hop hop
	// serverEarly was read from a server that speaks TLS with this proxy.
	serverEarly []byte
	// dialError is an event.Err constant where there is no server.
	dialError string
	watching  bool // somebody waits on the server
	// unwatch ends the wait for the server's first byte; nil where a goroutine
	// waits instead.
	unwatch func() bool
	// spoke is what the server was heard to say; NeedMore: nothing.
	spoke   detect.Verdict
	spokeAt time.Time
	gone    bool // the server ended the connection, silent
	drained bool
	aborted bool
}

func newConn(g *Group, l *listener, client *net.TCPConn) *conn {
	c := &conn{
		g: g, l: l, client: client,
		accepted: time.Now(),
		id:       g.newID(),
		peer:     event.Peer{Workload: l.Peer},
		done:     make(chan struct{}),
	}
	if l.Direction == event.Inbound && l.Peer.IsZero() && c.fromNode() {
		c.peer.Workload = nodeWorkload()
	}
	c.target, c.opaque = g.destination(l, client)
	c.protocol, c.balanced, c.to = l.Protocol, l.balanced, l.destination(c.target)
	g.mu.Lock()
	g.detecting[c] = struct{}{}
	if g.draining {
		c.drained = true
		c.wake(c.accepted.Add(drainGrace))
	}
	g.mu.Unlock()
	return c
}

// drainGrace is how long a connection that was accepted just before the proxy
// drains may keep silent before it is let go.
const drainGrace = time.Second

// serve takes the connection from accept to the end of its relay.
func (c *conn) serve() {
	g := c.g
	if c.l.Discover && g.o.Discovery != nil {
		c.discover()
		defer c.found.Release()
	}
	if c.balanced != nil {
		c.known = make(chan struct{})
	}
	c.first, c.sure = c.foregone()
	go c.connect()
	v := c.decide()
	c.settle(v)
	defer func() {
		if c.member != nil {
			c.member.End()
		}
	}()
	g.mu.Lock()
	delete(g.detecting, c)
	g.mu.Unlock()
	c.peek.release()
	switch {
	case v.denied:
		c.finish(v.refused, event.Denied)
	case v.refused != "":
		c.finish(v.refused, event.Refused)
	case v.abandoned:
		c.finish("", event.Drained)
	case v.empty:
		c.finish("", 0)
	default:
		g.verdicts[v.detection][v.protocol].Add(1)
		c.relay(v)
	}
}

// settle publishes the verdict, and returns when connect has ended.
func (c *conn) settle(v verdict) {
	c.mu.Lock()
	c.verdict, c.decided = v, true
	if c.known != nil {
		close(c.known)
	}
	switch {
	case c.unwatch != nil && c.unwatch():
		close(c.done) // in place of the goroutine that is not needed
	case c.watching:
		_ = c.server.SetReadDeadline(past())
	}
	c.mu.Unlock()
	<-c.done
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settled = true
	if !c.deadline.IsZero() {
		_ = c.client.SetReadDeadline(time.Time{})
	}
	if c.watching {
		_ = c.server.SetReadDeadline(time.Time{})
	}
}

// relay hands the connection over. From here on no other goroutine has it.
func (c *conn) relay(v verdict) {
	g := c.g
	rc := &relay.Conn{
		Client:        c.client,
		DialError:     c.dialError,
		Direction:     c.l.Direction,
		ID:            c.id,
		Accepted:      c.accepted,
		FirstByte:     c.firstByte,
		Peer:          c.peer,
		Detection:     v.detection,
		DetectionTime: c.detectionTime(),
		ServerName:    v.serverName,
		Recorder:      g.o.Recorder,
		Drain:         g.drain.Done(),
		OnDrain:       g.onDrain,
		OnReadable:    g.onReadable,
		Progress:      g.o.Progress,
		MaxHeadBytes:  g.o.MaxHeadBytes,
		HeadTimeout:   g.o.HeadTimeout,
	}
	if c.tls != nil {
		rc.Client = c.tls
	}
	var over func(context.Context, *relay.Conn)
	if c.balancedHTTP(v) {
		if over = c.overEarly(v); over != nil {
			rc.ID = g.newID() // c.id is that connection's
		}
	}
	if c.server != nil {
		rc.Server, rc.ServerEarly = c.hop.conn, c.serverEarly
	}
	c.describe(rc, v)
	if c.l.Direction == event.Inbound && !c.greeted && c.firstByte.IsZero() {
		rc.Check = g.tooLate(c.client)
	}
	serve := g.o.Relays.TCP
	switch v.protocol {
	case event.HTTP1:
		serve = g.o.Relays.HTTP1
	case event.HTTP2:
		serve = g.o.Relays.HTTP2
	}
	switch {
	case over != nil:
		serve = over
	case c.balancedHTTP(v) && v.protocol == event.HTTP2:
		serve = c.balanced.h2.Serve
	case c.balancedHTTP(v):
		serve = c.balanced.h1.Serve
	}
	rc.Early = c.late()
	serve(g.hard, rc)
}

// describe fills in the peer and the security.
func (c *conn) describe(rc *relay.Conn, v verdict) {
	if c.l.Direction == event.Inbound {
		rc.Peer.Addr = addrOf(c.client.RemoteAddr())
	} else if c.server != nil {
		rc.Peer.Addr = addrOf(c.server.RemoteAddr())
	} else {
		rc.Peer.Workload, rc.Peer.Pod, rc.SecurityReason = c.to.workload, c.to.pod, c.to.reason
		if c.to.mutual {
			rc.SecurityReason = ReasonNotConnected
		}
		if addr, err := netip.ParseAddrPort(c.to.addr); err == nil {
			rc.Peer.Addr = addr
		}
	}
	if c.server != nil && c.l.Direction == event.Outbound {
		addr := rc.Peer.Addr
		rc.Peer, rc.Security, rc.SecurityReason = c.hop.peer, c.hop.security, c.hop.reason
		rc.Peer.Addr = addr
	}
	switch {
	case c.tls != nil:
		rc.Security = event.Mutual
	case rc.Security == event.Mutual:
	case v.protocol == event.TLS:
		rc.Security, rc.SecurityReason = event.Passthrough, ""
	case rc.SecurityReason != "":
	case rc.Peer.Meshed, c.l.Mesh && c.l.Direction == event.Outbound:
		rc.SecurityReason = ReasonNoIdentity
	default:
		rc.SecurityReason = ReasonUnmeshed
	}
}

// late is what was read from the client. Where the proxy drains it reads what
// the client has sent: a relay that finds Drain closed takes nothing new, and
// this was there before it.
func (c *conn) late() []byte {
	if c.tls != nil {
		if c.g.drain.Err() != nil && len(c.peek.held) == 0 && c.peek.coming() {
			_ = c.client.SetReadDeadline(time.Now().Add(lateTime))
			_, _ = c.peek.wait(0)
			_ = c.client.SetReadDeadline(time.Time{})
		}
		return c.peek.held
	}
	if c.g.drain.Err() == nil {
		return nil
	}
	if c.peek.init(c.client) != nil {
		return nil
	}
	b, err := c.peek.now()
	if err != nil || len(b) == 0 {
		return nil
	}
	early := make([]byte, len(b))
	n, err := c.client.Read(early)
	if err != nil {
		return nil
	}
	return early[:n]
}

// lateTime bounds the wait for a TLS record that has begun to come.
const lateTime = 100 * time.Millisecond

// detectionTime is from the first byte heard to the relay, µs.
func (c *conn) detectionTime() uint32 {
	first := c.firstByte
	if !c.spokeAt.IsZero() && (first.IsZero() || c.spokeAt.Before(first)) {
		first = c.spokeAt
	}
	if first.IsZero() {
		return 0
	}
	return uint32(min(time.Since(first).Microseconds(), math.MaxUint32))
}

// finish closes a connection that no relay gets, and reports it.
func (c *conn) finish(reason string, fate event.Fate) {
	rc := relay.Conn{Direction: c.l.Direction, ID: c.id, Peer: c.peer}
	c.describe(&rc, verdict{})
	if c.tls != nil {
		_ = c.tls.Close()
	}
	_ = c.client.Close()
	if c.server != nil {
		_ = c.hop.conn.Close()
	}
	var e event.Event
	rc.Fill(&e)
	e.Protocol = event.TCP
	e.Error = reason
	e.Fate = fate
	e.Stream = 1
	e.Start = c.accepted.UnixMicro()
	e.Duration = uint64(time.Since(c.accepted).Microseconds())
	e.Latency = e.Duration
	c.g.o.Recorder.Record(&e)
}

// wake lets serve look again at t, or earlier where it will anyhow.
func (c *conn) wake(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.decided || !c.deadline.IsZero() && !t.Before(c.deadline) {
		return
	}
	c.deadline = t
	if !c.helloing {
		_ = c.client.SetReadDeadline(t)
	}
}

// drain lets go of the connection if nobody speaks on it for some time.
func (c *conn) drain() {
	c.mu.Lock()
	c.drained = true
	c.mu.Unlock()
	t := c.accepted.Add(drainGrace)
	if t.Before(time.Now()) {
		t = past()
	}
	c.wake(t)
}

// abort ends the connection at once.
func (c *conn) abort() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.aborted = true
	if c.settled {
		return
	}
	_ = c.client.SetReadDeadline(past())
	if c.deadline.IsZero() {
		c.deadline = past()
	}
	if c.server != nil {
		_ = c.server.SetReadDeadline(past())
	}
}

// dialTo connects to an endpoint, and introduces this proxy where it is meshed.
func (c *conn) dialTo(to destination) (h hop, reason string) {
	var own hello.Hello
	if to.mesh {
		own = hello.Hello{Connection: c.id, Protocol: c.protocolNow(), Destination: c.target}
	}
	return c.g.reach(c.g.hard, c.l, to, own)
}

// protocolNow is what is known of the connection's protocol when a hello is sent:
// what the client has said until now, or what needs no word of it.
func (c *conn) protocolNow() event.Protocol {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.decided && c.sure {
		return c.first.protocol
	}
	return c.verdict.protocol
}

// connect dials the server, exchanges hellos where there is a proxy, and then
// has the server watched, unless the client spoke.
func (c *conn) connect() {
	g := c.g
	dial := func() (hop, string) { return c.dialTo(c.to) }
	if c.balanced != nil {
		if !c.awaitNeed() {
			close(c.done)
			return
		}
		dial = c.dialBalanced
	}
	h, reason := dial()
	server := h.tcp
	if server == nil && c.found != nil && c.to.mutual {
		c.found.Ask() // perhaps the address has another owner by now
	}
	c.mu.Lock()
	c.server, c.hop, c.dialError = server, h, reason
	watch := server != nil && !c.decided && !c.aborted
	c.watching = watch
	c.mu.Unlock()
	if watch {
		c.await(h)
		return
	}
	if server == nil {
		// A client that speaks soon gets its protocol's answer.
		c.wake(time.Now().Add(g.o.DetectTimeout))
	}
	close(c.done)
}

// await has the server watched. Nothing of this goroutine, such as the stack that
// dialling took, is held for as long as both sides are silent.
func (c *conn) await(h hop) {
	watch := func() {
		defer close(c.done)
		c.watch(h)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	// Of what came by TLS some may have been read with the hello.
	if !c.decided && h.tls == nil {
		c.unwatch = c.g.onReadable(h.tcp, func() { go watch() })
	}
	if c.unwatch == nil {
		go watch()
	}
}

// watch waits until the server speaks or ends, or serve has decided.
func (c *conn) watch(h hop) {
	var p peeker
	if h.tls != nil {
		p.over(h.tls)
		defer func() { c.serverEarly = p.held }()
	} else if p.init(h.tcp) != nil {
		return
	}
	have := 0
	for {
		b, err := p.wait(have)
		c.mu.Lock()
		if c.decided || c.aborted {
			c.mu.Unlock()
			return
		}
		if c.spokeAt.IsZero() {
			c.spokeAt = time.Now()
		}
		c.mu.Unlock()
		v := detect.Server(b)
		switch {
		case err != nil && len(b) == 0 && have == 0:
			c.hear(detect.NeedMore, c.g.o.DetectTimeout)
			return
		case err != nil && v == detect.NeedMore:
			v = detect.TCP // cut short, or its rest did not come in time
		}
		switch v {
		case detect.NeedMore:
			have = len(b)
			c.patience(h.tcp)
		case detect.HTTP2:
			// Its client's preface is on the way, and decides.
			return
		default:
			c.hear(v, c.grace())
			return
		}
	}
}

// patience bounds how long connect waits for the rest of the server's first
// message.
func (c *conn) patience(server *net.TCPConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.decided && !c.aborted {
		_ = server.SetReadDeadline(time.Now().Add(c.g.o.DetectTimeout))
	}
}

// hear notes what the server said (NeedMore: that it is gone) and gives the
// client a last time to speak.
func (c *conn) hear(v detect.Verdict, last time.Duration) {
	c.mu.Lock()
	c.spoke = v
	c.gone = v == detect.NeedMore
	c.mu.Unlock()
	c.wake(time.Now().Add(last))
}
