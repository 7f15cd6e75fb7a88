package authority

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// Check tells whether an issuer can be used: its certificate must be an
// authority's that is valid now, the key its own, and its chain lead to one of
// the anchors. The error says which of that is not so.
func Check(g *Generated) error {
	pair, err := tls.X509KeyPair(g.Certificate, g.Key)
	if err != nil {
		return fmt.Errorf("the issuer's certificate and key do not go together: %w", err)
	}
	chain := make([]*x509.Certificate, len(pair.Certificate))
	for n, der := range pair.Certificate {
		if chain[n], err = x509.ParseCertificate(der); err != nil {
			return fmt.Errorf("certificate %d of the issuer's chain cannot be read: %w", n+1, err)
		}
	}
	issuer := chain[0]
	if !issuer.IsCA || issuer.KeyUsage&x509.KeyUsageCertSign == 0 {
		return fmt.Errorf("the certificate of %q may not sign others: it must be a certificate authority's", issuer.Subject)
	}
	if now := time.Now(); now.Before(issuer.NotBefore) || now.After(issuer.NotAfter) {
		return fmt.Errorf("the issuer's certificate is valid from %s to %s, not now", issuer.NotBefore.Format(time.RFC3339), issuer.NotAfter.Format(time.RFC3339))
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	if !roots.AppendCertsFromPEM(g.Anchors) {
		return errors.New("there is no certificate among the trust anchors")
	}
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	if _, err := issuer.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return fmt.Errorf("the issuer's certificate does not lead to a trust anchor: %w", err)
	}
	return nil
}
