package intercept

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNotRedirected says that a connection which the rules must redirect went
// elsewhere, or nowhere.
var ErrNotRedirected = errors.New("redirection does not work")

// probePort is what the probe connects to where it may.
const probePort = 20001

// tokenLength is that of rand.Text.
const tokenLength = 26

// Probe proves that the rules of c hold for connections of this thread's
// network namespace: that the kernel has exactly these rules, and that a
// connection to an address of another host ends at the proxy's outbound port.
// The proxy must not listen there yet. It is done for each of IPv4 and IPv6
// over which the host can send anything; proven says which these were.
//
// The addresses are those reserved for documentation, or a neighbour's where
// only neighbours can be reached: if the redirect fails, one SYN packet is
// sent there.
func Probe(ctx context.Context, c Config) (proven []string, err error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if uint32(os.Geteuid()) == c.ProxyUID {
		return nil, fmt.Errorf("cannot validate as uid %d, which is the proxy's own and exempt: run init as another user, or with --validate=false", c.ProxyUID)
	}
	if err := Installed(c); err != nil {
		return nil, err
	}
	port, ok := c.probePort()
	if !ok {
		return nil, nil // every port is skipped: there is no redirect to prove
	}
	var unreachable []string
	for _, f := range []family{
		{"IPv4", "tcp4", netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("127.0.0.1")},
		{"IPv6", "tcp6", netip.MustParseAddr("2001:db8::1"), netip.IPv6Loopback()},
	} {
		done, err := c.probeFamily(ctx, f, port)
		if err != nil {
			return proven, err
		}
		if done {
			proven = append(proven, f.name)
		} else {
			unreachable = append(unreachable, f.name)
		}
	}
	if len(proven) == 0 {
		return nil, fmt.Errorf("cannot validate: over neither %s is there a route to any address that is not skipped; "+
			"run init once the network is up, or with --validate=false", strings.Join(unreachable, " nor "))
	}
	return proven, nil
}

// family is one version of IP.
type family struct {
	name, network string
	far, loopback netip.Addr
}

// probePort chooses a port that is not skipped.
func (c *Config) probePort() (uint16, bool) {
	port := uint16(probePort)
	for _, r := range c.SkipOutbound { // in ascending order, none touches the next
		if r.Contains(port) {
			if r.From > 1 {
				return r.From - 1, true
			}
			return r.To + 1, r.To < 65535
		}
	}
	return port, true
}

// probeFamily connects over one version of IP. Not done: it has no route.
func (c *Config) probeFamily(ctx context.Context, f family, port uint16) (done bool, err error) {
	at := netip.AddrPortFrom(f.loopback, c.OutboundPort)
	ln, err := net.ListenTCP(f.network, net.TCPAddrFromAddrPort(at))
	if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT) {
		return false, nil // the host does not have it
	}
	if err != nil {
		return false, fmt.Errorf("cannot validate: cannot listen on %s: %w; does the proxy run already?", at, err)
	}
	token := rand.Text()
	var serving sync.WaitGroup
	defer serving.Wait()
	defer func() { _ = ln.Close() }()
	serving.Go(func() { hand(ln, token) })

	for _, to := range candidates(f) {
		target := netip.AddrPortFrom(to, port)
		if c.skipsOutbound(target) {
			continue
		}
		got, err := read(ctx, f.network, target)
		switch {
		case isUnroutable(err):
			continue
		case err != nil:
			return false, fmt.Errorf("%w: a connection to %s did not come to the proxy's port %d: %w; "+
				"is NET_ADMIN granted? is nf_tables in the kernel? does another table redirect or drop it?",
				ErrNotRedirected, target, c.OutboundPort, err)
		case got != token:
			return false, fmt.Errorf("%w: a connection to %s was answered by somebody other than the listener on port %d",
				ErrNotRedirected, target, c.OutboundPort)
		}
		return true, nil
	}
	return false, nil
}

// hand gives the token to whoever connects, until the listener is closed.
func hand(ln net.Listener, token string) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		_ = c.SetDeadline(time.Now().Add(time.Second))
		_, _ = io.WriteString(c, token)
		_ = c.Close()
	}
}

// read connects and reads a token.
func read(ctx context.Context, network string, to netip.AddrPort) (string, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, to.String())
	if err != nil {
		return "", err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	token := make([]byte, tokenLength)
	if _, err := io.ReadFull(c, token); err != nil {
		return "", fmt.Errorf("it was accepted, and then: %w", err)
	}
	return string(token), nil
}

// isUnroutable tells errors with which a connection fails before any packet
// is made, so that there was nothing to redirect.
func isUnroutable(err error) bool {
	for _, errno := range []error{unix.ENETUNREACH, unix.EADDRNOTAVAIL, unix.EAFNOSUPPORT, unix.EACCES, unix.EINVAL} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// candidates are addresses of other hosts: a far one that needs a default
// route, then neighbours, one for each subnet.
func candidates(f family) []netip.Addr {
	out := []netip.Addr{f.far}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return out
	}
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err != nil || p.Addr().Is4() != f.far.Is4() || p.Addr().IsLoopback() || p.Addr().IsLinkLocalUnicast() || p.IsSingleIP() {
			continue
		}
		// The next or the previous one: whichever is neither the network's
		// first nor outside.
		for _, n := range []netip.Addr{p.Addr().Next(), p.Addr().Prev()} {
			if p.Contains(n) && n != p.Masked().Addr() && (n.Is6() || p.Contains(n.Next()) || p.Bits() == 31) {
				out = append(out, n)
				break
			}
		}
	}
	return out
}
