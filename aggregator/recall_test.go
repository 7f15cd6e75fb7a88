package aggregator

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/aggregator/store"
	"github.com/weirmesh/weir/event"
)

// watched is a partition whose workloads do all sorts of things.
type watched struct {
	t         *testing.T
	rng       *rand.Rand
	p         *partition
	now       time.Time
	stream    uint64
	sequences map[string]uint64
}

// batch has a proxy tell of some requests, some of which are late.
func (w *watched) batch() {
	r := w.rng
	name := fmt.Sprintf("w%d", r.IntN(30))
	pod := fmt.Sprintf("%s-%d", name, r.IntN(2))
	var enc event.Encoder
	for range 1 + r.IntN(4) {
		age := r.Int64N(3_000_000)
		if r.IntN(8) == 0 {
			age = r.Int64N(200_000_000)
		}
		e := event.Event{
			Direction: event.Direction(1 + r.IntN(2)), Protocol: event.HTTP1, Status: uint16(200 + r.IntN(3)*100), GRPCStatus: event.NoGRPCStatus, Method: "GET",
			Path: "/a", Start: w.now.UnixMicro() - age, Latency: uint64(r.IntN(5000)), Duration: 5000 + uint64(r.IntN(100_000)), Connection: 1, Stream: 1,
		}
		if r.IntN(10) == 0 {
			e.Error = "reset"
		}
		enc.Add(&e)
	}
	w.sequences[pod] += 1 + uint64(r.IntN(20)/19)
	data := enc.Encode(nil, &event.Header{
		Source: event.Source{
			Workload: event.Workload{Cluster: "c", Namespace: fmt.Sprint("ns", len(name)), Kind: []string{"deploy", "sts"}[len(pod)%2], Name: name}, Pod: pod,
		},
		Instance: 1, Sequence: w.sequences[pod], Sent: w.now.UnixMicro(), OpenConnections: uint64(r.IntN(5)), Final: r.IntN(40) == 0,
	})
	w.stream++
	if err := w.p.take(context.Background(), event.Mark{Sequence: w.stream}, "", data); err != nil {
		w.t.Fatal(err)
	}
}

// step does something at random.
func (w *watched) step() {
	switch n := w.rng.IntN(100); {
	case n < 60:
		w.batch()
	case n < 80:
		w.now = w.now.Add(time.Duration(w.rng.IntN(2_500)) * time.Millisecond)
	case n < 92:
		w.p.cut()
		w.p.maintain()
	case n < 94:
		w.now = w.now.Add(time.Duration(w.rng.IntN(40)) * time.Second)
	case n < 97:
		w.p.cut()
		j := job{tier: 1, began: w.now.Unix()}
		if err := w.p.store.Fold(0); err != nil {
			w.t.Fatal(err)
		}
		w.batch()
		w.p.adopt(j, nil)
	case n < 98:
		w.p.store.Raise(0, w.now.Unix()-int64(w.rng.IntN(400)))
	default:
		w.p.store.Trim(max(w.p.store.Bytes()*7/8, 400_000), w.now.Unix()) // less would merge pods
	}
}

// told is what the partition answers, in an order that can be compared.
func (w *watched) told(request query.Request) string {
	body, err := json.Marshal(&request)
	if err != nil {
		w.t.Fatal(err)
	}
	reply, err := query.Unpack(w.p.a.answer(query.MethodStat, body))
	if err != nil || reply.Error != "" {
		w.t.Fatal(err, reply.Error)
	}
	merged, err := query.Merge([]query.Reply{reply})
	if err != nil {
		w.t.Fatal(err)
	}
	out, err := json.Marshal(merged)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(out)
}

// TestRecall: an answer is the same, to the byte, whether rows were remembered
// or are all added up.
func TestRecall(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := &watched{t: t, rng: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1_800_000_000, 0), sequences: map[string]uint64{}}
			o := memoryOptions(&memory{}, "me", func() time.Time { return w.now })
			o.Tiers = []store.Tier{{Step: 1, Keep: 500}, {Step: 10, Keep: 3600}}
			w.p = owning(t, o)
			shapes := []query.Selector{{Kind: "deploy"}, {}, {Kind: query.KindPod}, {Namespace: "ns3"}, {Kind: query.KindNamespace}}
			repeated, rows := 0, 0
			for range 1500 {
				w.step()
				until := w.now.Unix() - int64(w.rng.IntN(3))
				length := []int64{10, 60, 60, 300}[w.rng.IntN(4)]
				request := query.Request{Resource: shapes[w.rng.IntN(len(shapes))], Since: until - length, Until: until, Packed: true, Brief: true}
				got := w.told(request)
				for _, c := range w.p.recalls.all {
					if c.used != w.now.Unix() || c.since != request.Since || c.resource != request.Resource || c.length != length {
						continue
					}
					for i := range c.table.sums {
						rows++
						if s := &c.table.sums[i]; s.stale != c.table.round && len(s.told) > 0 {
							repeated++
						}
					}
				}
				kept := w.p.recalls.all
				w.p.recalls.all = make([]*recall, 0, maxRecalls)
				for range maxRecalls {
					w.p.recalls.all = append(w.p.recalls.all, &recall{used: w.now.Unix()})
				}
				want := w.told(request)
				w.p.recalls.all = kept
				if got != want {
					t.Fatalf("%+v:\n%s\nwithout what was remembered:\n%s", request, got, want)
				}
			}
			if repeated < rows/20 {
				t.Errorf("%d rows of %d were remembered", repeated, rows)
			}
			t.Logf("%d rows of %d were remembered", repeated, rows)
		})
	}
}

// TestRecallIsBounded: what nobody asks for any more is forgotten, and what
// takes too much memory.
func TestRecallIsBounded(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	p := owning(t, memoryOptions(&memory{}, "me", func() time.Time { return now }), inbound("web", 3, now))
	ask := func(length int64) {
		body, err := json.Marshal(&query.Request{Since: now.Unix() - length, Until: now.Unix() + 1, Packed: true, Brief: true})
		if err != nil {
			t.Fatal(err)
		}
		p.a.answer(query.MethodStat, body)
	}
	for length := range int64(2 * maxRecalls) {
		ask(10 + length)
	}
	if n := len(p.recalls.all); n != maxRecalls {
		t.Errorf("%d questions are remembered, want %d", n, maxRecalls)
	}
	now = now.Add((recallFor + 1) * time.Second)
	ask(10)
	p.maintain()
	if n := len(p.recalls.all); n != 1 || p.recalls.bytes() == 0 {
		t.Errorf("%d questions are remembered, of %d bytes; want one", n, p.recalls.bytes())
	}
	p.a.o.StoreBytes = 1
	p.maintain()
	if n := len(p.recalls.all); n != 0 {
		t.Errorf("%d questions are remembered where there is no memory", n)
	}
}
