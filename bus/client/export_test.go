package client_test

import (
	"errors"
	"testing"
	"time"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/bus/bustest"
)

func TestExportStateIsFenced(t *testing.T) {
	ctx := bounded(t)
	s := bustest.Run(t)
	a, b := bustest.Connect(t, s), bustest.Connect(t, s)
	if data, seq, err := a.LoadExport(ctx, "sink", "0"); data != nil || seq != 0 || err != nil {
		t.Fatalf("before anything was kept: %q at %d, %v", data, seq, err)
	}
	first, err := a.StoreExport(ctx, "sink", "0", []byte("one"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := a.StoreExport(ctx, "sink", "0", []byte("one"), 0); err != nil || again != first {
		t.Errorf("the same once more: %d, %v; want %d", again, err, first)
	}
	if _, err := b.StoreExport(ctx, "sink", "0", []byte("one"), 0); !errors.Is(err, bus.ErrFenced) {
		t.Errorf("another client's write after the same: %v; want ErrFenced", err)
	}
	if _, err := b.StoreExport(ctx, "sink", "1", []byte("other part"), 0); err != nil {
		t.Errorf("another part: %v", err)
	}
	second, err := b.StoreExport(ctx, "sink", "0", []byte("two"), first)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.StoreExport(ctx, "sink", "0", []byte("three"), first); !errors.Is(err, bus.ErrFenced) {
		t.Errorf("a write after another's: %v; want ErrFenced", err)
	}
	_ = bustest.Restart(t, s)
	if err := a.WaitConnected(ctx); err != nil {
		t.Fatal(err)
	}
	if data, seq, err := a.LoadExport(ctx, "sink", "0"); string(data) != "two" || seq != second || err != nil {
		t.Errorf("after a restart of the bus: %q at %d, %v; want two at %d", data, seq, err, second)
	}
}

func TestPositionAtAndNextStored(t *testing.T) {
	ctx := bounded(t)
	c := bustest.Connect(t, bustest.Run(t))
	partition := partitionOf(t, web)
	if at, err := c.PositionAt(ctx, time.Now().Add(-time.Hour)); err != nil || at != 0 {
		t.Fatalf("in an empty stream: %d, %v", at, err)
	}
	if stored, err := c.NextStored(ctx, partition, 0); err != nil || !stored.IsZero() {
		t.Fatalf("in an empty stream: %v, %v", stored, err)
	}
	publish := func(sequence uint64) {
		t.Helper()
		if err := c.Publish(ctx, web, 1, sequence, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	publish(1)
	publish(2)
	time.Sleep(20 * time.Millisecond)
	between := time.Now()
	publish(3)
	for since, want := range map[time.Time]uint64{
		between.Add(-time.Hour): 0,
		between:                 2,
		between.Add(time.Hour):  3,
	} {
		if at, err := c.PositionAt(ctx, since); err != nil || at != want {
			t.Errorf("since %v: %d, %v; want %d", since.Sub(between), at, err, want)
		}
	}
	if stored, err := c.NextStored(ctx, partition, 2); err != nil || stored.Before(between) {
		t.Errorf("after 2: %v, %v; want a time after %v", stored, err, between)
	}
	if stored, err := c.NextStored(ctx, partition, 1); err != nil || stored.IsZero() || stored.After(between) {
		t.Errorf("after 1: %v, %v; want a time before %v", stored, err, between)
	}
	if stored, err := c.NextStored(ctx, partition, 3); err != nil || !stored.IsZero() {
		t.Errorf("after the last: %v, %v", stored, err)
	}
	if _, err := c.NextStored(ctx, bus.Partitions, 0); !errors.Is(err, bus.ErrPartition) {
		t.Errorf("of no partition: %v", err)
	}
}
