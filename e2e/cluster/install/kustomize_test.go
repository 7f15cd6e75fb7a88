package install

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// documented is the kustomization of docs/install.md.
func documented(t *testing.T) []byte {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(tree, "docs/install.md"))
	if err != nil {
		t.Fatal(err)
	}
	const head = "apiVersion: kustomize.config.k8s.io/"
	_, rest, found := strings.Cut(string(page), "```yaml\n"+head)
	text, _, ends := strings.Cut(rest, "```")
	if !found || !ends {
		t.Fatal("docs/install.md has no kustomization")
	}
	return []byte(head + text)
}

// bring writes a certificate authority into a folder: an anchor, ca.crt, and an issuer
// below it, tls.crt and tls.key.
func bring(t *testing.T, dir string) {
	t.Helper()
	write := func(name, kind string, der []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var above *x509.Certificate
	var aboveKey *ecdsa.PrivateKey
	for i, name := range []string{"ca", "tls"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: name + ".example.org"},
			NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(365 * 24 * time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
		if above == nil {
			above, aboveKey = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, above, &key.PublicKey, aboveKey)
		if err != nil {
			t.Fatal(err)
		}
		write(name+".crt", "CERTIFICATE", der)
		if name == "tls" {
			if der, err = x509.MarshalECPrivateKey(key); err != nil {
				t.Fatal(err)
			}
			write("tls.key", "EC PRIVATE KEY", der)
		} else if above, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
	}
}

// TestKustomize holds that the kustomization of docs/install.md installs Weir, with a
// certificate authority that was brought, in a namespace that it makes, and that
// deleting by it leaves nothing.
func TestKustomize(t *testing.T) {
	s := suite.Start(t)
	t.Cleanup(func() { uninstall(t, s) })
	dir := t.TempDir()
	bring(t, dir)
	manifests := printed(t, s, "install", "--ignore-cluster", "--set", "issuer.existing=true", "--set", "images.pullPolicy=Never")
	for name, text := range map[string][]byte{"kustomization.yaml": documented(t), "weir.yaml": []byte(manifests)} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	kubectl(t, s, "", "apply", "-k", dir)
	ready(s)
	checked(t, s)
	meshed(s)
	// Kustomize breaks a Secret's base64 into lines, which kubectl takes for a change.
	secret := func() string {
		return s.Kubectl("-n", "weir", "get", "secret/weir-identity-issuer", "-o", "jsonpath={.metadata.resourceVersion}")
	}
	before := secret()
	for _, line := range strings.Split(strings.TrimSpace(kubectl(t, s, "", "apply", "-k", dir)), "\n") {
		if !strings.HasSuffix(line, " unchanged") && line != "secret/weir-identity-issuer configured" {
			t.Errorf("applied again: %s", line)
		}
	}
	if secret() != before {
		t.Error("applied again, the issuer is another")
	}
	kubectl(t, s, "", "delete", "-k", dir)
	goneBut(s)
}
