package main

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"github.com/weirmesh/weir/aggregator"
	"github.com/weirmesh/weir/bus"
	busclient "github.com/weirmesh/weir/bus/client"
	"github.com/weirmesh/weir/cli"
)

func newAggregator() *cobra.Command {
	var busURL, id, adminAddr string
	cmd := &cobra.Command{
		Use:   "aggregator",
		Short: "Run an aggregator, which folds events into statistics",
		Long: `Run an aggregator. It folds the events of its share of the mesh into exact
statistics, keeps them on the bus, answers the API's questions and serves taps.
Several share the work; when one goes, the others go on with what it had.`,
		Example: `  weir aggregator --bus nats://127.0.0.1:4222 --id agg-0`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return cli.Usagef(cmd, "unexpected argument %q", args[0])
			}
			if id == "" {
				return cli.Usagef(cmd, "--id is missing and this machine has no name: it tells this aggregator from others")
			}
			c, err := connect(cmd, busURL, "weir-aggregator-"+id)
			if err != nil {
				return err
			}
			defer c.Close()
			return runAggregator(cmd.Context(), c, id, admin{addr: adminAddr, ready: connected(c, busURL)})
		},
	}
	// Without a name the flag is required.
	host, _ := os.Hostname()
	f := cmd.Flags()
	f.StringVar(&busURL, "bus", defaultBusURL, "the bus, nats://host:port; several with commas between")
	f.StringVar(&id, "id", host, "name of this aggregator; no two that run may have the same")
	f.StringVar(&adminAddr, "admin", "", "address for /metrics, /ready and /live, host:port (default: none)")
	return cmd
}

func runAggregator(ctx context.Context, c *busclient.Client, id string, port admin) error {
	a, err := aggregator.New(aggregator.Options{
		ID:        id,
		Source:    c,
		Rollups:   c,
		Members:   c,
		Server:    c,
		Publisher: c,
		Subjects: aggregator.Subjects{
			Parse:  bus.ParseWorkload,
			Events: bus.EventsSubject,
			Tap:    bus.TapSubject,
			Stats:  bus.StatsSubject,
		},
		ErrFenced:  bus.ErrFenced,
		Partitions: bus.Partitions,
		Logger:     slog.Default(),
	})
	if err != nil {
		return err
	}
	port.write = a.WriteMetrics
	// Whichever ends first ends the other.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	served := make(chan error, 1)
	go func() {
		defer cancel()
		served <- port.run(ctx)
	}()
	slog.Info("aggregator is up", "id", id)
	err = a.Run(ctx)
	cancel()
	return errors.Join(err, <-served)
}
