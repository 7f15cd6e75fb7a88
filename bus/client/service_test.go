package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/bus/bustest"
	"github.com/weirmesh/weir/bus/client"
	"github.com/weirmesh/weir/bus/server"
)

// member serves aggregator.stat as one of members.
func member(t *testing.T, s *server.Server, name string, members int) (stop func() error) {
	t.Helper()
	c := bustest.Connect(t, s)
	return background(t, func(ctx context.Context) error {
		return c.Serve(ctx, "aggregator", "stat", func(request []byte) []byte {
			if string(request) == "large" {
				return make([]byte, bus.MaxPayload+1)
			}
			return fmt.Appendf(nil, `{"member":%q,"members":%d,"asked":%q}`, name, members, request)
		})
	})
}

func TestAskGathersAll(t *testing.T) {
	ctx := bounded(t)
	s := bustest.Run(t)
	api := bustest.Connect(t, s)
	if _, err := api.Ask(ctx, "aggregator", "stat", nil); !errors.Is(err, bus.ErrNoResponders) {
		t.Errorf("Ask gives %v while nobody serves", err)
	}
	const members = 3
	var stops []func() error
	for i := range members {
		stops = append(stops, member(t, s, fmt.Sprint("agg-", i), members))
	}
	eventually(t, "all members answer", func() bool {
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		replies, err := api.Ask(short, "aggregator", "stat", []byte("q"))
		return err == nil && len(replies) == members
	})
	replies, err := api.Ask(ctx, "aggregator", "stat", []byte("q"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range replies {
		got = append(got, string(r))
	}
	slices.Sort(got)
	for i, r := range got {
		if want := fmt.Sprintf(`{"member":"agg-%d","members":3,"asked":"q"}`, i); r != want {
			t.Errorf("reply %d is %s, want %s", i, r, want)
		}
	}
	if _, err := api.Ask(ctx, "aggregator", "series", nil); !errors.Is(err, bus.ErrNoResponders) {
		t.Errorf("Ask for a method that nobody serves gives %v", err)
	}
	if _, err := api.Ask(ctx, "aggregator", "stat", []byte("large")); !errors.Is(err, bus.ErrTooLarge) {
		t.Errorf("Ask for a reply that is too large gives %v", err)
	}
	if _, err := api.Ask(ctx, "aggregator", "stat", make([]byte, bus.MaxPayload+1)); !errors.Is(err, bus.ErrTooLarge) {
		t.Errorf("Ask with a request that is too large gives %v", err)
	}
	// One stops; the others still speak of three.
	if err := stops[0](); !errors.Is(err, context.Canceled) {
		t.Errorf("Serve gives %v at the end", err)
	}
	for patience := 500 * time.Millisecond; ; patience *= 3 {
		short, cancel := context.WithTimeout(ctx, patience)
		replies, err = api.Ask(short, "aggregator", "stat", nil)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("with one missing Ask gives %d replies, %v", len(replies), err)
		}
		if len(replies) == members-1 && strings.Contains(err.Error(), "2 of 3") {
			return
		}
		if patience > 10*time.Second { // not only slow
			t.Fatalf("with one missing Ask gives %d replies, %v", len(replies), err)
		}
	}
}

// TestAskAfterADeath: a member is gone, and the others speak of it for some time
// yet. Who asked meanwhile need not wait to the end: once they know, all have
// answered.
func TestAskAfterADeath(t *testing.T) {
	ctx := bounded(t)
	s := bustest.Run(t)
	api := bustest.Connect(t, s)
	var asked atomic.Int32
	for i := range 2 {
		c := bustest.Connect(t, s)
		background(t, func(ctx context.Context) error {
			return c.Serve(ctx, "aggregator", "stat", func(request []byte) []byte {
				members := 2
				if string(request) == "q" && asked.Add(1) <= 2 {
					members = 3
				}
				return fmt.Appendf(nil, `{"member":"agg-%d","members":%d}`, i, members)
			})
		})
	}
	eventually(t, "both members answer", func() bool {
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		replies, err := api.Ask(short, "aggregator", "stat", nil)
		return err == nil && len(replies) == 2
	})
	replies, err := api.Ask(ctx, "aggregator", "stat", []byte("q"))
	if err != nil || len(replies) != 2 || !strings.Contains(string(replies[0]), `"members":2`) || string(replies[0]) == string(replies[1]) {
		t.Errorf("after the third one's death: %q, %v", replies, err)
	}
}

// TestAskWaitsForTheSlow: a member that takes its time is waited for, though the
// others are asked again meanwhile.
func TestAskWaitsForTheSlow(t *testing.T) {
	ctx := bounded(t)
	s := bustest.Run(t)
	api, quick, slow := bustest.Connect(t, s), bustest.Connect(t, s), bustest.Connect(t, s)
	again := make(chan struct{})
	var asked, late atomic.Int32
	serve := func(c *client.Client, handler func() string) {
		background(t, func(ctx context.Context) error {
			return c.Serve(ctx, "aggregator", "stat", func(request []byte) []byte {
				if string(request) != "q" {
					return []byte(`{"members":2}`)
				}
				return []byte(handler())
			})
		})
	}
	serve(quick, func() string {
		if asked.Add(1) == 2 {
			close(again)
		}
		return `{"member":"quick","members":2}`
	})
	serve(slow, func() string {
		first := late.Add(1) == 1
		<-again
		if !first {
			<-ctx.Done()
		}
		return `{"member":"slow","members":2}`
	})
	eventually(t, "both members answer", func() bool {
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		replies, err := api.Ask(short, "aggregator", "stat", nil)
		return err == nil && len(replies) == 2
	})
	if replies, err := api.Ask(ctx, "aggregator", "stat", []byte("q")); err != nil || len(replies) != 2 {
		t.Errorf("with a slow member: %q, %v", replies, err)
	}
}

func TestServeAcrossRestart(t *testing.T) {
	ctx := bounded(t)
	s := bustest.Run(t)
	api := bustest.Connect(t, s)
	member(t, s, "one", 1)
	answers := func() bool {
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := api.Ask(short, "aggregator", "stat", nil)
		return err == nil
	}
	eventually(t, "the member answers", answers)
	bustest.Restart(t, s)
	eventually(t, "the member answers after a restart", answers)
}

func TestAskEndsWithTheConnection(t *testing.T) {
	s := bustest.Run(t)
	api, silent := bustest.Connect(t, s), bustest.Connect(t, s)
	started := make(chan struct{})
	release := make(chan struct{})
	var once atomic.Bool
	background(t, func(ctx context.Context) error {
		return silent.Serve(ctx, "aggregator", "stat", func([]byte) []byte {
			if once.CompareAndSwap(false, true) {
				close(started)
			}
			<-release
			return nil
		})
	})
	result := make(chan error, 1)
	go func() {
		for {
			_, err := api.Ask(bounded(t), "aggregator", "stat", nil)
			if errors.Is(err, bus.ErrNoResponders) {
				continue
			}
			result <- err
			return
		}
	}()
	receive(t, started)
	s.Close()
	if err := receive(t, result); !errors.Is(err, bus.ErrNotConnected) {
		t.Errorf("Ask gives %v when the connection is lost", err)
	}
	close(release)
}

// TestServeAtOnce: a slow request does not hold up the next.
func TestServeAtOnce(t *testing.T) {
	ctx := bounded(t)
	s := bustest.Run(t)
	api, c := bustest.Connect(t, s), bustest.Connect(t, s)
	release := make(chan struct{})
	stop := background(t, func(ctx context.Context) error {
		return c.Serve(ctx, "aggregator", "stat", func(request []byte) []byte {
			if string(request) == "slow" {
				<-release
			}
			return request
		})
	})
	eventually(t, "the member answers", func() bool {
		_, err := api.Ask(ctx, "aggregator", "stat", nil)
		return err == nil
	})
	slow := make(chan error, 1)
	go func() {
		_, err := api.Ask(ctx, "aggregator", "stat", []byte("slow"))
		slow <- err
	}()
	if replies, err := api.Ask(ctx, "aggregator", "stat", []byte("quick")); err != nil || string(replies[0]) != "quick" {
		t.Errorf("beside a slow request Ask gives %q, %v", replies, err)
	}
	close(release)
	if err := receive(t, slow); err != nil {
		t.Errorf("the slow request gives %v", err)
	}
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("Serve gives %v at the end", err)
	}
	if _, err := api.Ask(ctx, "aggregator", "stat", nil); !errors.Is(err, bus.ErrNoResponders) {
		t.Errorf("after the end Ask gives %v", err)
	}
}

// TestServiceIsDiscoverable: the services show up for NATS's own tools.
func TestServiceIsDiscoverable(t *testing.T) {
	s := bustest.Run(t)
	member(t, s, "one", 1)
	nc, _ := raw(t, s)
	eventually(t, "the service answers a ping", func() bool {
		m, err := nc.Request("$SRV.INFO.weir-aggregator", nil, time.Second)
		if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrTimeout) {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(m.Data), "weir.v1.rpc.aggregator.stat")
	})
}
