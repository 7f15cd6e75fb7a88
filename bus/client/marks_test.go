package client_test

import (
	"context"
	"os"
	"strconv"
	"testing"

	"github.com/weirmesh/weir/bus/bustest"
	"github.com/weirmesh/weir/bus/client"
	"github.com/weirmesh/weir/bus/server"
)

// TestStreamLosesItsEnd: the bus loses what came last of the stream, and has given
// the sequences again before its reader is back. The reader gets all that is new,
// be it the same reading or the client's next one.
func TestStreamLosesItsEnd(t *testing.T) {
	const before, lost, after = 5, 10, 30
	partition := partitionOf(t, web)
	publish := func(s *server.Server, from, to int) {
		t.Helper()
		c := bustest.Connect(t, s)
		defer c.Close()
		for i := from; i <= to; i++ {
			if err := c.Publish(bounded(t), web, 1, uint64(i), []byte(strconv.Itoa(i))); err != nil {
				t.Fatal(err)
			}
		}
	}
	// crash lets the bus lose what came after a copy of its files was made, and
	// get more than that before it is back at its address.
	crash := func(s *server.Server, backup string) {
		t.Helper()
		s.Close()
		o := s.Options()
		o.DataDir = backup
		elsewhere := o
		elsewhere.Listen = "127.0.0.1:0"
		other := bustest.Start(t, elsewhere)
		publish(other, lost+1, after)
		other.Close()
		bustest.Start(t, o)
	}
	begin := func(t *testing.T) (s *server.Server, c *client.Client, backup string) {
		t.Helper()
		s = bustest.Run(t)
		publish(s, 1, before)
		s.Close()
		backup = t.TempDir()
		if err := os.CopyFS(backup, os.DirFS(s.Options().DataDir)); err != nil {
			t.Fatal(err)
		}
		s = bustest.Start(t, s.Options())
		publish(s, before+1, lost)
		return s, bustest.Connect(t, s), backup
	}
	t.Run("the same reading", func(t *testing.T) {
		s, c, backup := begin(t)
		got := make(chan string, 1000)
		stop := background(t, func(ctx context.Context) error {
			return c.ConsumeEvents(ctx, partition, 0, func(_ uint64, _ string, data []byte) error {
				got <- string(data)
				return nil
			})
		})
		for i := 1; i <= lost; i++ {
			if d := receive(t, got); d != strconv.Itoa(i) {
				t.Fatalf("batch %s, want %d", d, i)
			}
		}
		crash(s, backup)
		d := receive(t, got)
		for n, _ := strconv.Atoi(d); n <= before; n, _ = strconv.Atoi(d) {
			d = receive(t, got) // comes again
		}
		for i := lost + 1; ; i++ {
			if d != strconv.Itoa(i) {
				t.Fatalf("batch %s, want %d", d, i)
			}
			if i == after {
				break
			}
			d = receive(t, got)
		}
		_ = stop()
	})
	t.Run("the next reading", func(t *testing.T) {
		s, c, backup := begin(t)
		_, sequences := consume(t, c, partition, 0, lost)
		crash(s, backup)
		if err := c.WaitConnected(bounded(t)); err != nil {
			t.Fatal(err)
		}
		last := sequences[lost-1]
		data, _ := consume(t, c, partition, last, after-lost+before-1)
		for i, d := range data[before-1:] {
			if d != strconv.Itoa(lost+1+i) {
				t.Fatalf("got %q", data)
			}
		}
		// What is there now is known from now on.
		if data, _ = consume(t, c, partition, uint64(after-lost+before-1), 1); data[0] != strconv.Itoa(after) {
			t.Errorf("then got %q", data)
		}
	})
}
