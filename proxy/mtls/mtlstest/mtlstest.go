// Package mtlstest is a certificate authority for tests of mutual TLS, as
// net/http/httptest is a server for tests of HTTP.
package mtlstest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/weirmesh/weir/proxy/mtls"
)

// TrustDomain is that of the identities.
const TrustDomain = "cluster.local"

// Authority signs certificates. Its methods end the test where they fail.
type Authority struct {
	// Anchors is its own certificate, PEM.
	Anchors []byte

	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// New makes an authority, valid for an hour.
func New(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{key: newKey(t)}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	a.cert, _ = x509.ParseCertificate(der)
	a.Anchors = encode("CERTIFICATE", der)
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
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

// sign certifies a public key for a SPIFFE ID, from an hour ago until life from
// now, which may be negative.
func (a *Authority) sign(public any, id string, life time.Duration) ([]byte, error) {
	u, err := url.Parse(id)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
		KeyUsage: x509.KeyUsageDigitalSignature, URIs: []*url.URL{u},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, public, a.key)
	return encode("CERTIFICATE", der), err
}

// Sign answers a certificate request (DER) with a certificate for a SPIFFE ID,
// PEM.
func (a *Authority) Sign(csr []byte, id string) ([]byte, error) {
	request, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, err
	}
	if err := request.CheckSignature(); err != nil {
		return nil, err
	}
	return a.sign(request.PublicKey, id, time.Hour)
}

// Identity is a running identity with a certificate; it ends with the test.
func (a *Authority) Identity(t testing.TB, id string) *mtls.Identity {
	t.Helper()
	i := mtls.New(mtls.Options{TrustDomain: TrustDomain, Logger: slog.New(slog.DiscardHandler), Source: &mtls.Authority{
		Anchors: a.Anchors,
		Sign: func(_ context.Context, csr []byte) ([]byte, []byte, error) {
			chain, err := a.Sign(csr, id)
			return chain, a.Anchors, err
		},
	}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); i.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	select {
	case <-i.Ready():
	case <-time.After(30 * time.Second):
		t.Fatal("no certificate")
	}
	return i
}

// Files writes a certificate, its key and the trust anchors into a new folder;
// the certificate is valid until life from now.
func (a *Authority) Files(t testing.TB, id string, life time.Duration) mtls.Files {
	t.Helper()
	key := newKey(t)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := a.sign(&key.PublicKey, id, life)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	f := mtls.Files{Certificate: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), Anchors: filepath.Join(dir, "ca.crt")}
	for name, data := range map[string][]byte{f.Certificate: chain, f.Key: encode("PRIVATE KEY", der), f.Anchors: a.Anchors} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f
}
