package client_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/bus/bustest"
	"github.com/weirmesh/weir/bus/client"
	"github.com/weirmesh/weir/bus/server"
	"github.com/weirmesh/weir/event"
)

type lockedLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedLog) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

func TestConnectRefusesOptions(t *testing.T) {
	for _, url := range []string{"", "nats://", "http://127.0.0.1:4222", "nats://a:b@", "nats://127.0.0.1:4222,", "nats://[::1", "nats://127.0.0.1:port"} {
		c, err := client.Connect(bounded(t), client.Options{URL: url})
		if err == nil {
			c.Close()
			t.Errorf("URL %q is accepted", url)
		} else if !strings.Contains(err.Error(), "nats://host:port") {
			t.Errorf("URL %q gives %q, which does not say what is wanted", url, err)
		}
	}
	_, err := client.Connect(bounded(t), client.Options{URL: "nats://user:secret@"})
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("the error %v tells the password", err)
	}
}

// freeAddress is a loopback address that nothing listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestBusAppearsAfterStart(t *testing.T) {
	ctx := bounded(t)
	address := freeAddress(t)
	var log lockedLog
	c := dial(t, client.Options{URL: "nats://" + address, Small: true, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if c.Connected() {
		t.Fatal("connected to nothing")
	}
	// Each fails at once, and nothing is kept for later.
	if err := c.Publish(ctx, web, 1, 1, []byte("lost")); !errors.Is(err, bus.ErrNotConnected) {
		t.Errorf("Publish gives %v", err)
	}
	if _, err := c.Ask(ctx, "aggregator", "stat", nil); !errors.Is(err, bus.ErrNotConnected) {
		t.Errorf("Ask gives %v", err)
	}
	if _, _, err := c.LastRollup(ctx, 0, 0); !errors.Is(err, bus.ErrNotConnected) {
		t.Errorf("LastRollup gives %v", err)
	}
	if err := c.Heartbeat(ctx, "a"); !errors.Is(err, bus.ErrNotConnected) {
		t.Errorf("Heartbeat gives %v", err)
	}
	if err := c.AnnounceTapped(web); !errors.Is(err, bus.ErrNotConnected) {
		t.Errorf("AnnounceTapped gives %v", err)
	}
	if c.Interested("weir.v1.tap.a.b.c.d") || c.PublishInterest("weir.v1.tap.a.b.c.d", nil) {
		t.Error("someone listens on a bus that is away")
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := c.WaitConnected(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("WaitConnected gives %v", err)
	}
	// What listens begins before the bus is there.
	tapped := make(chan struct{}, 16)
	background(t, func(ctx context.Context) error {
		return c.WatchTap(ctx, web, func() { tapped <- struct{}{} })
	})
	got := make(chan string, 16)
	partition := partitionOf(t, web)
	background(t, func(ctx context.Context) error {
		return c.ConsumeEvents(ctx, partition, nil, func(_ event.Mark, _ string, data []byte) error {
			got <- string(data)
			return nil
		})
	})

	s := bustest.Start(t, server.Options{Listen: address})
	if err := c.WaitConnected(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.Publish(ctx, web, 1, 1, []byte("kept")); err != nil {
		t.Fatal(err)
	}
	if data := receive(t, got); data != "kept" {
		t.Errorf("got batch %q", data)
	}
	other := bustest.Connect(t, s)
	eventually(t, "the tap notice arrives", func() bool {
		if err := other.AnnounceTapped(web); err != nil {
			t.Fatal(err)
		}
		select {
		case <-tapped:
			return true
		case <-time.After(20 * time.Millisecond):
			return false
		}
	})
	if log.count("does not answer yet") != 1 || log.count("connected to the bus") != 1 {
		t.Errorf("the log says more or less than the two changes:\n%s", log.b.String())
	}
}

func TestConnectionChangesAreLoggedOnce(t *testing.T) {
	ctx := bounded(t)
	s := bustest.Run(t)
	var log lockedLog
	c := dial(t, client.Options{URL: s.URL(), Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err := c.WaitConnected(ctx); err != nil {
		t.Fatal(err)
	}
	s.Close()
	eventually(t, "the loss is logged", func() bool { return log.count("lost the connection") == 1 })
	if err := c.Publish(ctx, web, 1, 1, nil); !errors.Is(err, bus.ErrNotConnected) {
		t.Errorf("Publish gives %v while the bus is away", err)
	}
	time.Sleep(500 * time.Millisecond) // several attempts fail meanwhile
	_ = bustest.Restart(t, s)
	if err := c.WaitConnected(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.Publish(ctx, web, 1, 1, nil); err != nil {
		t.Error(err)
	}
	eventually(t, "the return is logged", func() bool { return log.count("connected to the bus") == 2 })
	c.Close()
	c.Close()
	if n := log.count("lost the connection"); n != 1 {
		t.Errorf("the loss is logged %d times", n)
	}
	if err := c.WaitConnected(ctx); !errors.Is(err, bus.ErrNotConnected) {
		t.Errorf("WaitConnected gives %v on a closed client", err)
	}
	if err := c.ConsumeEvents(ctx, 0, nil, nil); !errors.Is(err, bus.ErrNotConnected) {
		t.Errorf("ConsumeEvents gives %v on a closed client", err)
	}
}

func TestCredentials(t *testing.T) {
	s := bustest.Start(t, server.Options{Users: []server.User{{Name: "proxy", Password: "secret"}}})
	good := dial(t, client.Options{URL: s.URL(), User: "proxy", Password: "secret"})
	if err := good.WaitConnected(bounded(t)); err != nil {
		t.Fatal(err)
	}
	if err := good.Publish(bounded(t), web, 1, 1, nil); err != nil {
		t.Error(err)
	}
	// A wrong password is tried on: the server may learn the right one.
	bad := dial(t, client.Options{URL: s.URL(), User: "proxy", Password: "wrong"})
	short, cancel := context.WithTimeout(bounded(t), time.Second)
	defer cancel()
	if err := bad.WaitConnected(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with a wrong password WaitConnected gives %v", err)
	}
}

func receive[T any](t *testing.T, from <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(60 * time.Second):
		t.Fatal("nothing arrived")
	}
	return v
}
