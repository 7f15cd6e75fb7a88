package query_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/event"
)

func randomStats(rng *rand.Rand) query.Stats {
	s := query.Stats{Requests: rng.Uint64N(10), Successes: rng.Uint64N(5), RequestBytes: rng.Uint64N(100), Connections: rng.Uint64N(3)}
	var latency, duration event.Histogram
	for range s.Requests {
		latency.Record(rng.Uint64N(100_000))
		duration.Record(rng.Uint64N(100_000))
	}
	s.Latency, s.Duration = latency.Sparse(), duration.Sparse()
	if rng.IntN(2) == 0 {
		s.Status = map[uint16]uint64{200: rng.Uint64N(9) + 1, uint16(500 + rng.IntN(3)): 1}
		s.GRPC = map[int16]uint64{-1: 1}
		s.Errors = map[string]uint64{"goaway": 2}
	}
	return s
}

// randomReply makes up what one member may say.
func randomReply(rng *rand.Rand, member int) query.Reply {
	r := query.Reply{Member: fmt.Sprint("m", member), Members: 5, Oldest: 1000 + rng.Int64N(3), Exact: rng.Int64N(9), Partitions: []int{member}, Total: 5,
		Windows: []query.Window{{Since: 100 + rng.Int64N(2), Until: 200}}, Resolution: []int64{1, 10, 60}[rng.IntN(3)], Reaches: rng.Int64N(3)}
	name := func() query.Selector {
		return query.Selector{Namespace: "ns", Kind: "deploy", Name: fmt.Sprint("w", rng.IntN(4))}
	}
	directions := []string{query.Inbound, query.Outbound}
	for i := range rng.IntN(4) {
		r.Offenders = append(r.Offenders, query.Offender{Source: name(), Reason: fmt.Sprint("reason", i), Count: 1 + rng.Uint64N(3), Last: rng.Int64N(9)})
		row := query.Row{Resource: name(), Direction: directions[rng.IntN(2)], Stats: randomStats(rng), PodsSeen: 1, PodsLive: rng.IntN(2), Shed: 1, LostBatches: 2}
		if rng.IntN(2) == 0 {
			owner := name()
			row.Owner = &owner
		}
		r.Rows = append(r.Rows, row)
		r.Series = append(r.Series, query.Series{Resource: name(), Direction: directions[rng.IntN(2)], Points: []query.Stats{randomStats(rng), randomStats(rng)}})
		r.Edges = append(r.Edges, query.Edge{Source: name(), Destination: name(), Security: "none", SeenBy: "client", Stats: randomStats(rng)})
		r.Routes = append(r.Routes, query.Route{Resource: name(), Direction: query.Inbound, Route: fmt.Sprint("GET /", rng.IntN(2)), Stats: randomStats(rng)})
		r.Workloads = append(r.Workloads, query.Workload{Resource: name(), FirstSeen: rng.Int64N(9), LastSeen: 10 + rng.Int64N(9),
			Pods: []query.Pod{{Name: fmt.Sprint("p", rng.IntN(2)), Node: fmt.Sprint("n", rng.IntN(3)), LastSeen: rng.Int64N(3), Live: rng.IntN(2) == 0, OpenConnections: 1}}})
	}
	return r
}

func merge(t *testing.T, replies ...query.Reply) query.Reply {
	t.Helper()
	m, err := query.Merge(replies)
	if err != nil {
		t.Fatal(err)
	}
	return *m
}

func text(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestMerge: in any order, in any portions, with any detour over JSON, the
// same; and the replies stay as they are.
func TestMerge(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var all []query.Reply
		for i := range 5 {
			all = append(all, randomReply(rng, i))
		}
		before := text(t, all)
		want := text(t, merge(t, all...))
		rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		if got := text(t, merge(t, all...)); got != want {
			t.Fatalf("seed %d: another order:\n%s\n%s", seed, got, want)
		}
		cut := rng.IntN(len(all))
		first := merge(t, all[:cut]...)
		var again query.Reply
		if err := json.Unmarshal([]byte(text(t, merge(t, all[cut:]...))), &again); err != nil {
			t.Fatal(err)
		}
		if got := text(t, merge(t, again, first)); got != want {
			t.Fatalf("seed %d: other portions:\n%s\n%s", seed, got, want)
		}
		rng = rand.New(rand.NewPCG(seed, 1))
		all = all[:0]
		for i := range 5 {
			all = append(all, randomReply(rng, i))
		}
		merge(t, all...)
		if text(t, all) != before {
			t.Fatalf("seed %d: the replies were changed", seed)
		}
	}
}

func TestMergeRefuses(t *testing.T) {
	if _, err := query.Merge([]query.Reply{{Member: "a", Error: "no"}}); err == nil {
		t.Error("merged an error")
	}
	s := func(n int) query.Reply { return query.Reply{Series: []query.Series{{Points: make([]query.Stats, n)}}} }
	if _, err := query.Merge([]query.Reply{s(2), s(3)}); err == nil {
		t.Error("merged series of different lengths")
	}
}

func TestMissing(t *testing.T) {
	r := merge(t, query.Reply{Total: 4, Partitions: []int{0, 1}}, query.Reply{Total: 4, Partitions: []int{1, 3}})
	missing, duplicate := query.Missing(&r)
	if fmt.Sprint(missing, duplicate) != "[2] [1]" {
		t.Errorf("missing %v, duplicate %v", missing, duplicate)
	}
}

// TestAgain: members that know the past differently agree on a window after
// being asked again.
func TestAgain(t *testing.T) {
	type member struct{ step, reaches int64 }
	// answer is what a member says of a request, as package aggregator does.
	answer := func(m member, q query.Request) query.Reply {
		since := max(q.Since, m.reaches)
		if since -= since % m.step; since < m.reaches {
			since += m.step
		}
		return query.Reply{Windows: []query.Window{{Since: since, Until: q.Until}}, Resolution: m.step, Reaches: m.reaches}
	}
	f := func(want query.Window, members ...member) {
		t.Helper()
		q := query.Request{Since: 1025, Until: 2003}
		for range 3 {
			var replies []query.Reply
			for _, m := range members {
				replies = append(replies, answer(m, q))
			}
			merged := merge(t, replies...)
			next, again := query.Again(q, &merged)
			if !again {
				if merged.Windows[0] != want {
					t.Errorf("%v agree on %v, want %v", members, merged.Windows[0], want)
				}
				return
			}
			q = next
		}
		t.Errorf("%v do not agree", members)
	}
	f(query.Window{Since: 1025, Until: 2003}, member{1, 0}, member{1, 1000})
	f(query.Window{Since: 1020, Until: 2003}, member{10, 0}, member{1, 0}, member{10, 500})
	f(query.Window{Since: 1020, Until: 2003}, member{60, 0}, member{10, 0}, member{1, 0})
	f(query.Window{Since: 1260, Until: 2003}, member{60, 0}, member{1, 1203}, member{10, 0})
	f(query.Window{Since: 1204, Until: 2003}, member{1, 1203}, member{1, 1204})
}
