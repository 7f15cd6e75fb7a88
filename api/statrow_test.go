package api

import (
	"fmt"
	"math/rand/v2"
	"slices"
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
	rows := reply.Rows
	// One row in five is of what Kubernetes knows, and one more has no traffic.
	of := &known{rows: []knownRow{{resource: query.Selector{Cluster: "c", Namespace: "ns0", Kind: "deploy", Name: "idle"}, pods: &weirpb.PodCounts{Total: 1}}}}
	for i := 0; i < len(rows); i += 5 {
		of.rows = append(of.rows, knownRow{
			resource: rows[i].Resource, owner: &query.Selector{Kind: "job", Name: "known"},
			pods: &weirpb.PodCounts{Total: 3, Ready: uint32(i)}, status: "Running", proxy: "v1",
		})
	}
	slices.SortFunc(rows, compareRows)
	shown := show(rows, of, true)
	if len(shown) != len(rows)+1 || !slices.IsSortedFunc(shown, func(a, b shownRow) int { return compareRows(*a.Row, *b.Row) }) {
		t.Fatalf("%d rows are shown of %d, or not sorted", len(shown), len(rows))
	}
	for i := range shown {
		want.Rows = append(want.Rows, statRow(&statRoom{}, shown[i], 60))
	}
	about := func(rows []shownRow) *answer {
		a := &answer{Reply: &query.Reply{}, window: window{1000, 1060}, shown: rows}
		a.write()
		return a
	}
	a := about(shown)
	if a.written == nil || a.shown != nil {
		t.Fatal("not written")
	}
	for _, what := range []string{"written", "written before"} {
		out := &weirpb.StatResponse{Coverage: want.GetCoverage(), Offenders: want.GetOffenders()}
		a.giveRows(out, 60)
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
	few := about(shown[:3])
	out := &weirpb.StatResponse{}
	if few.giveRows(out, 60); few.written != nil || !proto.Equal(&weirpb.StatResponse{Rows: want.GetRows()[:3]}, out) {
		t.Error("a few rows are written, too, or differ")
	}
	shown[2*portion].Resource.Name = "\xff"
	bad := about(shown)
	out = &weirpb.StatResponse{}
	if bad.giveRows(out, 60); bad.written != nil || len(out.ProtoReflect().GetUnknown()) > 0 || len(out.GetRows()) != len(shown) {
		t.Error("a name that is no text is written")
	}
}
