package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/balance"
	"github.com/weirmesh/weir/proxy/hello"
	"github.com/weirmesh/weir/proxy/mtls"
	"github.com/weirmesh/weir/proxy/ports"
)

// AnyIdentity is a Spec.Identity that any identity of the trust domain meets.
const AnyIdentity = "any"

const (
	// maxHandshakes bounds the handshakes under way in each direction; others wait
	// for their turn within their time.
	maxHandshakes = 256
	// identityWait is how long a connection waits for this proxy's certificate
	// where it has none yet, startTime for how long after the proxy's start.
	identityWait = time.Second
	startTime    = 10 * time.Second
	// denyLogEvery bounds how often refusals are logged as warnings.
	denyLogEvery = time.Second
)

// errDenied says that a verdict has the reason.
var errDenied = errors.New("denied")

// Why peers are refused, as indexes of mutual.denied.
const (
	denyHandshake = iota
	denyUntrusted
	denyIdentity
	denyPlain
	denyNoCertificate
	denyReasons
)

// denyError is the event.Error of a reason.
func denyError(why int) string {
	return [denyReasons]string{ErrHandshake, ErrUntrusted, ErrWrongIdentity, ErrMutualRequired, ErrNoCertificate}[why]
}

// mutual is what a Group has for mutual TLS.
type mutual struct {
	started          time.Time
	slots            [3]chan struct{} // handshakes under way, by direction
	handshakes, errs [3]atomic.Uint64
	denied           [denyReasons]atomic.Uint64
	logged           atomic.Int64 // when a refusal was logged, ns
	unlogged         atomic.Uint64
}

func (m *mutual) init() {
	m.started = time.Now()
	for i := range m.slots {
		m.slots[i] = make(chan struct{}, maxHandshakes)
	}
}

func (m *mutual) stats(s *Stats) {
	for d := range s.Handshakes {
		s.Handshakes[d], s.HandshakeErrors[d] = m.handshakes[d].Load(), m.errs[d].Load()
	}
	s.Denied = make(map[string]uint64, denyReasons)
	for why := range m.denied {
		s.Denied[denyError(why)] = m.denied[why].Load()
	}
}

// deny counts and logs a peer that is refused.
func (g *Group) deny(why int, conn net.Conn, what string, err error) {
	m := &g.mutual
	m.denied[why].Add(1)
	now, last := time.Now().UnixNano(), m.logged.Load()
	if now-last < int64(denyLogEvery) || !m.logged.CompareAndSwap(last, now) {
		m.unlogged.Add(1)
		return
	}
	g.log.Warn("refused a peer: "+what, "reason", denyError(why), "peer", conn.RemoteAddr(), "error", err, "others_since", m.unlogged.Swap(0))
}

// failure is which reason an error of a handshake is.
func failure(err error) int {
	switch {
	case errors.Is(err, mtls.ErrWrongIdentity):
		return denyIdentity
	case errors.Is(err, mtls.ErrUntrusted):
		return denyUntrusted
	case errors.Is(err, mtls.ErrNoIdentity):
		return denyNoCertificate
	}
	return denyHandshake
}

// handshake has one side of mutual TLS done on conn, in its turn.
func (g *Group) handshake(ctx context.Context, d event.Direction, conn *net.TCPConn,
	do func(context.Context, *wire) (*secured, string, error)) (*secured, string, error) {
	m := &g.mutual
	m.handshakes[d].Add(1)
	ctx, cancel := context.WithTimeout(ctx, g.o.HelloTimeout)
	defer cancel()
	fail := func(err error) (*secured, string, error) {
		m.errs[d].Add(1)
		return nil, "", err
	}
	select {
	case m.slots[d] <- struct{}{}:
		defer func() { <-m.slots[d] }()
	case <-ctx.Done():
		return fail(ctx.Err())
	}
	w, err := newWire(conn)
	if err != nil {
		return fail(err)
	}
	s, id, err := do(ctx, w)
	if err != nil {
		return fail(err)
	}
	return s, id, nil
}

// shake is the server's side of the handshake with a client's proxy.
func (c *conn) shake() (v verdict) {
	g := c.g
	s, id, err := g.handshake(g.hard, event.Inbound, c.client, func(ctx context.Context, w *wire) (*secured, string, error) {
		t, id, err := g.o.Identity.Server(ctx, w)
		return secure(t, w), id, err
	})
	if err != nil {
		why := failure(err)
		g.deny(why, c.client, "mutual TLS failed", err)
		return verdict{refused: denyError(why), denied: true}
	}
	c.tls, c.peer.Identity = s, id
	return verdict{}
}

// vouch checks the hello of a client against the identity that it proved: the
// workload is believed as far as its namespace goes.
func (c *conn) vouch(h hello.Hello) verdict {
	if namespace, _ := mtls.ServiceAccount(c.peer.Identity); namespace != h.Workload.Namespace {
		c.g.deny(denyIdentity, c.client, "it claims to be a workload of another namespace", errors.New(c.peer.Identity+" claims to be "+h.Workload.String()))
		return verdict{refused: ErrWrongIdentity, denied: true}
	}
	return verdict{}
}

// mustBeMutual tells whether a client that is not under mutual TLS is refused.
func (c *conn) mustBeMutual() bool {
	o := &c.g.o
	if c.l.Direction != event.Inbound || !o.RequireMutual {
		return false
	}
	if !c.fromNode() {
		return true
	}
	to, err := netip.ParseAddrPort(c.target)
	return len(o.PlainPorts) > 0 && (err != nil || !ports.Contain(o.PlainPorts, to.Port()))
}

// fromNode tells whether the client is where probes come from.
func (c *conn) fromNode() bool {
	if len(c.g.o.PlainFrom) == 0 {
		return false
	}
	from := addrOf(c.client.RemoteAddr()).Addr().WithZone("")
	return slices.ContainsFunc(c.g.o.PlainFrom, func(p netip.Prefix) bool { return p.Contains(from) })
}

// nodeWorkload is who a plain client from the node is taken for: the kubelet, which
// probes, or whoever's address the node stands for.
func nodeWorkload() event.Workload { return event.Workload{Kind: "ext", Name: "node"} }

// destination is where a connection goes, and how.
type destination struct {
	addr string
	// mesh: the proxy there is to be greeted; mutual: in TLS, in which it must
	// prove identity ("" for anyone of the trust domain).
	mesh, mutual bool
	identity     string
	// strict: where mutual TLS cannot be had, the connection fails.
	strict bool
	// reason says why it is plain.
	reason   string
	workload event.Workload
	pod      string
}

func (d *destination) peer() event.Peer { return event.Peer{Workload: d.workload, Pod: d.pod} }

// destination is an address that the listener's own configuration speaks of.
func (l *listener) destination(addr string) destination {
	d := destination{addr: addr, workload: l.Peer}
	if l.Direction != event.Outbound || !l.Mesh {
		d.reason = ReasonUnmeshed
		return d
	}
	d.mesh, d.reason = true, ReasonNoIdentity
	if l.Identity != "" {
		d.mutual, d.strict = true, true
		if l.Identity != AnyIdentity {
			d.identity = l.Identity
		}
	}
	return d
}

// endpoint is an endpoint of a set.
func (l *listener) endpoint(e balance.Endpoint) destination {
	if e.Identity == "" && e.Reason == "" {
		d := l.destination(e.Addr)
		d.workload, d.pod = e.Workload, e.Pod
		return d
	}
	return discovered(e)
}

// discovered is an endpoint that discovery told of.
func discovered(e balance.Endpoint) destination {
	d := destination{addr: e.Addr, workload: e.Workload, pod: e.Pod, reason: e.Reason}
	if e.Identity != "" {
		d.mesh, d.mutual, d.identity = true, true, e.Identity
	}
	return d
}

// hop is a connection to a server, and what is known of its other end.
type hop struct {
	tcp *net.TCPConn
	// tls is not nil under mutual TLS; conn is either.
	tls      *secured
	conn     net.Conn
	peer     event.Peer
	security event.Security
	// reason says why it is plain.
	reason string
}

// reach connects to a destination on behalf of a listener: TCP, mutual TLS and
// hello as it needs them. Where it cannot, reason is an event.Error.
func (g *Group) reach(ctx context.Context, l *listener, to destination, own hello.Hello) (h hop, reason string) {
	g.settleSecurity(ctx, l, &to)
	h, reason, overtaken := g.approach(ctx, l, to, own, true)
	if overtaken && ctx.Err() == nil {
		// The server spoke first, and before its proxy had heard of this one; that
		// waits longer from now on.
		h, reason, _ = g.approach(ctx, l, to, own, false)
	}
	return h, reason
}

// approach tries once. overtaken: the server's own bytes came instead of its
// proxy's answer, which is told as no refusal where it is to be tried again.
func (g *Group) approach(ctx context.Context, l *listener, to destination, own hello.Hello, again bool) (h hop, reason string, overtaken bool) {
	if h.tcp, reason = g.dial(ctx, l, to.addr); reason != "" {
		return hop{}, reason, false
	}
	h.conn, h.peer, h.reason = h.tcp, to.peer(), to.reason
	if to.mutual {
		if reason, overtaken = g.secure(ctx, &h, to, again); reason != "" {
			g.leave(ctx, h, overtaken && again)
			return hop{}, reason, overtaken
		}
	}
	if !to.mesh {
		return h, "", false
	}
	answer, reason, overtaken := g.greet(h.conn, own)
	if reason != "" {
		g.leave(ctx, h, overtaken && again)
		return hop{}, reason, overtaken
	}
	h.peer.Workload, h.peer.Pod, h.peer.Meshed = answer.Workload, answer.Pod, true
	return h, "", false
}

// leave closes a connection that came to nothing. Where it is tried again, a proxy
// at the other end has heard by then that the hello came too late: it ends the
// connection itself.
func (g *Group) leave(ctx context.Context, h hop, again bool) {
	if again {
		_ = h.tcp.SetReadDeadline(time.Now().Add(g.o.HelloTimeout / lateShare))
		stop := context.AfterFunc(ctx, func() { _ = h.tcp.SetReadDeadline(past()) })
		_, _ = io.Copy(io.Discard, h.tcp)
		stop()
	}
	_ = h.conn.Close()
}

// settleSecurity decides whether mutual TLS is spoken with a destination that
// does: only where this proxy can, and never with itself.
func (g *Group) settleSecurity(ctx context.Context, l *listener, to *destination) {
	if !to.mutual {
		return
	}
	plain := func(reason string) { to.mutual, to.mesh, to.reason = false, false, reason }
	switch {
	case l.Transparent && g.isOwn(to.addr):
		plain(ReasonSamePod)
	case to.strict:
	case g.o.Identity == nil:
		plain(ReasonNoIdentity)
	case !g.haveIdentity(ctx):
		plain(ReasonNotReady)
	}
}

// haveIdentity tells whether this proxy has a certificate, for which it waits a
// little just after its start.
func (g *Group) haveIdentity(ctx context.Context) bool {
	if g.o.Identity.ID() != "" || time.Since(g.mutual.started) > startTime {
		return g.o.Identity.ID() != ""
	}
	timer := time.NewTimer(identityWait)
	defer timer.Stop()
	select {
	case <-g.o.Identity.Ready():
		return g.o.Identity.ID() != ""
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// secure is the client's side of the handshake; overtaken and again as in approach.
func (g *Group) secure(ctx context.Context, h *hop, to destination, again bool) (reason string, overtaken bool) {
	if g.o.Identity == nil {
		return ErrNoCertificate, false
	}
	s, id, err := g.handshake(ctx, event.Outbound, h.tcp, func(ctx context.Context, w *wire) (*secured, string, error) {
		t, id, err := g.o.Identity.Client(ctx, w, to.identity)
		return secure(t, w), id, err
	})
	if err != nil {
		var other tls.RecordHeaderError
		why, overtaken := failure(err), errors.As(err, &other)
		if !overtaken || !again {
			g.deny(why, h.tcp, "mutual TLS failed", err)
		}
		return denyError(why), overtaken
	}
	h.tls, h.conn, h.peer.Identity, h.security, h.reason = s, s, id, event.Mutual, ""
	return "", false
}

// isOwn tells whether an address, host:port, is this host's.
func (g *Group) isOwn(addr string) bool {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return false
	}
	return isLocal(to.Addr().Unmap().WithZone(""))
}
