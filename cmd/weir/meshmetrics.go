package main

import (
	"context"
	"sync"
	"time"

	"github.com/spf13/cobra"
	busclient "github.com/weirmesh/weir/bus/client"
	"github.com/weirmesh/weir/cli"
	"github.com/weirmesh/weir/export/prometheus"
)

// meshMetrics is what the API serves to Prometheus.
type meshMetrics struct {
	on      bool
	options prometheus.Options
}

func (m *meshMetrics) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&m.on, "mesh-metrics", true, "count events for Prometheus, and serve them on /metrics/mesh")
	f.DurationVar(&m.options.Every, "mesh-metrics-every", 5*time.Second, "how often what was counted is stored and shown")
	f.IntVar(&m.options.Series, "mesh-metrics-series", 50_000, "how many sets of labels are counted apart; the rest is (other)")
	f.DurationVar(&m.options.Expire, "mesh-metrics-expire", time.Hour, "how long after its last sign of life a pod's series go")
	f.DurationVar(&m.options.Idle, "mesh-metrics-idle", 24*time.Hour, "how long after the last scrape counting goes on; the next one resumes it, with what the stream still has; 0: it never pauses")
}

func (m *meshMetrics) check(cmd *cobra.Command) error {
	switch {
	case m.options.Every < 100*time.Millisecond:
		return cli.Usagef(cmd, "--mesh-metrics-every %s: it must be 100ms at least", m.options.Every)
	case m.options.Series < 100:
		return cli.Usagef(cmd, "--mesh-metrics-series %d: it must be 100 at least", m.options.Series)
	case m.options.Expire < time.Minute:
		return cli.Usagef(cmd, "--mesh-metrics-expire %s: it must be 1m at least", m.options.Expire)
	case m.options.Idle != 0 && m.options.Idle < time.Minute:
		return cli.Usagef(cmd, "--mesh-metrics-idle %s: it must be 1m at least, or 0", m.options.Idle)
	}
	return nil
}

// start counts until stop is called, which waits for the last count to be
// stored. The handler shows what is stored, whoever counted it.
func (m *meshMetrics) start(ctx context.Context, c *busclient.Client) (handler *prometheus.Handler, stop func(), err error) {
	m.options.Stream, m.options.Store = c, c
	e, err := prometheus.New(m.options)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { _ = e.Run(ctx) }) // it is always nil
	return prometheus.NewHandler(m.options), func() {
		cancel()
		wg.Wait()
	}, nil
}
