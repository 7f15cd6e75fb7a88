package intercept

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/weirmesh/weir/proxy/ports"
)

// Names in the kernel.
const (
	tableName       = "weir"
	preroutingChain = "prerouting"
	outputChain     = "output"
)

// rule is one rule in both its forms: nft's syntax, and what the kernel takes.
type rule struct {
	text    string
	comment string
	exprs   []expr.Any
}

// chain is a base chain and its rules.
type chain struct {
	name     string
	hook     *nftables.ChainHook
	priority string // as nft prints -100 there
	rules    []rule
}

// ruleset is the whole table.
func (c *Config) ruleset() []chain {
	return []chain{
		{name: preroutingChain, hook: nftables.ChainHookPrerouting, priority: "dstnat", rules: c.prerouting()},
		{name: outputChain, hook: nftables.ChainHookOutput, priority: "-100", rules: c.output()},
	}
}

func (c *Config) prerouting() []rule {
	rules := []rule{
		returnRule(matchInterface(expr.MetaKeyIIFNAME, "iifname"), "loopback"),
		returnRule(notLocal(), "not for this pod"),
	}
	for _, p := range c.ownPorts() {
		rules = append(rules, returnRule(matchPorts(p), "the proxy's own port"))
	}
	for _, p := range c.SkipInbound {
		rules = append(rules, returnRule(matchPorts(p), "skipped inbound port"))
	}
	return append(rules, redirect(c.InboundPort, "to the proxy, inbound"))
}

func (c *Config) output() []rule {
	rules := []rule{
		returnRule(matchUID(c.ProxyUID), "the proxy itself"),
		returnRule(matchInterface(expr.MetaKeyOIFNAME, "oifname"), "loopback"),
	}
	for _, s := range c.SkipSubnets {
		rules = append(rules, returnRule(matchSubnet(s), "skipped subnet"))
	}
	for _, p := range c.SkipOutbound {
		rules = append(rules, returnRule(matchPorts(p), "skipped outbound port"))
	}
	return append(rules, redirect(c.OutboundPort, "to the proxy, outbound"))
}

// Rules is the table in nft's syntax, as `nft -s list table inet weir` prints
// it and `nft -f` reads it.
func (c Config) Rules() (string, error) {
	if err := c.check(); err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", tableName)
	for i, ch := range c.ruleset() {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "\tchain %s {\n\t\ttype nat hook %s priority %s; policy accept;\n", ch.name, ch.name, ch.priority)
		for _, r := range ch.rules {
			fmt.Fprintf(&b, "\t\t%s comment %q\n", r.text, r.comment)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String(), nil
}

// returnRule leaves what matches alone.
func returnRule(match rule, comment string) rule {
	return rule{
		text:    match.text + " return",
		comment: comment,
		exprs:   append(match.exprs, &expr.Verdict{Kind: expr.VerdictReturn}),
	}
}

// redirect leads TCP to a port of this pod, and counts.
func redirect(port uint16, comment string) rule {
	return rule{
		text:    fmt.Sprintf("meta l4proto tcp counter redirect to :%d", port),
		comment: comment,
		exprs: append(matchTCP(),
			&expr.Counter{},
			&expr.Immediate{Register: 1, Data: portBytes(port)},
			&expr.Redir{RegisterProtoMin: 1, RegisterProtoMax: 1, Flags: unix.NF_NAT_RANGE_PROTO_SPECIFIED},
		),
	}
}

func matchTCP() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
	}
}

// matchInterface matches packets over loopback; name is nft's for the key.
func matchInterface(key expr.MetaKey, name string) rule {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, "lo")
	return rule{text: name + ` "lo"`, exprs: []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: padded},
	}}
}

// notLocal matches what is addressed to another host.
func notLocal() rule {
	return rule{text: "fib daddr type != local", exprs: []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)},
	}}
}

func matchUID(uid uint32) rule {
	return rule{text: fmt.Sprintf("meta skuid %d", uid), exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeySKUID, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, uid)},
	}}
}

// matchPorts matches TCP to ports.
func matchPorts(p ports.Range) rule {
	const destinationPort, portLength = 2, 2 // in the TCP header
	exprs := append(matchTCP(),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: destinationPort, Len: portLength})
	if p.From == p.To {
		exprs = append(exprs, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: portBytes(p.From)})
	} else {
		exprs = append(exprs,
			&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: portBytes(p.From)},
			&expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: portBytes(p.To)})
	}
	return rule{text: "tcp dport " + p.String(), exprs: exprs}
}

// matchSubnet matches packets to addresses.
func matchSubnet(s netip.Prefix) rule {
	family, name, offset := byte(unix.NFPROTO_IPV4), "ip", uint32(16) // of the destination in the header
	if s.Addr().Is6() {
		family, name, offset = unix.NFPROTO_IPV6, "ip6", 24
	}
	address := s.Addr().AsSlice()
	text := s.String()
	if s.IsSingleIP() {
		text = s.Addr().String()
	}
	// As nft does it: whole bytes are compared without a mask.
	whole := s.Bits() > 0 && s.Bits()%8 == 0
	if whole {
		address = address[:s.Bits()/8]
	}
	exprs := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(len(address))},
	}
	if !whole {
		exprs = append(exprs, &expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: uint32(len(address)),
			Mask: mask(s.Bits(), len(address)), Xor: make([]byte, len(address)),
		})
	}
	exprs = append(exprs, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: address})
	return rule{text: name + " daddr " + text, exprs: exprs}
}

// mask is n bytes that begin with so many bits set.
func mask(bits, n int) []byte {
	m := make([]byte, n)
	for i := range bits {
		m[i/8] |= 0x80 >> (i % 8)
	}
	return m
}

// portBytes is a port as the wire has it.
func portBytes(port uint16) []byte { return binary.BigEndian.AppendUint16(nil, port) }
