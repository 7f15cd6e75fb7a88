package listen

import (
	"net/netip"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/discover"
)

// discover finds out what is behind the connection's target: the endpoints of a
// service, which are balanced over; a single one, with the identity that it must
// prove; or nothing that is known, which is connected to as it is.
func (c *conn) discover() {
	g := c.g
	addr, err := netip.ParseAddrPort(c.target)
	if err != nil {
		// A listener's target by name: no question can be asked about it.
		addr = netip.AddrPort{}
	}
	c.found = g.o.Discovery.Resolve(g.hard, netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()))
	v := c.found.View()
	c.opaque = c.opaque || v.Opaque
	if c.protocol == event.ProtocolUnknown && !c.opaque {
		c.protocol = v.Protocol
	}
	switch {
	case !v.Known:
		c.to = destination{addr: c.target, reason: v.Reason, workload: c.l.Peer}
	case v.Service:
		c.balanced = g.balancerOf(c.l, c.found)
	default:
		c.to = discovered(v.Endpoint)
	}
}

// balancerOf is the balancer of a service, which all connections to it share. It
// ends when the service is forgotten.
func (g *Group) balancerOf(l *listener, d *discover.Destination) *balanced {
	g.mu.Lock()
	defer g.mu.Unlock()
	if b := g.balancers[d]; b != nil {
		return b
	}
	b := g.balance(l, d.Set())
	g.balancers[d] = b
	d.AtEnd(func() {
		g.mu.Lock()
		delete(g.balancers, d)
		g.mu.Unlock()
		b.close()
	})
	return b
}
