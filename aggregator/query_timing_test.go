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

// crowd is an aggregator that owns all partitions, and many workloads.
type crowd struct {
	b         *testing.B
	a         *Aggregator
	now       time.Time
	workloads int
	// every: a workload has requests in one of so many seconds: four a second,
	// or one.
	every   int
	seconds int
	enc     event.Encoder
	data    []byte
}

func newCrowd(b *testing.B, workloads, parts, every int) *crowd {
	b.Helper()
	c := &crowd{b: b, now: time.Unix(1_800_000_000, 0), workloads: workloads, every: every}
	o := memoryOptions(&memory{}, "me", func() time.Time { return c.now })
	o.Limits.Pending = 1 << 20
	o.Partitions, o.Tiers, o.MaxPart, o.MaxReply = parts, nil, 0, 64<<20
	var err error
	if c.a, err = New(o); err != nil {
		b.Fatal(err)
	}
	for _, p := range c.a.partitions {
		if _, err := p.takeOver(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	return c
}

// second is one more second of requests.
func (c *crowd) second() {
	for i := range c.workloads {
		if (c.seconds+i)%c.every != 0 {
			continue
		}
		for n := range max(4/c.every, 1) {
			us := uint64(1000 + (i*7919+c.seconds*104729+n*1299709)%50_000)
			c.enc.Add(&event.Event{Direction: event.Inbound, Protocol: event.HTTP1, Status: 200, GRPCStatus: event.NoGRPCStatus, Method: "GET",
				Path: "/api/" + strconv.Itoa(n%2), Start: c.now.UnixMicro() - int64(us), Latency: us - 100, Duration: us, Connection: 1, Stream: 1})
		}
		name := fmt.Sprintf("w%05d", i)
		c.data = c.enc.Encode(c.data[:0], &event.Header{
			Source:   event.Source{Workload: event.Workload{Cluster: "c", Namespace: fmt.Sprintf("ns%d", i%50), Kind: "deploy", Name: name}, Pod: name + "-0"},
			Instance: uint64(i + 1), Sequence: uint64(c.seconds/c.every + 1), Sent: c.now.UnixMicro(),
		})
		c.enc.Reset()
		p := c.a.partitions[i%len(c.a.partitions)]
		if err := p.take(context.Background(), event.Mark{Sequence: uint64(c.seconds)*uint64(c.workloads) + uint64(i) + 1}, "", c.data); err != nil {
			c.b.Fatal(err)
		}
	}
	for _, p := range c.a.partitions {
		p.cut()
		p.maintain()
	}
	c.now = c.now.Add(time.Second)
	c.seconds++
}

// forget has the partitions forget what they answered.
func (c *crowd) forget() {
	for _, p := range c.a.partitions {
		p.recalls.drop()
	}
}

// answer is what the API does with an answer, and how long that is.
func (c *crowd) answer(method string, request *query.Request) (size int) {
	body, err := json.Marshal(request)
	if err != nil {
		c.b.Fatal(err)
	}
	data := c.a.answer(method, body)
	reply, err := query.Unpack(data)
	if err != nil || reply.Error != "" {
		c.b.Fatal(err, reply.Error)
	}
	if _, err := query.Merge([]query.Reply{reply}); err != nil {
		c.b.Fatal(err)
	}
	return len(data)
}

// BenchmarkQueries: what a member takes to answer about 10,000 workloads, and
// the API to read the answer. Each has four requests a second, or (sparse) one
// every ten.
func BenchmarkQueries(b *testing.B) {
	benchmarkQueries(b, 1)
	b.Run("sparse", func(b *testing.B) { benchmarkQueries(b, 10) })
}

func benchmarkQueries(b *testing.B, every int) {
	c := newCrowd(b, 10_000, 16, every)
	for range 75 {
		c.second()
	}
	for _, q := range []struct {
		name, method string
		// length of the window, seconds.
		length  int64
		request query.Request
	}{
		{"stat/1m", query.MethodStat, 60, query.Request{Brief: true}},
		{"stat/10s", query.MethodStat, 10, query.Request{Brief: true}},
		{"stat/full", query.MethodStat, 60, query.Request{}},
		{"stat/ns", query.MethodStat, 60, query.Request{Resource: query.Selector{Kind: query.KindNamespace}}},
		{"series/one", query.MethodSeries, 60, query.Request{Step: 1, Resource: query.Selector{Name: "w00042"}}},
		// A second after another.
		{"watched/1m", query.MethodStat, 60, query.Request{Brief: true}},
	} {
		q.request.Packed = true
		b.Run(q.name, func(b *testing.B) {
			var took []time.Duration
			var size int
			var used int64
			for b.Loop() {
				if q.name == "watched/1m" {
					b.StopTimer()
					c.second()
					b.StartTimer()
				} else {
					c.forget()
				}
				q.request.Until = c.now.Unix() - 3
				q.request.Since = q.request.Until - q.length
				began, before := time.Now(), cpuTime(b)
				size = c.answer(q.method, &q.request)
				took = append(took, time.Since(began))
				used += cpuTime(b) - before
			}
			b.ReportMetric(float64(used)/float64(b.N)/1e6, "cpu-ms/op")
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
			b.ReportMetric(float64(size), "reply-bytes")
		})
	}
	bytes := 0
	for _, p := range c.a.partitions {
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
