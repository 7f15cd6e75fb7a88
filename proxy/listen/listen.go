// Package listen accepts connections, finds out where they go and what they
// speak, and hands each to the relay of its protocol.
//
// # Who speaks first
//
// A [Group] dials the server at once when it has accepted a client, and then
// waits on both: whichever side speaks first decides. A client's first bytes
// name the protocol (package detect); a server that speaks first makes it TCP,
// and is remembered, so that the next connection to it need not wait. A silent
// pair waits without holding a buffer: bytes are looked at in the kernel's
// (MSG_PEEK), and the relay reads them itself.
//
// # Hello
//
// On a meshed hop the client's proxy sends a hello at once, with the protocol
// where it knows it already, and the server's proxy answers with its own
// before anything else (package hello). The server's proxy recognises a hello
// by its first bytes, and serves clients without one too. A server that speaks
// first is held back for a moment, lest its bytes overtake the answer; for a
// client that is known to send no hello, that moment is next to none. A hello
// that comes later yet ends the connection, and the client's proxy, which has
// nothing of the client's under way then, connects once more.
//
// # Mutual TLS
//
// Where both proxies have an identity the hellos, and all that follows, travel
// in TLS 1.3 (package mtls). The server's proxy recognises a ClientHello that is
// meant for it by its ALPN; any other is the application's, and passes through.
package listen

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/detect"
	"github.com/weirmesh/weir/proxy/discover"
	"github.com/weirmesh/weir/proxy/mtls"
	"github.com/weirmesh/weir/proxy/ports"
	"github.com/weirmesh/weir/proxy/relay"
	"github.com/weirmesh/weir/proxy/socket"
)

// Defaults of Options.
const (
	DefaultMaxConnections = 10_000
	DefaultConnectTimeout = 5 * time.Second
	DefaultDetectTimeout  = time.Second
	DefaultHelloTimeout   = 5 * time.Second
	DefaultHelloGrace     = 100 * time.Millisecond
)

// Bounds of what is remembered of servers that speak first.
const (
	memorySize = 1024
	memoryTTL  = 10 * time.Minute
)

// Of clients without a proxy it is remembered for a shorter time that they sent
// no hello: an address may get another owner. Until then a server that speaks
// first is held back for plainGrace at most.
const (
	plainTTL   = time.Minute
	plainGrace = 5 * time.Millisecond
)

// Of clients whose hello came too late it is remembered for as long: for theirs, a
// server that speaks first is held back for a lateShare of Options.HelloTimeout.
const (
	lateTTL   = time.Minute
	lateShare = 4
)

// Reasons for plain connections, as events state them.
const (
	// ReasonUnmeshed: the peer has no proxy.
	ReasonUnmeshed = "peer_not_meshed"
	// ReasonNoIdentity: both ends have proxies, and one of them is not set up to
	// have a certificate.
	ReasonNoIdentity = "no_identity"
	// ReasonNotReady: this proxy was to have a certificate, and has none that is
	// valid now.
	ReasonNotReady = "identity_not_ready"
	// ReasonSamePod: the workload calls itself; nothing leaves the pod.
	ReasonSamePod = "same_pod"
	// ReasonNotConnected: there was no connection that could be secure.
	ReasonNotConnected = "not_connected"
)

// Errors of mutual TLS, as events state them (Event.Error).
const (
	// ErrHandshake: the handshake failed otherwise than is said below.
	ErrHandshake = "tls_handshake"
	// ErrUntrusted: the peer's certificate is not to be trusted: it is another
	// authority's or trust domain's, or has expired.
	ErrUntrusted = "peer_untrusted"
	// ErrWrongIdentity: the peer proved another identity than it was to have, or
	// than its hello claims.
	ErrWrongIdentity = "wrong_identity"
	// ErrMutualRequired: the client is not meshed, and only meshed ones are
	// served.
	ErrMutualRequired = "mtls_required"
	// ErrNoCertificate: this proxy has no valid certificate to prove itself by.
	ErrNoCertificate = "no_certificate"
)

// Relays carries connections by protocol. Each takes a relay.Conn over, as
// package relay says.
type Relays struct {
	HTTP1, HTTP2, TCP func(context.Context, *relay.Conn)
}

// Options configures a Group. Self, Relays and Recorder must be set; the zero
// value of the others means their default.
type Options struct {
	// Self is what the proxy says of itself in hellos.
	Self event.Source
	// Relays carry the connections.
	Relays Relays
	// Recorder takes the events, those of the relays too.
	Recorder relay.Recorder
	// MaxConnections bounds the clients' connections of all listeners; one
	// more is closed at once, with an event.
	MaxConnections int
	// ConnectTimeout bounds dialling a server.
	ConnectTimeout time.Duration
	// DetectTimeout bounds how long the first part of a request line is
	// waited upon for its rest, and how long a client may keep silent once its
	// server is known to be away.
	DetectTimeout time.Duration
	// HelloTimeout bounds the exchange of hellos.
	HelloTimeout time.Duration
	// HelloGrace is how long a server that speaks first is held back for the
	// client's hello, on inbound listeners not declared Mesh. It is waited once:
	// of clients that send none, it is remembered for a minute.
	HelloGrace time.Duration
	// Identity proves who this proxy is; nil: it speaks no mutual TLS.
	Identity *mtls.Identity
	// RequireMutual refuses inbound connections that are not mutual TLS, but for
	// those from PlainFrom to PlainPorts (all where there are none). PlainFrom is
	// the node: plain clients from there are told as the workload ext/node.
	RequireMutual bool
	PlainFrom     []netip.Prefix
	PlainPorts    []ports.Range
	// Discovery knows the destinations of listeners that Discover; nil: nobody
	// does, and all goes to where it is addressed.
	Discovery *discover.Resolver
	// MaxHeadBytes, HeadTimeout and Progress are handed to the relays.
	MaxHeadBytes int
	HeadTimeout  time.Duration
	Progress     time.Duration
	// Logger is told what an operator must know; nil discards.
	Logger *slog.Logger
}

// Spec is one listener.
type Spec struct {
	// Direction is Inbound or Outbound.
	Direction event.Direction
	// Listen is the address to accept on, Target the one to dial: host:port.
	Listen, Target string
	// Endpoints, outbound, are the addresses, host:port, that the listener
	// balances over, each HTTP request by itself and anything else by
	// connection. Target is not dialled then.
	Endpoints []string
	// Mesh, outbound: the target is a Weir proxy; exchange hellos. Inbound:
	// clients are Weir proxies; wait for their hello even if the server speaks.
	Mesh bool
	// Identity, outbound: the target must prove this SPIFFE ID by mutual TLS, or
	// that of anyone in the trust domain where it is [AnyIdentity]; such a target
	// is Mesh.
	Identity string
	// Transparent: connections come here because the kernel redirects them
	// (package intercept), and go to where they meant to go, instead of to
	// Target. Listen must then have an IP address, and accepts that version of
	// IP only.
	Transparent bool
	// Discover, outbound: what is behind the target, or the original destination,
	// is asked of Options.Discovery.
	Discover bool
	// Opaque connections are carried as TCP, undetected; so are those to
	// OpaquePorts of a Transparent listener.
	Opaque      bool
	OpaquePorts []ports.Range
	// Protocol fixes what connections speak; ProtocolUnknown detects it.
	Protocol event.Protocol
	// Peer names the other side where it does not name itself.
	Peer event.Workload
}

// Stats is what a Group counted since its start. Arrays are indexed by
// event.Direction.
type Stats struct {
	// Open is a gauge of clients' connections.
	Open [3]int64
	// Accepted and Limited count connections; Limited ones were closed at once
	// because of MaxConnections.
	Accepted, Limited [3]uint64
	// AcceptErrors counts failures of accept, such as too many open files.
	AcceptErrors uint64
	// DialErrors counts servers that could not be reached.
	DialErrors [3]uint64
	// HelloErrors counts exchanges of hellos that failed.
	HelloErrors uint64
	// Handshakes counts those of mutual TLS, HandshakeErrors those that failed.
	Handshakes, HandshakeErrors [3]uint64
	// Denied counts connections that were refused for who the peer is, by reason:
	// an event.Error.
	Denied map[string]uint64
	// Verdicts counts connections by event.Detection and event.Protocol.
	Verdicts [7][7]uint64
}

// Group is a set of listeners that share limits, memory and life. Its methods
// are safe for concurrent use.
type Group struct {
	o      Options
	memory *detect.Memory // of servers that speak first
	plain  *detect.Memory // of clients that sent no hello where one was waited for
	late   *detect.Memory // of clients whose hello came after that
	log    *slog.Logger

	hard     context.Context // ended by Close: connections end at once
	hardStop context.CancelFunc
	// drain is ended by Drain: connections end as they can.
	drain    context.Context
	endDrain context.CancelFunc

	accepting sync.WaitGroup // accept loops
	conns     sync.WaitGroup // connections

	mu        sync.Mutex // guards all below
	listeners []*listener
	detecting map[*conn]struct{} // connections that no relay has yet
	// poller watches servers on which nobody has spoken, and idle ones of HTTP/1;
	// nil before Serve, and where the system has none left.
	poller   *socket.Poller
	draining bool
	// balancers are those of services that were discovered.
	balancers map[*discover.Destination]*balanced

	lastID       atomic.Uint64 // of a connection
	open         [3]atomic.Int64
	accepted     [3]atomic.Uint64
	limited      [3]atomic.Uint64
	dialErrors   [3]atomic.Uint64
	acceptErrors atomic.Uint64
	helloErrors  atomic.Uint64
	verdicts     [7][7]atomic.Uint64

	mutual mutual
}

// listener is a Spec that listens.
type listener struct {
	Spec
	net  *net.TCPListener
	addr netip.AddrPort
	// balanced is nil where all goes to Target.
	balanced *balanced
}

// New makes a Group without listeners. The caller must Close it.
func New(o Options) *Group {
	setTime := func(p *time.Duration, v time.Duration) {
		if *p <= 0 {
			*p = v
		}
	}
	setTime(&o.ConnectTimeout, DefaultConnectTimeout)
	setTime(&o.DetectTimeout, DefaultDetectTimeout)
	// Whoever allows a connection more time means the hello on it, too.
	setTime(&o.HelloTimeout, max(DefaultHelloTimeout, o.ConnectTimeout))
	setTime(&o.HelloGrace, DefaultHelloGrace)
	if o.MaxConnections <= 0 {
		o.MaxConnections = DefaultMaxConnections
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	g := &Group{
		o:         o,
		memory:    detect.NewMemory(memorySize, memoryTTL),
		plain:     detect.NewMemory(memorySize, plainTTL),
		late:      detect.NewMemory(memorySize, lateTTL),
		log:       o.Logger,
		detecting: make(map[*conn]struct{}),
		balancers: make(map[*discover.Destination]*balanced),
	}
	g.mutual.init()
	g.lastID.Store(rand.Uint64() >> 16) // fewer bits are fewer bytes in batches
	g.hard, g.hardStop = context.WithCancel(context.Background())
	g.drain, g.endDrain = context.WithCancel(context.Background())
	return g
}

// keepAlive finds dead peers within about two minutes.
func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: 60 * time.Second, Interval: 15 * time.Second, Count: 4}
}

// Listen binds a listener and returns its address. Nothing is accepted before
// Serve.
func (g *Group) Listen(ctx context.Context, s Spec) (netip.AddrPort, error) {
	lc := net.ListenConfig{KeepAliveConfig: keepAlive()}
	network := "tcp"
	if s.Transparent {
		// The original destination is asked for by version of IP.
		if network = "tcp4"; strings.HasPrefix(s.Listen, "[") {
			network = "tcp6"
		}
	}
	ln, err := lc.Listen(ctx, network, s.Listen)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("cannot listen on %s: %w", s.Listen, err)
	}
	l := &listener{Spec: s, net: ln.(*net.TCPListener), addr: ln.Addr().(*net.TCPAddr).AddrPort()}
	l.Mesh = l.Mesh || s.Identity != ""
	if len(s.Endpoints) > 0 && s.Target == "" {
		l.Target = joinTargets(s.Endpoints)
	}
	l.balanced = g.newBalanced(l)
	g.mu.Lock()
	g.listeners = append(g.listeners, l)
	g.mu.Unlock()
	return l.addr, nil
}

// Serve begins to accept on all listeners, and returns at once.
func (g *Group) Serve() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.poller == nil && g.hard.Err() == nil {
		var err error
		if g.poller, err = socket.NewPoller(); err != nil {
			g.log.Warn("idle connections take more memory", "error", err)
		}
	}
	for _, l := range g.listeners {
		g.accepting.Go(func() { g.acceptLoop(l) })
	}
}

// Drain accepts what clients have already connected, then stops accepting,
// closes relay.Conn.Drain, and lets go of connections on which nobody has
// spoken. It returns when nothing is accepted any more.
func (g *Group) Drain() {
	g.mu.Lock()
	if g.draining {
		g.mu.Unlock()
		return
	}
	g.draining = true
	listeners := g.listeners
	g.mu.Unlock()
	for _, l := range listeners {
		// The loop sees this as its end, once the backlog is accepted.
		_ = l.net.SetDeadline(time.Now().Add(backlogTime))
	}
	g.accepting.Wait()
	for _, l := range listeners {
		_ = l.net.Close()
	}
	g.endDrain()
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.detecting {
		c.drain()
	}
}

// Wait waits until no connection is left, or ctx ends; its error then says how
// many there are.
func (g *Group) Wait(ctx context.Context) error {
	tick := time.NewTicker(waitInterval)
	defer tick.Stop()
	for {
		open := g.Open()
		if open == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d connections still open: %w", open, ctx.Err())
		case <-tick.C:
		}
	}
}

// waitInterval is how often Wait looks; backlogTime how long Drain goes on
// accepting what was connected before it.
const (
	waitInterval = 10 * time.Millisecond
	backlogTime  = 20 * time.Millisecond
)

// Close ends everything at once and returns when all goroutines have ended.
func (g *Group) Close() {
	g.hardStop()
	g.mu.Lock()
	for _, l := range g.listeners {
		_ = l.net.Close()
	}
	for c := range g.detecting {
		c.abort()
	}
	g.mu.Unlock()
	g.accepting.Wait()
	g.conns.Wait()
	if g.poller != nil {
		g.poller.Close()
	}
	g.closeBalanced()
	g.endDrain()
}

// onReadable is relay.Conn.OnReadable of all connections.
func (g *Group) onReadable(conn syscall.Conn, ready func()) (stop func() bool) {
	if g.poller == nil {
		return nil
	}
	return g.poller.Watch(conn, ready)
}

// onDrain is relay.Conn.OnDrain of all connections.
func (g *Group) onDrain(f func()) (stop func() bool) { return context.AfterFunc(g.drain, f) }

// Open is the number of clients' connections.
func (g *Group) Open() uint64 {
	return uint64(max(g.open[event.Inbound].Load()+g.open[event.Outbound].Load(), 0))
}

// Stats returns the counters.
func (g *Group) Stats() Stats {
	var s Stats
	for d := range s.Open {
		s.Open[d] = g.open[d].Load()
		s.Accepted[d] = g.accepted[d].Load()
		s.Limited[d] = g.limited[d].Load()
		s.DialErrors[d] = g.dialErrors[d].Load()
	}
	s.AcceptErrors = g.acceptErrors.Load()
	s.HelloErrors = g.helloErrors.Load()
	g.mutual.stats(&s)
	for i := range s.Verdicts {
		for j := range s.Verdicts[i] {
			s.Verdicts[i][j] = g.verdicts[i][j].Load()
		}
	}
	return s
}
