package identity_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authentication "k8s.io/api/authentication/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/controller/identity"
	"github.com/weirmesh/weir/deploy/authority"
	"github.com/weirmesh/weir/proxy/mtls"
)

// reviews answers as the API server does, for tokens "<username>" and
// "<username>@<audience>".
type reviews struct{ err error }

func (r reviews) Create(_ context.Context, review *authentication.TokenReview, _ meta.CreateOptions) (*authentication.TokenReview, error) {
	if r.err != nil {
		return nil, r.err
	}
	user, audience, ok := strings.Cut(review.Spec.Token, "@")
	if !ok {
		audience = control.Audience
	}
	out := review.DeepCopy()
	if user == "expired" {
		out.Status.Error = "token has expired"
		return out, nil
	}
	out.Status.Authenticated = true
	out.Status.Audiences = []string{audience}
	out.Status.User.Username = user
	return out, nil
}

func write(t *testing.T, dir string, g *authority.Generated) identity.Files {
	t.Helper()
	f := identity.Files{Certificate: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), Anchors: filepath.Join(dir, "ca.crt")}
	for name, data := range map[string][]byte{f.Certificate: g.Certificate, f.Key: g.Key, f.Anchors: g.Anchors} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func generate(t *testing.T) *authority.Generated {
	t.Helper()
	g, err := authority.Generate("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func newAuthority(t *testing.T, f identity.Files, r identity.Reviewer) *identity.Authority {
	t.Helper()
	a, err := identity.New(identity.Options{Reviewer: r, Files: f, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func request(t *testing.T, token string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"kubernetes.default"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(control.CertifyRequest{Token: token, CSR: csr})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestCertifiesWhomKubernetesKnows(t *testing.T) {
	g := generate(t)
	a := newAuthority(t, write(t, t.TempDir(), g), reviews{})
	var reply control.CertifyReply
	if err := control.Decode(a.Certify(t.Context(), request(t, "system:serviceaccount:shop:web")), &reply); err != nil || reply.Error != nil {
		t.Fatal(err, reply.Error)
	}
	block, _ := pem.Decode([]byte(reply.Chain))
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.URIs) != 1 || c.URIs[0].String() != "spiffe://cluster.local/ns/shop/sa/web" || len(c.DNSNames) > 0 || c.IsCA {
		t.Errorf("the certificate says %v, %v, authority %v", c.URIs, c.DNSNames, c.IsCA)
	}
	if life := time.Until(c.NotAfter); life > 24*time.Hour || life < 23*time.Hour {
		t.Errorf("valid for %v", life)
	}
	if reply.Anchors != string(g.Anchors) {
		t.Error("other anchors than the files'")
	}
}

func TestRefuses(t *testing.T) {
	f := write(t, t.TempDir(), generate(t))
	forged := func() []byte {
		var r control.CertifyRequest
		_ = json.Unmarshal(request(t, "system:serviceaccount:shop:web"), &r)
		r.CSR[len(r.CSR)-1] ^= 1
		b, _ := json.Marshal(r)
		return b
	}
	for _, tt := range []struct {
		name, code string
		request    []byte
		err        error
	}{
		{"nonsense", control.CodeInvalid, []byte("{"), nil},
		{"an empty request", control.CodeInvalid, []byte("{}"), nil},
		{"a request whose signature is wrong", control.CodeInvalid, forged(), nil},
		{"an expired token", control.CodeDenied, request(t, "expired"), nil},
		{"a token for another audience", control.CodeDenied, request(t, "system:serviceaccount:shop:web@https://kubernetes.default.svc"), nil},
		{"a person's token", control.CodeDenied, request(t, "jane"), nil},
		{"a node's token", control.CodeDenied, request(t, "system:node:n1"), nil},
		{"half a ServiceAccount", control.CodeDenied, request(t, "system:serviceaccount:shop"), nil},
		{"no API server", control.CodeUnavailable, request(t, "system:serviceaccount:shop:web"), errors.New("connection refused")},
	} {
		a := newAuthority(t, f, reviews{tt.err})
		var reply control.CertifyReply
		if err := control.Decode(a.Certify(t.Context(), tt.request), &reply); err != nil {
			t.Fatal(err)
		}
		if reply.Error == nil || reply.Error.Code != tt.code || reply.Chain != "" {
			t.Errorf("%s: got %+v, want code %s", tt.name, reply.Error, tt.code)
		}
		var m strings.Builder
		a.WriteMetrics(&m)
		if want := `refused_total{reason="` + tt.code + `"} 1`; !strings.Contains(m.String(), want) {
			t.Errorf("%s: the metrics lack %s", tt.name, want)
		}
	}
}

// TestProxyGetsItsIdentity is a whole proxy's side with a whole authority.
func TestProxyGetsItsIdentity(t *testing.T) {
	g := generate(t)
	dir := t.TempDir()
	f := write(t, dir, g)
	a := newAuthority(t, f, reviews{})
	source := &mtls.Authority{Anchors: g.Anchors, Sign: func(ctx context.Context, csr []byte) (chain, anchors []byte, err error) {
		b, _ := json.Marshal(control.CertifyRequest{Token: "system:serviceaccount:shop:web", CSR: csr})
		var reply control.CertifyReply
		if err := control.Decode(a.Certify(ctx, b), &reply); err != nil {
			return nil, nil, err
		}
		if reply.Error != nil {
			return nil, nil, reply.Error
		}
		return []byte(reply.Chain), []byte(reply.Anchors), nil
	}}
	i := mtls.New(mtls.Options{TrustDomain: "cluster.local", Source: source, Logger: slog.New(slog.DiscardHandler)})
	run(t, i.Run)
	select {
	case <-i.Ready():
	case <-time.After(30 * time.Second):
		t.Fatal("no certificate")
	}
	if i.ID() != "spiffe://cluster.local/ns/shop/sa/web" {
		t.Errorf("identity %q", i.ID())
	}
}

func run(t *testing.T, f func(context.Context)) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); f(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

func TestIssuerChangesWithItsFiles(t *testing.T) {
	dir := t.TempDir()
	f := write(t, dir, generate(t))
	a := newAuthority(t, f, reviews{})
	run(t, a.Run)
	before := a.Issuer()
	next := generate(t)
	// Half of the change: what does not fit is not taken.
	if err := os.WriteFile(f.Certificate, next.Certificate, 0o600); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	if a.Issuer() != before {
		t.Error("an issuer with another's key is in use")
	}
	write(t, dir, next)
	deadline := time.Now().Add(30 * time.Second)
	for string(a.Issuer().Anchors) != string(next.Anchors) {
		if time.Now().After(deadline) {
			t.Fatal("the files changed, the issuer did not")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestFilesThatDoNotFit(t *testing.T) {
	one, two := generate(t), generate(t)
	for name, g := range map[string]*authority.Generated{
		"another's key":          {Anchors: one.Anchors, Certificate: one.Certificate, Key: two.Key},
		"another's anchors":      {Anchors: two.Anchors, Certificate: one.Certificate, Key: one.Key},
		"anchors that are empty": {Anchors: []byte("\n"), Certificate: one.Certificate, Key: one.Key},
		"a leaf":                 leafOf(t, one),
	} {
		f := write(t, t.TempDir(), g)
		if _, err := identity.New(identity.Options{Reviewer: reviews{}, Files: f}); err == nil || !strings.Contains(err.Error(), f.Certificate) {
			t.Errorf("%s: error %v does not name the file", name, err)
		}
	}
	if _, err := (identity.Files{Certificate: "none"}).Read(); err == nil {
		t.Error("files that are missing are read")
	}
}

// leafOf is an issuer that is no authority.
func leafOf(t *testing.T, g *authority.Generated) *authority.Generated {
	t.Helper()
	i, err := identity.ParseIssuer(g.Certificate, g.Key, g.Anchors)
	if err != nil {
		t.Fatal(err)
	}
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	chain, err := i.Sign(&key.PublicKey, identity.Leaf{Lifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	der, _ := x509.MarshalECPrivateKey(key)
	return &authority.Generated{Anchors: g.Anchors, Certificate: chain, Key: pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})}
}
