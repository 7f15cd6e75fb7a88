package export_test

import (
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/export"
)

var web = event.Workload{Cluster: "east", Namespace: "shop", Kind: "deploy", Name: "web"}

func batch(instance, sequence uint64, sent time.Time) []byte {
	var enc event.Encoder
	enc.Add(&event.Event{Direction: event.Inbound, Protocol: event.TCP, Connection: 1, GRPCStatus: event.NoGRPCStatus})
	return enc.Encode(nil, &event.Header{
		Source: event.Source{Workload: web, Pod: "web-0"}, Instance: instance, Sequence: sequence, Sent: sent.UnixMicro(), Produced: sequence,
	})
}

func TestEachBatchIsTakenOnce(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	in := export.NewIntake(3, 0, time.Time{})
	position, stored := uint64(0), now.UnixNano()
	f := func(instance, sequence uint64, fresh bool) {
		t.Helper()
		position++
		d, err := in.Take(event.Mark{Sequence: position, Stored: stored + int64(position)}, bus.EventsSubject(web), batch(instance, sequence, now), now)
		if err != nil || (d != nil) != fresh {
			t.Errorf("batch %d of %d: %v, %v; want %v", sequence, instance, d != nil, err, fresh)
		}
		if d != nil && d.Len() != 1 {
			t.Errorf("batch %d of %d has %d events", sequence, instance, d.Len())
		}
	}
	again := func() {
		t.Helper()
		before := in.Counts
		var err error
		if in, err = export.RestoreIntake(3, in.Marks()); err != nil {
			t.Fatal(err)
		}
		in.Counts = before
		if want := (event.Mark{Sequence: position, Stored: stored + int64(position)}); len(in.Read()) != 1 || in.Read()[0] != want {
			t.Errorf("restored: %v was read; want %v", in.Read(), want)
		}
		if in.Position() != position || in.Partition() != 3 {
			t.Errorf("restored: partition %d at %d; want 3 at %d", in.Partition(), in.Position(), position)
		}
	}
	f(1, 1, true)
	f(1, 1, false)
	f(1, 4, true) // overtakes 2 and 3
	again()
	f(1, 4, false)
	f(1, 2, true)
	f(1, 2, false)
	f(2, 1, true) // another process of the workload
	again()
	in.Sweep(now.Add(time.Minute)) // 3 does not come
	if in.Counts.Lost != 1 {
		t.Errorf("%d batches are lost; want 1", in.Counts.Lost)
	}
	f(1, 3, true) // it does after all
	if in.Counts.Lost != 0 || in.Counts.Batches != 5 || in.Counts.Duplicates != 3 {
		t.Errorf("in the end %+v", in.Counts)
	}
	if _, err := export.RestoreIntake(4, in.Marks()); err == nil {
		t.Error("another partition's marks are taken")
	}
}

func TestWhatCameBeforeTheBeginIsNotLost(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	in := export.NewIntake(0, 100, now)
	if d, err := in.Take(event.Mark{Sequence: 101}, bus.EventsSubject(web), batch(1, 500, now), now); d == nil || err != nil {
		t.Fatalf("the first batch is not taken: %v", err)
	}
	if d, err := in.Take(event.Mark{Sequence: 102}, bus.EventsSubject(web), batch(1, 499, now), now); d == nil || err != nil {
		t.Errorf("the one it overtook is not taken: %v", err)
	}
	if d, _ := in.Take(event.Mark{Sequence: 103}, bus.EventsSubject(web), batch(1, 500, now), now); d != nil {
		t.Error("a batch is taken twice")
	}
	// Where the stream has lost its end, its reader may go back further than the begin.
	before := event.Mark{Sequence: 99, Stored: now.UnixNano() - 1}
	if d, err := in.Take(before, bus.EventsSubject(web), batch(1, 498, now), now); d != nil || err != nil || in.Position() != 99 {
		t.Errorf("what came before the begin is taken, or refused: %v", err)
	}
	if d, _ := in.Take(event.Mark{Sequence: 100, Stored: now.UnixNano()}, bus.EventsSubject(web), batch(1, 497, now), now); d == nil {
		t.Error("what came at the begin is not taken")
	}
	in.Sweep(now.Add(time.Hour))
	if in.Counts.Lost != 0 {
		t.Errorf("%d batches are lost", in.Counts.Lost)
	}
}

func TestForeignBatchesAreRefused(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	in := export.NewIntake(0, 0, time.Time{})
	long := event.Workload{Namespace: "shop", Kind: "deploy", Name: strings.Repeat("x", 300)}
	good := batch(1, 1, now)
	for _, m := range []struct {
		subject string
		data    []byte
	}{
		{bus.EventsSubject(event.Workload{Cluster: "east", Namespace: "shop", Kind: "deploy", Name: "voting"}), good},
		{bus.EventsSubject(long), good},
		{"weir.v1.what", good},
		{bus.EventsSubject(web), good[:len(good)/2]},
		{bus.EventsSubject(web), nil},
		{bus.EventsSubject(web), batch(0, 1, now)},
		{bus.EventsSubject(web), batch(1, 0, now)},
	} {
		if d, err := in.Take(event.Mark{Sequence: in.Position() + 1}, m.subject, m.data, now); d != nil || err == nil {
			t.Errorf("%s with %d bytes is taken", m.subject, len(m.data))
		}
	}
	if in.Counts.Refused != 7 || in.Sources() != 0 {
		t.Errorf("%+v, %d sources", in.Counts, in.Sources())
	}
	// The subject holds only a part of a long name.
	var enc event.Encoder
	data := enc.Encode(nil, &event.Header{Source: event.Source{Workload: long}, Instance: 1, Sequence: 1})
	if d, err := in.Take(event.Mark{Sequence: 8}, bus.EventsSubject(long), data, now); d == nil || err != nil {
		t.Errorf("a workload with a long name: %v", err)
	}
	if d, err := in.Take(event.Mark{Sequence: 9}, "weir.v1.part.3.east.shop.deploy.web", good, now); d == nil || err != nil {
		t.Errorf("on the subject as the stream has it: %v", err)
	}
}
