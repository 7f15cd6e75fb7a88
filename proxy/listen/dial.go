package listen

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/weirmesh/weir/event"
)

// errLoop says that a destination is one of the proxy's own listeners.
var errLoop = errors.New("the destination is this proxy")

// dial connects to target, on behalf of a listener. Where it cannot, reason is
// an event.Err constant.
func (g *Group) dial(ctx context.Context, l *listener, target string) (server *net.TCPConn, reason string) {
	d := net.Dialer{
		Timeout:         g.o.ConnectTimeout,
		KeepAliveConfig: keepAlive(),
		// Control sees addresses after names are resolved.
		Control: func(_, address string, _ syscall.RawConn) error {
			if g.loops(l, address) {
				return errLoop
			}
			return nil
		},
	}
	conn, err := d.DialContext(ctx, "tcp", target)
	if err != nil {
		g.dialErrors[l.Direction].Add(1)
		return nil, dialReason(err)
	}
	return conn.(*net.TCPConn), ""
}

// dialReason maps an error of dialling to an event.Err constant.
func dialReason(err error) string {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, errLoop):
		return event.ErrLoop
	case errors.Is(err, syscall.ECONNREFUSED):
		return event.ErrConnectRefused
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return event.ErrConnectTimeout
	}
	return event.ErrConnectFailed
}

// loops tells whether address is a listener of this proxy that l must not dial.
// One case is no loop: a workload that calls itself goes out and comes in
// again, so an outbound listener may dial an inbound one. Where connections are
// redirected, such a call never comes to the proxy.
func (g *Group) loops(l *listener, address string) bool {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return false
	}
	ip := to.Addr().Unmap().WithZone("")
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, own := range g.listeners {
		outAndIn := l.Direction == event.Outbound && own.Direction == event.Inbound && !l.Transparent
		if own.addr.Port() != to.Port() || outAndIn {
			continue
		}
		at := own.addr.Addr().Unmap().WithZone("")
		if at == ip || ip.IsUnspecified() || at.IsUnspecified() && isLocal(ip) {
			return true
		}
	}
	return false
}

// isLocal tells whether ip is an address of this host. It is asked only where
// the port is one of the proxy's own, which is rare.
func isLocal(ip netip.Addr) bool {
	if ip.IsLoopback() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if own, ok := netip.AddrFromSlice(n.IP); ok && own.Unmap() == ip {
				return true
			}
		}
	}
	return false
}

// addrOf is the address of a TCP connection's end, IPv4 as IPv4.
func addrOf(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := t.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// past is a deadline that has passed: setting it wakes whoever waits.
func past() time.Time { return time.Unix(1, 0) }
