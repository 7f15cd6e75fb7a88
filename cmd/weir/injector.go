package main

import (
	"log/slog"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirmesh/weir/controller/identity"
	"github.com/weirmesh/weir/controller/injector"
	"github.com/weirmesh/weir/controller/workload"
)

// What the chart calls the webhook and the Service before it.
const (
	injectorWebhook = "weir-injector"
	injectorService = "weir-controller"
)

// injectorFlags say whether and how pods are injected.
type injectorFlags struct{ listen, config string }

func (i *injectorFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&i.listen, "injector", "", "address on which the API server asks for proxies to be added to pods, host:port (default: pods are not injected)")
	f.StringVar(&i.config, "injector-config", "/var/run/weir/config", "folder with what pods are injected with: the ConfigMap weir-config")
}

// injectorParts answer the API server's questions about pods.
func (c *controller) injectorParts() ([]part, error) {
	if c.injector.listen == "" {
		return nil, nil
	}
	s, err := injector.New(injector.Options{
		Listen: c.injector.listen, Namespace: c.kube.namespace, Service: injectorService, Webhook: injectorWebhook, Cluster: c.kube.cluster,
		Files: injector.Files{
			Values: filepath.Join(c.injector.config, "values.yaml"), Version: filepath.Join(c.injector.config, "version"), Anchors: c.issuer.Anchors,
		},
		By: "weir/injector " + version,
		Sign: func(public any, names []string, lifetime time.Duration) ([]byte, []byte, error) {
			issuer := c.authority.Issuer()
			chain, err := issuer.Sign(public, identity.Leaf{Lifetime: lifetime, DNSNames: names})
			return chain, issuer.Anchors, err
		},
		Kubernetes: c.kubernetes, Owners: workload.API{Kubernetes: c.kubernetes}, Logger: slog.Default(),
	})
	if err != nil {
		return nil, err
	}
	return []part{{name: "injector", run: s.Run, ready: s.Ready, metrics: s.WriteMetrics}}, nil
}
