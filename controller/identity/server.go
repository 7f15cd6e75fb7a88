package identity

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"slices"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// serverLifetime is how long the certificate of a server of Weir's is valid;
	// it is renewed when a third of that is left.
	serverLifetime = 30 * 24 * time.Hour
	checkServer    = 5 * time.Second
	retryServer    = time.Second
	serverTimeout  = 10 * time.Second
)

// Secrets are the Secrets of a namespace. Those of client-go's core/v1 are one.
type Secrets interface {
	Get(ctx context.Context, name string, o meta.GetOptions) (*core.Secret, error)
	Create(ctx context.Context, s *core.Secret, o meta.CreateOptions) (*core.Secret, error)
	Update(ctx context.Context, s *core.Secret, o meta.UpdateOptions) (*core.Secret, error)
}

// ServerSecret is a Secret of type kubernetes.io/tls with the certificate of a
// server of Weir's, which is made, and made anew before it ends and whenever
// the issuer changes.
type ServerSecret struct {
	Secrets         Secrets
	Namespace, Name string
	// DNSNames are the names that the server is reached by.
	DNSNames []string
	// Labels of the Secret.
	Labels map[string]string
	// Owner says what the Secret is to be deleted with; nil for nothing. Where it
	// errs, the Secret is made without an owner: the server waits for it.
	Owner func(ctx context.Context) (*meta.OwnerReference, error)
}

// Keep sees to a ServerSecret until ctx ends. Any number of controllers may do
// so at once: each only writes what is not as it should be, and of two that
// write at once Kubernetes takes one.
func (a *Authority) Keep(ctx context.Context, s ServerSecret) {
	said := ""
	for {
		wait := checkServer
		changed, err := a.keep(ctx, s)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			said = ""
			if changed {
				a.log.Info("certificate of a server made", "secret", s.Namespace+"/"+s.Name)
			}
		default:
			wait = retryServer
			level := slog.LevelDebug
			if err.Error() != said {
				said, level = err.Error(), slog.LevelWarn
			}
			a.log.Log(ctx, level, "cannot see to a server's certificate; trying on", "secret", s.Namespace+"/"+s.Name, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

func (a *Authority) keep(ctx context.Context, s ServerSecret) (changed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, serverTimeout)
	defer cancel()
	issuer := a.Issuer()
	found, err := s.Secrets.Get(ctx, s.Name, meta.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		found = nil
	case err != nil:
		return false, fmt.Errorf("cannot read it: %w", err)
	case issuer.good(found.Data, s.DNSNames):
		return false, nil
	}
	data, err := issuer.server(s.DNSNames)
	if err != nil {
		return false, err
	}
	if found == nil {
		_, err = s.Secrets.Create(ctx, &core.Secret{
			ObjectMeta: meta.ObjectMeta{Name: s.Name, Namespace: s.Namespace, Labels: s.Labels, OwnerReferences: a.owners(ctx, s)},
			Type:       core.SecretTypeTLS, Data: data,
		}, meta.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return false, nil // another controller's; looked at next time
		}
	} else {
		found.Data = data
		if len(found.OwnerReferences) == 0 {
			found.OwnerReferences = a.owners(ctx, s)
		}
		_, err = s.Secrets.Update(ctx, found, meta.UpdateOptions{})
		if apierrors.IsConflict(err) {
			return false, nil
		}
	}
	if err != nil {
		return false, fmt.Errorf("cannot write it: %w", err)
	}
	return true, nil
}

// owners are what a Secret is deleted with.
func (a *Authority) owners(ctx context.Context, s ServerSecret) []meta.OwnerReference {
	if s.Owner == nil {
		return nil
	}
	owner, err := s.Owner(ctx)
	if err != nil {
		a.log.Warn("cannot tell what a server's certificate is to be deleted with; it will have to be deleted by itself",
			"secret", s.Namespace+"/"+s.Name, "error", err)
		return nil
	}
	return []meta.OwnerReference{*owner}
}

// server makes a key and its certificate.
func (i *Issuer) server(names []string) (map[string][]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make a key: %w", err)
	}
	chain, err := i.Sign(&key.PublicKey, Leaf{Lifetime: serverLifetime, DNSNames: names})
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("cannot write the key: %w", err)
	}
	return map[string][]byte{
		core.TLSCertKey:       chain,
		core.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}),
		"ca.crt":              i.Anchors,
	}, nil
}

// good tells whether a Secret's data is what server would make, and for long
// enough.
func (i *Issuer) good(data map[string][]byte, names []string) bool {
	pair, err := tls.X509KeyPair(data[core.TLSCertKey], data[core.TLSPrivateKeyKey])
	if err != nil || !bytes.Equal(data["ca.crt"], i.Anchors) {
		return false
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil || leaf.CheckSignatureFrom(i.Certificate) != nil || !slices.Equal(leaf.DNSNames, names) {
		return false
	}
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	// Near the issuer's own end no longer one can be had.
	atMost := i.Certificate.NotAfter.Equal(leaf.NotAfter)
	left := time.Until(leaf.NotAfter)
	return left > 0 && (atMost || left > life/3)
}
