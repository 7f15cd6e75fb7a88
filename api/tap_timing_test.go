package api

import (
	"context"
	"testing"
	"time"

	"github.com/weirmesh/weir/aggregator/scan"
	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/event"
	"google.golang.org/grpc"
)

// sink takes what a tap sends.
type sink struct {
	grpc.ServerStreamingServer[weirpb.TapResponse]
	got int
}

func (s *sink) Send(*weirpb.TapResponse) error {
	s.got++
	return nil
}

// batches is a stream of one batch again and again.
type batches struct {
	data  []byte
	from  event.Workload
	count int
}

func (s *batches) ReadEvents(ctx context.Context, _ event.Workload, _, _ time.Time, opened func(event.Extent), fn func(uint64, event.Workload, time.Time, []byte) error) error {
	opened(event.Extent{})
	for n := range s.count {
		if err := fn(uint64(n+1), s.from, time.Now(), s.data); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// BenchmarkTap is what one tap costs for each event that it reads, by whether it
// matches.
func BenchmarkTap(b *testing.B) {
	var encoder event.Encoder
	const each = 1000
	for i := range each {
		encoder.Add(&event.Event{
			Direction: event.Inbound, Protocol: event.HTTP1, Status: 200, GRPCStatus: event.NoGRPCStatus,
			Method: "GET", Authority: "web:80", Path: "/api/list", Start: 1e15, Latency: uint64(i), Duration: 7000, Connection: 1, Stream: 1,
		})
	}
	w := event.Workload{Cluster: "c", Namespace: "x", Kind: "deploy", Name: "web"}
	for _, status := range []string{"200", "500"} {
		b.Run(status, func(b *testing.B) {
			m, err := tapFilter(&weirpb.TapRequest{Status: status})
			if err != nil {
				b.Fatal(err)
			}
			out := &sink{}
			s := &service{metrics: newMetrics(), now: time.Now}
			t := &tap{service: s, stream: out, limiter: newLimiter(0, time.Now())}
			h := &event.Header{Source: event.Source{Workload: w}, Instance: 1}
			v := &scan.Visitor{
				Opened: t.opened, Event: t.event, Gap: t.gap,
				Batch: func(*event.Header, scan.Progress) error { return nil },
			}
			for b.Loop() {
				h.Sequence++
				source := &batches{data: encoder.Encode(nil, h), from: w, count: 1}
				if err := scan.Follow(b.Context(), source, &scan.Question{Match: m}, v); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/each, "ns/event")
		})
	}
}
