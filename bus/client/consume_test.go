package client_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/bus/bustest"
	"github.com/weirmesh/weir/bus/client"
	"github.com/weirmesh/weir/bus/server"
	"github.com/weirmesh/weir/event"
)

var errEnough = errors.New("enough")

// consume reads n batches of a partition that come after a sequence.
func consume(t *testing.T, c *client.Client, partition int, after uint64, n int) (data []string, at []event.Mark) {
	t.Helper()
	return consumeAfter(t, c, partition, []event.Mark{{Sequence: after}}, n)
}

// consumeAfter reads n batches of a partition that come after those that were read.
func consumeAfter(t *testing.T, c *client.Client, partition int, read []event.Mark, n int) (data []string, at []event.Mark) {
	t.Helper()
	err := c.ConsumeEvents(bounded(t), partition, read, func(m event.Mark, _ string, d []byte) error {
		data, at = append(data, string(d)), append(at, m)
		if len(data) == n {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatalf("ConsumeEvents gives %v after %d batches", err, len(data))
	}
	return data, at
}

func TestConsumeFromPosition(t *testing.T) {
	ctx := bounded(t)
	s := bustest.Run(t)
	c := bustest.Connect(t, s)
	partition := partitionOf(t, web)
	const n = 1500 // more than one request of the consumer
	for i := range uint64(n) {
		if err := c.Publish(ctx, web, 1, i+1, fmt.Append(nil, i+1)); err != nil {
			t.Fatal(err)
		}
	}
	data, at := consume(t, c, partition, 0, n)
	for i := range data {
		if data[i] != fmt.Sprint(i+1) || at[i].Sequence != uint64(i+1) {
			t.Fatalf("delivery %d is %q at %d", i, data[i], at[i].Sequence)
		}
	}
	if data, _ := consume(t, c, partition, 1000, 1); data[0] != "1001" {
		t.Errorf("after 1000 comes %s", data[0])
	}
	// The consumers are gone from the server.
	_, js := raw(t, s)
	stream, err := js.Stream(ctx, bus.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Consumers; n != 0 {
		t.Errorf("%d consumers are left", n)
	}
	// Another partition has none of it.
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	err = c.ConsumeEvents(short, (partition+1)%bus.Partitions, nil, func(event.Mark, string, []byte) error { return errEnough })
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("another partition gives %v", err)
	}
	if err := c.ConsumeEvents(ctx, bus.Partitions, nil, nil); !errors.Is(err, bus.ErrPartition) {
		t.Errorf("ConsumeEvents of no partition gives %v", err)
	}
}

// TestConsumerLost: the server forgets the consumer, as it does when a reader
// was cut off for long.
func TestConsumerLost(t *testing.T) {
	ctx := bounded(t)
	s := bustest.Run(t)
	c := bustest.Connect(t, s)
	partition := partitionOf(t, web)
	got := make(chan string, 16)
	background(t, func(ctx context.Context) error {
		return c.ConsumeEvents(ctx, partition, nil, func(_ event.Mark, _ string, data []byte) error {
			got <- string(data)
			return nil
		})
	})
	_, js := raw(t, s)
	for i := range uint64(3) {
		want := fmt.Sprint("batch ", i)
		if err := c.Publish(ctx, web, 1, i+1, []byte(want)); err != nil {
			t.Fatal(err)
		}
		if data := receive(t, got); data != want {
			t.Fatalf("got %q, want %q", data, want)
		}
		stream, err := js.Stream(ctx, bus.StreamEvents)
		if err != nil {
			t.Fatal(err)
		}
		for name := range stream.ConsumerNames(ctx).Name() {
			if err := stream.DeleteConsumer(ctx, name); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestStreamGaps: what was discarded unread is reported, and the rest read.
func TestStreamGaps(t *testing.T) {
	ctx := bounded(t)
	s := bustest.Run(t)
	c := bustest.Connect(t, s)
	partition := partitionOf(t, web)
	for i := range uint64(10) {
		if err := c.Publish(ctx, web, 1, i+1, fmt.Append(nil, i+1)); err != nil {
			t.Fatal(err)
		}
	}
	_, js := raw(t, s)
	stream, err := js.Stream(ctx, bus.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(ctx, jetstream.WithPurgeSequence(8)); err != nil {
		t.Fatal(err)
	}
	f := func(after uint64, want string, warnings int) {
		t.Helper()
		var log lockedLog
		c := dial(t, client.Options{URL: s.URL(), Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if data, _ := consume(t, c, partition, after, 1); data[0] != want {
			t.Errorf("after %d comes %s, want %s", after, data[0], want)
		}
		if n := log.count("level=WARN msg=\"stream"); n != warnings {
			t.Errorf("reading after %d logs %d warnings, want %d", after, n, warnings)
		}
	}
	f(0, "8", 0)
	f(3, "8", 1)
	f(7, "8", 0)
	f(8, "9", 0)
	f(500, "8", 1) // a stream that lost its files
}

func TestStreamFull(t *testing.T) {
	ctx := bounded(t)
	s := bustest.Start(t, server.Options{Retention: bus.Retention{EventBytes: bus.MaxPayload}})
	c := bustest.Connect(t, s)
	batch := make([]byte, 512<<10)
	for i := range uint64(40) {
		if err := c.Publish(ctx, web, 1, i+1, batch); err != nil {
			t.Fatal(err)
		}
	}
	_, js := raw(t, s)
	stream, err := js.Stream(ctx, bus.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	if state := stream.CachedInfo().State; state.Bytes > bus.MaxPayload || state.LastSeq != 40 || state.FirstSeq < 20 {
		t.Errorf("the full stream holds %d bytes, %d to %d", state.Bytes, state.FirstSeq, state.LastSeq)
	}
}

func TestLastBatch(t *testing.T) {
	ctx := bounded(t)
	c := bustest.Connect(t, bustest.Run(t))
	partition := partitionOf(t, web)
	want := func(partition int, sequence uint64) {
		t.Helper()
		if got, err := c.LastBatch(ctx, partition); got != sequence || err != nil {
			t.Errorf("LastBatch of partition %d gives %d, %v; want %d", partition, got, err, sequence)
		}
	}
	want(partition, 0)
	for number := range uint64(3) {
		if err := c.Publish(ctx, web, 1, number+1, []byte("batch")); err != nil {
			t.Fatal(err)
		}
		want(partition, number+1)
	}
	want((partition+1)%bus.Partitions, 0)
	other := voting
	for i := 0; partitionOf(t, other) == partition; i++ {
		other.Name = fmt.Sprint("voting-", i)
	}
	if err := c.Publish(ctx, other, 2, 1, []byte("batch")); err != nil {
		t.Fatal(err)
	}
	want(partitionOf(t, other), 4)
	want(partition, 3)
	if _, err := c.LastBatch(ctx, bus.Partitions); !errors.Is(err, bus.ErrPartition) {
		t.Errorf("LastBatch of a partition that there is not gives %v", err)
	}
}
