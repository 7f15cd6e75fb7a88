package client_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/bus/bustest"
	"github.com/weirmesh/weir/event"
)

var voting = event.Workload{Cluster: "local", Namespace: "emojivoto", Kind: "deploy", Name: "voting"}

func TestReadEvents(t *testing.T) {
	ctx := bounded(t)
	s := bustest.Run(t)
	c := bustest.Connect(t, s)
	number := uint64(0)
	publish := func(w event.Workload, text string) {
		t.Helper()
		number++
		if err := c.Publish(ctx, w, 1, number, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	publish(web, "a")
	publish(voting, "b")
	publish(web, "c")
	time.Sleep(20 * time.Millisecond)
	middle := time.Now()
	time.Sleep(20 * time.Millisecond)
	publish(web, "d")
	publish(voting, "e")
	later := time.Now().Add(time.Hour)

	f := func(w event.Workload, since, until time.Time, want string, count uint64) {
		t.Helper()
		var got []string
		var batches uint64
		var oldest time.Time
		err := c.ReadEvents(ctx, w, since, until, func(x event.Extent) { oldest, batches = x.Oldest, x.Waiting }, func(_ uint64, from event.Workload, stored time.Time, data []byte) error {
			if from != web && from != voting {
				t.Errorf("%s comes from %s", data, from)
			}
			if stored.Before(since) || !stored.Before(until) {
				t.Errorf("%s was stored at %s", data, stored)
			}
			got = append(got, string(data))
			return nil
		})
		if err != nil || strings.Join(got, "") != want || batches != count || oldest.Before(began.Add(-time.Minute)) || oldest.After(middle) {
			t.Errorf("%v, got %v of %d, the oldest of %s; want %s of %d", err, got, batches, oldest, want, count)
		}
	}
	f(web, began.Add(-time.Second), later, "acd", 3)
	f(event.Workload{Namespace: "emojivoto"}, began.Add(-time.Second), later, "abcde", 5)
	f(event.Workload{Name: "voting"}, began.Add(-time.Second), middle, "b", 2)
	f(event.Workload{}, middle, later, "de", 2)
	f(event.Workload{}, later, later.Add(time.Hour), "", 0)
	f(event.Workload{Namespace: "other"}, began, later, "", 0)

	want := errors.New("enough")
	if err := c.ReadEvents(ctx, web, began.Add(-time.Second), later, nil, func(uint64, event.Workload, time.Time, []byte) error { return want }); !errors.Is(err, want) {
		t.Errorf("%v; want the function's error", err)
	}
}

// What is read from now on lacks nothing, whatever becomes of the bus.
func TestReadEventsFollows(t *testing.T) {
	ctx := bounded(t)
	s := bustest.Run(t)
	c := bustest.Connect(t, s)
	if err := c.Publish(ctx, web, 1, 1, []byte("old")); err != nil {
		t.Fatal(err)
	}
	opened := make(chan struct{})
	got := make(chan string, 100)
	stop := background(t, func(ctx context.Context) error {
		return c.ReadEvents(ctx, web, time.Time{}, time.Time{}, func(event.Extent) { close(opened) }, func(_ uint64, _ event.Workload, _ time.Time, data []byte) error {
			got <- string(data)
			return nil
		})
	})
	receive(t, opened)
	for i := range 9 {
		if i == 3 || i == 6 {
			s = bustest.Restart(t, s)
			if err := c.WaitConnected(ctx); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "the batch is stored", func() bool {
			return c.Publish(ctx, web, 1, uint64(i+2), fmt.Append(nil, i)) == nil
		})
	}
	for i := range 9 {
		if data := receive(t, got); data != fmt.Sprint(i) {
			t.Errorf("got %s, want %d", data, i)
		}
	}
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
