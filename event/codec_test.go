package event_test

import (
	"testing"

	"github.com/weirmesh/weir/event"
)

// TestSize reports how long batches are, all in, and holds them to a bound.
func TestSize(t *testing.T) {
	f := func(n int, most float64) {
		t.Helper()
		data := encode(traffic(n))
		each := float64(len(data)) / float64(n)
		t.Logf("batch of %6d: %7d bytes, %5.2f an event", n, len(data), each)
		if each > most {
			t.Errorf("batch of %d takes %.2f bytes an event, want at most %.2f", n, each, most)
		}
	}
	f(100, 60)
	f(1000, 13)
	f(10_000, 10)
}

func TestRoundTripTraffic(t *testing.T) {
	events := traffic(5000)
	var d event.Decoder
	if err := d.Reset(encode(events)); err != nil {
		t.Fatal(err)
	}
	if *d.Header() != header || d.Len() != len(events) {
		t.Fatalf("header %+v of %d events, want %+v of %d", *d.Header(), d.Len(), header, len(events))
	}
	var e event.Event
	for i := range events {
		if !d.Next(&e) || e != events[i] {
			t.Fatalf("event %d: got %+v, want %+v", i, e, events[i])
		}
	}
	if d.Next(&e) || d.Err() != nil {
		t.Fatal("more events than were added")
	}
}
