package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"

	busclient "github.com/weirmesh/weir/bus/client"
	"github.com/weirmesh/weir/cli"
	"github.com/weirmesh/weir/controller/identity"
)

// controller is what the parts of the controller share.
type controller struct {
	kube        kubeFlags
	bus         busFlags
	trustDomain string
	// clusterDomain is the cluster's DNS domain.
	clusterDomain string
	issuer        identity.Files
	injector      injectorFlags
	adminAddr     string

	kubernetes kubernetes.Interface
	client     *busclient.Client
	authority  *identity.Authority
}

// part is one thing that the controller does. Several controllers may do it at
// once: none of them leads.
type part struct {
	name string
	// run does it until ctx ends; where it returns before, the controller ends.
	run func(ctx context.Context) error
	// ready says why it cannot work now, and metrics writes its metrics; both
	// may be nil.
	ready   func() error
	metrics func(io.Writer)
}

// parts are all of them: each has a file of its own.
func (c *controller) parts() ([]part, error) {
	var parts []part
	for _, make := range []func() ([]part, error){
		c.identityParts,
		c.injectorParts,
		c.discoveryParts,
	} {
		some, err := make()
		if err != nil {
			return nil, err
		}
		parts = append(parts, some...)
	}
	return parts, nil
}

func newController() *cobra.Command {
	var c controller
	cmd := &cobra.Command{
		Use:   "controller",
		Short: "Run the controller, which certifies proxies and faces Kubernetes",
		Long: `Run the controller: it certifies the keys of proxies that show their
ServiceAccount's token, and sees to the bus's own certificate. The issuer and
the trust anchors are read again when their files change.`,
		Example: `  weir controller --bus nats://weir-bus.weir.svc:4222 --issuer-cert tls.crt --issuer-key tls.key --trust-anchors ca.crt`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return cli.Usagef(cmd, "unexpected argument %q", args[0])
			}
			for _, f := range []struct{ value, flag string }{
				{c.issuer.Certificate, "--issuer-cert"}, {c.issuer.Key, "--issuer-key"}, {c.issuer.Anchors, "--trust-anchors"},
			} {
				if f.value == "" {
					return cli.Usagef(cmd, "%s is missing: the controller certifies with it", f.flag)
				}
			}
			return c.run(cmd)
		},
	}
	c.kube.add(cmd)
	c.bus.add(cmd)
	c.injector.add(cmd)
	f := cmd.Flags()
	f.StringVar(&c.trustDomain, "trust-domain", "cluster.local", "SPIFFE trust domain of the identities that are certified")
	f.StringVar(&c.clusterDomain, "cluster-domain", "cluster.local", "the cluster's DNS domain")
	f.StringVar(&c.issuer.Certificate, "issuer-cert", "", "file of the issuer's certificate, PEM, with those up to an anchor")
	f.StringVar(&c.issuer.Key, "issuer-key", "", "file of its private key, PEM")
	f.StringVar(&c.issuer.Anchors, "trust-anchors", "", "file of the trust anchors, PEM")
	f.StringVar(&c.adminAddr, "admin", "", "address for /metrics, /ready and /live, host:port (default: none)")
	return cmd
}

func (c *controller) run(cmd *cobra.Command) error {
	var err error
	if c.kubernetes, err = c.kube.client(); err != nil {
		return err
	}
	if c.client, err = c.bus.connect(cmd, "weir-controller"); err != nil {
		return err
	}
	defer c.client.Close()
	parts, err := c.parts()
	if err != nil {
		return err
	}
	port := admin{addr: c.adminAddr, ready: func() error { return c.ready(parts) }, write: func(w io.Writer) {
		for _, p := range parts {
			if p.metrics != nil {
				p.metrics(w)
			}
		}
	}}
	parts = append(parts, part{name: "metrics and probes", run: port.run})
	slog.Info("controller is up", "namespace", c.kube.namespace)
	return c.runParts(cmd.Context(), parts)
}

// ready says what is missing. A bus that is away is no reason: it waits for the
// controller's certificate.
func (c *controller) ready(parts []part) error {
	for _, p := range parts {
		if p.ready == nil {
			continue
		}
		if err := p.ready(); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// runParts runs the parts until ctx ends or one of them fails; the others are
// then ended, too, and waited for.
func (c *controller) runParts(ctx context.Context, parts []part) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, len(parts))
	for n, p := range parts {
		wg.Go(func() {
			defer cancel()
			if err := p.run(ctx); err != nil && ctx.Err() == nil {
				errs[n] = fmt.Errorf("%s: %w", p.name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
