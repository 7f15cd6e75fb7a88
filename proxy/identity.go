package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/proxy/mtls"
	"github.com/weirmesh/weir/proxy/ports"
)

const (
	wantFile = "the name of a file, for example --%s %s"
	// wantAddresses also says what gateway is: with many networks the node's own
	// connections, and so the kubelet's, come from there.
	wantAddresses = "addresses, ranges of them and gateway (the pod's default one), or none, for example --probes-from gateway,10.0.0.7,10.1.0.0/16"
)

// identitySettings are the flags of identity, mutual TLS and discovery.
func identitySettings() []setting {
	return []setting{
		{name: "bus-token", value: "FILE", usage: "file with the token to show to the bus, read anew for each connection (default that of --identity-token)",
			want: fmt.Sprintf(wantFile, "bus-token", "/var/run/secrets/weir/token"),
			set:  func(c *Config, v string) error { c.Telemetry.BusToken = v; return nil }},
		{name: "bus-trust-anchors", value: "FILE|PEM", usage: "certificates of whom the bus may be certified by: connect with TLS (default those of --identity-trust-anchors where --bus is tls://)",
			want: fmt.Sprintf(wantFile, "bus-trust-anchors", "/etc/weir/ca.crt"),
			set:  func(c *Config, v string) error { c.Telemetry.BusAnchors = v; return nil }},
		{name: "identity-token", value: "FILE", usage: "file with the ServiceAccount's token that certificates are asked for with; none: no certificates from the control plane",
			want: fmt.Sprintf(wantFile, "identity-token", "/var/run/secrets/weir/token"),
			set:  func(c *Config, v string) error { c.Identity.Token = v; return nil }},
		{name: "identity-cert", value: "FILE", usage: "certificate of this proxy, PEM, instead of --identity-token",
			want: fmt.Sprintf(wantFile, "identity-cert", "/etc/weir/tls.crt"),
			set:  func(c *Config, v string) error { c.Identity.Certificate = v; return nil }},
		{name: "identity-key", value: "FILE", usage: "key of --identity-cert, PEM",
			want: fmt.Sprintf(wantFile, "identity-key", "/etc/weir/tls.key"),
			set:  func(c *Config, v string) error { c.Identity.Key = v; return nil }},
		{name: "identity-trust-anchors", value: "FILE|PEM", usage: "certificates that those of the mesh lead to",
			want: fmt.Sprintf(wantFile, "identity-trust-anchors", "/etc/weir/ca.crt"),
			set:  func(c *Config, v string) error { c.Identity.Anchors = v; return nil }},
		{name: "trust-domain", value: "NAME", usage: `trust domain of the mesh's identities (default "` + DefaultTrustDomain + `")`,
			want: wantName("trust-domain", "cluster.local"),
			set:  func(c *Config, v string) error { c.Identity.TrustDomain = v; return checkName(v, 253) }},
		{name: "require-mtls", usage: "serve only clients that prove an identity of the mesh by mutual TLS (default false)",
			want: "true or false, for example --require-mtls=true",
			set:  func(c *Config, v string) error { return setBool(&c.Identity.RequireMutual, v) }},
		{name: "probes-from", value: "ADDRS", usage: "the node's addresses: plain clients from there, such as the kubelet's probes, are told as ext/node, and served though --require-mtls (default none)",
			want: wantAddresses, set: setProbesFrom},
		{name: "probe-ports", value: "PORTS", usage: "to which ports they may (default all)",
			want: "ports and ranges, for example --probe-ports 8080,9000-9010",
			set: func(c *Config, v string) error {
				list, err := ports.Parse(v)
				c.Identity.ProbePorts = ports.Merge(list)
				return err
			}},
		{name: "discovery", usage: "ask the control plane where --transparent outbound connections go (default true with --identity-token)",
			want: "true or false, for example --discovery=true",
			set:  func(c *Config, v string) error { return setBool(&c.Traffic.Discovery, v) }},
	}
}

func setProbesFrom(c *Config, v string) error {
	for one := range strings.SplitSeq(v, ",") {
		switch one = strings.TrimSpace(one); {
		case one == "" || one == "none":
			continue // a variable of which a part is not set
		case one == "gateway":
			gateways, err := defaultGateways()
			if err != nil {
				return err
			}
			c.Identity.ProbesFrom = append(c.Identity.ProbesFrom, gateways...)
			continue
		case strings.Contains(one, "/"):
			p, err := netip.ParsePrefix(one)
			if err != nil {
				return fmt.Errorf("%q is no range of addresses", one)
			}
			c.Identity.ProbesFrom = append(c.Identity.ProbesFrom, p.Masked())
		default:
			a, err := netip.ParseAddr(one)
			if err != nil {
				return fmt.Errorf("%q is no address", one)
			}
			c.Identity.ProbesFrom = append(c.Identity.ProbesFrom, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return nil
}

// checkIdentity finds what is wrong with the settings of identity together.
func (c *Config) checkIdentity() error {
	i := &c.Identity
	switch {
	case i.Token != "" && i.Certificate != "":
		return errors.New("--identity-token and --identity-cert exclude each other: certificates come from the control plane or from files")
	case (i.Certificate == "") != (i.Key == ""):
		return errors.New("--identity-cert and --identity-key need each other")
	case i.Enabled() && i.Anchors == "":
		return errors.New("--identity-token and --identity-cert need --identity-trust-anchors, to know whom to believe")
	case i.Token != "" && c.Telemetry.Bus == "":
		return errors.New("--identity-token needs --bus: certificates are asked for over the bus")
	case i.RequireMutual && !i.Enabled():
		return errors.New("--require-mtls needs --identity-token, or --identity-cert with --identity-key: without a certificate nobody can be served")
	}
	for _, l := range c.Traffic.Listeners {
		if l.Identity != "" && !i.Enabled() {
			return fmt.Errorf("--outbound %s=%s: identity= needs --identity-token, or --identity-cert with --identity-key", l.Listen, l.Target)
		}
		if l.Discover && c.Telemetry.Bus == "" {
			return errors.New("discovery needs --bus: endpoints are asked for over the bus")
		}
	}
	return nil
}

// UsesBus tells whether the proxy needs a connection to the bus.
func (c *Config) UsesBus() bool {
	if c.Publishes() || c.Identity.Token != "" {
		return true
	}
	return c.discovers()
}

func (c *Config) discovers() bool {
	for _, l := range c.Traffic.Listeners {
		if l.Discover {
			return true
		}
	}
	return false
}

// ReadPEM returns what a setting of the form FILE|PEM means.
func ReadPEM(setting string) ([]byte, error) {
	if strings.Contains(setting, "-----BEGIN ") {
		return []byte(setting), nil
	}
	b, err := os.ReadFile(setting)
	if err != nil {
		return nil, fmt.Errorf("cannot read certificates: %w", err)
	}
	return b, nil
}

// newIdentity makes the proxy's identity; nil where it is to have none.
func (p *Proxy) newIdentity() (*mtls.Identity, error) {
	c := &p.cfg.Identity
	if !c.Enabled() {
		return nil, nil
	}
	anchors, err := ReadPEM(c.Anchors)
	if err != nil {
		return nil, fmt.Errorf("%w; change --identity-trust-anchors", err)
	}
	var source mtls.Source
	switch {
	case c.Token != "" && p.cfg.Control == nil:
		return nil, errors.New("cannot ask for certificates: there is no connection to the bus")
	case c.Token != "":
		source = &mtls.Authority{Anchors: anchors, Sign: p.sign}
	default:
		source = files{mtls.Files{Certificate: c.Certificate, Key: c.Key, Anchors: c.Anchors}, anchors}
	}
	return mtls.New(mtls.Options{TrustDomain: c.TrustDomain, Source: source, Logger: p.log}), nil
}

// files are mtls.Files whose anchors may be given otherwise.
type files struct {
	mtls.Files
	anchors []byte
}

func (f files) Certify(ctx context.Context) (tls.Certificate, []byte, error) {
	if bytes.Contains([]byte(f.Anchors), []byte("-----BEGIN ")) {
		c, err := f.Pair()
		return c, f.anchors, err
	}
	return f.Files.Certify(ctx)
}

// sign has the control plane certify a key for the token of the moment.
func (p *Proxy) sign(ctx context.Context, csr []byte) (chain, anchors []byte, err error) {
	token, err := os.ReadFile(p.cfg.Identity.Token)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read the token; change --identity-token: %w", err)
	}
	request, err := json.Marshal(&control.CertifyRequest{Token: string(bytes.TrimSpace(token)), CSR: csr})
	if err != nil {
		return nil, nil, err
	}
	b, err := p.cfg.Control.Request(ctx, control.IdentityService, control.CertifyMethod, request)
	if err != nil {
		return nil, nil, err
	}
	var reply control.CertifyReply
	if err := control.Decode(b, &reply); err != nil {
		return nil, nil, err
	}
	if reply.Error != nil {
		return nil, nil, reply.Error
	}
	return []byte(reply.Chain), []byte(reply.Anchors), nil
}
