// Command weir is Weir's command line and, by its subcommands, each component
// of its control plane: bus, aggregator, controller, api and dashboard. `weir --help` lists
// them.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/weirmesh/weir/cli"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal asks for a clean end, a second one gets any.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}))
}

// run does what args say until it is done or ctx ends.
func run(ctx context.Context, args []string, streams cli.Streams) int {
	build := buildInfo()
	root := cli.New(cli.Options{
		Streams:        streams,
		Build:          build,
		Roles:          trimmed(newBus(), newAggregator(), newAPI(build), newController()),
		ServeDashboard: serveDashboard,
		ExportNDJSON:   exportNDJSON,
	})
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil || ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return exitOK
	}
	_, _ = fmt.Fprintln(streams.ErrOut, "weir:", err)
	var usage *cli.UsageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailed
}
