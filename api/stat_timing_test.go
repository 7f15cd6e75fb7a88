package api_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/api"
	"github.com/weirmesh/weir/api/apitest"
	"github.com/weirmesh/weir/api/client"
	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/event"
)

// canned answers with replies that were packed beforehand.
type canned struct {
	*apitest.Backend
	replies [][]byte
}

func (c *canned) Ask(context.Context, string, string, []byte) ([][]byte, error) {
	return c.replies, nil
}

// BenchmarkStat is what the API and its client take, over gRPC, to answer
// about 10,000 workloads once two aggregators have told of them: alone, and where
// others ask the same within the second.
func BenchmarkStat(b *testing.B) {
	const members, workloads = 2, 10_000
	rng := rand.New(rand.NewPCG(1, 2))
	backend := &canned{Backend: &apitest.Backend{}}
	for m := range members {
		r := query.Reply{Member: fmt.Sprint("m", m), Members: members, Total: members, Partitions: []int{m}, Windows: []query.Window{{Since: 1000, Until: 1060}}}
		for i := m; i < workloads; i += members {
			var latency, duration event.Histogram
			for range 60 {
				us := uint64(500 + rng.ExpFloat64()*5000)
				latency.Record(us)
				duration.Record(us + 100)
			}
			qs := query.Quantiles()
			var thinLatency, thinDuration event.SparseHistogram
			latency.Thin(&thinLatency, qs[:]...)
			duration.Thin(&thinDuration, qs[:]...)
			r.Rows = append(r.Rows, query.Row{
				Brief:     true,
				Resource:  query.Selector{Cluster: "c", Namespace: fmt.Sprint("ns-", i/100), Kind: "deploy", Name: fmt.Sprint("w-", i)},
				Direction: query.Inbound, PodsSeen: 1, PodsLive: 1,
				Stats: query.Stats{Requests: 60, Successes: 59, Status: map[uint16]uint64{200: 59, 503: 1}, Latency: thinLatency, Duration: thinDuration},
			})
		}
		data, err := query.Pack(&r)
		if err != nil {
			b.Fatal(err)
		}
		backend.replies = append(backend.replies, data)
	}
	// Outside Kubernetes there is nobody to ask, which takes asking.
	nobody := func(context.Context, string, string, []byte) ([]byte, error) { return nil, api.ErrNoController }
	s, err := api.Start(api.Options{Backend: backend, Controller: nobody, GRPCAddr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	c, err := client.Dial(b.Context(), s.GRPCAddr())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	for _, name := range []string{"alone", "shared"} {
		b.Run(name, func(b *testing.B) {
			var took []time.Duration
			before := cpuTime(b)
			since := int64(1000)
			for b.Loop() {
				if name == "alone" {
					since++ // nobody asks the same
				}
				began := time.Now()
				r, err := c.Stat(b.Context(), &weirpb.StatRequest{Resource: &weirpb.Resource{Kind: "deploy"}, Window: window(since, since+60)})
				if err != nil || len(r.GetRows()) != workloads {
					b.Fatal(len(r.GetRows()), err)
				}
				took = append(took, time.Since(began))
			}
			b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N)/1e6, "cpu-ms/op")
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
		})
	}
}

// cpuTime is what the process has used of its processors, ns.
func cpuTime(b *testing.B) int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
