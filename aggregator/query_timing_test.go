package aggregator

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/event"
)

// crowd is an aggregator that owns all of parts partitions, on which so many
// workloads had some requests in each of the last seconds.
func crowd(b *testing.B, workloads, parts int, seconds int64) (*Aggregator, int64) {
	b.Helper()
	start := time.Unix(1_800_000_000, 0)
	now := start
	o := memoryOptions(&memory{}, "me", func() time.Time { return now })
	o.Limits.Pending = 1 << 20
	o.Partitions, o.Tiers, o.MaxPart, o.MaxReply = parts, nil, 0, 64<<20
	a, err := New(o)
	if err != nil {
		b.Fatal(err)
	}
	for _, p := range a.partitions {
		if _, err := p.takeOver(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	var enc event.Encoder
	var data []byte
	for s := range seconds {
		now = start.Add(time.Duration(s) * time.Second)
		for i := range workloads {
			for n := range 4 {
				us := uint64(1000 + (i*7919+int(s)*104729+n*1299709)%50_000)
				enc.Add(&event.Event{Direction: event.Inbound, Protocol: event.HTTP1, Status: 200, GRPCStatus: event.NoGRPCStatus, Method: "GET",
					Path: "/api/" + strconv.Itoa(n%2), Start: now.UnixMicro() - int64(us), Latency: us - 100, Duration: us, Connection: 1, Stream: 1})
			}
			name := fmt.Sprintf("w%05d", i)
			data = enc.Encode(data[:0], &event.Header{
				Source:   event.Source{Workload: event.Workload{Cluster: "c", Namespace: fmt.Sprintf("ns%d", i%50), Kind: "deploy", Name: name}, Pod: name + "-0"},
				Instance: uint64(i + 1), Sequence: uint64(s + 1), Sent: now.UnixMicro(),
			})
			enc.Reset()
			p := a.partitions[i%parts]
			if err := p.take(context.Background(), uint64(s)*uint64(workloads)+uint64(i)+1, "", data); err != nil {
				b.Fatal(err)
			}
		}
		for _, p := range a.partitions {
			p.cut()
			p.maintain()
		}
	}
	return a, now.Unix()
}

// BenchmarkQueries: what a member takes to answer about 10,000 workloads, and
// the API to read the answer.
func BenchmarkQueries(b *testing.B) {
	const workloads = 10_000
	a, now := crowd(b, workloads, 16, 75)
	for _, q := range []struct {
		name, method string
		request      query.Request
	}{
		{"stat/1m", query.MethodStat, query.Request{Since: now - 62, Until: now - 2, Brief: true}},
		{"stat/10s", query.MethodStat, query.Request{Since: now - 12, Until: now - 2, Brief: true}},
		{"stat/full", query.MethodStat, query.Request{Since: now - 62, Until: now - 2}},
		{"stat/ns", query.MethodStat, query.Request{Since: now - 62, Until: now - 2, Resource: query.Selector{Kind: query.KindNamespace}}},
		{"series/one", query.MethodSeries, query.Request{Since: now - 62, Until: now - 2, Step: 1, Resource: query.Selector{Name: "w00042"}}},
	} {
		q.request.Packed = true
		request, err := json.Marshal(&q.request)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(q.name, func(b *testing.B) {
			var took []time.Duration
			var size int
			before := cpuTime(b)
			for b.Loop() {
				began := time.Now()
				data := a.answer(q.method, request)
				reply, err := query.Unpack(data)
				if err != nil || reply.Error != "" {
					b.Fatal(err, reply.Error)
				}
				if _, err := query.Merge([]query.Reply{reply}); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
				size = len(data)
			}
			b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N)/1e6, "cpu-ms/op")
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
			b.ReportMetric(float64(size), "reply-bytes")
		})
	}
	bytes := 0
	for _, p := range a.partitions {
		bytes += p.store.Bytes()
	}
	b.Logf("the store takes %d KiB for %d s", bytes>>10, 75)
}

// cpuTime is what the process has used of its processors, ns.
func cpuTime(b *testing.B) int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
