package identity

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"
)

// Files are where the issuer's chain and key and the trust anchors are, PEM. In
// a Secret of type kubernetes.io/tls, such as cert-manager writes, they are
// tls.crt, tls.key and ca.crt.
type Files struct {
	Certificate, Key, Anchors string
}

// pollFiles is how often the files are looked at.
const pollFiles = 2 * time.Second

// Read reads the files and checks that they fit each other: the certificate
// must be an authority's, the key its own, and its chain lead to an anchor.
func (f Files) Read() (*Issuer, error) {
	var pems [3][]byte
	for n, name := range []string{f.Certificate, f.Key, f.Anchors} {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("cannot read the issuer: %w", err)
		}
		pems[n] = b
	}
	i, err := ParseIssuer(pems[0], pems[1], pems[2])
	if err != nil {
		return nil, fmt.Errorf("cannot use the issuer %s with the key %s and the trust anchors %s: %w", f.Certificate, f.Key, f.Anchors, err)
	}
	return i, nil
}

// ParseIssuer makes an Issuer of PEM: its chain (itself first), its private key
// and the trust anchors. The error says what does not fit.
func ParseIssuer(chain, key, anchors []byte) (*Issuer, error) {
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, err
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, errors.New("the key cannot sign")
	}
	if pair.Leaf == nil {
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return nil, err
		}
	}
	if !pair.Leaf.IsCA || pair.Leaf.KeyUsage&x509.KeyUsageCertSign == 0 {
		return nil, fmt.Errorf("the certificate of %q may not sign others: it must be a certificate authority's", pair.Leaf.Subject)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	if !roots.AppendCertsFromPEM(anchors) {
		return nil, errors.New("there is no certificate among the trust anchors")
	}
	i := &Issuer{Certificate: pair.Leaf, Anchors: anchors, key: signer}
	for n, der := range pair.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		if n > 0 {
			between.AddCert(c)
		}
		i.chain = append(i.chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return nil, fmt.Errorf("the certificate does not lead to a trust anchor: %w", err)
	}
	return i, nil
}

// Run reads the files again when they have changed, until ctx ends. Files that
// do not fit each other (they are replaced one by one) change nothing.
func (a *Authority) Run(ctx context.Context) {
	tick := time.NewTicker(pollFiles)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		issuer, err := a.o.Files.Read()
		if err != nil {
			if err.Error() != said {
				said = err.Error()
				a.log.Warn("cannot read the issuer anew; the one of before is used on", "error", err)
			}
			continue
		}
		said = ""
		if now := a.Issuer(); !issuer.Certificate.Equal(now.Certificate) || !bytes.Equal(issuer.Anchors, now.Anchors) {
			a.issuer.Store(issuer)
			a.log.Info("issuer changed", "subject", issuer.Certificate.Subject.String(), "valid_until", issuer.Certificate.NotAfter.Format(time.RFC3339))
		}
	}
}
