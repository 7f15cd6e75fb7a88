package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"
	"github.com/weirmesh/weir/aggregator"
	"github.com/weirmesh/weir/aggregator/store"
	"github.com/weirmesh/weir/bus"
	busclient "github.com/weirmesh/weir/bus/client"
	"github.com/weirmesh/weir/cli"
	"github.com/weirmesh/weir/resident"
)

func newAggregator() *cobra.Command {
	var id, adminAddr, memory string
	var onBus busFlags
	tiers := store.Tiers()
	var ages [len(tierNames)]time.Duration
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
			limit, err := memoryLimit(memory)
			if err != nil {
				return cli.Usagef(cmd, "--memory: %w", err)
			}
			for i := range tiers {
				tiers[i].Keep = int64(ages[i] / time.Second)
			}
			if err := store.CheckTiers(tiers); err != nil {
				return cli.Usagef(cmd, "--rollups-…-age: %w", err)
			}
			c, err := onBus.connect(cmd, "weir-aggregator-"+id)
			if err != nil {
				return err
			}
			defer c.Close()
			return runAggregator(cmd.Context(), c, id, tiers, limit, admin{addr: adminAddr, ready: onBus.connected(c)})
		},
	}
	// Without a name the flag is required.
	host, _ := os.Hostname()
	f := cmd.Flags()
	onBus.add(cmd)
	f.StringVar(&id, "id", host, "name of this aggregator; no two that run may have the same")
	f.StringVar(&adminAddr, "admin", "", "address for /metrics, /ready and /live, host:port (default: none)")
	f.StringVar(&memory, "memory", "256MiB", fmt.Sprintf("how much memory to work with, %dMiB or more: all that is resident; 24MiB of it are for the program itself, a quarter of the rest and "+
		"at least 48MiB for what is under way, the others for statistics, whose older windows get coarser edges where they take too much", aggregator.LeastMemory>>20))
	for i, t := range tiers {
		f.DurationVar(&ages[i], "rollups-"+tierNames[i]+"-age", time.Duration(t.Keep)*time.Second,
			"how far back statistics are known in steps of "+tierNames[i]+"; the bus must keep them as long")
	}
	return cmd
}

// tierNames are the steps of rollups, in the names of flags.
var tierNames = [...]string{"1s", "10s", "1m"}

// memoryLimit reads how much memory to work with.
func memoryLimit(s string) (int64, error) {
	var n byteCount
	if err := n.Set(s); err != nil {
		return 0, err
	}
	if n < aggregator.LeastMemory {
		return 0, fmt.Errorf("%s is too little: the least is %dMiB", s, aggregator.LeastMemory>>20)
	}
	return int64(n), nil
}

func runAggregator(ctx context.Context, c *busclient.Client, id string, tiers []store.Tier, memory int64, port admin) error {
	// The collector keeps to it; statistics take a part of it, which leaves room
	// for what is under way.
	debug.SetMemoryLimit(aggregator.RuntimeLimit(memory))
	limits, storeBytes, keys := aggregator.Divide(memory, bus.Partitions)
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
		Tiers:      tiers,
		StoreBytes: storeBytes,
		Limits:     limits,
		Keys:       keys,
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
	// What it takes over may need all of its memory at once: the pages of the
	// start must be gone before.
	resident.DropText()
	err = a.Run(ctx)
	cancel()
	return errors.Join(err, <-served)
}
