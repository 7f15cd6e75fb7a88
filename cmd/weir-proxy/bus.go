package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/bus/client"
	"github.com/weirmesh/weir/proxy"
	"github.com/weirmesh/weir/proxy/telemetry"
)

// plane is the control plane, as it is reached over the bus.
type plane struct{ *client.Client }

// WatchEndpoints implements proxy.Control.
func (p plane) WatchEndpoints(ctx context.Context, fn func([]byte), missed func()) error {
	return p.Watch(ctx, bus.EndpointsFilter, fn, missed)
}

// connect makes the connection to the bus, which need not answer yet, and sets
// cfg.Control. The sink is nil where there is no telemetry.
func connect(ctx context.Context, cfg *proxy.Config, log *slog.Logger) (telemetry.Sink, func(), error) {
	if !cfg.Publishes() {
		log.Info("telemetry is off", "reason", offReason(cfg))
	}
	if !cfg.UsesBus() {
		return nil, func() {}, nil
	}
	o, err := busOptions(cfg, log)
	if err != nil {
		return nil, nil, err
	}
	c, err := client.Connect(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	cfg.Control = plane{c}
	if !cfg.Publishes() {
		return nil, c.Close, nil
	}
	return c, c.Close, nil
}

// busOptions are what the connection to the bus is made with.
func busOptions(cfg *proxy.Config, log *slog.Logger) (client.Options, error) {
	o := client.Options{
		URL:       cfg.Telemetry.Bus,
		Name:      "weir-proxy " + strings.TrimSuffix(cfg.Self.Workload.String()+"/"+cfg.Self.Pod, "/"),
		TokenFile: cfg.Telemetry.BusToken,
		Small:     true,
		Logger:    log,
	}
	if o.TokenFile == "" {
		o.TokenFile = cfg.Identity.Token
	}
	if o.TokenFile != "" && cfg.Self.Pod != "" {
		o.Inbox = bus.InboxPrefix(cfg.Self.Workload.Namespace, cfg.Self.Pod)
	}
	anchors := cfg.Telemetry.BusAnchors
	if anchors == "" && strings.Contains(cfg.Telemetry.Bus, "tls://") {
		anchors = cfg.Identity.Anchors
	}
	switch {
	case anchors == "":
	case strings.Contains(anchors, "-----BEGIN "):
		o.Anchors = []byte(anchors)
	default:
		if _, err := proxy.ReadPEM(anchors); err != nil {
			return o, fmt.Errorf("%w; change --bus-trust-anchors %s", err, anchors)
		}
		o.AnchorsFile = anchors
	}
	return o, nil
}

func offReason(cfg *proxy.Config) string {
	if cfg.Telemetry.Off {
		return "--telemetry off"
	}
	return "no --bus"
}
