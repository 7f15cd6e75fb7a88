package server_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/bus/client"
	"github.com/weirmesh/weir/bus/server"
	"github.com/weirmesh/weir/event"
)

// tokens admits clients by their tokens.
type tokens map[string]server.Grant

func (a tokens) Authenticate(_ context.Context, c server.Credentials) (server.Grant, error) {
	if g, ok := a[c.Token]; ok {
		return g, nil
	}
	return server.Grant{}, errors.New("unknown token")
}

var (
	cart = event.Workload{Cluster: "local", Namespace: "shop", Kind: "deploy", Name: "cart"}
	till = event.Workload{Cluster: "local", Namespace: "shop", Kind: "deploy", Name: "till"}
)

// proxyGrant is what a proxy of cart may do.
func proxyGrant() server.Grant {
	return server.Grant{
		Name:      "proxy shop/cart-1",
		Publish:   []string{bus.EventsSubject(cart), bus.RPCSubject("identity", "certify")},
		Subscribe: []string{bus.InboxPrefix("shop", "cart-1") + ".>", bus.TappedSubject(cart)},
	}
}

func dialClient(t *testing.T, o client.Options) *client.Client {
	t.Helper()
	o.Logger = slog.New(slog.DiscardHandler)
	c, err := client.Connect(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestAProxyMayDoItsOwn(t *testing.T) {
	s := mustStart(t, server.Options{Authenticator: tokens{"proxy": proxyGrant(), "all": {Name: "admin", All: true}}})
	proxy := dialClient(t, client.Options{URL: s.URL(), Token: "proxy", Inbox: bus.InboxPrefix("shop", "cart-1")})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := proxy.Publish(ctx, cart, 1, 1, []byte("batch")); err != nil {
		t.Fatalf("its own events: %v", err)
	}
	short, cancelShort := context.WithTimeout(t.Context(), time.Second)
	defer cancelShort()
	if err := proxy.Publish(short, till, 1, 1, []byte("batch")); err == nil {
		t.Error("it published another workload's events")
	}
	if got := s.AuthStats(); got.Admitted != 1 || got.Refused != 0 {
		t.Errorf("%+v", got)
	}
}

// TestWildcardsOfAWrongTenant has a proxy subscribe to all that it may not, while
// everything is said that could be heard.
func TestWildcardsOfAWrongTenant(t *testing.T) {
	s := mustStart(t, server.Options{Authenticator: tokens{"proxy": proxyGrant(), "none": {Name: "nobody"}, "all": {Name: "admin", All: true}}})
	speaker := connect(t, s.URL(), nats.Token("all"))
	for _, token := range []string{"proxy", "none"} {
		spy := connect(t, s.URL(), nats.Token(token), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
		heard := make(chan string, 1000)
		for _, subject := range []string{
			">", "*", "weir.>", "*.>", "*.*.*.>", "weir.v1.>", "weir.v1.*.>", "weir.v1.events.>", "weir.v1.*.local.shop.deploy.till", "weir.v1.tap.>", "weir.v1.tap.*.*.*.*",
			"weir.v1.tap.local.shop.>", "weir.v1.stats.>", "weir.v1.stats.local.*.*.*", "weir.v1.tapped.>", "weir.v1.tapped.local.shop.*.*", "weir.v1.part.>", "weir.v1.rollups.>",
			"weir.v1.rpc.>", "weir.v1.rpc.*.*", "weir.v1.endpoints.>", "_INBOX.>", "_INBOX.*", "_INBOX.shop.>", "_INBOX.shop.*.>", "_INBOX.*.cart-1.>", "_INBOX.shop.till-1.>",
			"$JS.>", "$JS.API.>", "$JS.API.STREAM.*", "$SYS.>", "$SYS.ACCOUNT.>", "$KV.>", "$O.>", "$SRV.>",
		} {
			for _, queue := range []string{"", "q"} {
				if _, err := spy.QueueSubscribe(subject, queue, func(m *nats.Msg) { heard <- m.Subject }); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = spy.Flush()
		for _, subject := range []string{
			bus.EventsSubject(till), bus.TapSubject(cart), bus.TapSubject(till), bus.StatsSubject(till), bus.TappedSubject(till), bus.RollupSubject(3, 0),
			bus.RPCSubject("identity", "certify"), bus.EndpointsSubject("shop", "cart"), "_INBOX.shop.till-1.x", "_INBOX.abc.def", "$JS.API.STREAM.LIST", "$SRV.PING", "$KV.WEIR_MEMBERS.x", "other",
		} {
			if err := speaker.Publish(subject, []byte("secret")); err != nil {
				t.Fatal(err)
			}
		}
		_ = speaker.Flush()
		// What it may hear comes after all that it may not: the wait is over then.
		if token == "proxy" {
			own := bus.TappedSubject(cart)
			_, _ = spy.Subscribe(own, func(m *nats.Msg) { heard <- m.Subject })
			_ = spy.Flush()
			_ = speaker.Publish(own, nil)
			if got := <-heard; got != own {
				t.Errorf("%s hears %s", token, got)
			}
		}
		_ = spy.Flush()
		select {
		case got := <-heard:
			t.Errorf("%s hears %s", token, got)
		default:
		}
		// Nor can it ask for what is stored.
		for _, subject := range []string{"$JS.API.STREAM.MSG.GET." + bus.StreamEvents, "$JS.API.CONSUMER.CREATE." + bus.StreamEvents, "$JS.API.DIRECT.GET.KV_WEIR_MEMBERS", "$JS.API.STREAM.PURGE." + bus.StreamEvents} {
			if _, err := spy.Request(subject, []byte("{}"), 300*time.Millisecond); err == nil {
				t.Errorf("%s is answered on %s", token, subject)
			}
		}
	}
	if got := s.AuthStats().Violations; got < 20 {
		t.Errorf("%d violations counted", got)
	}
}

func TestRefusesCredentials(t *testing.T) {
	s := mustStart(t, server.Options{Authenticator: tokens{"good": {Name: "g", All: true}}, Users: []server.User{{Name: "u", Password: "p"}}})
	for name, o := range map[string][]nats.Option{
		"none":             nil,
		"a wrong token":    {nats.Token("bad")},
		"a wrong password": {nats.UserInfo("u", "x")},
		"the bus's own":    {nats.UserInfo("weir-bus", "")},
	} {
		if nc, err := nats.Connect(s.URL(), o...); err == nil {
			nc.Close()
			t.Errorf("%s: admitted", name)
		}
	}
	if got := s.AuthStats().Refused; got < 4 {
		t.Errorf("%d refusals counted", got)
	}
	for name, o := range map[string]nats.Option{"a token": nats.Token("good"), "a user": nats.UserInfo("u", "p")} {
		nc, err := nats.Connect(s.URL(), o, nats.Timeout(time.Minute))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		nc.Close()
	}
}

// brief lets everyone in for three seconds.
type brief struct{}

func (brief) Authenticate(context.Context, server.Credentials) (server.Grant, error) {
	return server.Grant{Name: "s", All: true, Expires: time.Now().Add(3 * time.Second)}, nil
}

func TestGrantExpires(t *testing.T) {
	s := mustStart(t, server.Options{Authenticator: brief{}})
	gone := make(chan struct{})
	connect(t, s.URL(), nats.Token("short"), nats.NoReconnect(), nats.DisconnectErrHandler(func(*nats.Conn, error) { close(gone) }))
	select {
	case <-gone:
	case <-time.After(time.Minute):
		t.Error("still connected")
	}
}

// certify writes a certificate for localhost, its own authority, into dir.
func certify(t *testing.T, dir string) (server.CertificateFiles, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	f := server.CertificateFiles{Certificate: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key")}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, data := range map[string][]byte{f.Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), f.Certificate: cert} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f, cert
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	files, anchor := certify(t, dir)
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("good\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := mustStart(t, server.Options{TLS: &files, Authenticator: tokens{"good": {Name: "g", All: true}}})
	url := "tls://" + s.Addr()
	c := dialClient(t, client.Options{URL: url, TokenFile: token, Anchors: anchor})
	if !c.Connected() {
		t.Fatal("not connected")
	}
	_, other := certify(t, t.TempDir())
	if c := dialClient(t, client.Options{URL: url, TokenFile: token, Anchors: other}); c.Connected() {
		t.Error("connected to a bus that leads to no anchor")
	}
	if c := dialClient(t, client.Options{URL: "nats://" + s.Addr(), TokenFile: token}); c.Connected() {
		t.Error("connected without anchors")
	}
	for want, o := range map[string]client.Options{
		"no certificate among":  {URL: url, Anchors: []byte("x")},
		filepath.Join(dir, "a"): {URL: url, AnchorsFile: filepath.Join(dir, "a")},
		filepath.Join(dir, "t"): {URL: url, TokenFile: filepath.Join(dir, "t")},
	} {
		if _, err := client.Connect(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	// A new certificate is served without a restart.
	_, anchor = certify(t, dir)
	deadline := time.Now().Add(time.Minute)
	for !dialClient(t, client.Options{URL: url, TokenFile: token, Anchors: anchor}).Connected() {
		if time.Now().After(deadline) {
			t.Fatal("the old certificate is served still")
		}
		time.Sleep(500 * time.Millisecond)
	}
}

func TestTLSFilesThatAreWrong(t *testing.T) {
	_, err := start(t, server.Options{TLS: &server.CertificateFiles{Certificate: "none.crt", Key: "none.key"}})
	if err == nil || !strings.Contains(err.Error(), "none.crt") {
		t.Errorf("error %v does not name the file", err)
	}
}
