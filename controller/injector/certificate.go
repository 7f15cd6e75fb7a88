package injector

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// lifetime is how long the server's certificate is valid; it is renewed when
	// renewShare of that is over.
	lifetime   = 7 * 24 * time.Hour
	renewShare = 0.7
	// look is how often the issuer, the certificate's age and the caBundles are
	// looked at, and retry how soon after a failure.
	look  = 5 * time.Second
	retry = time.Second
)

// keeper keeps the server's certificate and the caBundles of the webhook.
type keeper struct {
	o     Options
	log   *slog.Logger
	key   *ecdsa.PrivateKey
	names []string

	mu sync.Mutex // protects the rest
	// current leads to anchors.
	current *tls.Certificate
	anchors []byte
	// problem is why the API server does not trust it, nil if it does.
	problem error
}

func newKeeper(o Options, log *slog.Logger) (*keeper, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make the webhook's key: %w", err)
	}
	k := &keeper{o: o, log: log, key: key, problem: errors.New("the webhook's caBundle is not yet looked at")}
	for _, end := range []string{"", "." + o.Namespace, "." + o.Namespace + ".svc"} {
		k.names = append(k.names, o.Service+end)
	}
	return k, k.renew()
}

// renew signs another certificate for the key.
func (k *keeper) renew() error {
	chain, anchors, err := k.o.Sign(&k.key.PublicKey, k.names, lifetime)
	if err != nil {
		return fmt.Errorf("cannot certify the webhook: %w", err)
	}
	c := &tls.Certificate{PrivateKey: k.key}
	for rest := chain; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		c.Certificate = append(c.Certificate, block.Bytes)
	}
	if len(c.Certificate) == 0 {
		return errors.New("cannot certify the webhook: the issuer gave no certificate")
	}
	if c.Leaf, err = x509.ParseCertificate(c.Certificate[0]); err != nil {
		return fmt.Errorf("cannot certify the webhook: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.current, k.anchors = c, anchors
	return nil
}

func (k *keeper) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.current, nil
}

func (k *keeper) notAfter() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.current.Leaf.NotAfter
}

func (k *keeper) ready() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.problem
}

// run renews the certificate in time, and when the trust anchors have changed, and
// keeps the caBundles, until ctx ends.
func (k *keeper) run(ctx context.Context) {
	said := ""
	for {
		err := k.keep(ctx)
		wait := look
		if err != nil {
			wait = retry
			if ctx.Err() == nil && err.Error() != said {
				k.log.Warn("the webhook is not as it should be; trying on", "error", err)
			}
			said = err.Error()
		} else if said != "" {
			said = ""
			k.log.Info("the webhook is as it should be")
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// keep does once what there is to do.
func (k *keeper) keep(ctx context.Context) error {
	k.mu.Lock()
	leaf, anchors := k.current.Leaf, k.anchors
	k.mu.Unlock()
	old := time.Since(leaf.NotBefore) > time.Duration(renewShare*float64(leaf.NotAfter.Sub(leaf.NotBefore)))
	if changed, err := k.anchorsChanged(anchors); err != nil {
		return err
	} else if old || changed {
		if err := k.renew(); err != nil {
			return err
		}
		k.log.Info("the webhook has another certificate", "until", k.notAfter().Format(time.RFC3339))
	}
	k.mu.Lock()
	anchors = k.anchors
	k.mu.Unlock()
	err := k.patch(ctx, anchors)
	k.mu.Lock()
	k.problem = err
	k.mu.Unlock()
	return err
}

// anchorsChanged asks the issuer for a certificate that is thrown away: it costs less
// than a millisecond, and tells what an issuer of now would give.
func (k *keeper) anchorsChanged(anchors []byte) (bool, error) {
	_, now, err := k.o.Sign(&k.key.PublicKey, k.names, lifetime)
	if err != nil {
		return false, fmt.Errorf("cannot certify the webhook: %w", err)
	}
	return !bytes.Equal(now, anchors), nil
}

// patch has the API server trust the anchors.
func (k *keeper) patch(ctx context.Context, anchors []byte) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	configurations := k.o.Kubernetes.AdmissionregistrationV1().MutatingWebhookConfigurations()
	c, err := configurations.Get(ctx, k.o.Webhook, getOptions)
	if err != nil {
		return fmt.Errorf("cannot read MutatingWebhookConfiguration %s: %w", k.o.Webhook, err)
	}
	type operation struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value"`
	}
	// The list must be the one that was read.
	ops := []operation{{"test", "/metadata/resourceVersion", c.ResourceVersion}}
	for i, w := range c.Webhooks {
		if !bytes.Equal(w.ClientConfig.CABundle, anchors) {
			ops = append(ops, operation{"add", fmt.Sprintf("/webhooks/%d/clientConfig/caBundle", i), anchors})
		}
	}
	if len(ops) == 1 {
		return nil
	}
	text, err := json.Marshal(ops)
	if err != nil {
		return err
	}
	if _, err := configurations.Patch(ctx, k.o.Webhook, types.JSONPatchType, text, meta.PatchOptions{FieldManager: "weir-controller"}); err != nil {
		return fmt.Errorf("cannot set the caBundle of MutatingWebhookConfiguration %s: %w", k.o.Webhook, err)
	}
	k.log.Info("the API server trusts the webhook", "configuration", k.o.Webhook)
	return nil
}
