package proxy

import (
	"context"
	"encoding/json"

	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/proxy/discover"
)

// endpoints is the control plane as a source of destinations.
type endpoints struct{ control Control }

// Resolve implements discover.Source.
func (e endpoints) Resolve(ctx context.Context, r *control.ResolveRequest) (*control.Destination, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	request, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	b, err := e.control.Request(ctx, control.DiscoveryService, control.ResolveMethod, request)
	if err != nil {
		return nil, err
	}
	d := new(control.Destination)
	return d, control.Decode(b, d)
}

// Watch implements discover.Source. A message that makes no sense is one that
// was missed.
func (e endpoints) Watch(ctx context.Context, fn func(*control.Destination), missed func()) error {
	return e.control.WatchEndpoints(ctx, func(change []byte) {
		d := new(control.Destination)
		if control.Decode(change, d) != nil {
			missed()
			return
		}
		fn(d)
	}, missed)
}

// newResolver makes what knows destinations; nil where no listener asks.
func (p *Proxy) newResolver() *discover.Resolver {
	if p.cfg.Control == nil || !p.cfg.discovers() {
		return nil
	}
	return discover.New(discover.Options{
		Source: endpoints{p.cfg.Control}, Cluster: p.cfg.Self.Workload.Cluster, Namespace: p.cfg.Self.Workload.Namespace, Logger: p.log,
	})
}
