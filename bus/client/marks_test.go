package client_test

import (
	"context"
	"errors"
	"os"
	"strconv"
	"testing"

	"github.com/weirmesh/weir/bus/bustest"
	"github.com/weirmesh/weir/bus/client"
	"github.com/weirmesh/weir/bus/server"
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
		return c.ConsumeEvents(ctx, partition, 0, func(_ uint64, _ string, data []byte) error {
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

// TestNextReadingOfAStreamThatLostItsEnd: the same where the client reads anew, from
// the position that it has come to.
func TestNextReadingOfAStreamThatLostItsEnd(t *testing.T) {
	partition := partitionOf(t, web)
	c, crash := losing(t)
	_, sequences := consume(t, c, partition, 0, lostBatches)
	crash()
	if err := c.WaitConnected(bounded(t)); err != nil {
		t.Fatal(err)
	}
	const last = keptBatches + laterBatches - lostBatches // of the stream now
	data, _ := consume(t, c, partition, sequences[lostBatches-1], last-1)
	for i, d := range data[keptBatches-1:] {
		if d != strconv.Itoa(lostBatches+1+i) {
			t.Fatalf("got %q", data)
		}
	}
	// What is there now is known from now on.
	if data, _ = consume(t, c, partition, last-1, 1); data[0] != strconv.Itoa(laterBatches) {
		t.Errorf("then got %q", data)
	}
}
