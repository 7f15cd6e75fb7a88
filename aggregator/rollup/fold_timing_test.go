package rollup_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/event"
)

// batches of n events: 64 routes, 32 connections of 4 peers, a tenth fails.
func benchmarkBatches(d event.Direction, n int) [][]byte {
	rng := rand.New(rand.NewPCG(1, 2))
	var all [][]byte
	for b := range 64 {
		var enc event.Encoder
		for range n {
			e := request(d, t0+rng.Int64N(second), fmt.Sprintf("/api/route/%c%c", 'a'+rng.IntN(8), 'a'+rng.IntN(8)))
			conn := rng.IntN(32)
			e.Connection, e.Peer.Workload.Name = uint64(conn+1), fmt.Sprintf("peer-%d", conn%4)
			e.Latency = uint64(rng.ExpFloat64() * 2000)
			e.Duration = e.Latency + 100
			if rng.IntN(10) == 0 {
				e.Status = 503
			}
			enc.Add(&e)
		}
		h := header(1, uint64(b+1), t0+second)
		all = append(all, enc.Encode(nil, &h))
	}
	return all
}

// BenchmarkFold is the steady state: a folder that knows the rows, and gives
// away what it counted every 64 batches (take-ns/event is what that costs).
func BenchmarkFold(b *testing.B) {
	for _, d := range []event.Direction{event.Inbound, event.Outbound} {
		for _, n := range []int{100, 1000, 10000} {
			b.Run(fmt.Sprintf("%s/%d", d, n), func(b *testing.B) {
				batches := benchmarkBatches(d, n)
				f := rollup.NewFolder(rollup.Limits{})
				round := func(instance uint64) (folding, taking int64) {
					began := processorTime(b)
					for _, data := range batches {
						// The same batches count again as another process's: the
						// instance is their first field.
						binary.LittleEndian.PutUint64(data[1:], instance)
						if r, err := fold(f, data, t0+second); err != nil || r.Events != n {
							b.Fatal(r, err)
						}
					}
					folded := processorTime(b)
					f.Take(false)
					return folded - began, processorTime(b) - folded
				}
				round(1)
				b.ReportAllocs()
				var folding, taking int64
				rounds := 0
				for b.Loop() {
					rounds++
					one, two := round(uint64(rounds + 1))
					folding, taking = folding+one, taking+two
				}
				events := float64(rounds) * float64(len(batches)) * float64(n)
				b.ReportMetric(float64(folding)/events, "cpu-ns/event")
				b.ReportMetric(float64(taking)/events, "take-ns/event")
			})
		}
	}
}

// processorTime is what the process has used of its processors, ns: on a machine
// that others use too, the clock on the wall says nothing.
func processorTime(b *testing.B) int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

func BenchmarkTake(b *testing.B) {
	batches := benchmarkBatches(event.Inbound, 1000)
	b.ReportAllocs()
	cells := 0
	for b.Loop() {
		b.StopTimer()
		f := rollup.NewFolder(rollup.Limits{})
		for _, data := range batches {
			if _, err := fold(f, data, t0+second); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		d := f.Take(true)
		cells += len(d.Items)
		rollup.Encode(d, rollup.Meta{}, 0)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(cells), "ns/cell")
}
