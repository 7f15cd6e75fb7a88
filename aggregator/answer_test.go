package aggregator

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/event"
)

// listener is a bus in memory where somebody listens to summaries.
type listener struct {
	memory
	mu   sync.Mutex
	seen []query.Summary
	// heard is what somebody has heard.
	heard string
}

func (l *listener) Listened(subject string) bool { return subject == l.heard }

func (l *listener) Interested(subject string) bool { return strings.HasPrefix(subject, "stats.") }

func (l *listener) PublishInterest(subject string, data []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	var s query.Summary
	if json.Unmarshal(data, &s) == nil && l.Interested(subject) {
		l.seen = append(l.seen, s)
	}
	return true
}

// owning is an aggregator that owns its partition and has counted some batches.
func owning(t *testing.T, o Options, batches ...[]byte) *partition {
	t.Helper()
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	p := a.partitions[0]
	if _, err := p.takeOver(context.Background()); err != nil {
		t.Fatal(err)
	}
	for i, data := range batches {
		if err := p.take(context.Background(), event.Mark{Sequence: uint64(i + 1)}, "", data); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// inbound is a batch of n requests of different paths that ended at now.
func inbound(name string, n int, now time.Time) []byte {
	var enc event.Encoder
	for i := range n {
		enc.Add(&event.Event{Direction: event.Inbound, Protocol: event.HTTP1, Status: 200, GRPCStatus: -1, Method: "GET",
			Path: fmt.Sprintf("/%c/%c", 'a'+i/20, 'a'+i%20), Start: now.UnixMicro() - 10, Duration: 10, Latency: 5, Connection: 1, Stream: 1})
	}
	return enc.Encode(nil, &event.Header{
		Source:   event.Source{Workload: event.Workload{Namespace: "ns", Kind: "deploy", Name: name}, Pod: name + "-0"},
		Instance: 1, Sequence: 1, Sent: now.UnixMicro(), OpenConnections: 2,
	})
}

func TestQuestions(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	o := memoryOptions(&memory{}, "me", func() time.Time { return now })
	o.MaxReply = 60_000
	a := owning(t, o, inbound("web", 400, now), inbound("other", 1, now)).a
	ask := func(method, request string) query.Reply {
		t.Helper()
		var r query.Reply
		if err := json.Unmarshal(a.answer(method, []byte(request)), &r); err != nil {
			t.Fatal(err)
		}
		if r.Member != "me" || r.Members != 1 || r.Total != 1 {
			t.Errorf("%s %s: head %+v", method, request, r)
		}
		return r
	}
	const window = `"since":1799999990,"until":1800000010`
	refused := func(method, request, why string) {
		t.Helper()
		if r := ask(method, request); !strings.Contains(r.Error, why) || len(r.Rows) > 0 {
			t.Errorf("%s %s: error %q, want %q", method, request, r.Error, why)
		}
	}
	refused("stat", `{`, "cannot read the request")
	refused("stat", `{}`, "the window [0, 0) is empty")
	refused("stat", `{"since":10,"until":5}`, "the window")
	refused("stat", `{"since":0,"until":999999999}`, "longer than a year")
	refused("dance", `{`+window+`}`, "no such method")
	refused("stat", `{`+window+`,"to":{},"from":{}}`, "either to or from")
	refused("stat", `{`+window+`,"resource":{"kind":"pod"},"to":{}}`, "between pods")
	refused("edges", `{`+window+`,"resource":{"kind":"pod"}}`, "between pods")
	refused("routes", `{`+window+`,"resource":{"kind":"pod"}}`, "by workload")
	refused("routes", `{`+window+`,"from":{}}`, "ask the client")
	refused("series", `{`+window+`}`, "a step of 0 s")
	refused("series", `{"since":0,"until":4000,"step":1}`, "at most 3600 points")
	refused("routes", `{`+window+`}`, "ask for fewer resources")

	if r := ask("stat", `{`+window+`,"resource":{"name":"nobody"}}`); r.Error != "" || len(r.Rows) != 0 || len(r.Partitions) != 1 {
		t.Errorf("an unknown name: %+v", r)
	}
	if r := ask("stat", `{"since":1800000000,"until":1800000010,"resource":{"name":"web"}}`); len(r.Rows) != 1 || r.Rows[0].Stats.Requests != 400 {
		t.Errorf("the second itself: %+v", r.Rows)
	}
	if r := ask("stat", `{"since":1799999990,"until":1800000000}`); len(r.Rows) != 0 {
		t.Errorf("the seconds before: %+v", r.Rows)
	}
	if r := ask("workloads", `{}`); len(r.Workloads) != 2 || r.Workloads[0].Pods[0].OpenConnections != 2 {
		t.Errorf("workloads: %+v", r.Workloads)
	}
}

// TestSummaries: each says what came since the one before; silence too.
func TestSummaries(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	l := &listener{}
	o := memoryOptions(&l.memory, "me", func() time.Time { return now })
	o.Publisher = l
	o.Subjects.Stats = func(w event.Workload) string { return "stats." + w.Name }
	p := owning(t, o, inbound("web", 30, now))
	for range 3 {
		if err := p.publish(context.Background()); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Second)
		p.maintain()
	}
	if len(l.seen) != 3 || l.seen[0].Inbound.Requests != 30 || l.seen[1].Inbound.Requests != 0 || l.seen[2].Inbound.Requests != 0 {
		t.Fatalf("summaries %+v", l.seen)
	}
	if s := l.seen[0]; s.Resource.Name != "web" || s.PodsLive != 1 || s.OpenConnections != 2 || s.Inbound.LatencyP99 != 0.005 || s.Inbound.Status[200] != 30 {
		t.Errorf("summary %+v", s)
	}
	now = now.Add(time.Minute)
	p.maintain()
	if len(l.seen) != 3 {
		t.Error("a summary of a workload that is gone")
	}
}

// TestSummariesInTurns: while nobody listens, many workloads are asked about in turns,
// each once in as many seconds; who is found gets all there are at once.
func TestSummariesInTurns(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	l := &listener{}
	o := memoryOptions(&l.memory, "me", func() time.Time { return now })
	o.Publisher = l
	o.Subjects.Stats = func(w event.Workload) string { return "stats." + w.Name }
	const workloads, turns = 8 * askedAtOnce, 8
	var batches [][]byte
	for i := range workloads {
		batches = append(batches, inbound(fmt.Sprint("w", i), 1, now))
	}
	p := owning(t, o, batches...)
	asked := map[string]int{}
	for turn := range turns {
		p.maintain()
		if n := len(l.seen); n == 0 || n > 3*askedAtOnce {
			t.Errorf("%d summaries in turn %d", n, turn)
		}
		for _, s := range l.seen {
			asked[s.Resource.Name]++
		}
		l.seen = nil
	}
	for name, n := range asked {
		if n != 1 {
			t.Errorf("%s was asked about %d times", name, n)
		}
	}
	if len(asked) != workloads {
		t.Errorf("%d of %d workloads were asked about", len(asked), workloads)
	}
	l.heard = "stats.w7"
	seconds := 0
	for ; len(l.seen) < workloads && seconds <= turns; seconds++ {
		l.seen = nil
		p.maintain()
	}
	if seconds > turns+1 || len(l.seen) != workloads {
		t.Errorf("%d summaries, %d seconds after somebody came", len(l.seen), seconds)
	}
	l.heard, l.seen = "", nil
	p.maintain()
	if n := len(l.seen); n == 0 || n > 3*askedAtOnce {
		t.Errorf("%d summaries after the listener has gone", n)
	}
}

// Each summary is of its own workload alone.
func TestSummariesOfSeveral(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	l := &listener{}
	o := memoryOptions(&l.memory, "me", func() time.Time { return now })
	o.Publisher = l
	o.Subjects.Stats = func(w event.Workload) string { return "stats." + w.Name }
	want := map[string]uint64{}
	var batches [][]byte
	for i := range 20 {
		name := fmt.Sprint("w", i)
		want[name] = uint64(1 + 3*i)
		batches = append(batches, inbound(name, 1+3*i, now))
	}
	p := owning(t, o, batches...)
	// What was published in several parts counts as one.
	p.cut()
	if err := p.take(context.Background(), event.Mark{Sequence: 21}, "", inbound("late", 7, now)); err != nil {
		t.Fatal(err)
	}
	want["late"] = 7
	p.cut()
	p.maintain()
	if len(l.seen) != len(want) {
		t.Fatalf("%d summaries", len(l.seen))
	}
	for _, s := range l.seen {
		if n := want[s.Resource.Name]; s.Inbound.Requests != n || s.Inbound.Status[200] != n || s.Outbound.Requests != 0 {
			t.Errorf("%s has %+v, want %d requests", s.Resource.Name, s, n)
		}
	}
}

func TestOwner(t *testing.T) {
	before := map[int]string{}
	count := map[string]int{}
	for n := range 160 {
		before[n] = Owner([]string{"a", "b", "c"}, n)
		count[before[n]]++
		if before[n] != Owner([]string{"c", "a", "b"}, n) {
			t.Errorf("partition %d: the order of the members matters", n)
		}
	}
	for id, n := range count {
		if n < 25 {
			t.Errorf("%s owns only %d of 160", id, n)
		}
	}
	for n, id := range before {
		if now := Owner([]string{"a", "b"}, n); id != "c" && now != id {
			t.Errorf("partition %d moved from %s to %s though c has gone", n, id, now)
		}
	}
}

func TestMetrics(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	p := owning(t, memoryOptions(&memory{}, "me", func() time.Time { return now }), inbound("web", 3, now), []byte("nonsense"))
	var text strings.Builder
	p.a.WriteMetrics(&text)
	for _, line := range []string{
		"weir_aggregator_events_total 3",
		"weir_aggregator_batches_total 1",
		`weir_aggregator_refused_batches_total{reason="malformed"} 1`,
		"weir_aggregator_partitions_owned 1",
		"weir_aggregator_sources 1",
	} {
		if !strings.Contains(text.String(), line+"\n") {
			t.Errorf("no %q in\n%s", line, text.String())
		}
	}
}

func TestOptions(t *testing.T) {
	good := memoryOptions(&memory{}, "me", time.Now)
	for i, spoil := range []func(*Options){
		func(o *Options) { o.ID = "" }, func(o *Options) { o.Source = nil }, func(o *Options) { o.Partitions = 0 },
		func(o *Options) { o.Subjects.Stats = nil }, func(o *Options) { o.ErrFenced = nil },
	} {
		o := good
		spoil(&o)
		if _, err := New(o); err == nil {
			t.Errorf("case %d was accepted", i)
		}
	}
}

// TestAnswerIsOfWhatItSays: a partition that is given up while an answer is made
// is in its numbers and named, or neither: else the numbers of its next owner
// would come on top.
func TestAnswerIsOfWhatItSays(t *testing.T) {
	now := time.Now()
	p := owning(t, memoryOptions(&memory{}, "me", func() time.Time { return now }), inbound("a", 100, now))
	var group sync.WaitGroup
	stop := make(chan struct{})
	group.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			p.mu.Lock()
			p.ready = !p.ready
			p.mu.Unlock()
		}
	})
	defer group.Wait()
	defer close(stop)
	request, err := json.Marshal(query.Request{Since: now.Unix() - 60, Until: now.Unix() + 60, From: &query.Selector{}})
	if err != nil {
		t.Fatal(err)
	}
	whole, none := 0, 0
	for whole < 100 || none < 100 {
		reply, err := query.Unpack(p.a.answer(query.MethodStat, request))
		if err != nil || reply.Error != "" {
			t.Fatal(err, reply.Error)
		}
		switch {
		case len(reply.Partitions) == 1 && len(reply.Rows) == 1 && reply.Rows[0].Stats.Requests == 100:
			whole++
		case len(reply.Partitions) == 0 && len(reply.Rows) == 0:
			none++
		default:
			t.Fatalf("partitions %v, rows %+v", reply.Partitions, reply.Rows)
		}
	}
}
