package main

import (
	"context"
	"fmt"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/controller/access"
	"github.com/weirmesh/weir/controller/identity"
)

// busSecret is the Secret with the bus's certificate, busService the name that
// the bus is reached by, and busPeers that of its single servers.
const (
	busSecret  = "weir-bus-tls"
	busService = "weir-bus"
	busPeers   = "weir-bus-peers"
)

// identityParts certify proxies, and see to the bus's certificate.
func (c *controller) identityParts() ([]part, error) {
	var err error
	c.authority, err = identity.New(identity.Options{
		Reviewer: c.kubernetes.AuthenticationV1().TokenReviews(), Files: c.issuer, TrustDomain: c.trustDomain,
	})
	if err != nil {
		return nil, err
	}
	secret := identity.ServerSecret{
		Secrets: c.kubernetes.CoreV1().Secrets(c.kube.namespace), Namespace: c.kube.namespace, Name: busSecret,
		DNSNames: busNames(c.kube.namespace, c.clusterDomain),
		Labels: map[string]string{
			"app.kubernetes.io/name": "weir", "app.kubernetes.io/part-of": "weir",
			"app.kubernetes.io/component": "bus", "app.kubernetes.io/managed-by": "weir-controller",
		},
		Owner: c.ownAccount,
	}
	until := func(run func(context.Context)) func(context.Context) error {
		return func(ctx context.Context) error {
			run(ctx)
			return ctx.Err()
		}
	}
	return []part{
		{name: "issuer", run: until(c.authority.Run), metrics: c.authority.WriteMetrics},
		{name: "the bus's certificate", run: until(func(ctx context.Context) { c.authority.Keep(ctx, secret) })},
		{name: "identity", run: func(ctx context.Context) error {
			return c.client.Answer(ctx, control.IdentityService, control.CertifyMethod, c.authority.Certify)
		}},
	}, nil
}

// ownAccount refers to the controller's ServiceAccount, which is there as long as
// Weir is installed: Kubernetes deletes with it what the controller has made,
// whoever uninstalls Weir.
func (c *controller) ownAccount(ctx context.Context) (*meta.OwnerReference, error) {
	account, err := c.kubernetes.CoreV1().ServiceAccounts(c.kube.namespace).Get(ctx, access.ControllerAccount, meta.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot read the controller's ServiceAccount: %w", err)
	}
	return &meta.OwnerReference{APIVersion: "v1", Kind: "ServiceAccount", Name: account.Name, UID: account.UID}, nil
}

// busNames are the names that the bus's certificate is for; localhost is what
// kubectl port-forward makes of it.
func busNames(namespace, clusterDomain string) []string {
	names := []string{busService, "localhost"}
	for _, end := range []string{"." + namespace, "." + namespace + ".svc", "." + namespace + ".svc." + clusterDomain} {
		names = append(names, busService+end, "*."+busPeers+end)
	}
	return names
}
