package event_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"

	"github.com/weirmesh/weir/event"
)

// start is the wall clock of the first event of tests, µs.
const start = 1_790_000_000_000_000

var header = event.Header{
	Source: event.Source{
		Workload: event.Workload{Cluster: "east", Namespace: "emojivoto", Kind: "deploy", Name: "web"},
		Pod:      "web-6d9c8b7f5-x2x9q", Node: "node-1",
	},
	Instance: 0xfeedface12345678, Sequence: 7, Sent: start, Produced: 1000, Shed: 3, OpenConnections: 32,
	Version: "v0.1.0",
}

// traffic is what a busy proxy sees: 64 routes by Zipf's law, 32 connections of
// 8 peers, 10,000 exchanges a second, a failure in 50.
func traffic(n int) []event.Event { return trafficAt(n, 10_000) }

// trafficAt is traffic of n exchanges that end at random times, so many a
// second.
func trafficAt(n, rate int) []event.Event {
	rng := rand.New(rand.NewPCG(1, 2))
	zipf := rand.NewZipf(rng, 1.2, 1, 63)
	var streams [32]uint32
	var ids [32]uint64
	var ports [32]uint16
	for i := range ids {
		// Each peer's proxy counts its ids up, for all that it connects to, from a
		// start that it draws; kernels draw ports.
		if ids[i] = rng.Uint64() >> 16; i >= 8 {
			ids[i] = ids[i-8] + 1 + ids[i]%200
		}
		ports[i], streams[i] = uint16(32_768+rng.IntN(28_232)), rng.Uint32N(100_000)
	}
	events := make([]event.Event, n)
	end := int64(start)
	for i := range events {
		route, conn := int(zipf.Uint64()), rng.IntN(32)
		streams[conn]++
		end += int64(rng.ExpFloat64() * 1e6 / float64(rate))
		latency := uint64(400*(1+route%7)) + uint64(rng.ExpFloat64()*900)
		e := event.Event{
			Direction: event.Inbound, Protocol: event.HTTP2, Security: event.Mutual,
			Method: "GET", Authority: "web.emojivoto.svc:8080", Path: fmt.Sprintf("/api/v1/%s/%d", "resource", route),
			Status: 200, GRPCStatus: event.NoGRPCStatus, Latency: latency, Duration: latency + rng.Uint64N(60),
			RequestBytes:  uint64(180+3*route) + rng.Uint64N(8),
			ResponseBytes: uint64(300+100*(route%9)) + rng.Uint64N(50),
			Peer:          peer(conn % 8), Connection: ids[conn], Stream: streams[conn],
			Detection: event.DetectHello, DetectionTime: uint32(40 + conn),
		}
		e.Peer.Addr = netip.AddrPortFrom(e.Peer.Addr.Addr(), ports[conn])
		e.Start = end - int64(e.Duration)
		switch rng.IntN(100) {
		case 0:
			e.Status = 503
		case 1:
			e.Status, e.Error = 0, event.ErrServerReset
		}
		events[i] = e
	}
	return events
}

func peer(i int) event.Peer {
	name := fmt.Sprintf("client-%d", i)
	return event.Peer{
		Workload: event.Workload{Cluster: "east", Namespace: "emojivoto", Kind: "deploy", Name: name},
		Pod:      fmt.Sprintf("%s-7c9d5f8b6-k%dz8p", name, i),
		Identity: "spiffe://cluster.local/ns/emojivoto/sa/" + name,
		Addr:     netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, 2, byte(i)}), 0), Meshed: true,
	}
}

func encode(events []event.Event) []byte {
	var e event.Encoder
	for i := range events {
		e.Add(&events[i])
	}
	return e.Encode(nil, &header)
}
