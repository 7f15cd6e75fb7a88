package event_test

import (
	"testing"

	"github.com/weirmesh/weir/event"
)

// BenchmarkEncoderAdd adds events to batches of 1,000 and encodes them; ns/op
// is an event's share of all that.
func BenchmarkEncoderAdd(b *testing.B) {
	events := traffic(1000)
	var e event.Encoder
	var out []byte
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if e.Len() == len(events) {
			out = e.Encode(out[:0], &header)
			e.Reset()
		}
		e.Add(&events[i%len(events)])
	}
}

// BenchmarkEncodeSums encodes batches of 10,000 events of one second, which have
// sums, or of two, which have none; ns/op is an event's share.
func BenchmarkEncodeSums(b *testing.B) {
	for _, apart := range []int64{0, 1_000_000} {
		b.Run([]string{"with", "without"}[apart/1_000_000], func(b *testing.B) {
			events := within(trafficAt(10_000, 10_000))
			events[0].Start -= apart
			var e event.Encoder
			for i := range events {
				e.Add(&events[i])
			}
			var out []byte
			b.ReportAllocs()
			for range b.N/len(events) + 1 {
				out = e.Encode(out[:0], &header)
			}
		})
	}
}

// BenchmarkDecodeFold decodes batches of 1,000 and records each event's latency
// in the histogram of its route; ns/op is an event's share.
func BenchmarkDecodeFold(b *testing.B) {
	data := encode(traffic(1000))
	var d event.Decoder
	var e event.Event
	var folds [64]event.Histogram
	b.ReportAllocs()
	for b.Loop() {
		if !d.Next(&e) {
			if err := d.Reset(data); err != nil {
				b.Fatal(err)
			}
			d.Next(&e)
		}
		route, _, _ := d.Indexes()
		folds[route].Record(e.Latency)
	}
}

func BenchmarkHistogramRecord(b *testing.B) {
	events := traffic(1000)
	var h event.Histogram
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		h.Record(events[i%len(events)].Latency)
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	events := traffic(1000)
	var out []byte
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		out = event.AppendJSON(out[:0], &header, i, &events[i%len(events)])
	}
	b.SetBytes(int64(len(out)))
}
