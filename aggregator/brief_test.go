package aggregator

import (
	"encoding/json"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/event"
)

// askStat gives the rows of a stat by resource, packed and in brief or not.
func askStat(t *testing.T, a *Aggregator, q query.Request) map[query.Selector]query.Row {
	t.Helper()
	q.Packed = true
	request, err := json.Marshal(&q)
	if err != nil {
		t.Fatal(err)
	}
	reply, err := query.Unpack(a.answer(query.MethodStat, request))
	if err != nil || reply.Error != "" {
		t.Fatal(err, reply.Error)
	}
	rows := map[query.Selector]query.Row{}
	for _, r := range reply.Rows {
		if _, twice := rows[r.Resource]; twice {
			t.Errorf("%v is there twice", r.Resource)
		}
		rows[r.Resource] = r
	}
	return rows
}

// What is told in brief is what is told at length, but for the histograms; and
// those have the same quantiles.
func TestBrief(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	o := memoryOptions(&memory{}, "me", func() time.Time { return now })
	o.Limits = rollup.Limits{Workloads: 4}
	var batches [][]byte
	for i := range 6 {
		for n := range 3 {
			batches = append(batches, mixed(fmt.Sprint("w", i), uint64(i*10+n+1), 40*i+n, now))
		}
	}
	p := owning(t, o, batches...)
	window := query.Request{Since: now.Unix() - 60, Until: now.Unix() + 1}
	for _, kind := range []string{"deploy", query.KindPod, query.KindNamespace, ""} {
		for _, stored := range []bool{false, true} {
			if stored {
				p.cut()
			}
			q := window
			q.Resource.Kind = kind
			whole := askStat(t, p.a, q)
			q.Brief = true
			brief := askStat(t, p.a, q)
			if len(brief) != len(whole) || len(whole) == 0 {
				t.Errorf("%q: %d rows in brief, %d at length", kind, len(brief), len(whole))
			}
			for key, want := range whole {
				got := brief[key]
				if alone := key.Kind != query.KindNamespace && key.Name != rollup.OtherName; got.Brief != alone {
					t.Errorf("%v: brief %t, want %t", key, got.Brief, alone)
				}
				if owned := kind == query.KindPod && key.Name != rollup.OtherName; owned != (want.Owner != nil) {
					t.Errorf("%v: owner %v, want one: %t", key, want.Owner, owned)
				}
				sameQuantiles(t, key, &got.Stats.Latency, &want.Stats.Latency)
				sameQuantiles(t, key, &got.Stats.Duration, &want.Stats.Duration)
				got.Brief = false
				got.Stats.Latency, got.Stats.Duration = want.Stats.Latency, want.Stats.Duration
				if !reflect.DeepEqual(got, want) {
					t.Errorf("in brief %+v\nat length %+v", got, want)
				}
			}
		}
	}
}

func sameQuantiles(t *testing.T, of query.Selector, got, want *event.SparseHistogram) {
	t.Helper()
	qs := query.Quantiles()
	var have, wanted [len(qs)]float64
	got.Quantiles(have[:], qs[:]...)
	want.Quantiles(wanted[:], qs[:]...)
	if have != wanted || got.Count() != want.Count() || got.Sum() != want.Sum() || got.Min() != want.Min() || got.Max() != want.Max() {
		t.Errorf("%v: in brief %v, at length %v", of, have, wanted)
	}
}

// mixed encodes a batch of a workload's requests with all sorts of outcomes.
func mixed(name string, instance uint64, n int, now time.Time) []byte {
	var enc event.Encoder
	for i := range n {
		us := uint64(100 + i*i*37)
		e := event.Event{Direction: event.Inbound, Protocol: event.HTTP1, Status: uint16(200 + 101*(i%4)), GRPCStatus: event.NoGRPCStatus, Method: "GET", Path: "/",
			Start: now.UnixMicro() - int64(i%20)*1e6, Latency: us, Duration: 2 * us, RequestBytes: uint64(i), ResponseBytes: uint64(3 * i), Connection: 1, Stream: 1}
		if i%7 == 0 {
			e.Protocol, e.GRPCStatus, e.Error = event.GRPC, int16(i%5), "goaway"
		}
		if i%11 == 0 {
			e.Direction = event.Outbound
		}
		enc.Add(&e)
	}
	return enc.Encode(nil, &event.Header{
		Source:   event.Source{Workload: event.Workload{Namespace: "ns", Kind: "deploy", Name: name}, Pod: fmt.Sprint(name, "-", instance%2)},
		Instance: instance, Sequence: 1, Sent: now.UnixMicro(), OpenConnections: 3,
	})
}
