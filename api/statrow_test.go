package api

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/api/wire"
	"github.com/weirmesh/weir/event"
)

// TestWriteRows: rows that are written straight away are read as those that were
// made as messages.
func TestWriteRows(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	reply := &query.Reply{}
	for i := range 3 * portion {
		r := query.Row{Resource: query.Selector{Cluster: "c", Namespace: fmt.Sprint("ns", i%7), Kind: "deploy", Name: fmt.Sprint("w", i)}, Direction: query.Inbound, PodsSeen: i % 3, PodsLive: i % 2}
		if rng.IntN(4) == 0 {
			r.Owner = &query.Selector{Kind: "deploy", Name: "owner"}
		}
		if rng.IntN(3) > 0 {
			r.Stats = query.Stats{Requests: uint64(rng.IntN(50)), RequestBytes: uint64(rng.IntN(3)), Connections: uint64(rng.IntN(2)), Status: map[uint16]uint64{200: 1, uint16(300 + rng.IntN(3)): 2}}
			var h event.Histogram
			h.Record(uint64(rng.IntN(1000)))
			r.Stats.Latency = h.Sparse()
		}
		if rng.IntN(5) == 0 {
			r.Stats.Errors, r.Stats.GRPC = map[string]uint64{"reset": 2}, map[int16]uint64{14: 3}
		}
		if rng.IntN(5) == 0 {
			r.Shed, r.LostBatches, r.OpenConnections, r.Direction = 1, 2, 3, query.Outbound
		}
		reply.Rows = append(reply.Rows, r)
	}
	want := &weirpb.StatResponse{Coverage: &weirpb.Coverage{AggregatorsAnswered: 2}, Offenders: []*weirpb.Offender{{Reason: "x", Count: 1}}}
	for i := range reply.Rows {
		want.Rows = append(want.Rows, statRow(&statRoom{}, &reply.Rows[i], 60))
	}
	a := &answer{Reply: reply}
	for _, what := range []string{"written", "written before"} {
		out := &weirpb.StatResponse{Coverage: want.GetCoverage(), Offenders: want.GetOffenders()}
		if !a.writeRows(out, 60) {
			t.Fatal("not written")
		}
		data, err := wire.New().Marshal(out)
		if err != nil {
			t.Fatal(err)
		}
		var got, plain weirpb.StatResponse
		if err := wire.New().Unmarshal(data, &got); err != nil || !proto.Equal(&got, want) {
			t.Errorf("%s: rows differ, or %v", what, err)
		}
		if err := proto.Unmarshal(data.Materialize(), &plain); err != nil || !proto.Equal(&plain, want) {
			t.Errorf("%s, read by protobuf: rows differ, or %v", what, err)
		}
	}
	if (&answer{Reply: &query.Reply{Rows: reply.Rows[:3]}}).writeRows(&weirpb.StatResponse{}, 60) {
		t.Error("a few rows are written, too")
	}
	reply.Rows[2*portion].Resource.Name = "\xff"
	if out := (&weirpb.StatResponse{}); (&answer{Reply: reply}).writeRows(out, 60) || len(out.ProtoReflect().GetUnknown()) > 0 {
		t.Error("a name that is no text is written")
	}
}
