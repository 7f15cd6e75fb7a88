package client_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/bus/bustest"
)

func TestRequestGoesToOneAnswerer(t *testing.T) {
	b := bustest.Run(t)
	asker := bustest.Connect(t, b)
	if _, err := asker.Request(bounded(t), "identity", "certify", nil); !errors.Is(err, bus.ErrNoResponders) {
		t.Fatalf("error %v with nobody there, want ErrNoResponders", err)
	}
	var handled atomic.Int64
	for range 3 {
		c := bustest.Connect(t, b)
		background(t, func(ctx context.Context) error {
			return c.Answer(ctx, "identity", "certify", func(_ context.Context, request []byte) []byte {
				handled.Add(1)
				return append([]byte("re: "), request...)
			})
		})
	}
	eventually(t, "somebody answers", func() bool {
		_, err := asker.Request(bounded(t), "identity", "certify", nil)
		return err == nil
	})
	handled.Store(0)
	const n = 50
	for range n {
		got, err := asker.Request(bounded(t), "identity", "certify", []byte("x"))
		if err != nil || string(got) != "re: x" {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	if got := handled.Load(); got != n {
		t.Errorf("%d requests were handled %d times", n, got)
	}
}

func TestWatchTellsWhatItMayHaveMissed(t *testing.T) {
	b := bustest.Run(t)
	watcher, speaker := bustest.Connect(t, b), bustest.Connect(t, b)
	subject := bus.EndpointsSubject("shop", "cart")
	got, missed := make(chan string, 100), make(chan struct{}, 100)
	stop := background(t, func(ctx context.Context) error {
		return watcher.Watch(ctx, subject, func(data []byte) { got <- string(data) }, func() { missed <- struct{}{} })
	})
	<-missed
	eventually(t, "an announcement arrives", func() bool {
		if err := speaker.Announce(subject, []byte("one")); err != nil {
			t.Fatal(err)
		}
		select {
		case m := <-got:
			return m == "one"
		default:
			return false
		}
	})
	bustest.Restart(t, b)
	<-missed
	eventually(t, "an announcement arrives after the bus came back", func() bool {
		_ = speaker.Announce(subject, []byte("two"))
		select {
		case m := <-got:
			return m == "two"
		default:
			return false
		}
	})
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want the context's", err)
	}
}
