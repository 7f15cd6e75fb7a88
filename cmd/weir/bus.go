package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"
	"github.com/weirmesh/weir/bus"
	busclient "github.com/weirmesh/weir/bus/client"
	busserver "github.com/weirmesh/weir/bus/server"
	"github.com/weirmesh/weir/cli"
)

const defaultBusURL = "nats://" + busserver.DefaultListen

func newBus() *cobra.Command {
	var o busserver.Options
	var adminAddr string
	cmd := &cobra.Command{
		Use:   "bus",
		Short: "Run the bus, an embedded NATS server with the streams of events and rollups",
		Long: `Run the bus: a NATS server with the streams that keep events and rollups. Any
NATS client can subscribe to it. It keeps what it had when it is started again
with the same --data.`,
		Example: `  weir bus --listen 127.0.0.1:4222 --data /var/lib/weir`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return cli.Usagef(cmd, "unexpected argument %q", args[0])
			}
			if o.DataDir == "" {
				return cli.Usagef(cmd, "--data is missing: it is the folder that keeps the streams")
			}
			return runBus(cmd.Context(), o, adminAddr)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Listen, "listen", busserver.DefaultListen, "address for NATS clients, host:port")
	f.StringVar(&o.DataDir, "data", "", "folder that keeps the streams; made if missing")
	f.DurationVar(&o.Retention.EventAge, "events-max-age", bus.DefaultEventAge, "how long raw events are kept")
	f.Int64Var(&o.Retention.EventBytes, "events-max-bytes", bus.DefaultEventBytes, "how many bytes of raw events are kept")
	f.DurationVar(&o.Retention.RollupAge, "rollups-1s-age", bus.DefaultRollupAge, "how long statistics are kept in steps of 1s, at least")
	f.DurationVar(&o.Retention.Rollup10sAge, "rollups-10s-age", bus.DefaultRollup10s, "how long they are kept in steps of 10s")
	f.DurationVar(&o.Retention.Rollup1mAge, "rollups-1m-age", bus.DefaultRollup1m, "how long they are kept in steps of 1m")
	f.Int64Var(&o.Retention.RollupBytes, "rollups-max-bytes", bus.DefaultRollupBytes, "how many bytes of each of them are kept")
	f.BoolVar(&o.Insecure, "insecure", false, "listen on other addresses than loopback although anyone may connect")
	f.StringVar(&adminAddr, "admin", "", "address for /metrics, /ready and /live, host:port (default: none)")
	return cmd
}

func runBus(ctx context.Context, o busserver.Options, adminAddr string) error {
	o.Logger = slog.Default()
	s, err := busserver.Start(ctx, o)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		if strings.Contains(err.Error(), "insecure") {
			return fmt.Errorf("%w (--insecure)", err)
		}
		return inUse(err, "--listen")
	}
	defer s.Close()
	return admin{addr: adminAddr, ready: s.Ready}.run(ctx)
}

// connect connects a component to the bus. An absent bus is no error: the
// client goes on trying, and says so in the log.
func connect(cmd *cobra.Command, url, name string) (*busclient.Client, error) {
	c, err := busclient.Connect(cmd.Context(), busclient.Options{URL: url, Name: name, Logger: slog.Default()})
	if err != nil {
		return nil, cli.Usagef(cmd, "--bus: %w", err)
	}
	return c, nil
}

// connected says whether a component's connection is up.
func connected(c *busclient.Client, url string) func() error {
	return func() error {
		if !c.Connected() {
			return errNoBus(url)
		}
		return nil
	}
}
