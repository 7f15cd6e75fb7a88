package authority_test

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"

	"github.com/weirmesh/weir/deploy/authority"
)

func TestGenerate(t *testing.T) {
	g, err := authority.Generate("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(g.Certificate, g.Key)
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(g.Anchors) {
		t.Fatal("no anchor")
	}
	if _, err := issuer.Verify(x509.VerifyOptions{Roots: roots}); err != nil {
		t.Error(err)
	}
	if !issuer.IsCA || !issuer.MaxPathLenZero {
		t.Error("the issuer may sign no leaf, or further issuers")
	}
	if life := time.Until(issuer.NotAfter); life < 364*24*time.Hour || life > 366*24*time.Hour {
		t.Errorf("the issuer lives %v", life)
	}
}
