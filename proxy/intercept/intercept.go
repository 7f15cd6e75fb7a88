// Package intercept leads a pod's TCP connections to its proxy, and proves that
// it does: it is `weir-proxy init`, which runs once, before the application.
//
// # Rules
//
// [Apply] writes one nftables table, "inet weir", which holds for IPv4 and
// IPv6. It speaks netlink to the kernel and needs no program of the image. The
// table has two chains of nat rules:
//
//   - prerouting sees what comes in from other hosts, and redirects it to the
//     proxy's inbound port;
//   - output sees what processes of the pod open, and redirects it to the
//     proxy's outbound port.
//
// Exempt are, in this order: inbound, what came in over loopback, what is not
// addressed to the pod (a redirect of that would make the proxy an open relay),
// the proxy's own ports, and skipped ports; outbound, the proxy's own
// connections (by its uid), loopback, which is where the application's
// processes speak to each other, skipped subnets and skipped ports.
//
// The table is replaced as a whole, in one transaction of the kernel's: there
// is no moment at which half of it holds. Where it is already as wanted,
// nothing is written. Connections that exist are not touched.
package intercept

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weirmesh/weir/proxy/ports"
)

// Defaults of Config.
const (
	DefaultInboundPort  = 4143
	DefaultOutboundPort = 4140
	DefaultAdminPort    = 4191
	DefaultProxyUID     = 1337
)

// maxSkips bounds each list of exemptions, so that one transaction and its
// acknowledgements fit the buffers of a netlink socket, which an ordinary
// container cannot enlarge.
const maxSkips = 64

// Config says what is redirected, and what is exempt.
type Config struct {
	// InboundPort and OutboundPort are where the proxy listens; AdminPort is
	// exempt as they are.
	InboundPort, OutboundPort, AdminPort uint16
	// ProxyUID is the user that the proxy runs as, and nobody else.
	ProxyUID uint32
	// SkipInbound are ports of the pod that its clients reach without the
	// proxy; SkipOutbound are ports, and SkipSubnets addresses, that the pod
	// reaches without it.
	SkipInbound, SkipOutbound []ports.Range
	SkipSubnets               []netip.Prefix
}

// DefaultConfig exempts nothing but the proxy itself.
func DefaultConfig() Config {
	return Config{
		InboundPort:  DefaultInboundPort,
		OutboundPort: DefaultOutboundPort,
		AdminPort:    DefaultAdminPort,
		ProxyUID:     DefaultProxyUID,
	}
}

// check finds what is wrong with the Config as a whole, and brings its lists
// into the one form in which they are written.
func (c *Config) check() error {
	if c.InboundPort == c.OutboundPort {
		return fmt.Errorf("--inbound-port and --outbound-port are both %d: the proxy needs two ports", c.InboundPort)
	}
	if c.ProxyUID == 0 {
		return errors.New("--proxy-uid is 0: whatever root's processes open would pass the proxy by; " +
			"run the proxy as a user of its own, for example --proxy-uid 1337")
	}
	c.SkipInbound, c.SkipOutbound = ports.Merge(c.SkipInbound), ports.Merge(c.SkipOutbound)
	c.SkipSubnets = mergeSubnets(c.SkipSubnets)
	for _, list := range []struct {
		flag string
		n    int
	}{
		{"--skip-inbound-ports", len(c.SkipInbound)},
		{"--skip-outbound-ports", len(c.SkipOutbound)},
		{"--skip-subnets", len(c.SkipSubnets)},
	} {
		if list.n > maxSkips {
			return fmt.Errorf("%s has %d separate entries, more than %d: use ranges", list.flag, list.n, maxSkips)
		}
	}
	return nil
}

// ownPorts are the proxy's, each once, in ascending order.
func (c *Config) ownPorts() []ports.Range {
	var own []ports.Range
	for _, port := range []uint16{c.InboundPort, c.OutboundPort, c.AdminPort} {
		if port != 0 {
			own = append(own, ports.Range{From: port, To: port})
		}
	}
	slices.SortFunc(own, func(a, b ports.Range) int { return int(a.From) - int(b.From) })
	return slices.Compact(own)
}

// skipsOutbound tells whether the output chain exempts the address.
func (c *Config) skipsOutbound(to netip.AddrPort) bool {
	for _, s := range c.SkipSubnets {
		if s.Contains(to.Addr()) {
			return true
		}
	}
	return ports.Contain(c.SkipOutbound, to.Port())
}

// mergeSubnets masks, sorts and drops what another one contains.
func mergeSubnets(in []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range in {
		out = append(out, p.Masked())
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int {
		if n := a.Addr().Compare(b.Addr()); n != 0 {
			return n
		}
		return a.Bits() - b.Bits()
	})
	kept := out[:0]
	for _, p := range out {
		if len(kept) == 0 || !kept[len(kept)-1].Contains(p.Addr()) {
			kept = append(kept, p)
		}
	}
	return kept
}
