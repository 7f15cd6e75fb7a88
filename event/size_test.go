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
	f := func(rate int, most float64) {
		t.Helper()
		events := trafficAt(rate, rate)
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
	f(100, 18)
	f(1000, 8.2)
	f(10_000, 6.8)
}

// envelope is what the stream keeps of a message beside its data.
func envelope(h *event.Header) string {
	w := h.Source.Workload
	return fmt.Sprintf("weir.v1.events.%s.%s.%s.%s", w.Cluster, w.Namespace, w.Kind, w.Name) +
		"NATS/1.0\r\nNats-Msg-Id: " + strconv.FormatUint(h.Instance, 16) + "-" + strconv.FormatUint(h.Sequence, 10) + "\r\n\r\n"
}
