package event_test

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/weirmesh/weir/event"
)

// TestSize reports what a second's events take on the bus, all in, and holds
// them to a bound: the NATS message with its subject and header as the stream
// keeps it.
func TestSize(t *testing.T) {
	f := func(rate int, change func([]event.Event) []event.Event, most float64) {
		t.Helper()
		events := change(trafficAt(rate, rate))
		h := header
		h.Sequence, h.Produced, h.Shed = 4000, uint64(4000*rate), 0
		h.Sent = events[rate-1].Start + int64(events[rate-1].Duration) + 20_000
		var e event.Encoder
		for i := range events {
			e.Add(&events[i])
		}
		data := e.Encode(nil, &h)
		decode(t, new(event.Decoder), data, h, events)
		around := len(envelope(&h))
		each := float64(len(data)+around) / float64(rate)
		t.Logf("%6d a second: batch of %6d bytes, with subject and header %6d, %5.2f an event", rate, len(data), len(data)+around, each)
		if each > most {
			t.Errorf("%d events a second take %.2f bytes each, want at most %.2f", rate, each, most)
		}
	}
	none := func(events []event.Event) []event.Event { return events }
	f(100, none, 17)
	f(1000, none, 8)
	f(10_000, none, 6.6)
	f(10_000, within, 7.5) // in one second: with sums
}

// envelope is what the stream keeps of a message beside its data.
func envelope(h *event.Header) string {
	w := h.Source.Workload
	return fmt.Sprintf("weir.v1.events.%s.%s.%s.%s", w.Cluster, w.Namespace, w.Kind, w.Name) +
		"NATS/1.0\r\nNats-Msg-Id: " + strconv.FormatUint(h.Instance, 16) + "-" + strconv.FormatUint(h.Sequence, 10) + "\r\n\r\n"
}

// TestSizeOfPaths holds batches to a bound whose paths have parts in common that
// are not at their beginnings, and those that have nothing in common.
func TestSizeOfPaths(t *testing.T) {
	f := func(path func(i int) string, most float64) {
		t.Helper()
		events := trafficAt(100, 100)
		for i := range events {
			events[i].Path = path(i)
		}
		h := header
		h.Sent = events[99].Start + int64(events[99].Duration)
		var e event.Encoder
		for i := range events {
			e.Add(&events[i])
		}
		data := e.Encode(nil, &h)
		decode(t, new(event.Decoder), data, h, events)
		each := float64(len(data)+len(envelope(&h))) / 100
		t.Logf("paths as %s: %5.2f bytes an event", path(0), each)
		if each > most {
			t.Errorf("events of paths as %s take %.2f bytes each, want at most %.2f", path(0), each, most)
		}
	}
	collections := []string{"orders", "customers", "products", "invoices", "shipments", "payments", "reviews", "carts"}
	operations := []string{"list", "read", "create", "update", "remove", "search", "export", "status"}
	f(func(i int) string { return "/api/v1/" + collections[i*i%7] + "/" + operations[i%8] }, 19)
	f(func(i int) string { return fmt.Sprintf("/users/%d/orders", 100_000+7919*i) }, 24)
	f(func(i int) string { return fmt.Sprintf("/users/%d", 100_000+7919*i) }, 23)
	f(func(int) string { return "/" }, 16)
}
