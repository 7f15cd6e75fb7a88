// Command emojivoto is one workload of the sample application, for clusters: web,
// emoji, voting or vote-bot. On one machine `weir demo` runs all four. It knows no
// mesh.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/weirmesh/weir/demo/app"
	"github.com/weirmesh/weir/demo/app/emojipb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

const usage = `emojivoto is one workload of Weir's sample application.

Usage:
  emojivoto emoji|voting [--listen :8080]
  emojivoto web          [--listen :8080] [--emoji HOST:PORT] [--voting HOST:PORT]
  emojivoto vote-bot     [--web URL] [--rate N]

The servers of gRPC answer its health checks, web answers GET /live. On SIGTERM a
server goes on serving for --drain-delay, and then ends when its last request has.
`

// version is set by the linker.
var version = "dev"

var errUsage = errors.New("wrong usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal asks for a clean end, a second one gets any.
	context.AfterFunc(ctx, stop)
	err := run(ctx, os.Args[1:], os.Stderr)
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		fmt.Fprintf(os.Stderr, "emojivoto: %v\n\n%s", err, usage)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "emojivoto:", err)
		os.Exit(1)
	}
}

// settings are the flags.
type settings struct {
	listen, emoji, voting, web string
	rate                       float64
	drainDelay, drainTimeout   time.Duration
}

// run is one workload until ctx ends and it is done.
func run(ctx context.Context, args []string, talk io.Writer) error {
	if len(args) == 0 {
		return fmt.Errorf("%w: which workload?", errUsage)
	}
	var s settings
	f := flag.NewFlagSet("emojivoto "+args[0], flag.ContinueOnError)
	f.SetOutput(talk)
	f.Usage = func() {
		fmt.Fprint(talk, usage+"\nFlags:\n")
		f.PrintDefaults()
	}
	f.StringVar(&s.listen, "listen", ":8080", "address to serve on")
	f.StringVar(&s.emoji, "emoji", "emoji:8080", "address of the service emoji")
	f.StringVar(&s.voting, "voting", "voting:8080", "address of the service voting")
	f.StringVar(&s.web, "web", "http://web", "URL of the front end")
	f.Float64Var(&s.rate, "rate", 5, "votes a second; 0: none")
	f.DurationVar(&s.drainDelay, "drain-delay", 2*time.Second, "go on accepting for so long after SIGTERM")
	f.DurationVar(&s.drainTimeout, "drain-timeout", 10*time.Second, "then let requests go on for so long")
	if err := f.Parse(args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	if f.NArg() > 0 {
		return fmt.Errorf("%w: %q is no flag", errUsage, f.Arg(0))
	}
	slog.Info("starting", "workload", args[0], "version", version)
	switch args[0] {
	case "emoji":
		return s.grpc(ctx, func(r grpc.ServiceRegistrar) { emojipb.RegisterEmojiServiceServer(r, &app.Emoji{}) })
	case "voting":
		return s.grpc(ctx, func(r grpc.ServiceRegistrar) { emojipb.RegisterVotingServiceServer(r, &app.Voting{}) })
	case "web":
		return s.front(ctx)
	case "vote-bot":
		bot := &app.Bot{URL: s.web, Rate: s.rate}
		bot.Run(ctx)
		slog.Info("ended", "requests by status, 0 without one", fmt.Sprint(bot.Counts()))
		return nil
	}
	return fmt.Errorf("%w: there is no workload %q", errUsage, args[0])
}

// drain ends a server in order: stop lets its requests end, cut does not wait.
func (s settings) drain(stop, cut func()) {
	time.Sleep(s.drainDelay)
	timer := time.AfterFunc(s.drainTimeout, cut)
	defer timer.Stop()
	stop()
}

// grpc serves a service and its health.
func (s settings) grpc(ctx context.Context, register func(grpc.ServiceRegistrar)) error {
	l, err := net.Listen("tcp", s.listen)
	if err != nil {
		return fmt.Errorf("cannot listen: %w", err)
	}
	server := grpc.NewServer()
	register(server)
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	return s.serve(ctx, func() error { return server.Serve(l) }, server.GracefulStop, server.Stop)
}

// front serves the front end.
func (s settings) front(ctx context.Context) error {
	toEmoji, err := dial(s.emoji)
	if err != nil {
		return err
	}
	defer func() { _ = toEmoji.Close() }()
	toVoting, err := dial(s.voting)
	if err != nil {
		return err
	}
	defer func() { _ = toVoting.Close() }()
	mux := http.NewServeMux()
	mux.Handle("/", app.NewWeb(toEmoji, toVoting))
	mux.HandleFunc("GET /live", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	server := &http.Server{Addr: s.listen, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	stop := func() {
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.drainTimeout)
		defer cancel()
		_ = server.Shutdown(sctx) // cut off, then
	}
	return s.serve(ctx, func() error {
		if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}, stop, func() { _ = server.Close() })
}

// serve runs a server until ctx ends and it is drained.
func (s settings) serve(ctx context.Context, serve func() error, stop, cut func()) error {
	ended := make(chan error, 1)
	go func() { ended <- serve() }()
	select {
	case err := <-ended:
		return fmt.Errorf("cannot go on serving: %w", err)
	case <-ctx.Done():
	}
	s.drain(stop, cut)
	return <-ended
}

func dial(address string) (*grpc.ClientConn, error) {
	cc, err := grpc.NewClient("dns:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("cannot make a client of %s: %w", address, err)
	}
	return cc, nil
}
