package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

const (
	headerTimeout = 10 * time.Second
	stopTimeout   = 5 * time.Second
)

// inUse adds to an error about an address in use which flag changes it.
func inUse(err error, flag string) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w (%s takes another)", err, flag)
	}
	return err
}

// serveHTTP serves handler on the address that flag gave until ctx ends and
// requests under way are done; those that last longer are cut off.
func serveHTTP(ctx context.Context, what, flag, addr string, handler http.Handler) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return inUse(fmt.Errorf("cannot listen for %s on %s: %w", what, addr, err), flag)
	}
	slog.Info("listening", "for", what, "addr", l.Addr().String())
	// Requests end with the server: a live stream would not by itself.
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	s := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		BaseContext:       func(net.Listener) context.Context { return base },
		ErrorLog:          slog.NewLogLogger(slog.Default().Handler(), slog.LevelWarn),
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("cannot go on serving %s on %s: %w", what, addr, err)
	case <-ctx.Done():
	}
	cancel()
	sctx, scancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer scancel()
	if err := s.Shutdown(sctx); err != nil {
		_ = s.Close()
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("cannot stop serving %s on %s: %w", what, addr, err)
	}
	return nil
}

// admin is a component's own HTTP port.
type admin struct {
	addr string
	// ready says why the component cannot work now, nil where it can.
	ready func() error
	// write adds the component's metrics; may be nil.
	write func(io.Writer)
}

// run serves /metrics, /ready and /live until ctx ends; without an address it
// only waits.
func (a admin) run(ctx context.Context) error {
	if a.addr == "" {
		<-ctx.Done()
		return nil
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		if a.write != nil {
			a.write(w)
		}
		metrics.WriteProcessMetrics(w)
	})
	mux.HandleFunc("GET /live", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		if err := a.ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	})
	return serveHTTP(ctx, "metrics and probes", "--admin", a.addr, mux)
}
