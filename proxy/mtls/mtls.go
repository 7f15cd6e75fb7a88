// Package mtls is the proxy's identity: its certificate and the trust anchors,
// how they are come by and renewed, and the TLS 1.3 of a meshed hop that both
// sides prove theirs in.
//
// An identity is a SPIFFE ID, spiffe://<trust domain>/ns/<namespace>/sa/<name>,
// in the one URI name of a certificate (X509-SVID, the SPIFFE standard). Names
// of hosts play no part: the client's proxy knows from discovery which identity
// the server must have, and the server's proxy reports the client's.
//
// Private keys are made here and never leave the process's memory, but for
// those that the operator gives as files.
package mtls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirmesh/weir/control"
)

// ALPN is what a ClientHello that is meant for a proxy offers.
const ALPN = control.ALPN

// DefaultHandshakeTimeout bounds a handshake.
const DefaultHandshakeTimeout = 10 * time.Second

// Errors of handshakes, to be told apart with errors.Is.
var (
	// ErrNoIdentity: this proxy has no certificate yet, or none that is valid
	// still.
	ErrNoIdentity = errors.New("this proxy has no valid certificate")
	// ErrUntrusted: the peer's certificate does not lead to a trust anchor, is
	// not valid now, or holds no identity of the trust domain.
	ErrUntrusted = errors.New("the peer's certificate is not trusted")
	// ErrWrongIdentity: the peer proved another identity than it was to have.
	ErrWrongIdentity = errors.New("the peer has another identity")
)

// Identity is this proxy's. Its methods are safe for concurrent use.
type Identity struct {
	o       Options
	log     *slog.Logger
	current atomic.Pointer[state]
	ready   chan struct{}
	once    sync.Once

	renewals, failures, refused atomic.Uint64
}

// state is a certificate with the anchors of its time.
type state struct {
	certificate tls.Certificate
	id          string
	notBefore   time.Time
	notAfter    time.Time
	anchors     *x509.CertPool
}

// Options of an Identity.
type Options struct {
	// TrustDomain is the part of the SPIFFE ID that all who are trusted share.
	TrustDomain string
	// Source gets certificates.
	Source Source
	// Logger; default slog.Default().
	Logger *slog.Logger
}

// New makes an Identity that has no certificate before Run got one.
func New(o Options) *Identity {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Identity{o: o, log: o.Logger, ready: make(chan struct{})}
}

// Ready is closed once there is a certificate.
func (i *Identity) Ready() <-chan struct{} { return i.ready }

// ID is the proxy's SPIFFE ID; "" as long as it has no certificate that is
// valid now.
func (i *Identity) ID() string {
	if s := i.valid(); s != nil {
		return s.id
	}
	return ""
}

// NotAfter is when the certificate of the moment ends; zero where there is none.
func (i *Identity) NotAfter() time.Time {
	if s := i.current.Load(); s != nil {
		return s.notAfter
	}
	return time.Time{}
}

// Stats is what an Identity counted since its start.
type Stats struct {
	// Renewals counts certificates got, the first included; Failures attempts
	// that got none; Refused handshakes with peers that proved no identity or
	// the wrong one.
	Renewals, Failures, Refused uint64
}

// Stats returns the counters.
func (i *Identity) Stats() Stats {
	return Stats{Renewals: i.renewals.Load(), Failures: i.failures.Load(), Refused: i.refused.Load()}
}

// valid is the state whose certificate is valid now, or nil.
func (i *Identity) valid() *state {
	s := i.current.Load()
	if s == nil || time.Now().After(s.notAfter) {
		return nil
	}
	return s
}

// Client makes conn the client's side of a meshed hop whose server must prove
// the identity want; an empty want takes any of the trust domain. ctx bounds
// the handshake. Where it fails conn is left open, and of no more use; the
// error wraps ErrNoIdentity, ErrUntrusted, ErrWrongIdentity or conn's.
func (i *Identity) Client(ctx context.Context, conn net.Conn, want string) (c *tls.Conn, peer string, err error) {
	s := i.valid()
	if s == nil {
		return nil, "", ErrNoIdentity
	}
	c = tls.Client(conn, &tls.Config{
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{control.ALPN},
		Certificates: []tls.Certificate{s.certificate},
		// Few connections carry many requests: small records for the first bytes of
		// each would cost more than they hasten.
		DynamicRecordSizingDisabled: true,
		// Host names mean nothing here; verify checks chain and identity.
		InsecureSkipVerify: true,
		VerifyConnection:   func(cs tls.ConnectionState) error { return i.verify(s, &cs, want, x509.ExtKeyUsageServerAuth) },
	})
	return i.handshake(ctx, c)
}

// Server makes conn the server's side of a meshed hop and returns the identity
// that the client proved. ctx bounds the handshake. Where it fails conn is left
// open, and of no more use; the error is as Client's.
func (i *Identity) Server(ctx context.Context, conn net.Conn) (c *tls.Conn, peer string, err error) {
	s := i.valid()
	if s == nil {
		return nil, "", ErrNoIdentity
	}
	c = tls.Server(conn, &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{control.ALPN},
		Certificates:           []tls.Certificate{s.certificate},
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true,

		DynamicRecordSizingDisabled: true,
		VerifyConnection:            func(cs tls.ConnectionState) error { return i.verify(s, &cs, "", x509.ExtKeyUsageClientAuth) },
	})
	return i.handshake(ctx, c)
}

func (i *Identity) handshake(ctx context.Context, c *tls.Conn) (*tls.Conn, string, error) {
	ctx, cancel := context.WithTimeout(ctx, DefaultHandshakeTimeout)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		if errors.Is(err, ErrUntrusted) || errors.Is(err, ErrWrongIdentity) {
			i.refused.Add(1)
		}
		return nil, "", fmt.Errorf("cannot agree on mutual TLS: %w", err)
	}
	cs := c.ConnectionState()
	if cs.NegotiatedProtocol != control.ALPN {
		return nil, "", fmt.Errorf("cannot agree on mutual TLS: the peer speaks %q, not %q", cs.NegotiatedProtocol, control.ALPN)
	}
	return c, uriName(cs.PeerCertificates[0]), nil
}

// verify checks the peer's chain and identity.
func (i *Identity) verify(s *state, cs *tls.ConnectionState, want string, usage x509.ExtKeyUsage) error {
	if len(cs.PeerCertificates) == 0 {
		return fmt.Errorf("%w: it sent none", ErrUntrusted)
	}
	leaf := cs.PeerCertificates[0]
	intermediates := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		intermediates.AddCert(c)
	}
	anchors := s.anchors
	if now := i.current.Load(); now != nil {
		anchors = now.anchors // they may have changed since the handshake began
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: anchors, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
		return fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	id, err := identity(leaf, i.o.TrustDomain)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	if want != "" && id != want {
		return fmt.Errorf("%w: it is %s, and was to be %s", ErrWrongIdentity, id, want)
	}
	return nil
}

// identity is the SPIFFE ID of a certificate.
func identity(c *x509.Certificate, trustDomain string) (string, error) {
	if len(c.URIs) != 1 {
		return "", fmt.Errorf("it has %d URI names, an identity is one", len(c.URIs))
	}
	u := c.URIs[0]
	if u.Scheme != "spiffe" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("%q is no SPIFFE ID", u)
	}
	if u.Host != trustDomain {
		return "", fmt.Errorf("%s is not of the trust domain %s", u, trustDomain)
	}
	if ns, sa := ServiceAccount(u.String()); ns == "" || sa == "" {
		return "", fmt.Errorf("%s names no ServiceAccount", u)
	}
	return u.String(), nil
}

func uriName(c *x509.Certificate) string {
	if len(c.URIs) == 0 {
		return ""
	}
	return c.URIs[0].String()
}

// ServiceAccount is the namespace and name in a SPIFFE ID of the form that
// control.SPIFFE writes; "" and "" where it is of another form.
func ServiceAccount(id string) (namespace, name string) {
	u, err := url.Parse(id)
	if err != nil || u.Scheme != "spiffe" {
		return "", ""
	}
	parts := strings.Split(u.Path, "/")
	if len(parts) != 5 || parts[0] != "" || parts[1] != "ns" || parts[3] != "sa" || parts[2] == "" || parts[4] == "" {
		return "", ""
	}
	return parts[2], parts[4]
}
