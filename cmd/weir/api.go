package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
	"github.com/weirmesh/weir/api"
	"github.com/weirmesh/weir/api/client"
	"github.com/weirmesh/weir/cli"
	"github.com/weirmesh/weir/dashboard"
)

func newAPI(build cli.Build) *cobra.Command {
	var onBus busFlags
	var pages string
	var mesh meshMetrics
	o := api.Options{Build: api.Build(build)}
	cmd := &cobra.Command{
		Use:   "api",
		Short: "Run the query API, as gRPC and as HTTP/JSON",
		Long: `Run the query API, weir.v1.Weir: as gRPC with reflection and health on
--grpc-addr, and as HTTP/JSON under /api/v1/ on --http-addr, beside
/api/v1/openapi.json, /metrics, /ready and /live. /metrics/mesh are the mesh's
statistics for Prometheus: counters that survive pods, aggregators and the API
itself. It keeps no data but on the bus and may run any number of times; one of
them counts for Prometheus.`,
		Example: `  weir api --bus nats://127.0.0.1:4222 --grpc-addr 127.0.0.1:8085 --http-addr 127.0.0.1:8086`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return cli.Usagef(cmd, "unexpected argument %q", args[0])
			}
			if err := mesh.check(cmd); err != nil {
				return err
			}
			return runAPI(cmd, o, &mesh, onBus, pages)
		},
	}
	f := cmd.Flags()
	onBus.add(cmd)
	f.StringVar(&o.GRPCAddr, "grpc-addr", client.DefaultAddr, "address for gRPC, host:port")
	f.StringVar(&o.HTTPAddr, "http-addr", "127.0.0.1:8086", "address for HTTP, host:port")
	f.StringVar(&pages, "dashboard-addr", "", "address for the dashboard, host:port (default: none; weir dashboard --listen serves it elsewhere)")
	mesh.flags(cmd)
	return cmd
}

func runAPI(cmd *cobra.Command, o api.Options, mesh *meshMetrics, onBus busFlags, pages string) error {
	c, err := onBus.connect(cmd, "weir-api")
	if err != nil {
		return err
	}
	defer c.Close()
	o.Backend, o.Ready, o.Logger = c, onBus.connected(c), slog.Default()
	o.Controller, o.BusState = askController(c), (&busWatch{client: c}).state
	if mesh.on {
		handler, stop, err := mesh.start(cmd.Context(), c)
		if err != nil {
			return err
		}
		defer stop()
		o.MeshMetrics = handler
	}
	s, err := api.Start(o)
	if err != nil {
		flag := "--http-addr"
		if strings.Contains(err.Error(), "for gRPC") {
			flag = "--grpc-addr"
		}
		return inUse(err, flag)
	}
	slog.Info("API is up", "grpc", s.GRPCAddr(), "http", s.HTTPAddr())
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	served := make(chan error, 1)
	go func() {
		if pages == "" {
			<-ctx.Done()
			served <- nil
			return
		}
		served <- servePages(ctx, s.HTTPAddr(), pages)
	}()
	select {
	case err = <-s.Failed():
	case err = <-served:
		served <- nil
	case <-ctx.Done():
		err = nil
	}
	cancel()
	return errors.Join(err, <-served, s.Close())
}

// servePages serves the dashboard beside an API.
func servePages(ctx context.Context, apiAddr, listen string) error {
	host, port, err := net.SplitHostPort(apiAddr)
	if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
		apiAddr = net.JoinHostPort("127.0.0.1", port)
	}
	api := &url.URL{Scheme: "http", Host: apiAddr}
	return serveHTTP(ctx, "the dashboard", "--dashboard-addr", listen, dashboard.Handler(api, slog.Default()))
}

func errNoBus(url string) error {
	return fmt.Errorf("not connected to the bus at %s; trying on", url)
}
