package main

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/weirmesh/weir/event"
)

// Words of which the routes are made: eight collections, eight operations.
// Without numbers, so that every route stays one of its own.
var (
	collections = [...]string{"orders", "customers", "products", "invoices", "shipments", "payments", "reviews", "carts"}
	operations  = [...]string{"list", "read", "create", "update", "remove", "search", "export", "status"}
)

// What realistic traffic is, here and in event's own tests.
const (
	routeCount      = len(collections) * len(operations)
	connectionCount = 32
	peerCount       = 8
	zipfExponent    = 1.2
	ringEvents      = 8192
)

func routePath(n int) string {
	return "/api/v1/" + collections[n%len(collections)] + "/" + operations[n/len(collections)%len(operations)]
}

// A ring is exchanges as one proxy sees them, to be told again and again with
// other times: 64 routes by Zipf's law (or all alike), 32 connections of 8 meshed
// peers, a failure in 50. It belongs to one goroutine.
type ring struct {
	events []event.Event
	conns  []uint8   // the connection of each
	ends   []float64 // when each ends, in mean gaps from the ring's begin
	at     int
}

// newRing makes the same ring for the same seed. uniform has all routes come
// in turn.
func newRing(seed uint64, uniform bool) *ring {
	rng := rand.New(rand.NewPCG(seed, 2))
	zipf := rand.NewZipf(rng, zipfExponent, 1, uint64(routeCount-1))
	var ports [connectionCount]uint16
	for i := range ports {
		ports[i] = uint16(32_768 + rng.IntN(28_232))
	}
	r := &ring{events: make([]event.Event, ringEvents), conns: make([]uint8, ringEvents), ends: make([]float64, ringEvents+1)}
	for i := range r.events {
		route, conn := int(zipf.Uint64()), rng.IntN(connectionCount)
		if uniform {
			route = i % routeCount
		}
		latency := uint64(400*(1+route%7)) + uint64(rng.ExpFloat64()*900)
		e := event.Event{
			Direction: event.Inbound, Protocol: event.HTTP2, Security: event.Mutual,
			Method: "GET", Authority: "web.shop.svc:8080", Path: routePath(route),
			Status: 200, GRPCStatus: event.NoGRPCStatus, Latency: latency, Duration: latency + rng.Uint64N(60),
			RequestBytes:  uint64(180+3*route) + rng.Uint64N(8),
			ResponseBytes: uint64(300+100*(route%9)) + rng.Uint64N(50),
			Peer:          peerOf(conn%peerCount, ports[conn]),
			Detection:     event.DetectHello, DetectionTime: uint32(40 + conn),
		}
		switch rng.IntN(100) {
		case 0:
			e.Status = 503
		case 1:
			e.Status, e.Error = 0, event.ErrServerReset
		}
		r.events[i], r.conns[i] = e, uint8(conn)
		r.ends[i+1] = r.ends[i] + rng.ExpFloat64()
	}
	return r
}

func peerOf(n int, port uint16) event.Peer {
	name := fmt.Sprintf("client-%d", n)
	return event.Peer{
		Workload: event.Workload{Cluster: clusterName, Namespace: "shop", Kind: "deploy", Name: name},
		Pod:      fmt.Sprintf("%s-7c9d5f8b6-k%dz8p", name, n),
		Identity: "spiffe://cluster.local/ns/shop/sa/" + name,
		Addr:     netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, 2, byte(n)}), port), Meshed: true,
	}
}

// span gives the next n indexes of the ring, wrapping around, and for each the
// part of an interval of length 1 that has gone by when it ends.
func (r *ring) span(n int, each func(index int, part float64)) {
	total := 0.0
	for i := range n {
		j := (r.at + i) % ringEvents
		total += r.ends[j+1] - r.ends[j]
	}
	var sum float64
	for range n {
		j := r.at
		sum += r.ends[j+1] - r.ends[j]
		each(j, sum/total)
		r.at = (j + 1) % ringEvents
	}
}

// clusterName is that of all workloads of a benchmark.
const clusterName = "bench"

// A virtual proxy is what tells one proxy's batches from another's.
type virtualProxy struct {
	number      int
	source      event.Source
	instance    uint64
	sequence    uint64
	produced    uint64
	connections [connectionCount]uint64
	streams     [connectionCount]uint32
}

// newProxy is the proxy of pod number n, which belongs to one of so many
// workloads in one of so many namespaces.
func newProxy(rng *rand.Rand, n, workloads int, prefix string) *virtualProxy {
	w := n % workloads
	name := fmt.Sprintf("%s-%d", prefix, w)
	p := &virtualProxy{
		number: n,
		source: event.Source{
			Workload: event.Workload{Cluster: clusterName, Namespace: namespaceOf(prefix, w), Kind: "deploy", Name: name},
			Pod:      fmt.Sprintf("%s-6d9c8b7f5-%05d", name, n), Node: fmt.Sprintf("node-%d", n%100),
		},
		instance: rng.Uint64() | 1,
	}
	for i := range p.connections {
		// Each peer's proxy counts its ids up, for all that it connects to, from a
		// start that it draws.
		if p.connections[i] = rng.Uint64()>>16 | 1; i >= peerCount {
			p.connections[i] = p.connections[i-peerCount] + 1 + rng.Uint64N(200)
		}
		p.streams[i] = rng.Uint32N(100_000)
	}
	return p
}

// namespaceOf puts a hundred workloads into a namespace.
func namespaceOf(prefix string, workload int) string {
	return fmt.Sprintf("%s-ns-%d", prefix, workload/100)
}

// A sealer makes the batches of one or more proxies. It belongs to one
// goroutine.
type sealer struct {
	ring    *ring
	encoder event.Encoder
	buffer  []byte
}

// seal encodes the next n exchanges of p, which end between since and until, µs
// since 1970. What it returns is valid until the next call.
func (s *sealer) seal(p *virtualProxy, n int, since, until int64) []byte {
	s.encoder.Reset()
	length := float64(until - since)
	s.ring.span(n, func(i int, part float64) {
		e, c := &s.ring.events[i], s.ring.conns[i]
		p.streams[c]++
		e.Connection, e.Stream = p.connections[c], p.streams[c]
		// The last one ends within the interval, too.
		e.Start = since + min(int64(part*length), until-since-1) - int64(e.Duration)
		s.encoder.Add(e)
	})
	p.sequence++
	p.produced += uint64(n)
	s.buffer = s.encoder.Encode(s.buffer[:0], &event.Header{
		Source: p.source, Instance: p.instance, Sequence: p.sequence, Sent: time.Now().UnixMicro(), Produced: p.produced,
		OpenConnections: connectionCount, Version: "v0.1.0",
	})
	return s.buffer
}
