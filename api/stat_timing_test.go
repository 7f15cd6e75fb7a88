package api_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
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

// canned answers with replies that were packed beforehand: others each time.
type canned struct {
	*apitest.Backend
	replies [][][]byte
	asked   atomic.Int64
}

func (c *canned) Ask(context.Context, string, string, []byte) ([][]byte, error) {
	return c.replies[int(c.asked.Add(1))%len(c.replies)], nil
}

// BenchmarkStat is what the API and its client take, over gRPC, to answer
// about 10,000 workloads once two aggregators have told of them: alone, where
// from one question to the next a fifth of the rows changes, as at a request
// every ten seconds of each workload; where all do (busy); and where others ask
// the same within the second.
func BenchmarkStat(b *testing.B) {
	const workloads = 10_000
	// Outside Kubernetes there is nobody to ask, which takes asking.
	nobody := func(context.Context, string, string, []byte) ([]byte, error) { return nil, api.ErrNoController }
	for _, name := range []string{"alone", "busy", "shared"} {
		b.Run(name, func(b *testing.B) {
			backend := &canned{Backend: &apitest.Backend{}, replies: cannedReplies(b, workloads, name == "busy")}
			s, err := api.Start(api.Options{Backend: backend, Controller: nobody, GRPCAddr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0"})
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			c, err := client.Dial(b.Context(), s.GRPCAddr())
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			var took []time.Duration
			before := cpuTime(b)
			since := int64(1000)
			for b.Loop() {
				if name != "shared" {
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

// cannedReplies are those of two members to one question after the other: a tenth
// of the workloads have had a request more, another tenth one less; or all have.
func cannedReplies(b *testing.B, workloads int, all bool) (replies [][][]byte) {
	b.Helper()
	const members, questions = 2, 20
	rng := rand.New(rand.NewPCG(1, 2))
	rows := make([]query.Row, workloads)
	for q := range questions {
		said := make([]query.Reply, members)
		for m := range said {
			said[m] = query.Reply{Member: fmt.Sprint("m", m), Members: members, Total: members, Partitions: []int{m}, Windows: []query.Window{{Since: 1000, Until: 1060}}}
		}
		for i := range rows {
			if q == 0 || all || i%5 == q%5 {
				rows[i] = cannedRow(rng, i)
			}
			said[i%members].Rows = append(said[i%members].Rows, rows[i])
		}
		var data [][]byte
		for m := range said {
			packed, err := query.Pack(&said[m])
			if err != nil {
				b.Fatal(err)
			}
			data = append(data, packed)
		}
		replies = append(replies, data)
	}
	return replies
}

func cannedRow(rng *rand.Rand, i int) query.Row {
	var latency, duration event.Histogram
	for range 60 {
		us := uint64(500 + rng.ExpFloat64()*5000)
		latency.Record(us)
		duration.Record(us + 100)
	}
	qs := query.Quantiles()
	row := query.Row{
		Brief:     true,
		Resource:  query.Selector{Cluster: "c", Namespace: fmt.Sprint("ns-", i/100), Kind: "deploy", Name: fmt.Sprint("w-", i)},
		Direction: query.Inbound, PodsSeen: 1, PodsLive: 1,
		Stats: query.Stats{Requests: 60, Successes: 59, Status: map[uint16]uint64{200: 59, 503: 1}},
	}
	latency.Thin(&row.Stats.Latency, qs[:]...)
	duration.Thin(&row.Stats.Duration, qs[:]...)
	return row
}

// cpuTime is what the process has used of its processors, ns.
func cpuTime(b *testing.B) int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
