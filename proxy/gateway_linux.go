package proxy

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
)

// defaultGateways are the addresses of the host's default routes: where the
// node's own connections come from in networks that bridge pods.
func defaultGateways() ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, table := range []struct {
		name  string
		parse func(io.Reader) []netip.Addr
	}{{"/proc/net/route", gateways4}, {"/proc/net/ipv6_route", gateways6}} {
		f, err := os.Open(table.name)
		if os.IsNotExist(err) {
			continue // a host without this version of IP
		}
		if err != nil {
			return nil, fmt.Errorf("cannot tell the default gateway: %w", err)
		}
		for _, a := range table.parse(f) {
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
		}
		_ = f.Close()
	}
	return out, nil
}

// gateways4 reads /proc/net/route: interface, destination, gateway, flags … mask
// (the eighth), numbers in hexadecimal in the machine's order.
func gateways4(r io.Reader) []netip.Addr {
	var out []netip.Addr
	for lines := bufio.NewScanner(r); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) < 8 || f[1] != "00000000" || f[7] != "00000000" {
			continue
		}
		b, err := hex.DecodeString(f[2])
		if err != nil || len(b) != 4 {
			continue
		}
		var a [4]byte
		binary.NativeEndian.PutUint32(a[:], binary.BigEndian.Uint32(b))
		if ip := netip.AddrFrom4(a); !ip.IsUnspecified() {
			out = append(out, ip)
		}
	}
	return out
}

// gateways6 reads /proc/net/ipv6_route: destination, its length, source, its
// length, next hop …
func gateways6(r io.Reader) []netip.Addr {
	var out []netip.Addr
	for lines := bufio.NewScanner(r); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) < 10 || strings.Trim(f[0], "0") != "" || f[1] != "00" {
			continue
		}
		b, err := hex.DecodeString(f[4])
		if err != nil || len(b) != 16 {
			continue
		}
		if ip := netip.AddrFrom16([16]byte(b)); !ip.IsUnspecified() {
			out = append(out, ip)
		}
	}
	return out
}
