package mtls

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"time"
)

// Source gets certificates: Certify returns a certificate (with its key) and
// the trust anchors, PEM. Each call may give new ones.
type Source interface {
	Certify(ctx context.Context) (c tls.Certificate, anchors []byte, err error)
}

// Files is a Source that reads PEM files, again at each renewal: for machines
// whose certificates somebody else renews.
type Files struct {
	// Certificate holds the chain, leaf first; Key its private key; Anchors the
	// trust anchors.
	Certificate, Key, Anchors string
}

// Pair reads the certificate and its key.
func (f Files) Pair() (tls.Certificate, error) {
	c, err := tls.LoadX509KeyPair(f.Certificate, f.Key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("cannot load the certificate %s with the key %s: %w", f.Certificate, f.Key, err)
	}
	return c, nil
}

// Certify reads the files.
func (f Files) Certify(context.Context) (tls.Certificate, []byte, error) {
	c, err := f.Pair()
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	anchors, err := os.ReadFile(f.Anchors)
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("cannot load the trust anchors: %w", err)
	}
	return c, anchors, nil
}

// Authority is a Source that makes a key and has an authority certify it.
type Authority struct {
	// Sign sends a certificate request (DER) to the authority; it returns the
	// chain and the trust anchors (PEM).
	Sign func(ctx context.Context, csr []byte) (chain, anchors []byte, err error)
	// Anchors are the trust anchors that the operator gave. An answer is taken
	// only if its certificate leads to one of these, or to one that came with an
	// answer taken before: so anchors can be exchanged, old beside new at first.
	Anchors []byte

	// trusted are those of the last answer; Run alone calls Certify.
	trusted []byte
}

// Certify makes a new key (ECDSA P-256) and gets its certificate.
func (a *Authority) Certify(ctx context.Context) (tls.Certificate, []byte, error) {
	fail := func(err error) (tls.Certificate, []byte, error) {
		return tls.Certificate{}, nil, fmt.Errorf("cannot get a certificate: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fail(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return fail(err)
	}
	chain, anchors, err := a.Sign(ctx, csr)
	if err != nil {
		return fail(err)
	}
	c := tls.Certificate{PrivateKey: key}
	for rest := chain; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "CERTIFICATE" {
			c.Certificate = append(c.Certificate, block.Bytes)
		}
	}
	if len(c.Certificate) == 0 {
		return fail(errors.New("the authority's answer holds no certificate"))
	}
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		return fail(err)
	}
	if public, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || !public.Equal(&key.PublicKey) {
		return fail(errors.New("the authority certified another key"))
	}
	c.Leaf = leaf
	if err := leadsTo(c, append(append([]byte{}, a.Anchors...), a.trusted...)); err != nil {
		return fail(err)
	}
	a.trusted = anchors
	return c, anchors, nil
}

// leadsTo checks that a chain ends at one of the anchors.
func leadsTo(c tls.Certificate, anchors []byte) error {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	if !roots.AppendCertsFromPEM(anchors) {
		return errors.New("there is no certificate among the trust anchors")
	}
	for _, der := range c.Certificate[1:] {
		parsed, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		intermediates.AddCert(parsed)
	}
	_, err := c.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err
}

// Of a certificate's life, renewAt is when it is renewed, jitter by how much
// that varies, so that pods that started together do not renew together.
const (
	renewAt = 0.7
	jitter  = 0.1
	// The delay after a failure doubles from least to most; half of it is
	// random.
	retryLeast = 250 * time.Millisecond
	retryMost  = 30 * time.Second
)

// Run gets a certificate and renews it at about 70 % of its life, until ctx
// ends. Where that fails it tries on; the certificate of the moment serves for
// as long as it is valid.
func (i *Identity) Run(ctx context.Context) {
	delay := retryLeast
	for ctx.Err() == nil {
		wait := delay/2 + mathrand.N(delay/2)
		switch err := i.renew(ctx); {
		case err == nil:
			delay = retryLeast
			s := i.current.Load()
			life := s.notAfter.Sub(s.notBefore)
			at := s.notBefore.Add(time.Duration(float64(life) * (renewAt + jitter*(mathrand.Float64()-0.5))))
			// Even one that is old already is not asked for anew in a tight loop.
			wait = max(time.Until(at), retryLeast)
		case ctx.Err() != nil:
			return
		default:
			i.failures.Add(1)
			i.log.Warn("cannot renew the proxy's certificate; trying on", "error", err, "again_in", wait.Round(time.Millisecond), "valid_until", i.NotAfter())
			delay = min(2*delay, retryMost)
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// renew gets a certificate once.
func (i *Identity) renew(ctx context.Context) error {
	c, anchors, err := i.o.Source.Certify(ctx)
	if err != nil {
		return err
	}
	if c.Leaf == nil {
		if c.Leaf, err = x509.ParseCertificate(c.Certificate[0]); err != nil {
			return err
		}
	}
	id, err := identity(c.Leaf, i.o.TrustDomain)
	if err != nil {
		return fmt.Errorf("the certificate is of no use: %w", err)
	}
	if err := leadsTo(c, anchors); err != nil {
		return fmt.Errorf("the certificate is of no use: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(anchors)
	i.current.Store(&state{certificate: c, id: id, notBefore: c.Leaf.NotBefore, notAfter: c.Leaf.NotAfter, anchors: pool})
	i.renewals.Add(1)
	i.once.Do(func() { close(i.ready) })
	i.log.Info("certificate in use", "identity", id, "valid_until", c.Leaf.NotAfter.Format(time.RFC3339))
	return nil
}
