package transparent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
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

// TestMutualTLS has two redirected hosts talk by mutual TLS, which a capture of
// the network shows no clear text of, to each other's addresses and to a
// service's; a stranger is refused, a host without a sidecar served in plain
// text, or refused where that is required.
func TestMutualTLS(t *testing.T) {
	w := newWorld(t)
	p := &pair{world: w, client: w.host("client"), server: w.host("server"), plain: w.host("plain")}
	strict, stranger := w.host("strict"), w.host("stranger")
	meshed := func(h *host) control.Destination {
		addr := netip.AddrPortFrom(netip.MustParseAddr(h.ip4), 8080)
		return control.Destination{Namespace: "test", Known: true, Endpoints: []control.Endpoint{{Addr: addr, Namespace: "test", Kind: "deploy", Name: h.name, Pod: h.name + "-0",
			Identity: control.SPIFFE(mtlstest.TrustDomain, "test", h.name)}}}
	}
	known := map[string]control.Destination{p.server.ip4: meshed(p.server), strict.ip4: meshed(strict)}
	d := meshed(p.server)
	d.Service, d.Port = "server", 80
	d.Endpoints = append(d.Endpoints, known[strict.ip4].Endpoints...)
	known[serviceIP] = d
	file := filepath.Join(w.dir, "known.json")
	b, err := json.Marshal(known)
	if err == nil {
		err = os.WriteFile(file, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.bus.role("discovery", "nats://127.0.0.1:4222", file)
	ca := mtlstest.New(t)
	for _, h := range []*host{p.server, strict, p.plain} {
		h.role("apps")
	}
	start := func(h *host, ca *mtlstest.Authority, args ...string) {
		t.Helper()
		h.init()
		h.startProxy(append(identityArgs(t, ca, h.name), args...)...)
	}
	start(p.server, ca)
	start(strict, ca, "--require-mtls", "--probes-from", "10.77.0.1", "--probe-ports", httpPort)
	start(p.client, ca, "--discovery")
	start(stranger, mtlstest.New(t), "--discovery")

	capture := filepath.Join(w.dir, "capture")
	tap := p.client.start(0, "tcpdump", "-i", "eth0", "-Z", "root", "-U", "-w", capture, "tcp", "and", "not", "port", "4222")
	tap.await(t, "listening on")
	curl := func(h *host, want string, args ...string) {
		t.Helper()
		out, err := h.output(append([]string{"curl", "-sS", "-m", "20"}, args...)...)
		if !strings.Contains(out, want) {
			t.Errorf("curl %q on %s: %v\n%s\nwant %q", args, h.name, err, out, want)
		}
	}
	id := func(h *host) string { return control.SPIFFE(mtlstest.TrustDomain, "test", h.name) }
	mutual := func(path string) {
		t.Helper()
		for _, d := range []string{"outbound", "inbound"} {
			w.seen(t, path+", "+d, func(e *event.JSONEvent) bool {
				if e.Path != path || e.Direction != d {
					return false
				}
				if e.Security != "mutual" {
					t.Errorf("%+v is not mutual TLS", e)
				}
				peer := e.Destination.Identity
				if d == "inbound" {
					peer = e.Source.Identity
					if peer != id(p.client) {
						t.Errorf("client's identity %q", peer)
					}
				} else if peer != id(p.server) && peer != id(strict) {
					t.Errorf("server's identity %q", peer)
				}
				return true
			})
		}
	}
	curl(p.client, "HTTP/1.1 POST /secret-one\nhidden-text", "-d", "hidden-text", "http://"+p.server.ip4+":"+httpPort+"/secret-one")
	mutual("/secret-one")
	curl(p.client, "HTTP/2.0 GET /secret-two", "--http2-prior-knowledge", "http://"+p.server.ip4+":"+httpPort+"/secret-two")
	mutual("/secret-two")
	for range 10 {
		curl(p.client, "GET /secret-service", "http://"+serviceIP+"/secret-service")
	}
	mutual("/secret-service")
	c := p.client.dial(p.server.ip4 + ":" + bannerPort)
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

	curl(p.plain, "GET /in-plain", "http://"+p.server.ip4+":"+httpPort+"/in-plain")
	w.seen(t, "a plain client", func(e *event.JSONEvent) bool {
		return e.Path == "/in-plain" && e.Direction == "inbound" && e.SecurityReason == "peer_not_meshed"
	})
	curl(p.client, "GET /to-plain", "http://"+p.plain.ip4+":"+httpPort+"/to-plain")
	w.seen(t, "a plain server", func(e *event.JSONEvent) bool {
		return e.Path == "/to-plain" && e.Direction == "outbound" && e.SecurityReason == "not_in_cluster"
	})
	curl(p.plain, "curl: ", "http://"+strict.ip4+":"+httpPort+"/refused")
	w.seen(t, "a refused client", func(e *event.JSONEvent) bool { return e.Error == "mtls_required" && e.Direction == "inbound" })
	if out, err := w.bridge.output("curl", "-sS", "-m", "20", "http://"+strict.ip4+":"+httpPort+"/probe"); err != nil || !strings.Contains(out, "GET /probe") {
		t.Errorf("the probe got %q, %v", out, err)
	}
	if out, err := w.bridge.output("curl", "-sS", "-m", "20", "http://"+strict.ip4+":"+echoPort+"/"); err == nil {
		t.Errorf("another port than the probe's answers %q", out)
	}
	out, _ := stranger.output("curl", "-sS", "-m", "20", "-w", "%{http_code}", "http://"+p.server.ip4+":"+httpPort+"/stranger")
	if strings.Contains(out, "GET /stranger") {
		t.Errorf("a stranger got %q", out)
	}
	w.seen(t, "a refused stranger", func(e *event.JSONEvent) bool { return e.Error == "peer_untrusted" || e.Error == "tls_handshake" })
	if strict.metric(`weir_proxy_denied_total{reason="mtls_required"}`) == "0" {
		t.Error("refusals are not counted")
	}
}
