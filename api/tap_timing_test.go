package api

import (
	"testing"

	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/event"
)

// BenchmarkTapReceive is what one tap costs for each event that it sees.
func BenchmarkTapReceive(b *testing.B) {
	h := event.Header{Source: event.Source{Workload: event.Workload{Cluster: "c", Namespace: "x", Kind: "deploy", Name: "web"}, Pod: "web-1"}, Instance: 1, Sequence: 3}
	e := event.Event{
		Direction: event.Inbound, Protocol: event.HTTP1, Status: 200, GRPCStatus: event.NoGRPCStatus,
		Method: "GET", Authority: "web:80", Path: "/api/list", Start: 1e15, Latency: 5, Duration: 7, Connection: 1, Stream: 1,
	}
	data := event.AppendJSON(nil, &h, 0, &e)
	match, _, err := newTapFilter(&weirpb.TapRequest{Status: "200"})
	if err != nil {
		b.Fatal(err)
	}
	t := &tap{match: match, queue: make(chan *weirpb.TapEvent, 1), metrics: newMetrics()}
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		t.receive(data)
		<-t.queue
	}
}
