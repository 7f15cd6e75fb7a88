package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/bus/bustest"
)

func TestRollupFence(t *testing.T) {
	ctx := bounded(t)
	s := bustest.Run(t)
	a, b := bustest.Connect(t, s), bustest.Connect(t, s)
	if data, sequence, err := a.LastRollup(ctx, 3, 0); data != nil || sequence != 0 || err != nil {
		t.Fatalf("LastRollup of nothing gives %q, %d, %v", data, sequence, err)
	}
	first, err := a.PublishRollup(ctx, 3, 0, []byte("a1"), 0)
	if err != nil {
		t.Fatal(err)
	}
	// Another partition is no business of the fence.
	if _, err := b.PublishRollup(ctx, 4, 0, []byte("other"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := b.PublishRollup(ctx, 3, 0, []byte("b1"), 0); !errors.Is(err, bus.ErrFenced) {
		t.Errorf("a second first rollup gives %v", err)
	}
	// The same write again, its answer lost, is the same write.
	if again, err := a.PublishRollup(ctx, 3, 0, []byte("a1"), 0); err != nil || again != first {
		t.Errorf("the repeated write gives %d, %v, want %d", again, err, first)
	}
	// The same bytes of another owner are not.
	if _, err := b.PublishRollup(ctx, 3, 0, []byte("a1"), 0); !errors.Is(err, bus.ErrFenced) {
		t.Errorf("another owner's equal write gives %v", err)
	}
	// b takes over, a still believes.
	data, sequence, err := b.LastRollup(ctx, 3, 0)
	if err != nil || string(data) != "a1" || sequence != first {
		t.Fatalf("LastRollup gives %q, %d, %v", data, sequence, err)
	}
	second, err := b.PublishRollup(ctx, 3, 0, []byte("b2"), sequence)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.PublishRollup(ctx, 3, 0, []byte("a2"), first); !errors.Is(err, bus.ErrFenced) {
		t.Errorf("the old owner's write gives %v", err)
	}
	if data, sequence, err := a.LastRollup(ctx, 3, 0); err != nil || string(data) != "b2" || sequence != second {
		t.Errorf("LastRollup gives %q, %d, %v", data, sequence, err)
	}
	if _, err := a.PublishRollup(ctx, 3, 0, make([]byte, bus.MaxPayload+1), second); !errors.Is(err, bus.ErrTooLarge) {
		t.Errorf("an oversize rollup gives %v", err)
	}
	for _, partition := range []int{-1, bus.Partitions} {
		if _, err := a.PublishRollup(ctx, partition, 0, nil, 0); !errors.Is(err, bus.ErrPartition) {
			t.Errorf("PublishRollup to partition %d gives %v", partition, err)
		}
		if _, _, err := a.LastRollup(ctx, partition, 0); !errors.Is(err, bus.ErrPartition) {
			t.Errorf("LastRollup of partition %d gives %v", partition, err)
		}
		if err := a.ReadRollups(ctx, partition, 0, 0, time.Time{}, nil); !errors.Is(err, bus.ErrPartition) {
			t.Errorf("ReadRollups of partition %d gives %v", partition, err)
		}
	}
	// The fence survives a restart.
	bustest.Restart(t, s)
	if err := a.WaitConnected(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := a.PublishRollup(ctx, 3, 0, []byte("a2"), first); !errors.Is(err, bus.ErrFenced) {
		t.Errorf("after a restart the old owner's write gives %v", err)
	}
	if _, err := a.PublishRollup(ctx, 3, 0, []byte("a3"), second); err != nil {
		t.Error(err)
	}
}

func TestReadRollups(t *testing.T) {
	ctx := bounded(t)
	c := newBus(t)
	read := func(partition int, since time.Time) (got []string) {
		t.Helper()
		err := c.ReadRollups(ctx, partition, 0, 0, since, func(_ uint64, data []byte) error {
			got = append(got, string(data))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := read(1, time.Time{}); got != nil {
		t.Errorf("read %q of nothing", got)
	}
	var last uint64
	var middle time.Time
	var want []string
	for i := range 700 {
		if i == 350 {
			time.Sleep(50 * time.Millisecond)
			middle = time.Now()
		}
		data := fmt.Sprint("rollup ", i)
		var err error
		if last, err = c.PublishRollup(ctx, 1, 0, []byte(data), last); err != nil {
			t.Fatal(err)
		}
		want = append(want, data)
	}
	if got := read(1, time.Time{}); !slices.Equal(got, want) {
		t.Errorf("read %d rollups, want %d", len(got), len(want))
	}
	if got := read(1, middle); !slices.Equal(got, want[350:]) {
		t.Errorf("since the middle read %d rollups, want %d", len(got), len(want[350:]))
	}
	if got := read(1, time.Now().Add(time.Hour)); got != nil {
		t.Errorf("read %q from the future", got)
	}
	if got := read(2, time.Time{}); got != nil {
		t.Errorf("read %q of another partition", got)
	}
	if err := c.ReadRollups(ctx, 1, 0, 0, time.Time{}, func(uint64, []byte) error { return errEnough }); !errors.Is(err, errEnough) {
		t.Errorf("ReadRollups gives %v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if err := c.ReadRollups(ended, 1, 0, 0, time.Time{}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("ReadRollups gives %v with an ended context", err)
	}
}

// TestTiersAreApart: each tier of a partition has its own sequence and fence.
func TestTiersAreApart(t *testing.T) {
	c, ctx := bustest.Connect(t, bustest.Run(t)), t.Context()
	for tier := range bus.Tiers {
		first, err := c.PublishRollup(ctx, 1, tier, fmt.Append(nil, "first of ", tier), 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.PublishRollup(ctx, 1, tier, fmt.Append(nil, "second of ", tier), first); err != nil {
			t.Fatal(err)
		}
		var got []string
		if err := c.ReadRollups(ctx, 1, tier, first, time.Time{}, func(_ uint64, data []byte) error {
			got = append(got, string(data))
			return nil
		}); err != nil || len(got) != 1 || got[0] != fmt.Sprint("second of ", tier) {
			t.Errorf("after the first of tier %d there are %q, %v", tier, got, err)
		}
	}
	for _, tier := range []int{-1, bus.Tiers} {
		if _, err := c.PublishRollup(ctx, 1, tier, nil, 0); !errors.Is(err, bus.ErrTier) {
			t.Errorf("PublishRollup to tier %d gives %v", tier, err)
		}
	}
}

// TestReadRollupsAcrossRestart: the reading goes on where it was, each once.
func TestReadRollupsAcrossRestart(t *testing.T) {
	ctx := bounded(t)
	s := bustest.Run(t)
	c := bustest.Connect(t, s)
	const n = 2000
	var last uint64
	for i := range n {
		var err error
		if last, err = c.PublishRollup(ctx, 0, 0, fmt.Append(nil, i), last); err != nil {
			t.Fatal(err)
		}
	}
	next := 0
	err := c.ReadRollups(ctx, 0, 0, 0, time.Time{}, func(_ uint64, data []byte) error {
		if string(data) != fmt.Sprint(next) {
			return fmt.Errorf("got %q, want %d", data, next)
		}
		if next++; next == n/2 {
			s = bustest.Restart(t, s)
		}
		return nil
	})
	if err != nil || next != n {
		t.Errorf("read %d of %d, %v", next, n, err)
	}
}

func TestMembers(t *testing.T) {
	ctx := bounded(t)
	s := bustest.Run(t)
	a, b := bustest.Connect(t, s), bustest.Connect(t, s)
	f := func(want ...string) {
		t.Helper()
		got, err := b.Members(ctx)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("members are %q, %v, want %q", got, err, want)
		}
	}
	f()
	for _, id := range []string{"agg-1", "agg.0", "hostile > * id"} {
		if err := a.Heartbeat(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	f("agg-1", "agg.0", "hostile > * id")
	if err := a.Leave(ctx, "hostile > * id"); err != nil {
		t.Fatal(err)
	}
	if err := a.Leave(ctx, "never was"); err != nil {
		t.Error(err)
	}
	f("agg-1", "agg.0")
	// One goes on, the other falls silent.
	eventually(t, "the silent member is gone", func() bool {
		if err := a.Heartbeat(ctx, "agg-1"); err != nil {
			t.Fatal(err)
		}
		sent := time.Now()
		got, err := b.Members(ctx)
		if err == nil && time.Since(sent) > time.Second {
			return false // too slow to say who was silent
		}
		if err != nil || !slices.Contains(got, "agg-1") {
			t.Fatalf("members are %q, %v", got, err)
		}
		time.Sleep(100 * time.Millisecond)
		return len(got) == 1
	})
}
