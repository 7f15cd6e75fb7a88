package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"testing"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/api/apitest"
	"github.com/weirmesh/weir/api/weirpb"
	"google.golang.org/protobuf/proto"
)

// Two members may know of the same workload, where it has moved: then what they
// told in brief cannot be added up, and they are asked for all.
func TestStatAsksForAllWhatCannotBeAddedUp(t *testing.T) {
	member := func(n int) func(query.Request) query.Reply {
		return func(q query.Request) query.Reply {
			return query.Reply{Member: fmt.Sprint("m", n), Members: 2, Total: 2, Partitions: []int{n}, Windows: []query.Window{{Since: q.Since, Until: q.Until}},
				Rows: []query.Row{{Resource: web("emoji"), Direction: query.Inbound, Stats: stats(10, 9, 1000), Brief: q.Brief}}}
		}
	}
	b := &apitest.Backend{}
	b.AnswerFunc(query.MethodStat, member(0), member(1))
	_, c := start(t, b)
	r, err := c.Stat(t.Context(), &weirpb.StatRequest{Resource: &weirpb.Resource{Kind: "deploy"}, Window: window(1000, 1060)})
	if err != nil {
		t.Fatal(err)
	}
	if rows := r.GetRows(); len(rows) != 1 || rows[0].GetStats().GetRequests() != 20 || rows[0].GetStats().GetSuccesses() != 18 {
		t.Errorf("rows %v", rows)
	}
	var brief []bool
	for _, q := range b.Asked() {
		brief = append(brief, q.Request.Brief)
	}
	if !slices.Equal(brief, []bool{true, false}) {
		t.Errorf("asked in brief: %v", brief)
	}
}

// An answer of many rows is no smaller over HTTP.
func TestManyRows(t *testing.T) {
	const n = 20_000
	reply := query.Reply{Member: "m", Members: 1, Total: 1, Partitions: []int{0}, Windows: []query.Window{{Since: 1000, Until: 1060}}}
	for i := range n {
		reply.Rows = append(reply.Rows, query.Row{
			Resource: query.Selector{Cluster: "c", Namespace: "ns", Kind: "deploy", Name: fmt.Sprintf("w%05d", n-i)}, Direction: query.Inbound, Stats: stats(10, 9, 1000),
		})
	}
	b := &apitest.Backend{}
	b.Answer(query.MethodStat, reply)
	s, c := start(t, b)
	r, err := c.Stat(t.Context(), &weirpb.StatRequest{Resource: &weirpb.Resource{Kind: "deploy"}, Window: window(1000, 1060)})
	if err != nil || len(r.GetRows()) != n {
		t.Fatal(len(r.GetRows()), err)
	}
	if size := proto.Size(r); size <= 4<<20 {
		t.Fatalf("%d bytes, too few: gRPC takes 4 MiB unless told otherwise", size)
	}
	if !slices.IsSortedFunc(r.GetRows(), func(a, b *weirpb.StatRow) int {
		return slices.Compare([]string{a.GetResource().GetName()}, []string{b.GetResource().GetName()})
	}) {
		t.Error("the rows are not sorted")
	}
	code, _, body := get(t, s, "/api/v1/stat?resource.kind=deploy")
	var over struct {
		Rows []json.RawMessage `json:"rows"`
	}
	if err := json.Unmarshal([]byte(body), &over); code != http.StatusOK || err != nil || len(over.Rows) != n {
		t.Errorf("HTTP: %d, %v, %d rows", code, err, len(over.Rows))
	}
}

// Offenders of all members are added up, and the worst are told.
func TestStatNamesOffenders(t *testing.T) {
	member := func(n int) query.Reply {
		r := query.Reply{Member: fmt.Sprint("m", n), Members: 2, Total: 2, Partitions: []int{n}}
		for i := range query.MaxOffenders {
			r.Offenders = append(r.Offenders, query.Offender{Source: web(fmt.Sprint("ns", i+5*n)), Reason: "malformed", Count: uint64(100 - i), Last: int64(1000 + n)})
		}
		return r
	}
	b := &apitest.Backend{}
	b.Answer(query.MethodStat, member(0), member(1))
	_, c := start(t, b)
	r, err := c.Stat(t.Context(), &weirpb.StatRequest{Window: window(1000, 1060)})
	if err != nil {
		t.Fatal(err)
	}
	all := r.GetOffenders()
	if len(all) != query.MaxOffenders {
		t.Fatalf("%d offenders", len(all))
	}
	// ns5 is the sixth of one and the first of the other.
	if o := all[0]; o.GetSource().GetNamespace() != "ns5" || o.GetCount() != 195 || o.GetReason() != "malformed" || o.GetLast().GetSeconds() != 1001 {
		t.Errorf("the worst is %v", o)
	}
}
