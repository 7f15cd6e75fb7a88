package main

import (
	"context"
	"fmt"
	"io"

	"github.com/weirmesh/weir/controller/discovery"
	"github.com/weirmesh/weir/controller/inventory"
)

// inventoryPart tells what is in the cluster, from discovery's caches.
func (c *controller) inventoryPart(d *discovery.Discovery) (part, error) {
	v, err := inventory.New(inventory.Options{
		Pods: d.Pods(), Owners: d.Owners(), Scaled: d.Scaled, Synced: func() bool { return d.Ready() == nil },
		Cluster: c.kube.cluster, Namespace: c.kube.namespace,
	})
	if err != nil {
		return part{}, err
	}
	return part{
		name: "inventory",
		run:  func(ctx context.Context) error { return v.Run(ctx, c.client) },
		metrics: func(w io.Writer) {
			answered, refused := v.Counts()
			_, _ = fmt.Fprintf(w, "weir_controller_inventory_requests_total{result=\"answered\"} %d\n", answered)
			_, _ = fmt.Fprintf(w, "weir_controller_inventory_requests_total{result=\"refused\"} %d\n", refused)
		},
	}, nil
}
