package client_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/bus/bustest"
	"github.com/weirmesh/weir/bus/client"
	"github.com/weirmesh/weir/bus/server"
	"github.com/weirmesh/weir/event"
)

// raw is a plain NATS connection, as a stranger would use.
func raw(t *testing.T, s *server.Server) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	closed := make(chan struct{})
	nc, err := nats.Connect(s.URL(), nats.Timeout(time.Minute), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		nc.Close()
		<-closed
	})
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return nc, js
}

func lastStored(t *testing.T, js jetstream.JetStream, stream string) *jetstream.RawStreamMsg {
	t.Helper()
	s, err := js.Stream(bounded(t), stream)
	if err != nil {
		t.Fatal(err)
	}
	last := s.CachedInfo().State.LastSeq
	if last == 0 {
		return &jetstream.RawStreamMsg{}
	}
	m, err := s.GetMsg(bounded(t), last)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// partitionOf finds a workload's partition by publishing to a bus of its own.
func partitionOf(t *testing.T, w event.Workload) int {
	t.Helper()
	s := bustest.Run(t)
	c := bustest.Connect(t, s)
	if err := c.Publish(bounded(t), w, 1, 1, nil); err != nil {
		t.Fatal(err)
	}
	_, js := raw(t, s)
	return partitionIn(t, lastStored(t, js, bus.StreamEvents).Subject)
}

func partitionIn(t *testing.T, subject string) int {
	t.Helper()
	rest, ok := strings.CutPrefix(subject, "weir.v1.part.")
	number, _, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(number)
	if !ok || err != nil || bus.CheckPartition(n) != nil {
		t.Fatalf("stored subject %q is in no partition", subject)
	}
	return n
}

func TestPublishTwiceStoresOnce(t *testing.T) {
	ctx := bounded(t)
	s := bustest.Run(t)
	c := bustest.Connect(t, s)
	for range 3 {
		if err := c.Publish(ctx, web, 7, 1, []byte("one")); err != nil {
			t.Fatal(err)
		}
	}
	// Another sequence, and another instance, are other batches.
	if err := c.Publish(ctx, web, 7, 2, []byte("two")); err != nil {
		t.Fatal(err)
	}
	if err := c.Publish(ctx, web, 8, 1, []byte("three")); err != nil {
		t.Fatal(err)
	}
	_, js := raw(t, s)
	last := lastStored(t, js, bus.StreamEvents)
	if last.Sequence != 3 || string(last.Data) != "three" {
		t.Errorf("the last of the stream is %d, %q", last.Sequence, last.Data)
	}
	// A restart forgets no id.
	s = bustest.Restart(t, s)
	if err := c.WaitConnected(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.Publish(ctx, web, 8, 1, []byte("three")); err != nil {
		t.Fatal(err)
	}
	_, js = raw(t, s)
	if last := lastStored(t, js, bus.StreamEvents); last.Sequence != 3 {
		t.Errorf("after a restart a repeated batch was stored as %d", last.Sequence)
	}
}

func TestPartitions(t *testing.T) {
	ctx := bounded(t)
	s := bustest.Run(t)
	c := bustest.Connect(t, s)
	_, js := raw(t, s)
	counts := make([]int, bus.Partitions)
	home := map[event.Workload]int{}
	const workloads = 320
	for round := range uint64(2) {
		for i := range uint64(workloads) {
			w := event.Workload{Cluster: "local", Namespace: fmt.Sprint("ns-", i%8), Kind: "deploy", Name: fmt.Sprint("app-", i)}
			if err := c.Publish(ctx, w, i+1, round+1, nil); err != nil {
				t.Fatal(err)
			}
			subject := lastStored(t, js, bus.StreamEvents).Subject
			if got, err := bus.ParseWorkload(subject); err != nil || got != w {
				t.Fatalf("stored subject %q reads as %v, %v, want %v", subject, got, err, w)
			}
			n := partitionIn(t, subject)
			if before, ok := home[w]; ok && before != n {
				t.Errorf("%s moved from partition %d to %d", w, before, n)
			}
			home[w] = n
			counts[n]++
		}
	}
	for n, count := range counts {
		// On average 40; a partition that gets three times as much, or next
		// to nothing, is no spread.
		if count < 8 || count > 120 {
			t.Errorf("partition %d got %d of %d batches: %v", n, count, 2*workloads, counts)
		}
	}
}

func TestPublishRefusals(t *testing.T) {
	ctx := bounded(t)
	s := bustest.Run(t)
	c := bustest.Connect(t, s)
	for _, size := range []int{bus.MaxBatch + 1, bus.MaxPayload + 1} {
		if err := c.Publish(ctx, web, 1, 1, make([]byte, size)); !errors.Is(err, bus.ErrTooLarge) {
			t.Errorf("Publish of %d bytes gives %v", size, err)
		}
	}
	if err := c.Publish(ctx, web, 1, 1, make([]byte, bus.MaxBatch)); err != nil {
		t.Errorf("Publish of the most gives %v", err)
	}
	// The stream refuses the same of those who do not ask first.
	_, js := raw(t, s)
	if _, err := js.Publish(ctx, bus.EventsSubject(web), make([]byte, bus.MaxBatch+4096)); err == nil {
		t.Error("the stream takes more than the most")
	}
	if last := lastStored(t, js, bus.StreamEvents); last.Sequence != 1 {
		t.Errorf("the stream holds %d messages", last.Sequence)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if err := c.Publish(ended, web, 1, 2, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Publish gives %v with an ended context", err)
	}
	if err := js.DeleteStream(ctx, bus.StreamEvents); err != nil {
		t.Fatal(err)
	}
	if err := c.Publish(ctx, web, 1, 3, nil); !errors.Is(err, bus.ErrRefused) {
		t.Errorf("Publish gives %v without a stream", err)
	}
}

func TestHostileNamesStayInTheirSubject(t *testing.T) {
	ctx := bounded(t)
	s := bustest.Run(t)
	c := bustest.Connect(t, s)
	nc, js := raw(t, s)
	others, err := nc.SubscribeSync("weir.v1.tap.victim.>")
	if err != nil {
		t.Fatal(err)
	}
	var sequence uint64
	for _, name := range []string{"", ".", "*", ">", "a b", "x\r\nPUB weir.v1.tap.victim.a.b.c 0\r\n\r\n", "\x00", "a.b.c", strings.Repeat("*", 5000), "weir.v1", "$JS.API"} {
		for _, w := range []event.Workload{{Cluster: name, Namespace: "n", Kind: "k", Name: "w"}, {Cluster: "c", Namespace: "n", Kind: "k", Name: name}, {Cluster: name, Namespace: name, Kind: name, Name: name}} {
			sequence++
			if err := c.Publish(ctx, w, 1, sequence, []byte(name)); err != nil {
				t.Fatalf("Publish as %.60q gives %v", w, err)
			}
			c.PublishInterest(bus.TapSubject(w), []byte("x"))
			last := lastStored(t, js, bus.StreamEvents)
			if last.Sequence != sequence || string(last.Data) != name {
				t.Fatalf("the stream has %d, %.60q for %.60q", last.Sequence, last.Data, w)
			}
			partitionIn(t, last.Subject)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if n, _, err := others.Pending(); err != nil || n != 0 {
		t.Errorf("%d messages went astray, %v", n, err)
	}
}

func TestNothingLostAcrossRestarts(t *testing.T) {
	ctx := bounded(t)
	s := bustest.Run(t)
	publisher, consumer := bustest.Connect(t, s), bustest.Connect(t, s)
	partition := partitionOf(t, web)

	type delivery struct{ number, sequence uint64 }
	got := make(chan delivery, 1<<16)
	stopConsumer := background(t, func(ctx context.Context) error {
		return consumer.ConsumeEvents(ctx, partition, nil, func(at event.Mark, subject string, data []byte) error {
			if w, err := bus.ParseWorkload(subject); err != nil || w != web {
				return fmt.Errorf("subject %q is of %v, %v", subject, w, err)
			}
			got <- delivery{binary.BigEndian.Uint64(data), at.Sequence}
			return nil
		})
	})
	var sent uint64
	var retries int
	stopPublisher := background(t, func(ctx context.Context) error {
		for number := uint64(1); ctx.Err() == nil; number++ {
			for {
				// As the proxy does: again and again until it is stored.
				err := publisher.Publish(context.WithoutCancel(ctx), web, 99, number, binary.BigEndian.AppendUint64(nil, number))
				if err == nil {
					break
				}
				if !errors.Is(err, bus.ErrNotConnected) && !errors.Is(err, bus.ErrRefused) {
					return err
				}
				retries++
				time.Sleep(5 * time.Millisecond)
			}
			sent = number
		}
		return nil
	})
	for range 3 {
		time.Sleep(300 * time.Millisecond)
		s = bustest.Restart(t, s)
		for _, c := range []*client.Client{publisher, consumer} {
			if err := c.WaitConnected(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	time.Sleep(100 * time.Millisecond)
	if err := stopPublisher(); err != nil {
		t.Fatal(err)
	}
	var last delivery
	for last.number < sent {
		d := receive(t, got)
		if d.number != last.number+1 || d.sequence <= last.sequence {
			t.Fatalf("batch %d at %d follows batch %d at %d", d.number, d.sequence, last.number, last.sequence)
		}
		last = d
	}
	if err := stopConsumer(); !errors.Is(err, context.Canceled) {
		t.Errorf("ConsumeEvents gives %v at the end", err)
	}
	if len(got) > 0 {
		t.Errorf("%d batches came again", len(got))
	}
	t.Logf("%d batches, %d retries", sent, retries)
}
