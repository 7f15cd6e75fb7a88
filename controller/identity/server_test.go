package identity_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"os"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/weirmesh/weir/controller/identity"
)

// TestServerSecret holds that a server's certificate is made, left alone while
// it is good, mended where somebody spoilt it, and made anew with the issuer.
func TestServerSecret(t *testing.T) {
	dir := t.TempDir()
	files := write(t, dir, generate(t))
	a := newAuthority(t, files, reviews{})
	secrets := fake.NewClientset().CoreV1().Secrets("weir")
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	names := []string{"weir-bus", "weir-bus.weir.svc"}
	owner := func(context.Context) (*meta.OwnerReference, error) {
		return &meta.OwnerReference{APIVersion: "v1", Kind: "ServiceAccount", Name: "weir-controller", UID: "1"}, nil
	}
	// Two controllers at once.
	for range 2 {
		wg.Go(func() {
			a.Keep(ctx, identity.ServerSecret{Secrets: secrets, Namespace: "weir", Name: "weir-bus-tls", DNSNames: names, Labels: map[string]string{"a": "b"}, Owner: owner})
		})
	}
	wg.Go(func() { a.Run(ctx) })

	get := func(want func(*core.Secret) bool) *core.Secret {
		t.Helper()
		deadline := time.Now().Add(time.Minute)
		for {
			s, err := secrets.Get(ctx, "weir-bus-tls", meta.GetOptions{})
			if err == nil && want(s) {
				return s
			}
			if err != nil && !apierrors.IsNotFound(err) {
				t.Fatal(err)
			}
			if time.Now().After(deadline) {
				t.Fatal("the Secret is not as it should be")
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	check := func(s *core.Secret) {
		t.Helper()
		anchors, err := os.ReadFile(files.Anchors)
		if err != nil {
			t.Fatal(err)
		}
		roots, between := x509.NewCertPool(), x509.NewCertPool()
		roots.AppendCertsFromPEM(anchors)
		between.AppendCertsFromPEM(s.Data["tls.crt"])
		block, _ := pem.Decode(s.Data["tls.crt"])
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if _, err := leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: between}); err != nil {
				t.Error(err)
			}
		}
		if len(leaf.URIs) > 0 {
			t.Errorf("a server's certificate is that of %v", leaf.URIs)
		}
	}
	first := get(func(*core.Secret) bool { return true })
	check(first)
	if first.Labels["a"] != "b" || first.Type != core.SecretTypeTLS {
		t.Errorf("labels %v, type %s", first.Labels, first.Type)
	}

	spoilt := first.DeepCopy()
	spoilt.Data = maps.Clone(first.Data)
	spoilt.Data["tls.key"] = []byte("nonsense")
	if _, err := secrets.Update(ctx, spoilt, meta.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	mended := get(func(s *core.Secret) bool { return !bytes.Equal(s.Data["tls.key"], []byte("nonsense")) })
	check(mended)

	write(t, dir, generate(t))
	renewed := get(func(s *core.Secret) bool { return !bytes.Equal(s.Data["ca.crt"], mended.Data["ca.crt"]) })
	check(renewed)
}
