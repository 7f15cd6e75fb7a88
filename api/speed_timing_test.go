package api_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/weirmesh/weir/api"
	"github.com/weirmesh/weir/api/client"
	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/bus/bustest"
	"github.com/weirmesh/weir/event"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// speedBatches of speedEach events are what BenchmarkOverBus reads.
const (
	speedBatches = 200
	speedEach    = 5000
)

// stored is a real bus with a file-backed stream of events of one proxy, 64
// paths by Zipf's law, and an API on it.
func stored(b *testing.B) *client.Client {
	b.Helper()
	server := bustest.Run(b)
	c := bustest.Connect(b, server)
	rng := rand.New(rand.NewPCG(1, 2))
	zipf := rand.NewZipf(rng, 1.2, 1, 63)
	h := webHeader(0)
	now := time.Now().UnixMicro()
	for range speedBatches {
		var encoder event.Encoder
		for range speedEach {
			e := tapEvent(fmt.Sprint("/route/", zipf.Uint64()), 200, nil)
			e.Latency = rng.Uint64N(500_000)
			e.Duration = e.Latency + 10
			e.Start = now - 30_000_000
			encoder.Add(&e)
		}
		h.Sequence++
		h.Sent, h.Produced = now, h.Sequence*speedEach
		if err := c.Publish(b.Context(), h.Source.Workload, h.Instance, h.Sequence, encoder.Encode(nil, &h)); err != nil {
			b.Fatal(err)
		}
	}
	s, err := api.Start(api.Options{Backend: c, GRPCAddr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	asking, err := client.Dial(b.Context(), s.GRPCAddr())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = asking.Close() })
	return asking
}

// BenchmarkOverBus is how many stored events a second a scan and a tap of the
// past get through, from the stream's file to the API's client.
func BenchmarkOverBus(b *testing.B) {
	c := stored(b)
	resource := &weirpb.Resource{Namespace: "x", Kind: "deploy", Name: "web"}
	f := func(name string, once func(b *testing.B) (events uint64)) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if n := once(b); n != speedBatches*speedEach {
					b.Fatalf("%d events", n)
				}
			}
			b.ReportMetric(float64(b.N)*speedBatches*speedEach/b.Elapsed().Seconds(), "events/s")
		})
	}
	scan := func(where string) func(b *testing.B) uint64 {
		return func(b *testing.B) uint64 {
			req := &weirpb.ScanRequest{Resource: resource, By: []string{"path", "status"}, Window: &weirpb.Window{Length: durationpb.New(10 * time.Minute), Until: timestamppb.Now()}}
			if where != "" {
				req.Filter = &weirpb.Filter{Where: where}
			}
			stream, err := c.Scan(b.Context(), req)
			if err != nil {
				b.Fatal(err)
			}
			for {
				item, err := stream.Recv()
				if err != nil {
					b.Fatal(err)
				}
				if r := item.GetResult(); r != nil {
					return r.GetProgress().GetEvents()
				}
			}
		}
	}
	tap := func(where string) func(b *testing.B) uint64 {
		return func(b *testing.B) (events uint64) {
			req := &weirpb.TapRequest{Resource: resource, Since: timestamppb.New(time.Now().Add(-10 * time.Minute)), Until: timestamppb.Now()}
			if where != "" {
				req.Filter = &weirpb.Filter{Where: where}
			}
			stream, err := c.Tap(b.Context(), req)
			if err != nil {
				b.Fatal(err)
			}
			for {
				item, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					return events
				}
				if err != nil {
					b.Fatal(err)
				}
				if p := item.GetProgress(); p != nil {
					events = p.GetEvents()
				}
			}
		}
	}
	f("scan all", scan(""))
	f("scan half", scan("latency > 250ms"))
	f("scan next to none", scan("latency > 499999us"))
	f("tap next to none", tap("latency > 499999us"))
	f("tap all", tap(""))
}
