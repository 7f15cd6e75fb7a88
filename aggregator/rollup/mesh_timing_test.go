package rollup_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/event"
)

// meshBatches are batches of n events of so many proxies, one list each: 64 routes by Zipf's
// law, 32 connections of 8 peers, one in 50 fails; a batch's events end in the wall clock's
// second before it.
func meshBatches(proxies, each, n int) [][][]byte {
	rng := rand.New(rand.NewPCG(1, 2))
	zipf := rand.NewZipf(rng, 1.2, 1, 63)
	all := make([][][]byte, proxies)
	for p := range all {
		for b := range each {
			var enc event.Encoder
			sent := t0 + 2*second + int64(b)*second/int64(each)
			for i := range n {
				route, conn := int(zipf.Uint64()), rng.IntN(32)
				at := (sent/second-1)*second + int64(i)*second/int64(n)
				e := request(event.Inbound, at, fmt.Sprintf("/api/v1/collection%c/operation%c", 'a'+route%8, 'a'+route/8))
				e.Connection, e.Peer.Workload.Name = uint64(conn+1), fmt.Sprintf("client-%d", conn%8)
				e.Latency = uint64(400*(1+route%7)) + uint64(rng.ExpFloat64()*900)
				e.Duration = e.Latency + rng.Uint64N(60)
				e.Start = at - int64(e.Duration)
				e.RequestBytes = uint64(180+3*route) + rng.Uint64N(8)
				e.ResponseBytes = uint64(300+100*(route%9)) + rng.Uint64N(50)
				switch rng.IntN(100) {
				case 0:
					e.Status = 503
				case 1:
					e.Status, e.Error = 0, event.ErrServerReset
				}
				enc.Add(&e)
			}
			h := header(1, uint64(b+1), sent)
			h.Source.Pod = fmt.Sprintf("web-%d", p)
			all[p] = append(all[p], enc.Encode(nil, &h))
		}
	}
	return all
}

// BenchmarkMesh is 32 proxies of 16 partitions, whose batches come in turns, or
// several of a partition one after the other: what caches do not hold shows.
func BenchmarkMesh(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		const proxies = 32
		each := 96_000 / n
		var all [][][]byte
		for _, run := range []int{1, 8} {
			b.Run(fmt.Sprintf("%d/run%d", n, run), func(b *testing.B) {
				if all == nil {
					all = meshBatches(proxies, each, n)
				}
				folders := make([]*rollup.Folder, 16)
				for i := range folders {
					folders[i] = rollup.NewFolder(rollup.Limits{})
				}
				round := func(instance uint64) (folding, taking int64) {
					began := processorTime(b)
					for first := 0; first < each; first += run {
						for p := range all {
							for i := first; i < min(first+run, each); i++ {
								data := all[p][i]
								binary.LittleEndian.PutUint64(data[1:], instance<<8+uint64(p))
								if r, err := fold(folders[p/2], data, t0+2*second); err != nil || r.Events != n {
									b.Fatal(r, err)
								}
							}
						}
					}
					folded := processorTime(b)
					for _, f := range folders {
						f.Take(false)
					}
					return folded - began, processorTime(b) - folded
				}
				round(1)
				b.ReportAllocs()
				b.ResetTimer()
				var folding, taking int64
				rounds := 0
				for b.Loop() {
					rounds++
					one, two := round(uint64(rounds + 1))
					folding, taking = folding+one, taking+two
				}
				events := float64(rounds) * float64(proxies*each*n)
				b.ReportMetric(float64(folding)/events, "cpu-ns/event")
				b.ReportMetric(float64(taking)/events, "take-ns/event")
			})
		}
	}
}
