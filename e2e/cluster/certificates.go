package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/weirmesh/weir/e2e/cluster/node"
)

// validity of keys that go with the cluster.
const validity = 30 * 24 * time.Hour

// An authority signs the cluster's certificates.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// certify makes every key of a cluster, and a kubeconfig file for each user.
func certify(c node.Config) error {
	if err := os.MkdirAll(c.PKI(), 0o700); err != nil {
		return fmt.Errorf("cannot make certificates: %w", err)
	}
	a, err := newAuthority(c.PKI())
	if err != nil {
		return fmt.Errorf("cannot make certificates: %w", err)
	}
	if err := a.serviceAccounts(); err != nil {
		return fmt.Errorf("cannot make certificates: %w", err)
	}
	loopback, own := net.IPv4(127, 0, 0, 1), net.IP(c.Address.Addr().AsSlice())
	servers := map[string]x509.Certificate{
		"apiserver": {
			Subject:     pkix.Name{CommonName: "kube-apiserver"},
			DNSNames:    []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"},
			IPAddresses: []net.IP{loopback, own, c.APIService().AsSlice()},
		},
		"kubelet-serving": {
			Subject: pkix.Name{CommonName: node.Name}, DNSNames: []string{node.Name}, IPAddresses: []net.IP{loopback, own},
		},
	}
	for name, cert := range servers {
		if err := a.sign(name, cert, x509.ExtKeyUsageServerAuth); err != nil {
			return fmt.Errorf("cannot make the certificate %s: %w", name, err)
		}
	}
	clients := map[string]pkix.Name{
		"kubelet-client": {Organization: []string{"system:masters"}, CommonName: "kube-apiserver"},
		"front-proxy":    {CommonName: "front-proxy"},
		"admin":          {Organization: []string{"system:masters"}, CommonName: "admin"},
		"controllers":    {CommonName: "system:kube-controller-manager"},
		"scheduler":      {CommonName: "system:kube-scheduler"},
		"proxy":          {CommonName: "system:kube-proxy"},
		"kubelet":        {Organization: []string{"system:nodes"}, CommonName: "system:node:" + node.Name},
	}
	for name, subject := range clients {
		if err := a.sign(name, x509.Certificate{Subject: subject}, x509.ExtKeyUsageClientAuth); err != nil {
			return fmt.Errorf("cannot make the certificate %s: %w", name, err)
		}
		if err := a.kubeconfig(c, name); err != nil {
			return fmt.Errorf("cannot write the kubeconfig of %s: %w", name, err)
		}
	}
	return nil
}

func newAuthority(dir string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	a := &authority{dir: dir, key: key}
	a.cert = &x509.Certificate{
		Subject: pkix.Name{CommonName: "weir-cluster"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	return a, a.issue("ca", a.cert, key)
}

// sign makes a key and a certificate of it.
func (a *authority) sign(name string, cert x509.Certificate, use x509.ExtKeyUsage) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	cert.KeyUsage, cert.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{use}
	cert.BasicConstraintsValid = true
	return a.issue(name, &cert, key)
}

// issue writes a key and its certificate, name.key and name.crt.
func (a *authority) issue(name string, cert *x509.Certificate, key *ecdsa.PrivateKey) error {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return err
	}
	cert.SerialNumber = serial
	cert.NotBefore, cert.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(validity)
	raw, err := x509.CreateCertificate(rand.Reader, cert, a.cert, key.Public(), a.key)
	if err != nil {
		return err
	}
	if err := a.write(name+".crt", "CERTIFICATE", raw); err != nil {
		return err
	}
	return a.writeKey(name, key)
}

func (a *authority) writeKey(name string, key *ecdsa.PrivateKey) error {
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return a.write(name+".key", "EC PRIVATE KEY", raw)
}

func (a *authority) write(name, kind string, raw []byte) error {
	return os.WriteFile(filepath.Join(a.dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: raw}), 0o600)
}

// serviceAccounts makes the pair that tokens of ServiceAccounts are signed with.
func (a *authority) serviceAccounts() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := a.write("sa.pub", "PUBLIC KEY", public); err != nil {
		return err
	}
	return a.writeKey("sa", key)
}

// kubeconfig writes the file with which a user reaches the API server from within
// the node's network.
func (a *authority) kubeconfig(c node.Config, user string) error {
	var parts [3]string
	for i, name := range []string{"ca.crt", user + ".crt", user + ".key"} {
		text, err := os.ReadFile(filepath.Join(a.dir, name))
		if err != nil {
			return err
		}
		parts[i] = base64.StdEncoding.EncodeToString(text)
	}
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: weir, cluster: {server: %q, certificate-authority-data: %s}}]
users: [{name: %[4]q, user: {client-certificate-data: %[3]s, client-key-data: %[5]s}}]
contexts: [{name: weir, context: {cluster: weir, user: %[4]q}}]
current-context: weir
`, node.APIAddress, parts[0], parts[1], user, parts[2])
	return os.WriteFile(c.Kubeconfig(user), []byte(text), 0o600)
}
