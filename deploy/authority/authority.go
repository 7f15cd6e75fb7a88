// Package authority makes the certificate authority that an installation starts
// with: a trust anchor, which every proxy is given, and an issuer below it, with
// whose key the controller signs.
package authority

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"
)

// skew is by how much a certificate is valid before it was made, for those
// whose clocks are behind.
const skew = 20 * time.Second

// Lifetimes of what Generate makes.
const (
	anchorLifetime = 10 * 365 * 24 * time.Hour
	issuerLifetime = 365 * 24 * time.Hour
)

// Generated is an authority in PEM.
type Generated struct{ Anchors, Certificate, Key []byte }

// Generate makes a trust anchor, whose key is thrown away, and an issuer below
// it (both ECDSA P-256).
func Generate(trustDomain string) (*Generated, error) {
	fail := func(err error) (*Generated, error) {
		return nil, fmt.Errorf("cannot make a certificate authority: %w", err)
	}
	anchorKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fail(err)
	}
	issuerKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fail(err)
	}
	now := time.Now()
	authority := func(name string, life time.Duration, pathLength int) *x509.Certificate {
		serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)) // crypto/rand does not fail
		return &x509.Certificate{
			SerialNumber: serial, Subject: pkix.Name{CommonName: name + "." + trustDomain},
			NotBefore: now.Add(-skew), NotAfter: now.Add(life),
			IsCA: true, BasicConstraintsValid: true, MaxPathLen: pathLength, MaxPathLenZero: pathLength == 0,
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		}
	}
	anchor := authority("root.weir", anchorLifetime, 1)
	anchorDER, err := x509.CreateCertificate(rand.Reader, anchor, anchor, &anchorKey.PublicKey, anchorKey)
	if err != nil {
		return fail(err)
	}
	issuerDER, err := x509.CreateCertificate(rand.Reader, authority("identity.weir", issuerLifetime, 0), anchor, &issuerKey.PublicKey, anchorKey)
	if err != nil {
		return fail(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(issuerKey)
	if err != nil {
		return fail(err)
	}
	return &Generated{
		Anchors:     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: anchorDER}),
		Certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issuerDER}),
		Key:         pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}),
	}, nil
}
