package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

const (
	// awaitAdmin is where a proxy beside it answers.
	awaitAdmin = "127.0.0.1:4191"
	// awaitTimeout bounds await, awaitInterval is how often it asks, and
	// awaitAnswer bounds an answer.
	awaitTimeout  = time.Minute
	awaitInterval = 10 * time.Millisecond
	awaitAnswer   = 2 * time.Second
)

// await is `weir-proxy await`: it ends well when the proxy beside it is ready. As a
// hook of the container it keeps the application from starting before the proxy.
func await(args []string) int {
	fs := flag.NewFlagSet("weir-proxy await", flag.ContinueOnError)
	fs.SetOutput(os.Stderr)
	admin := fs.String("admin", awaitAdmin, "`address` of the proxy's /ready")
	timeout := fs.Duration("timeout", awaitTimeout, "for how long at most")
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		return exitUsage
	case fs.NArg() > 0:
		fmt.Fprintf(os.Stderr, "weir-proxy await: unexpected argument %q\n", fs.Arg(0))
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	if err := untilReady(ctx, "http://"+*admin+"/ready"); err != nil {
		fmt.Fprintf(os.Stderr, "weir-proxy await: the proxy is not ready after %s: %v\n", *timeout, err)
		return exitFailed
	}
	return exitOK
}

// untilReady asks until the answer is yes, or ctx ends; the error is the last
// answer.
func untilReady(ctx context.Context, url string) error {
	tick := time.NewTicker(awaitInterval)
	defer tick.Stop()
	last := errors.New("it was not asked")
	for {
		err := ready(ctx, url)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return last
		case <-tick.C:
		}
	}
}

func ready(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, awaitAnswer)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read as far as it counts
	why, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("it says: %s", strings.TrimSpace(string(why)))
	}
	return err
}

// pause is `weir-proxy pause DURATION`: it does nothing for so long. As a hook it
// keeps a proxy that is a plain container from ending before the application; the
// image has no shell to sleep with.
func pause(args []string) int {
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "weir-proxy pause: want one duration, for example weir-proxy pause 5s")
		return exitUsage
	}
	d, err := time.ParseDuration(args[0])
	if err != nil || d < 0 {
		fmt.Fprintf(os.Stderr, "weir-proxy pause: %q is no duration, for example 5s\n", args[0])
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
	return exitOK
}
