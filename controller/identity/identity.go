// Package identity is Weir's certificate authority: it certifies the keys of
// proxies that show a ServiceAccount's token, and the keys of Weir's own
// servers.
//
// A proxy's certificate names its ServiceAccount as a SPIFFE ID and nothing
// else. Who asks is what Kubernetes says of the token (TokenReview, for the
// audience control.Audience); what the request claims does not count. The
// issuer and the trust anchors are files, as cert-manager and Weir's own
// installation lay them out; they are read again when they change.
package identity

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	authentication "k8s.io/api/authentication/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirmesh/weir/control"
)

const (
	// DefaultLifetime is how long a proxy's certificate is valid.
	DefaultLifetime = 24 * time.Hour
	// skew is by how much a certificate is valid before it was made, for those
	// whose clocks are behind.
	skew = 20 * time.Second
	// reviewTimeout bounds one TokenReview.
	reviewTimeout = 5 * time.Second
)

// Reviewer asks Kubernetes whose a token is. The TokenReviews of client-go's
// authentication/v1 are one.
type Reviewer interface {
	Create(ctx context.Context, review *authentication.TokenReview, o meta.CreateOptions) (*authentication.TokenReview, error)
}

// Options of an Authority; Reviewer and Files are required.
type Options struct {
	Reviewer Reviewer
	Files    Files
	// TrustDomain is the SPIFFE trust domain; default "cluster.local".
	TrustDomain string
	// Lifetime of proxies' certificates; default DefaultLifetime.
	Lifetime time.Duration
	// Logger; default slog.Default().
	Logger *slog.Logger
}

// Authority certifies. Its methods are safe for concurrent use.
type Authority struct {
	o      Options
	log    *slog.Logger
	issuer atomic.Pointer[Issuer]

	issued                       atomic.Uint64
	invalid, denied, unavailable atomic.Uint64
}

// New makes an Authority and reads its files once; an error tells what is wrong
// with them.
func New(o Options) (*Authority, error) {
	if o.TrustDomain == "" {
		o.TrustDomain = "cluster.local"
	}
	if o.Lifetime <= 0 {
		o.Lifetime = DefaultLifetime
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	a := &Authority{o: o, log: o.Logger}
	issuer, err := o.Files.Read()
	if err != nil {
		return nil, err
	}
	a.issuer.Store(issuer)
	return a, nil
}

// Issuer is the one of the moment.
func (a *Authority) Issuer() *Issuer { return a.issuer.Load() }

// Certify answers a control.CertifyRequest with a control.CertifyReply, both in
// JSON. It is the handler of the method of that name on the bus.
func (a *Authority) Certify(ctx context.Context, request []byte) []byte {
	reply, err := a.certify(ctx, request)
	if err != nil {
		var refusal *control.Error
		if !errors.As(err, &refusal) {
			refusal = &control.Error{Code: control.CodeInternal, Message: err.Error()}
		}
		a.count(refusal.Code)
		a.log.Warn("certificate refused", "code", refusal.Code, "reason", refusal.Message)
		reply = &control.CertifyReply{Error: refusal}
	}
	b, err := json.Marshal(reply)
	if err != nil { // strings alone: it cannot fail
		return []byte(`{"error":{"code":"internal","message":"cannot write the reply"}}`)
	}
	return b
}

func (a *Authority) count(code string) {
	switch code {
	case control.CodeInvalid:
		a.invalid.Add(1)
	case control.CodeDenied:
		a.denied.Add(1)
	default:
		a.unavailable.Add(1)
	}
}

func refuse(code, format string, args ...any) error {
	return &control.Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

func (a *Authority) certify(ctx context.Context, data []byte) (*control.CertifyReply, error) {
	var request control.CertifyRequest
	if err := control.Decode(data, &request); err != nil {
		return nil, refuse(control.CodeInvalid, "%v", err)
	}
	csr, err := x509.ParseCertificateRequest(request.CSR)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		return nil, refuse(control.CodeInvalid, "the certificate request is malformed: %v", err)
	}
	namespace, account, err := a.review(ctx, request.Token)
	if err != nil {
		return nil, err
	}
	id, err := url.Parse(control.SPIFFE(a.o.TrustDomain, namespace, account))
	if err != nil {
		return nil, refuse(control.CodeDenied, "the ServiceAccount %s/%s makes no SPIFFE ID: %v", namespace, account, err)
	}
	issuer := a.Issuer()
	chain, err := issuer.Sign(csr.PublicKey, Leaf{Lifetime: a.o.Lifetime, URIs: []*url.URL{id}})
	if err != nil {
		return nil, refuse(control.CodeUnavailable, "%v", err)
	}
	a.issued.Add(1)
	a.log.Debug("certificate issued", "identity", id.String())
	return &control.CertifyReply{Chain: string(chain), Anchors: string(issuer.Anchors)}, nil
}

// review asks Kubernetes whose the token is.
func (a *Authority) review(ctx context.Context, token string) (namespace, account string, err error) {
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	review, err := a.o.Reviewer.Create(ctx, &authentication.TokenReview{
		Spec: authentication.TokenReviewSpec{Token: token, Audiences: []string{control.Audience}},
	}, meta.CreateOptions{})
	if err != nil {
		return "", "", refuse(control.CodeUnavailable, "cannot review the token: %v", err)
	}
	s := review.Status
	if !s.Authenticated {
		return "", "", refuse(control.CodeDenied, "the token is not valid for the audience %q: %s", control.Audience, s.Error)
	}
	meant := false
	for _, audience := range s.Audiences {
		meant = meant || audience == control.Audience
	}
	// An API server that knows no audiences would take any token.
	if !meant {
		return "", "", refuse(control.CodeDenied, "the token is not meant for the audience %q", control.Audience)
	}
	rest, ok := strings.CutPrefix(s.User.Username, "system:serviceaccount:")
	namespace, account, two := strings.Cut(rest, ":")
	if !ok || !two || namespace == "" || account == "" {
		return "", "", refuse(control.CodeDenied, "the token is that of %q, no ServiceAccount", s.User.Username)
	}
	return namespace, account, nil
}

// Leaf is what a certificate says.
type Leaf struct {
	Lifetime time.Duration
	URIs     []*url.URL
	DNSNames []string
}

// Issuer signs certificates. It does not change.
type Issuer struct {
	// Certificate is the issuer's own, Anchors the trust anchors, PEM.
	Certificate *x509.Certificate
	Anchors     []byte

	key crypto.Signer
	// chain are the PEM certificates between leaf and anchor.
	chain []byte
}

// Sign certifies a public key, for servers and clients alike, for no longer than
// the issuer itself is valid. It returns the chain as PEM, leaf first.
func (i *Issuer) Sign(public any, l Leaf) ([]byte, error) {
	now := time.Now()
	if now.After(i.Certificate.NotAfter) || now.Before(i.Certificate.NotBefore.Add(-skew)) {
		return nil, fmt.Errorf("the issuer's certificate is valid from %s to %s, not now: give the controller another",
			i.Certificate.NotBefore.Format(time.RFC3339), i.Certificate.NotAfter.Format(time.RFC3339))
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	end := now.Add(l.Lifetime)
	if end.After(i.Certificate.NotAfter) {
		end = i.Certificate.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial,
		NotBefore:    now.Add(-skew),
		NotAfter:     end,
		URIs:         l.URIs,
		DNSNames:     l.DNSNames,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, i.Certificate, public, i.key)
	if err != nil {
		return nil, fmt.Errorf("cannot sign the certificate: %w", err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), i.chain...), nil
}

// WriteMetrics writes the counters in the format of Prometheus.
func (a *Authority) WriteMetrics(w io.Writer) {
	fmt.Fprintf(w, "weir_identity_certificates_issued_total %d\n", a.issued.Load())
	for reason, n := range map[string]uint64{control.CodeInvalid: a.invalid.Load(), control.CodeDenied: a.denied.Load(), control.CodeUnavailable: a.unavailable.Load()} {
		fmt.Fprintf(w, "weir_identity_certificates_refused_total{reason=%q} %d\n", reason, n)
	}
	fmt.Fprintf(w, "weir_identity_issuer_not_after_seconds %d\n", a.Issuer().Certificate.NotAfter.Unix())
}
