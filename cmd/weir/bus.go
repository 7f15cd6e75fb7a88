package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"github.com/weirmesh/weir/bus"
	busserver "github.com/weirmesh/weir/bus/server"
	"github.com/weirmesh/weir/cli"
)

const defaultBusURL = "nats://" + busserver.DefaultListen

// busCommand is `weir bus`.
type busCommand struct {
	o         busserver.Options
	adminAddr string
	auth      string
	memory    int64
	kube      kubeFlags
	tls       busserver.CertificateFiles
	anchors   string
	routes    busserver.Cluster
}

func newBus() *cobra.Command {
	var b busCommand
	cmd := &cobra.Command{
		Use:   "bus",
		Short: "Run the bus, an embedded NATS server with the streams of events and rollups",
		Long: `Run the bus: a NATS server with the streams that keep events and rollups. Any
NATS client can subscribe to it. It keeps what it had when it is started again
with the same --data.

With --auth kubernetes a client shows a Kubernetes token, and may do what its
bearer may: a proxy publish its own workload's events, a person hear the
namespaces whose taps they may watch (docs/subjects.md).`,
		Example: `  weir bus --listen 127.0.0.1:4222 --data /var/lib/weir`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return cli.Usagef(cmd, "unexpected argument %q", args[0])
			}
			if err := b.check(cmd); err != nil {
				return err
			}
			return b.run(cmd.Context())
		},
	}
	b.flags(cmd)
	cmd.AddCommand(newCredentials())
	return cmd
}

func (b *busCommand) flags(cmd *cobra.Command) {
	f, o := cmd.Flags(), &b.o
	// Before the flags, which show them.
	o.Retention.EventBytes, o.Retention.RollupBytes = bus.DefaultEventBytes, bus.DefaultRollupBytes
	b.memory = busMemory
	f.StringVar(&o.Listen, "listen", busserver.DefaultListen, "address for NATS clients, host:port")
	f.StringVar(&o.DataDir, "data", "", "folder that keeps the streams; made if missing")
	f.StringVar(&o.Name, "name", "weir", "name of this server; of several that are one bus, each has its own")
	f.DurationVar(&o.Retention.EventAge, "events-max-age", bus.DefaultEventAge, "how long raw events are kept")
	f.Var((*byteCount)(&o.Retention.EventBytes), "events-max-bytes", "how many bytes of raw events are kept, as 4GiB")
	f.DurationVar(&o.Retention.RollupAge, "rollups-1s-age", bus.DefaultRollupAge, "how long statistics are kept in steps of 1s, at least")
	f.DurationVar(&o.Retention.Rollup10sAge, "rollups-10s-age", bus.DefaultRollup10s, "how long they are kept in steps of 10s")
	f.DurationVar(&o.Retention.Rollup1mAge, "rollups-1m-age", bus.DefaultRollup1m, "how long they are kept in steps of 1m")
	f.Var((*byteCount)(&o.Retention.RollupBytes), "rollups-max-bytes", "how many bytes of each of them are kept")
	f.Var((*byteCount)(&b.memory), "memory", "how much memory to work with, as 512MiB: what is read of the files is dropped where it takes more")
	f.IntVar(&o.Retention.Replicas, "replicas", 1, "on how many servers each message is kept")
	f.BoolVar(&o.Insecure, "insecure", false, "listen on other addresses than loopback although anyone may connect")
	f.StringVar(&b.auth, "auth", authNone, "who may connect: none (anyone) or kubernetes (who shows a token)")
	f.StringVar(&b.tls.Certificate, "tls-cert", "", "file of the server's certificate, PEM; clients must then use TLS. It is waited for, and read again when it changes")
	f.StringVar(&b.tls.Key, "tls-key", "", "file of its private key, PEM")
	f.StringVar(&b.anchors, "tls-ca", "", "file of trust anchors, PEM, for other servers' certificates")
	f.StringVar(&b.routes.Listen, "routes-listen", "", "address for the other servers that are one bus with this, host:port")
	f.StringVar(&b.routes.Advertise, "routes-advertise", "", "where they reach this one, host:port")
	f.StringSliceVar(&b.routes.Peers, "routes", nil, "where all of them are reached, host:port, with commas between")
	f.StringVar(&b.routes.PeerName, "routes-name", busService, "DNS name that their certificates must hold")
	f.StringVar(&b.adminAddr, "admin", "", "address for /metrics, /ready and /live, host:port (default: none)")
	b.kube.add(cmd)
}

// Ways to authenticate.
const (
	authNone       = "none"
	authKubernetes = "kubernetes"
)

func (b *busCommand) check(cmd *cobra.Command) error {
	switch {
	case b.o.DataDir == "":
		return cli.Usagef(cmd, "--data is missing: it is the folder that keeps the streams")
	case b.memory < leastBusMemory:
		return cli.Usagef(cmd, "--memory is too little: the least is %dMiB", leastBusMemory>>20)
	case b.auth != authNone && b.auth != authKubernetes:
		return cli.Usagef(cmd, "--auth %q: must be %s or %s", b.auth, authNone, authKubernetes)
	case (b.tls.Certificate == "") != (b.tls.Key == ""):
		return cli.Usagef(cmd, "--tls-cert and --tls-key belong together")
	case (b.routes.Listen == "") != (len(b.routes.Peers) == 0):
		return cli.Usagef(cmd, "--routes-listen and --routes belong together")
	case b.routes.Listen != "" && b.tls.Certificate != "" && b.anchors == "":
		return cli.Usagef(cmd, "--tls-ca is missing: other servers' certificates are held against it")
	}
	return nil
}

// How much memory a bus works with, and where the collector begins.
const (
	busMemory = 512 << 20
	// leastBusMemory holds a block of each stream, and some.
	leastBusMemory = 64 << 20
	// busGarbage is in percent of what is in use. Nearly all of the bus's memory
	// is blocks of the streams' files, in which the collector has nothing to
	// follow: going through them often is cheap. And nats-server leaves blocks to
	// the collector, in pools that it empties the next time only: with Go's own
	// 100 % the bus would grow with all that it reads (docs/benchmarks.md).
	busGarbage = 50
)

func (b *busCommand) run(ctx context.Context) error {
	debug.SetMemoryLimit(b.memory)
	debug.SetGCPercent(busGarbage)
	o := b.o
	o.Logger = slog.Default()
	port := admin{addr: b.adminAddr}
	if b.auth == authKubernetes {
		gate, err := newGatekeeper(&b.kube)
		if err != nil {
			return err
		}
		o.Authenticator, port.write = gate, gate.keeper.WriteMetrics
	}
	if b.routes.Listen != "" {
		b.routes.Anchors = b.anchors
		o.Cluster = &b.routes
	}
	// The port answers while the bus waits for its certificate or for others.
	running := new(atomic.Pointer[busserver.Server])
	port.ready = func() error {
		if s := running.Load(); s != nil {
			return s.Ready()
		}
		return errors.New("the bus is not up yet")
	}
	if write := port.write; write != nil {
		port.write = func(w io.Writer) {
			write(w)
			if s := running.Load(); s != nil {
				stats := s.AuthStats()
				_, _ = fmt.Fprintf(w, "weir_bus_clients_admitted_total %d\nweir_bus_clients_refused_total %d\nweir_bus_violations_total %d\n",
					stats.Admitted, stats.Refused, stats.Violations)
			}
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	var portErr error
	wg.Go(func() {
		defer cancel()
		portErr = port.run(ctx)
	})
	err := b.serve(ctx, o, running)
	cancel()
	wg.Wait()
	return errors.Join(err, portErr)
}

// serve runs the server until ctx ends.
func (b *busCommand) serve(ctx context.Context, o busserver.Options, running *atomic.Pointer[busserver.Server]) error {
	if b.tls.Certificate != "" {
		if err := awaitFiles(ctx, b.tls.Certificate, b.tls.Key); err != nil {
			return nil // it was told to end
		}
		o.TLS = &b.tls
	}
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
	running.Store(s)
	<-ctx.Done()
	return nil
}

// awaitFiles waits until there are files, which others write.
func awaitFiles(ctx context.Context, files ...string) error {
	for said := false; ; {
		missing := ""
		for _, f := range files {
			if info, err := os.Stat(f); err != nil || info.Size() == 0 {
				missing = f
			}
		}
		if missing == "" {
			return nil
		}
		if !said {
			said = true
			slog.Info("waiting for a file", "file", missing)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}
