package client_test

import (
	"context"
	"errors"
	"os"
	"strconv"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/bus/bustest"
	"github.com/weirmesh/weir/bus/client"
	"github.com/weirmesh/weir/bus/server"
	"github.com/weirmesh/weir/event"
)

// Batches of the streams that lose their end: those before a copy of the files is
// made, those that are lost, and those that follow, which begin with the next.
const keptBatches, lostBatches, laterBatches = 5, 10, 30

func publishNumbers(t *testing.T, s *server.Server, from, to int) {
	t.Helper()
	c := bustest.Connect(t, s)
	defer c.Close()
	for i := from; i <= to; i++ {
		if err := c.Publish(bounded(t), web, 1, uint64(i), []byte(strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
}

// losing is a bus, a client of it, and what crashes it: what came after a copy of
// its files was made is lost then, and the stream has got more than that before the
// bus is back at its address.
func losing(t *testing.T) (c *client.Client, crash func()) {
	t.Helper()
	s := bustest.Run(t)
	publishNumbers(t, s, 1, keptBatches)
	s.Close()
	backup := t.TempDir()
	if err := os.CopyFS(backup, os.DirFS(s.Options().DataDir)); err != nil {
		t.Fatal(err)
	}
	s = bustest.Start(t, s.Options())
	publishNumbers(t, s, keptBatches+1, lostBatches)
	return bustest.Connect(t, s), func() {
		t.Helper()
		s.Close()
		o := s.Options()
		o.DataDir = backup
		elsewhere := o
		elsewhere.Listen = "127.0.0.1:0"
		other := bustest.Start(t, elsewhere)
		publishNumbers(t, other, lostBatches+1, laterBatches)
		other.Close()
		bustest.Start(t, o)
	}
}

// TestReadingOfAStreamThatLosesItsEnd: the bus loses what came last of the stream,
// and has given the sequences again before its reader is back, which gets all that
// is new.
func TestReadingOfAStreamThatLosesItsEnd(t *testing.T) {
	partition := partitionOf(t, web)
	c, crash := losing(t)
	got := make(chan string, 1000)
	stop := background(t, func(ctx context.Context) error {
		return c.ConsumeEvents(ctx, partition, nil, func(_ event.Mark, _ string, data []byte) error {
			got <- string(data)
			return nil
		})
	})
	for i := 1; i <= lostBatches; i++ {
		if d := receive(t, got); d != strconv.Itoa(i) {
			t.Fatalf("batch %s, want %d", d, i)
		}
	}
	crash()
	d := receive(t, got)
	for n, _ := strconv.Atoi(d); n <= keptBatches; n, _ = strconv.Atoi(d) {
		d = receive(t, got) // comes again
	}
	for i := lostBatches + 1; d == strconv.Itoa(i) && i < laterBatches; i++ {
		d = receive(t, got)
		if d != strconv.Itoa(i+1) {
			t.Fatalf("batch %s, want %d", d, i+1)
		}
	}
	if d != strconv.Itoa(laterBatches) {
		t.Errorf("batch %s, want %d", d, lostBatches+1)
	}
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("ConsumeEvents gives %v at the end", err)
	}
}

// TestNewReaderOfAStreamThatLostItsEnd: who begins to read only then, and was told what
// was read before, leaves out nothing that is new.
func TestNewReaderOfAStreamThatLostItsEnd(t *testing.T) {
	partition := partitionOf(t, web)
	c, crash := losing(t)
	_, read := consume(t, c, partition, 0, lostBatches)
	crash()
	if err := c.WaitConnected(bounded(t)); err != nil {
		t.Fatal(err)
	}
	last := read[lostBatches-1]
	const end = keptBatches + laterBatches - lostBatches // of the stream now
	f := func(name string, read []event.Mark, after int) {
		t.Helper()
		n := end - after
		data, at := consumeAfter(t, c, partition, read, n)
		for i := range data {
			want := after + i + 1
			if want > keptBatches {
				want += lostBatches - keptBatches
			}
			if data[i] != strconv.Itoa(want) || at[i].Sequence != uint64(after+i+1) {
				t.Fatalf("%s: batch %s at %d, want %d", name, data[i], at[i].Sequence, want)
			}
		}
		// What is there now is known from now on.
		if data, _ = consumeAfter(t, c, partition, at[:n-1], 1); data[0] != strconv.Itoa(laterBatches) {
			t.Errorf("%s: then batch %s", name, data[0])
		}
	}
	f("all that was read", read, 3) // after 10, 9 and 7, of which others have the sequences
	f("what was read just before the end that is left", read[:keptBatches+1], keptBatches)
	f("what is still there", read[:keptBatches], keptBatches)
	f("the first and the last", []event.Mark{read[0], last}, 1)
	f("the last alone", []event.Mark{last}, 0)
	f("more than there is", []event.Mark{read[1], {Sequence: 1000, Stored: last.Stored}}, 2)
	f("more than there is, nobody knows when", []event.Mark{{Sequence: keptBatches + 1}, {Sequence: 1000}}, 0)
	f("nobody knows when", []event.Mark{read[0], {Sequence: last.Sequence}}, lostBatches)
	f("nothing", nil, 0)
}

// TestNewReaderOfATrimmedStream: what the stream has discarded since it was read is
// no sign of a loss.
func TestNewReaderOfATrimmedStream(t *testing.T) {
	partition := partitionOf(t, web)
	s := bustest.Run(t)
	publishNumbers(t, s, 1, lostBatches)
	c := bustest.Connect(t, s)
	_, read := consume(t, c, partition, 0, lostBatches)
	_, js := raw(t, s)
	stream, err := js.Stream(bounded(t), bus.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	for _, first := range []uint64{4, lostBatches + 1} {
		if err := stream.Purge(bounded(t), jetstream.WithPurgeSequence(first)); err != nil {
			t.Fatal(err)
		}
		publishNumbers(t, s, int(first)+lostBatches, int(first)+lostBatches)
	}
	if data, _ := consumeAfter(t, c, partition, read, 1); data[0] != strconv.Itoa(4+lostBatches) {
		t.Errorf("after what was discarded comes %s", data[0])
	}
	// Of what is not there any more nobody can tell, and need not.
	if data, _ := consumeAfter(t, c, partition, []event.Mark{{Sequence: 2, Stored: 1}}, 1); data[0] != strconv.Itoa(4+lostBatches) {
		t.Errorf("after what was discarded long ago comes %s", data[0])
	}
}
