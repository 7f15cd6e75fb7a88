package listen

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/balance"
	"github.com/weirmesh/weir/proxy/hello"
	"github.com/weirmesh/weir/proxy/http1"
	"github.com/weirmesh/weir/proxy/http2"
	"github.com/weirmesh/weir/proxy/relay"
	"github.com/weirmesh/weir/proxy/socket"
)

const (
	// silentTime is how long the client of a balanced listener may be silent
	// before it is taken to wait for its server to speak first.
	silentTime = 50 * time.Millisecond
	// maxDials bounds how many endpoints are tried for a TCP connection.
	maxDials = 3
)

// balanced is what a listener has that balances: requests by HTTP's relays,
// anything else by connection.
type balanced struct {
	set  *balance.Set
	h1   *http1.Outbound
	h2   *http2.Outbound
	once sync.Once
}

// close ends the connections to endpoints, when no client is left.
func (b *balanced) close() {
	b.once.Do(func() {
		b.h1.Close()
		b.h2.Close()
	})
}

// newBalanced is the balancer of a Spec; nil where it does not balance.
func (g *Group) newBalanced(l *listener) *balanced {
	if len(l.Endpoints) == 0 {
		return nil
	}
	endpoints := make([]balance.Endpoint, len(l.Endpoints))
	for i, addr := range l.Endpoints {
		endpoints[i] = balance.Endpoint{Addr: addr, Workload: l.Peer}
	}
	return g.balance(l, balance.New(balance.Options{}, endpoints...))
}

// balance makes a balancer over a set.
func (g *Group) balance(l *listener, set *balance.Set) *balanced {
	dial := func(ctx context.Context, e balance.Endpoint, p event.Protocol) (balance.Connection, string) {
		return g.dialEndpoint(ctx, l, e, p)
	}
	return &balanced{set: set,
		h1: http1.NewOutbound(http1.OutboundOptions{Set: set, Dial: dial}),
		h2: http2.NewOutbound(http2.OutboundOptions{Set: set, Dial: dial, MaxHeadBytes: g.o.MaxHeadBytes}),
	}
}

// closeBalanced ends the connections to endpoints, when no client is left.
func (g *Group) closeBalanced() {
	for _, l := range g.listeners {
		if l.balanced != nil {
			l.balanced.close()
		}
	}
	g.mu.Lock()
	var found []*balanced
	for _, b := range g.balancers {
		found = append(found, b)
	}
	clear(g.balancers)
	g.mu.Unlock()
	for _, b := range found {
		b.close()
	}
}

// dialEndpoint connects to an endpoint, and introduces the proxy where it is
// meshed.
func (g *Group) dialEndpoint(ctx context.Context, l *listener, e balance.Endpoint, p event.Protocol) (balance.Connection, string) {
	to := l.endpoint(e)
	c := balance.Connection{ID: g.newID(), SecurityReason: to.reason, Peer: to.peer()}
	if addr, err := netip.ParseAddrPort(e.Addr); err == nil {
		c.Peer.Addr = addr
	}
	h, reason := g.reach(ctx, l, to, hello.Hello{Connection: c.ID, Protocol: p, Destination: e.Addr})
	if reason != "" {
		return c, reason
	}
	c.Conn, c.Peer, c.Security, c.SecurityReason = h.conn, h.peer, h.security, h.reason
	c.Peer.Addr = addrOf(h.tcp.RemoteAddr())
	return c, ""
}

// awaitNeed waits, on a balanced listener, until it is known whether the
// connection as a whole needs an endpoint: HTTP's requests have their own.
func (c *conn) awaitNeed() bool {
	timer := time.NewTimer(silentTime)
	defer timer.Stop()
	select {
	case <-c.known:
		c.mu.Lock()
		defer c.mu.Unlock()
		return !c.balancedHTTP(c.verdict) && c.verdict.refused == "" && !c.verdict.abandoned
	case <-timer.C:
		return true
	}
}

// balancedHTTP tells whether the requests of a connection are balanced.
func (c *conn) balancedHTTP(v verdict) bool {
	return c.balanced != nil && (v.protocol == event.HTTP1 || v.protocol == event.HTTP2) && v.refused == "" && !v.abandoned
}

// dialBalanced connects to an endpoint for a connection that is carried as TCP.
func (c *conn) dialBalanced() (h hop, reason string) {
	set := c.balanced.set
	var m *balance.Member
	for i := 0; ; i++ {
		if m = set.Pick(m); m == nil {
			return hop{}, event.ErrNoEndpoints
		}
		start := time.Now()
		h, reason = c.dialTo(c.l.endpoint(m.Endpoint()))
		m.Observe(time.Since(start), h.tcp == nil)
		if h.tcp != nil {
			m.Connected()
			m.Begin()
			c.member = m
			return h, ""
		}
		m.Failed()
		if i+1 >= maxDials || c.g.hard.Err() != nil {
			return hop{}, reason
		}
		set.Retry()
	}
}

// overEarly has the requests of a client that was slow to speak begin with the
// connection that was made for it meanwhile: the server's proxy has heard of that
// one and would tell of it, if it came to nothing, as one that no client made.
// It returns nil where there is none that can be used.
func (c *conn) overEarly(v verdict) (serve func(context.Context, *relay.Conn)) {
	if c.server == nil {
		return nil
	}
	m, h := c.member, c.hop
	c.member, c.server, c.hop = nil, nil, hop{}
	m.End()
	if n, open := socket.Waiting(h.tcp); n > 0 || !open || len(c.serverEarly) > 0 || m.Removed() {
		_ = h.conn.Close()
		return nil
	}
	conn := balance.Connection{Conn: h.conn, ID: c.id, Peer: h.peer, Security: h.security, SecurityReason: h.reason}
	conn.Peer.Addr = addrOf(h.tcp.RemoteAddr())
	return func(ctx context.Context, rc *relay.Conn) {
		if v.protocol == event.HTTP2 {
			c.balanced.h2.ServeOver(ctx, rc, m, conn)
		} else {
			c.balanced.h1.ServeOver(ctx, rc, m, conn)
		}
	}
}

// BalancerStats is what a balanced listener counted since its start.
type BalancerStats struct {
	// Listen is the listener's address.
	Listen netip.AddrPort
	// Retries counts requests that were tried again.
	Retries uint64
	// Endpoints are those of the moment.
	Endpoints []balance.MemberStats
}

// BalancerStats returns the counters of all listeners that balance.
func (g *Group) BalancerStats() []BalancerStats {
	g.mu.Lock()
	listeners := g.listeners
	g.mu.Unlock()
	var all []BalancerStats
	for _, l := range listeners {
		if l.balanced == nil {
			continue
		}
		st := BalancerStats{Listen: l.addr, Retries: l.balanced.set.Retries()}
		for _, m := range l.balanced.set.Members() {
			st.Endpoints = append(st.Endpoints, m.Stats())
		}
		all = append(all, st)
	}
	return all
}

// Balancer returns the set of endpoints of the listener at an address, to be
// changed as endpoints come and go; nil where none balances there.
func (g *Group) Balancer(at netip.AddrPort) *balance.Set {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, l := range g.listeners {
		if l.addr == at && l.balanced != nil {
			return l.balanced.set
		}
	}
	return nil
}

// joinTargets is what a listener's endpoints are called together.
func joinTargets(endpoints []string) string { return strings.Join(endpoints, "+") }
