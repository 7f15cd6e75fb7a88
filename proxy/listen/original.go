package listen

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/weirmesh/weir/proxy/ports"
)

// soOriginalDst is SO_ORIGINAL_DST of level SOL_IP, and IP6T_SO_ORIGINAL_DST of
// SOL_IPV6.
const soOriginalDst = 80

// destination is where a client's connection goes, and whether it is carried
// undetected.
func (g *Group) destination(l *listener, client *net.TCPConn) (target string, opaque bool) {
	if !l.Transparent {
		return l.Target, l.Opaque
	}
	to, err := originalDestination(client)
	if err != nil {
		// To the listener itself: dialling refuses that.
		g.log.Warn("cannot tell where a connection is to go; refusing it", "listen", l.addr, "error", err)
		to = addrOf(client.LocalAddr())
	}
	return to.String(), l.Opaque || ports.Contain(l.OpaquePorts, to.Port())
}

// originalDestination is where the client of a redirected connection meant to
// go. Of one that was not redirected it is the listener's own address.
func originalDestination(c *net.TCPConn) (netip.AddrPort, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	own := addrOf(c.LocalAddr())
	var to netip.AddrPort
	var failed error
	err = raw.Control(func(fd uintptr) {
		if own.Addr().Is4() {
			to, failed = originalDestination4(int(fd))
		} else {
			to, failed = originalDestination6(int(fd))
		}
	})
	if err == nil {
		err = failed
	}
	switch {
	case err == nil:
		return to, nil
	case errors.Is(err, unix.ENOENT):
		return own, nil // the kernel translated no address of this connection
	}
	return netip.AddrPort{}, fmt.Errorf("cannot read the original destination: %w", os.NewSyscallError("getsockopt", err))
}

// originalDestination4 asks for a sockaddr_in. The struct that it is read into
// is one of x/sys that is no smaller: family, port and address are its first
// eight bytes.
func originalDestination4(fd int) (netip.AddrPort, error) {
	m, err := unix.GetsockoptIPv6Mreq(fd, unix.SOL_IP, soOriginalDst)
	if err != nil {
		return netip.AddrPort{}, err
	}
	b := m.Multiaddr
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:4])), nil
}

// originalDestination6 asks for a sockaddr_in6, which the struct begins with.
func originalDestination6(fd int) (netip.AddrPort, error) {
	m, err := unix.GetsockoptIPv6MTUInfo(fd, unix.SOL_IPV6, soOriginalDst)
	if err != nil {
		return netip.AddrPort{}, err
	}
	ip := netip.AddrFrom16(m.Addr.Addr)
	if id := m.Addr.Scope_id; id != 0 && ip.IsLinkLocalUnicast() {
		if i, err := net.InterfaceByIndex(int(id)); err == nil {
			ip = ip.WithZone(i.Name)
		}
	}
	// The port is in network order, in a field of the machine's.
	return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, m.Addr.Port))), nil
}
