// Package bustest runs a real bus inside a test, as net/http/httptest does for
// HTTP: a server on a free loopback port with its data in the test's own
// folder, closed with the test.
package bustest

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/weirmesh/weir/bus/client"
	"github.com/weirmesh/weir/bus/server"
)

const startTimeout = time.Minute

// Run starts a bus and closes it when the test ends.
func Run(t testing.TB) *server.Server {
	t.Helper()
	return Start(t, server.Options{})
}

// Start is Run with options; Listen and DataDir are chosen where they are
// empty.
func Start(t testing.TB, o server.Options) *server.Server {
	t.Helper()
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	if o.DataDir == "" {
		o.DataDir = t.TempDir()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	s, err := server.Start(ctx, o)
	if err != nil {
		t.Fatalf("cannot start a bus: %v", err)
	}
	t.Cleanup(s.Close)
	return s
}

// Restart closes the bus s and starts another in its place: at the same
// address, with the same data. It is closed when the test ends.
func Restart(t testing.TB, s *server.Server) *server.Server {
	t.Helper()
	s.Close()
	return Start(t, s.Options())
}

// Connect returns a client of the bus that is connected, and closed when the
// test ends.
func Connect(t testing.TB, s *server.Server) *client.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	c, err := client.Connect(ctx, client.Options{URL: s.URL(), Name: t.Name(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatalf("cannot connect to the bus: %v", err)
	}
	t.Cleanup(c.Close)
	if err := c.WaitConnected(ctx); err != nil {
		t.Fatalf("cannot connect to the bus: %v", err)
	}
	return c
}
