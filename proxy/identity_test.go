package proxy_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy"
	"github.com/weirmesh/weir/proxy/listen"
	"github.com/weirmesh/weir/proxy/mtls/mtlstest"
)

func identityOf(account string) string {
	return control.SPIFFE(mtlstest.TrustDomain, "test", account)
}

// certified gives a proxy a certificate by files.
func certified(t *testing.T, ca *mtlstest.Authority, c proxy.Config, account string) proxy.Config {
	f := ca.Files(t, identityOf(account), time.Hour)
	c.Identity.Certificate, c.Identity.Key, c.Identity.Anchors = f.Certificate, f.Key, f.Anchors
	return c
}

// TestMutualTLS carries HTTP of both versions between two proxies with
// certificates of files: each exchange is mutual TLS with both identities, and
// there is one handshake for a connection, not for a request.
func TestMutualTLS(t *testing.T) {
	h := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = w.Write(b)
	}))
	h.Config.Protocols = new(http.Protocols)
	h.Config.Protocols.SetHTTP1(true)
	h.Config.Protocols.SetUnencryptedHTTP2(true)
	h.Start()
	t.Cleanup(h.Close)
	for _, balance := range []bool{false, true} {
		ca, s := mtlstest.New(t), &sink{}
		in := certified(t, ca, config("server", listen.Spec{Direction: event.Inbound, Target: h.Listener.Addr().String()}), "server")
		in.Identity.RequireMutual = true
		server := run(t, in, s)
		spec := listen.Spec{Direction: event.Outbound, Target: server.Addrs()[0].String(), Identity: identityOf("server")}
		if balance {
			spec.Endpoints = []string{spec.Target}
		}
		out := run(t, certified(t, ca, config("client", spec), "client"), s)
		for _, p := range []*running{server, out} {
			eventually(t, "readiness", func() bool {
				resp, err := httpClient(t).Get(fmt.Sprintf("http://%s/ready", p.AdminAddr()))
				if err != nil {
					return false
				}
				_ = resp.Body.Close()
				return resp.StatusCode == http.StatusOK
			})
		}
		const each = 20
		for _, two := range []bool{false, true} {
			tr := &http.Transport{Protocols: new(http.Protocols)}
			tr.Protocols.SetHTTP1(!two)
			tr.Protocols.SetUnencryptedHTTP2(two)
			for i := range each {
				text := strings.Repeat("some text ", i*500)
				resp, err := (&http.Client{Transport: tr}).Post("http://"+out.Addrs()[0].String()+"/path", "text/plain", strings.NewReader(text))
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if err != nil || string(got) != text {
					t.Fatalf("balanced %v, HTTP/2 %v: %s, %d bytes of %d, %v: %.200q", balance, two, resp.Status, len(got), len(text), err, got)
				}
			}
			tr.CloseIdleConnections()
		}
		shown := body(t, fmt.Sprintf("http://%s/metrics", out.AdminAddr()))
		mustContain(t, shown, `weir_proxy_denied_total{reason="wrong_identity"} 0`,
			"weir_proxy_certificates_total 1", "weir_proxy_certificate_expires_seconds")
		m := &mesh{sink: s, out: out, in: server}
		m.end(t)
		m.joined(t, 2*each)
		connections := make(map[uint64]bool)
		for _, e := range s.ended(event.Outbound) {
			connections[e.Connection] = true
		}
		// A client that is held up may connect anew.
		mustContain(t, shown, fmt.Sprintf("weir_proxy_handshakes_total{direction=\"outbound\"} %d\n", len(connections)))
		if len(connections) > each {
			t.Errorf("%d connections for %d requests", len(connections), 2*each)
		}
		for d, want := range map[event.Direction]string{event.Outbound: identityOf("server"), event.Inbound: identityOf("client")} {
			for _, e := range s.ended(d) {
				if e.Security != event.Mutual || e.SecurityReason != "" || e.Peer.Identity != want {
					t.Fatalf("%s: %+v", d, e)
				}
			}
		}
	}
}

func body(t *testing.T, url string) string {
	t.Helper()
	resp, err := httpClient(t).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// plane is a control plane that certifies whoever shows the token, from when it
// is there on.
type plane struct {
	ca    *mtlstest.Authority
	mu    sync.Mutex
	away  bool
	asked []control.CertifyRequest
}

func (p *plane) Request(_ context.Context, service, method string, request []byte) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.away {
		return nil, errors.New("the bus is away")
	}
	var r control.CertifyRequest
	if err := control.Decode(request, &r); err != nil || service != control.IdentityService || method != control.CertifyMethod {
		return nil, fmt.Errorf("%s.%s: %w", service, method, err)
	}
	p.asked = append(p.asked, r)
	reply := control.CertifyReply{Error: &control.Error{Code: control.CodeDenied, Message: "not you"}}
	if r.Token == "the token" {
		chain, err := p.ca.Sign(r.CSR, identityOf("client"))
		if err != nil {
			return nil, err
		}
		reply = control.CertifyReply{Chain: string(chain), Anchors: string(p.ca.Anchors)}
	}
	return json.Marshal(&reply)
}

func (p *plane) WatchEndpoints(ctx context.Context, _ func([]byte), _ func()) error {
	<-ctx.Done()
	return ctx.Err()
}

// TestCertificateForToken has a proxy get its certificate over the bus, for the
// token of the moment; as long as there is none it is not ready.
func TestCertificateForToken(t *testing.T) {
	ca := mtlstest.New(t)
	p := &plane{ca: ca, away: true}
	c := config("client", listen.Spec{Direction: event.Inbound, Target: tcpServer(t, func(net.Conn) {})})
	c.Identity.Token = filepath.Join(t.TempDir(), "token")
	c.Identity.Anchors = string(ca.Anchors)
	c.Control = p
	if err := os.WriteFile(c.Identity.Token, []byte("another\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := run(t, c, &sink{})
	url := fmt.Sprintf("http://%s/ready", r.AdminAddr())
	mustContain(t, body(t, url), "waiting for a certificate")
	p.mu.Lock()
	p.away = false
	p.mu.Unlock()
	eventually(t, "a refusal", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return len(p.asked) > 0 })
	if err := os.WriteFile(c.Identity.Token, []byte("the token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a certificate", func() bool { return body(t, url) == "ready\n" })
	mustContain(t, body(t, fmt.Sprintf("http://%s/metrics", r.AdminAddr())), "weir_proxy_certificates_total 1")
}

func TestParseIdentity(t *testing.T) {
	env := map[string]string{
		"WEIR_PROXY_IDENTITY_TOKEN": "/run/token", "WEIR_PROXY_IDENTITY_TRUST_ANCHORS": "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n",
		"WEIR_PROXY_TRUST_DOMAIN": "example.org", "WEIR_PROXY_REQUIRE_MTLS": "true", "WEIR_PROXY_PROBES_FROM": "10.0.0.7,,10.1.2.3/16,fd00::1",
		"WEIR_PROXY_PROBE_PORTS": "8080", "WEIR_PROXY_BUS": "tls://weir-bus:4222", "WEIR_PROXY_WORKLOAD": "a/deploy/b", "WEIR_PROXY_TRANSPARENT": "true",
	}
	c, err := proxy.Parse(nil, func(k string) string { return env[k] })
	if err != nil {
		t.Fatal(err)
	}
	i := c.Identity
	want := []netip.Prefix{netip.MustParsePrefix("10.0.0.7/32"), netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00::1/128")}
	if fmt.Sprint(i.ProbesFrom) != fmt.Sprint(want) || i.TrustDomain != "example.org" || !i.RequireMutual || i.Token != "/run/token" || fmt.Sprint(i.ProbePorts) != "[8080]" {
		t.Errorf("%+v", i)
	}
	for _, l := range c.Traffic.Listeners {
		if l.Discover != (l.Direction == event.Outbound) {
			t.Errorf("discovery of %+v", l)
		}
	}
	if pem, err := proxy.ReadPEM(i.Anchors); err != nil || !strings.Contains(string(pem), "\nx\n") {
		t.Errorf("anchors %q, %v", pem, err)
	}
	for args, want := range map[string]string{
		"--identity-token a --identity-cert b --identity-key c": "exclude each other",
		"--identity-cert b":                               "need each other",
		"--identity-cert b --identity-key c":              "--identity-trust-anchors",
		"--identity-token a --identity-trust-anchors b":   "needs --bus",
		"--require-mtls":                                  "needs --identity-token",
		"--probes-from nowhere":                           "no address",
		"--probes-from 1.2.3.4/99":                        "no range",
		"--trust-domain a/b":                              "cannot stand in a name",
		"--outbound 127.0.0.1:1=127.0.0.1:2,identity=x":   "neither",
		"--outbound 127.0.0.1:1=127.0.0.1:2,identity=any": "needs --identity-token",
		"--outbound 127.0.0.1:1=127.0.0.1:2,discover":     "needs --bus",
		"--inbound 127.0.0.1:1=127.0.0.1:2,discover":      "for outbound",
	} {
		if _, err := proxy.Parse(append([]string{"--inbound", "127.0.0.1:9=127.0.0.1:8"}, strings.Fields(args)...), noEnv); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", args, err, want)
		}
	}
}
