package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/weirmesh/weir/api/client"
)

// Ports of the API's pods, by their names in the chart.
const (
	componentAPI      = "api"
	portGRPC          = "grpc"
	portGRPCDefault   = 8085
	portWeb           = "dashboard"
	portWebDefault    = 8084
	findClusterWithin = 4 * time.Second
)

// dial connects to the API: at --api-addr or $WEIR_API_ADDR if given; else in
// the cluster that the kubeconfig names, where Weir is installed there; else on
// this machine, where `weir demo` runs.
func (a *app) dial(ctx context.Context) (*client.Client, error) {
	c, err := a.dialAny(ctx)
	if err != nil {
		return nil, err
	}
	slog.Debug("connected to the API", "addr", c.Addr(), "version", c.Server().GetVersion())
	return c, nil
}

func (a *app) dialAny(ctx context.Context) (*client.Client, error) {
	if a.apiAddr != "" {
		return client.Dial(ctx, a.apiAddr)
	}
	k, why := a.findAPI(ctx)
	if why == nil {
		return k.dialAPI(ctx)
	}
	if a.cluster.given() || ctx.Err() != nil {
		return nil, why
	}
	c, err := client.Dial(ctx, client.DefaultAddr)
	if err != nil && !errors.Is(why, errNoCluster) {
		return nil, fmt.Errorf("%w; in Kubernetes: %w", err, why)
	}
	return c, err
}

// findAPI gives the cluster, if Weir's API is ready there; within a few
// seconds, as a kubeconfig may name a cluster that is long gone.
func (a *app) findAPI(ctx context.Context) (*kubeCluster, error) {
	k, err := a.kube()
	if err != nil {
		return nil, err
	}
	fctx, cancel := context.WithTimeout(ctx, findClusterWithin)
	defer cancel()
	if _, err := k.readyPod(fctx, componentAPI); err != nil {
		return nil, err
	}
	return k, nil
}

// dialAPI connects to the API through forwarded ports; each new connection goes
// to a pod that is ready then.
func (c *kubeCluster) dialAPI(ctx context.Context) (*client.Client, error) {
	return client.DialWith(ctx, "weir-api of "+c.String(), func(ctx context.Context) (net.Conn, error) {
		return c.dialComponent(ctx, componentAPI, portGRPC, portGRPCDefault)
	})
}
