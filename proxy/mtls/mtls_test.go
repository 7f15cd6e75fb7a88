package mtls_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/proxy/mtls"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const domain = "cluster.local"

// authority signs for tests.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, key: newKey(t)}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	a.cert, _ = x509.ParseCertificate(der)
	a.pem = encode("CERTIFICATE", der)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// leaf signs a certificate for a public key with the URI names, valid from
// before now for life.
func (a *authority) leaf(public any, life time.Duration, ids ...string) []byte {
	a.t.Helper()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	for _, id := range ids {
		u, err := url.Parse(id)
		if err != nil {
			a.t.Fatal(err)
		}
		tmpl.URIs = append(tmpl.URIs, u)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, public, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return encode("CERTIFICATE", der)
}

// sign is an Authority's Sign that certifies id.
func (a *authority) sign(id string, life time.Duration) func(context.Context, []byte) ([]byte, []byte, error) {
	return func(_ context.Context, der []byte) ([]byte, []byte, error) {
		csr, err := x509.ParseCertificateRequest(der)
		if err != nil {
			return nil, nil, err
		}
		if err := csr.CheckSignature(); err != nil {
			return nil, nil, err
		}
		return a.leaf(csr.PublicKey, life, id), a.pem, nil
	}
}

// running makes an Identity from a source, and waits until it has a certificate.
func running(t *testing.T, source mtls.Source) *mtls.Identity {
	t.Helper()
	i := start(t, source)
	select {
	case <-i.Ready():
	case <-time.After(30 * time.Second):
		t.Fatal("no certificate")
	}
	return i
}

func start(t *testing.T, source mtls.Source) *mtls.Identity {
	t.Helper()
	i := mtls.New(mtls.Options{TrustDomain: domain, Source: source, Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); i.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return i
}

func (a *authority) identity(id string) *mtls.Identity {
	a.t.Helper()
	return running(a.t, &mtls.Authority{Sign: a.sign(id, time.Hour), Anchors: a.pem})
}

// hop is what came of a handshake on both sides.
type hop struct {
	client, server         *tls.Conn
	clientPeer, serverPeer string
	clientErr, serverErr   error
}

func shake(t *testing.T, client, server *mtls.Identity, want string) hop {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var h hop
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := ln.Accept()
		if err != nil {
			h.serverErr = err
			return
		}
		t.Cleanup(func() { conn.Close() })
		h.server, h.clientPeer, h.serverErr = server.Server(t.Context(), conn)
		if h.serverErr != nil {
			conn.Close()
		}
	}()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	h.client, h.serverPeer, h.clientErr = client.Client(t.Context(), conn, want)
	if h.clientErr == nil && h.client != nil {
		// In TLS 1.3 the client learns only here that it was refused.
		_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		go func() { <-done; _ = conn.SetReadDeadline(time.Now()) }()
		if _, err := h.client.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			h.clientErr = err
		}
		_ = conn.SetReadDeadline(time.Time{})
	} else {
		conn.Close()
	}
	<-done
	return h
}

func TestBothSidesProveTheirIdentity(t *testing.T) {
	a := newAuthority(t)
	web, cart := control.SPIFFE(domain, "shop", "web"), control.SPIFFE(domain, "shop", "cart")
	h := shake(t, a.identity(web), a.identity(cart), cart)
	if h.clientErr != nil || h.serverErr != nil {
		t.Fatal(h.clientErr, h.serverErr)
	}
	if h.clientPeer != web || h.serverPeer != cart {
		t.Errorf("the server sees %s, the client %s", h.clientPeer, h.serverPeer)
	}
	if v := h.client.ConnectionState().Version; v != tls.VersionTLS13 {
		t.Errorf("TLS version %x", v)
	}
	go func() { _, _ = io.WriteString(h.client, "hi"); _ = h.client.CloseWrite() }()
	if got, err := io.ReadAll(h.server); string(got) != "hi" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestRefuses(t *testing.T) {
	a, stranger := newAuthority(t), newAuthority(t)
	web, cart := control.SPIFFE(domain, "shop", "web"), control.SPIFFE(domain, "shop", "cart")
	client, server := a.identity(web), a.identity(cart)
	for _, tt := range []struct {
		name           string
		client, server *mtls.Identity
		want           string
		clientIs       error
		serverIs       error
	}{
		{"another identity", client, server, control.SPIFFE(domain, "shop", "till"), mtls.ErrWrongIdentity, nil},
		{"a stranger's server", client, stranger.identity(cart), cart, mtls.ErrUntrusted, nil},
		{"a stranger's client", stranger.identity(web), server, "", mtls.ErrUntrusted, nil},
		{"no certificate of its own", mtls.New(mtls.Options{TrustDomain: domain}), server, "", mtls.ErrNoIdentity, nil},
	} {
		h := shake(t, tt.client, tt.server, tt.want)
		if !errors.Is(h.clientErr, tt.clientIs) {
			t.Errorf("%s: the client's error is %v", tt.name, h.clientErr)
		}
		if h.serverErr == nil {
			t.Errorf("%s: the server has no error", tt.name)
		}
	}
	if client.Stats().Refused != 2 {
		t.Errorf("the client counts %d refusals, want 2", client.Stats().Refused)
	}
}

// TestServerRefusesClients has clients that are no Identity at all.
func TestServerRefusesClients(t *testing.T) {
	a, stranger := newAuthority(t), newAuthority(t)
	server := a.identity(control.SPIFFE(domain, "shop", "cart"))
	for name, config := range map[string]*tls.Config{
		"no certificate":     {},
		"a stranger's":       {Certificates: []tls.Certificate{pair(t, stranger, time.Hour, control.SPIFFE(domain, "shop", "web"))}},
		"expired":            {Certificates: []tls.Certificate{pair(t, a, -time.Second, control.SPIFFE(domain, "shop", "web"))}},
		"two identities":     {Certificates: []tls.Certificate{pair(t, a, time.Hour, control.SPIFFE(domain, "shop", "web"), control.SPIFFE(domain, "shop", "x"))}},
		"no identity":        {Certificates: []tls.Certificate{pair(t, a, time.Hour)}},
		"another domain":     {Certificates: []tls.Certificate{pair(t, a, time.Hour, control.SPIFFE("evil.example", "shop", "web"))}},
		"no service account": {Certificates: []tls.Certificate{pair(t, a, time.Hour, "spiffe://"+domain+"/web")}},
		"TLS 1.2":            {MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair(t, a, time.Hour, control.SPIFFE(domain, "shop", "web"))}},
	} {
		config.InsecureSkipVerify, config.NextProtos = true, []string{control.ALPN}
		one, two := net.Pipe()
		go func() {
			c := tls.Client(one, config)
			_ = c.Handshake()
			_, _ = io.Copy(io.Discard, c)
			one.Close()
		}()
		_, _, err := server.Server(t.Context(), two)
		two.Close()
		if err == nil {
			t.Errorf("%s: taken", name)
		} else if name != "TLS 1.2" && name != "no certificate" && !errors.Is(err, mtls.ErrUntrusted) {
			t.Errorf("%s: error %v, want ErrUntrusted", name, err)
		}
	}
}

func pair(t *testing.T, a *authority, life time.Duration, ids ...string) tls.Certificate {
	t.Helper()
	key := newKey(t)
	block, _ := pem.Decode(a.leaf(&key.PublicKey, life, ids...))
	return tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}
}

func TestRenews(t *testing.T) {
	a := newAuthority(t)
	id := control.SPIFFE(domain, "shop", "web")
	// Of a life of 61 s, 60.0 s are over: it is renewed at once, again and again.
	i := running(t, &mtls.Authority{Sign: a.sign(id, time.Second), Anchors: a.pem})
	deadline := time.Now().Add(30 * time.Second)
	for i.Stats().Renewals < 3 {
		if time.Now().After(deadline) {
			t.Fatalf("%d renewals", i.Stats().Renewals)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if i.ID() != id {
		t.Errorf("identity %q", i.ID())
	}
}

func TestTriesOnWhereTheAuthorityFails(t *testing.T) {
	a, stranger := newAuthority(t), newAuthority(t)
	id := control.SPIFFE(domain, "shop", "web")
	calls := 0
	answers := []func(context.Context, []byte) ([]byte, []byte, error){
		func(context.Context, []byte) ([]byte, []byte, error) { return nil, nil, errors.New("away") },
		func(context.Context, []byte) ([]byte, []byte, error) { return []byte("nonsense"), a.pem, nil },
		stranger.sign(id, time.Hour), // its own anchors do not help it
		func(context.Context, []byte) ([]byte, []byte, error) {
			return a.leaf(&newKey(t).PublicKey, time.Hour, id), a.pem, nil // another's key
		},
	}
	i := start(t, &mtls.Authority{Anchors: a.pem, Sign: func(ctx context.Context, csr []byte) ([]byte, []byte, error) {
		calls++
		if calls <= len(answers) {
			return answers[calls-1](ctx, csr)
		}
		return a.sign(id, time.Hour)(ctx, csr)
	}})
	if i.ID() != "" {
		t.Error("an identity without a certificate")
	}
	select {
	case <-i.Ready():
	case <-time.After(60 * time.Second):
		t.Fatal("no certificate")
	}
	if s := i.Stats(); s.Failures != uint64(len(answers)) || s.Renewals != 1 {
		t.Errorf("%+v", s)
	}
}

func TestFiles(t *testing.T) {
	a := newAuthority(t)
	dir := t.TempDir()
	key := newKey(t)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	id := control.SPIFFE(domain, "vms", "db")
	f := mtls.Files{Certificate: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), Anchors: filepath.Join(dir, "ca.crt")}
	for name, data := range map[string][]byte{f.Certificate: a.leaf(&key.PublicKey, time.Hour, id), f.Key: encode("PRIVATE KEY", der), f.Anchors: a.pem} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if i := running(t, f); i.ID() != id {
		t.Errorf("identity %q, want %q", i.ID(), id)
	}
	f.Key = filepath.Join(dir, "none")
	if _, _, err := f.Certify(t.Context()); err == nil || !strings.Contains(err.Error(), f.Key) {
		t.Errorf("error %v does not name the file", err)
	}
}

func TestServiceAccount(t *testing.T) {
	for id, want := range map[string][2]string{
		"spiffe://cluster.local/ns/shop/sa/web":   {"shop", "web"},
		"spiffe://cluster.local/ns//sa/web":       {},
		"spiffe://cluster.local/ns/shop/sa/":      {},
		"spiffe://cluster.local/ns/shop/sa/web/x": {},
		"https://cluster.local/ns/shop/sa/web":    {},
		"":                                        {},
	} {
		if ns, sa := mtls.ServiceAccount(id); ns != want[0] || sa != want[1] {
			t.Errorf("%s: %q, %q", id, ns, sa)
		}
	}
}
