package transparent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/mtls/mtlstest"
)

// serviceIP is an address that no host has: a service's.
const serviceIP = "10.77.0.200"

// playDiscovery answers proxies from a file: destinations by IP address, any port
// of which is meant where they name no service.
func playDiscovery(ctx context.Context, url, file string) error {
	c, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer c.Close()
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var known map[netip.Addr]control.Destination
	if err := json.Unmarshal(data, &known); err != nil {
		return err
	}
	_, err = c.QueueSubscribe("weir.v1.rpc.discovery.resolve", "weir", func(m *nats.Msg) {
		var r control.ResolveRequest
		if err := control.Decode(m.Data, &r); err != nil {
			fmt.Println(err)
		}
		d := known[r.Addr.Addr()]
		d.Addrs = []netip.AddrPort{r.Addr}
		if d.Service == "" && d.Known {
			e := d.Endpoints[0]
			e.Addr = r.Addr
			d.Endpoints = []control.Endpoint{e}
		}
		b, err := json.Marshal(&d)
		if err == nil {
			err = m.Respond(b)
		}
		if err != nil {
			fmt.Println(err)
		}
	})
	if err == nil {
		err = c.Flush()
	}
	if err != nil {
		return err
	}
	fmt.Println(ready)
	<-ctx.Done()
	return nil
}

// identityArgs are flags of a sidecar with a certificate of an authority.
func identityArgs(t *testing.T, ca *mtlstest.Authority, account string) []string {
	t.Helper()
	f := ca.Files(t, control.SPIFFE(mtlstest.TrustDomain, "test", account), time.Hour)
	for _, name := range []string{f.Certificate, f.Key, f.Anchors} {
		if err := os.Chmod(name, 0o644); err != nil { // sidecars are not root
			t.Fatal(err)
		}
	}
	return []string{"--identity-cert", f.Certificate, "--identity-key", f.Key, "--identity-trust-anchors", f.Anchors}
}

// meshed are hosts that prove identities to each other, one that proves a
// stranger's, and a plain one.
type meshed struct {
	*pair
	strict, stranger *host
}

func identity(h *host) string { return control.SPIFFE(mtlstest.TrustDomain, "test", h.name) }

func newMeshed(t *testing.T) *meshed {
	t.Helper()
	w := newWorld(t)
	m := &meshed{pair: &pair{world: w, client: w.host("client"), server: w.host("server"), plain: w.host("plain")},
		strict: w.host("strict"), stranger: w.host("stranger")}
	pod := func(h *host) control.Destination {
		addr := netip.AddrPortFrom(netip.MustParseAddr(h.ip4), 8080)
		return control.Destination{Namespace: "test", Known: true, Endpoints: []control.Endpoint{
			{Addr: addr, Namespace: "test", Kind: "deploy", Name: h.name, Pod: h.name + "-0", Identity: identity(h)}}}
	}
	known := map[string]control.Destination{m.server.ip4: pod(m.server), m.strict.ip4: pod(m.strict)}
	service := pod(m.server)
	service.Service, service.Port = "server", 80
	service.Endpoints = append(service.Endpoints, known[m.strict.ip4].Endpoints...)
	known[serviceIP] = service
	file := filepath.Join(w.dir, "known.json")
	b, err := json.Marshal(known)
	if err == nil {
		err = os.WriteFile(file, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.bus.role("discovery", "nats://127.0.0.1:4222", file)
	for _, h := range []*host{m.server, m.strict, m.plain} {
		h.role("apps")
	}
	ca := mtlstest.New(t)
	start := func(h *host, ca *mtlstest.Authority, args ...string) {
		t.Helper()
		h.init()
		h.startProxy(append(identityArgs(t, ca, h.name), args...)...)
	}
	start(m.server, ca)
	start(m.strict, ca, "--require-mtls", "--probes-from", "10.77.0.1", "--probe-ports", httpPort)
	start(m.client, ca, "--discovery")
	start(m.stranger, mtlstest.New(t), "--discovery")
	return m
}

// curl has a host ask, and checks what is shown.
func (m *meshed) curl(t *testing.T, h *host, want string, args ...string) {
	t.Helper()
	out, err := h.output(append([]string{"curl", "-sS", "-m", "60"}, args...)...)
	if !strings.Contains(out, want) {
		t.Errorf("curl %q on %s: %v\n%s\nwant %q", args, h.name, err, out, want)
	}
}

// mutual waits for both sides' events of a request, which have the identities.
func (m *meshed) mutual(t *testing.T, path string) {
	t.Helper()
	for _, d := range []string{"outbound", "inbound"} {
		e := m.seen(t, path+", "+d, func(e *event.JSONEvent) bool { return e.Path == path && e.Direction == d })
		peer, wants := e.Destination.Identity, []string{identity(m.server), identity(m.strict)}
		if d == "inbound" {
			peer, wants = e.Source.Identity, []string{identity(m.client)}
		}
		if e.Security != "mutual" || !slices.Contains(wants, peer) {
			t.Errorf("%+v is not mutual TLS with one of %q", e, wants)
		}
	}
}

// TestMutualTLS has redirected hosts talk by mutual TLS, to each other's addresses
// and to a service's; strangers are refused, plain hosts served, or refused where
// mutual TLS is required.
func TestMutualTLS(t *testing.T) {
	m := newMeshed(t)
	t.Run("encrypted", m.testEncrypted)
	t.Run("plain", m.testPlain)
	t.Run("refused", m.testRefused)
}

// testEncrypted captures the network, and finds no clear text.
func (m *meshed) testEncrypted(t *testing.T) {
	capture := filepath.Join(m.dir, "capture")
	tap := m.client.start(0, "tcpdump", "-i", "eth0", "-Z", "root", "-U", "-w", capture, "tcp", "and", "not", "port", "4222")
	tap.await(t, "listening on")
	at := "http://" + m.server.ip4 + ":" + httpPort
	m.curl(t, m.client, "HTTP/1.1 POST /secret-one\nhidden-text", "-d", "hidden-text", at+"/secret-one")
	m.mutual(t, "/secret-one")
	m.curl(t, m.client, "HTTP/2.0 GET /secret-two", "--http2-prior-knowledge", at+"/secret-two")
	m.mutual(t, "/secret-two")
	for range 10 {
		m.curl(t, m.client, "GET /secret-service", "http://"+serviceIP+"/secret-service")
	}
	m.mutual(t, "/secret-service")
	c := m.client.dial(m.server.ip4 + ":" + bannerPort)
	expect(t, c, "220 banner\r\n")
	_ = c.Close()
	tap.stop(t)
	seen, err := os.ReadFile(capture)
	if err != nil || len(seen) < 2000 {
		t.Fatalf("captured %d bytes, %v", len(seen), err)
	}
	for _, clear := range []string{"secret", "hidden", "banner", "HTTP/", "WEIR"} {
		if strings.Contains(string(seen), clear) {
			t.Errorf("%q is in the clear", clear)
		}
	}
}

// testPlain has a host without a sidecar as client and as server.
func (m *meshed) testPlain(t *testing.T) {
	m.curl(t, m.plain, "GET /in-plain", "http://"+m.server.ip4+":"+httpPort+"/in-plain")
	m.seen(t, "a plain client", func(e *event.JSONEvent) bool {
		return e.Path == "/in-plain" && e.Direction == "inbound" && e.SecurityReason == "peer_not_meshed"
	})
	m.curl(t, m.client, "GET /to-plain", "http://"+m.plain.ip4+":"+httpPort+"/to-plain")
	m.seen(t, "a plain server", func(e *event.JSONEvent) bool {
		return e.Path == "/to-plain" && e.Direction == "outbound" && e.SecurityReason == "not_in_cluster"
	})
}

// testRefused has a plain host, and a stranger with a certificate of another
// authority, refused; a probe is let in to its port only.
func (m *meshed) testRefused(t *testing.T) {
	at := "http://" + m.strict.ip4 + ":"
	m.curl(t, m.plain, "curl: ", at+httpPort+"/refused")
	m.seen(t, "a refused client", func(e *event.JSONEvent) bool { return e.Error == "mtls_required" && e.Direction == "inbound" })
	if out, err := m.bridge.output("curl", "-sS", "-m", "60", at+httpPort+"/probe"); err != nil || !strings.Contains(out, "GET /probe") {
		t.Errorf("the probe got %q, %v", out, err)
	}
	if out, err := m.bridge.output("curl", "-sS", "-m", "60", at+echoPort+"/"); err == nil {
		t.Errorf("another port than the probe's answers %q", out)
	}
	out, _ := m.stranger.output("curl", "-sS", "-m", "60", "http://"+m.server.ip4+":"+httpPort+"/stranger")
	if strings.Contains(out, "GET /stranger") {
		t.Errorf("a stranger got %q", out)
	}
	m.seen(t, "a refused stranger", func(e *event.JSONEvent) bool { return e.Error == "peer_untrusted" || e.Error == "tls_handshake" })
	if m.strict.metric(`weir_proxy_denied_total{reason="mtls_required"}`) == "0" {
		t.Error("refusals are not counted")
	}
}
