package main

import (
	"context"

	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/controller/discovery"
)

// discoveryParts tell proxies what is behind addresses. Every controller does:
// what they say is the same.
func (c *controller) discoveryParts() ([]part, error) {
	d, err := discovery.New(discovery.Options{
		Kubernetes: c.kubernetes, Announce: c.client.Announce, Cluster: c.kube.cluster, TrustDomain: c.trustDomain,
	})
	if err != nil {
		return nil, err
	}
	known, err := c.inventoryPart(d)
	if err != nil {
		return nil, err
	}
	return []part{
		known,
		{name: "discovery", run: d.Run, ready: d.Ready, metrics: d.WriteMetrics},
		{name: "answers to lookups", run: func(ctx context.Context) error {
			return c.client.Answer(ctx, control.DiscoveryService, control.ResolveMethod, d.Resolve)
		}},
	}, nil
}
