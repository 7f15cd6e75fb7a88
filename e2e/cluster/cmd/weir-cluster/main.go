// Command weir-cluster starts, uses and ends a Kubernetes cluster on this machine:
// package cluster from the command line. `make cluster-up`, `make kubectl` and
// `make cluster-down` run it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/weirmesh/weir/e2e/cluster"
	"github.com/weirmesh/weir/e2e/cluster/node"
)

const usage = `weir-cluster runs a Kubernetes cluster of one node on this machine.

Usage:
  weir-cluster up [--name N] [IMAGE.tar…]      start it in the background, import images, return when it is ready
  weir-cluster import [--name N] IMAGE.tar…    import images
  weir-cluster kubectl [--name N] ARGS…        run its kubectl
  weir-cluster exec [--name N] COMMAND…        run a command in the node's network, with KUBECONFIG set
  weir-cluster forward [--name N] HOST:PORT IP:PORT
                                               connect an address of this machine to one of the cluster, until Ctrl-C
  weir-cluster down [--name N]                 end it, and leave nothing behind
  weir-cluster sweep                           remove what clusters left whose process was killed
  weir-cluster build                           build what it consists of, and no more

--name tells several clusters apart ("dev"). --source is the folder e2e/cluster, from
whose programs up and build build; the go command finds it from within. Write "--"
before ARGS that begin with a dash.
`

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	err := dispatch(ctx, os.Args[1], os.Args[2:])
	var ended *exec.ExitError
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		fmt.Fprintf(os.Stderr, "weir-cluster: %v\n\n%s", err, usage)
		return 2
	case errors.As(err, &ended):
		return max(ended.ExitCode(), 1) // it has said why
	case err != nil:
		fmt.Fprintln(os.Stderr, "weir-cluster:", err)
		return 1
	}
	return 0
}

var errUsage = errors.New("this is not how it is used")

func dispatch(ctx context.Context, verb string, args []string) error {
	var o cluster.Options
	var config string
	f := flag.NewFlagSet("weir-cluster "+verb, flag.ContinueOnError)
	f.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	f.StringVar(&o.Name, "name", cluster.DefaultName, "the cluster's name")
	f.StringVar(&o.Source, "source", "", "the folder e2e/cluster")
	f.StringVar(&config, "config", "", "the node's configuration")
	if err := f.Parse(args); err != nil {
		return err
	}
	args = f.Args()
	switch verb {
	case "up":
		return up(ctx, o, args)
	case "supervise":
		return supervise(ctx, o, args)
	case "node":
		c, err := node.Load(config)
		if err != nil {
			return err
		}
		return node.Run(ctx, c)
	case "build":
		return cluster.Build(ctx, o)
	case "down":
		return down(o)
	case "sweep":
		return cluster.Sweep(o)
	case "import", "kubectl", "exec", "forward":
	default:
		return fmt.Errorf("%w: there is no command %q", errUsage, verb)
	}
	c, err := cluster.Attach(o)
	if err != nil {
		return err
	}
	switch {
	case verb == "kubectl":
		return attached(c.Command(ctx, "kubectl", args...))
	case verb == "exec" && len(args) > 0:
		return attached(c.Command(ctx, args[0], args[1:]...))
	case verb == "forward" && len(args) == 2:
		return forward(ctx, c, args[0], args[1])
	case verb == "import" && len(args) > 0:
		for _, tar := range args {
			if err := c.ImportImage(ctx, tar); err != nil {
				return err
			}
			slog.Info("imported", "image", tar)
		}
		return nil
	}
	return fmt.Errorf("%w: %s takes other arguments", errUsage, verb)
}

// attached runs a command on this one's own input and output.
func attached(cmd *exec.Cmd) error {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

func down(o cluster.Options) error {
	if err := cluster.Stop(o); err != nil {
		return err
	}
	slog.Info("the cluster is down", "name", o.Name)
	return nil
}
