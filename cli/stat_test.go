package cli

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/api/apitest"
	"github.com/weirmesh/weir/event"
)

const cluster = "demo"

func selector(ns, kind, name string) query.Selector {
	return query.Selector{Cluster: cluster, Namespace: ns, Kind: kind, Name: name}
}

// stats of n requests of which failed failed, the slowest at slowUS.
func stats(n, failed, fastUS, slowUS uint64) query.Stats {
	s := query.Stats{Requests: n, Successes: n - failed, RequestBytes: 120 * n, ResponseBytes: 1300 * n}
	s.Status = map[uint16]uint64{200: n - failed}
	if failed > 0 {
		s.Status[503] = failed
		s.Errors = map[string]uint64{"connect_refused": 1}
	}
	var latency event.Histogram
	latency.RecordN(fastUS, n-n/20)
	latency.RecordN(slowUS, n/20)
	s.Latency = latency.Sparse()
	return s
}

// emojivoto answers as aggregators do about the sample application.
func emojivoto() *apitest.Backend {
	b := &apitest.Backend{}
	grpc := stats(6000, 76, 400, 12345)
	grpc.GRPC = map[int16]uint64{0: 5924, 14: 76}
	all := []query.Row{
		{Resource: selector("emojivoto", "deploy", "web"), Direction: query.Inbound, Stats: stats(12000, 0, 4200, 420000), PodsSeen: 1, PodsLive: 1, OpenConnections: 4},
		{Resource: selector("emojivoto", "deploy", "voting"), Direction: query.Inbound, Stats: grpc, PodsSeen: 2, PodsLive: 1, OpenConnections: 1, Shed: 7, LostBatches: 2},
		{Resource: selector("emojivoto", "deploy", "vote-bot"), Direction: query.Outbound, Stats: stats(12000, 1, 5000, 500000), PodsSeen: 1, PodsLive: 1},
		{Resource: selector("shop", "sts", "db"), Direction: query.Inbound, Stats: query.Stats{Connections: 3, RequestBytes: 600, ResponseBytes: 1200}, PodsSeen: 1, PodsLive: 1, OpenConnections: 2},
	}
	rows := func(q query.Request) query.Reply {
		r := query.Reply{Member: "a", Members: 1, Oldest: 1, Exact: 1}
		for _, row := range all {
			if (q.Resource.Namespace == "" || q.Resource.Namespace == row.Resource.Namespace) &&
				(q.Resource.Kind == "" || q.Resource.Kind == row.Resource.Kind) &&
				(q.Resource.Name == "" || q.Resource.Name == row.Resource.Name) {
				r.Rows = append(r.Rows, row)
			}
		}
		return r
	}
	b.AnswerFunc(query.MethodStat, rows)
	var known []query.Workload
	for _, row := range all {
		known = append(known, query.Workload{Resource: row.Resource, FirstSeen: now.Unix() - 3600, LastSeen: now.Unix() - 60,
			Pods: []query.Pod{{Name: row.Resource.Name + "-0", Live: true}}})
	}
	b.Answer(query.MethodWorkloads, query.Reply{Workloads: known})
	return b
}

// lastMinute makes the covered window the same each time.
var lastMinute = []string{"--since", "2026-03-14T12:03:00Z", "--until", "2026-03-14T12:04:00Z"}

func TestStat(t *testing.T) {
	addr := start(t, emojivoto())
	f := func(name string, args ...string) {
		t.Helper()
		args = append(append([]string{"stat", "--api-addr", addr}, args...), lastMinute...)
		out, errOut, err := weir(t, args...)
		golden(t, name, out, errOut, err)
	}
	f("stat", "deploy", "-n", "emojivoto")
	f("stat_wide", "deploy", "-n", "emojivoto", "-o", "wide")
	f("stat_json", "deployment/voting", "sts/db", "-A", "-o", "json")
	f("stat_all_namespaces", "all", "-A")
	f("stat_names", "deploy", "web", "voting", "-n", "emojivoto")
	f("stat_twice", "deploy/web", "deploy", "-n", "emojivoto")

	f("stat_missing_name", "deploy/vting", "-n", "emojivoto")
	f("stat_missing_namespace", "deploy", "-n", "emojivot")
	f("stat_default_namespace", "deploy")
	f("stat_missing_json", "deploy/nothing", "-n", "emojivoto", "-o", "json")
	f("stat_missing_ns", "ns/emojvoto")
	f("stat_missing_kind", "cronjob", "-n", "emojivoto")
}

func TestStatIdle(t *testing.T) {
	b := emojivoto()
	b.Answer(query.MethodStat, query.Reply{})
	addr := start(t, b)
	out, errOut, err := weir(t, append([]string{"stat", "deploy/web", "-n", "emojivoto", "--api-addr", addr}, lastMinute...)...)
	golden(t, "stat_idle", out, errOut, err)
}

func TestStatNothingYet(t *testing.T) {
	b := &apitest.Backend{}
	b.Answer(query.MethodStat, query.Reply{})
	b.Answer(query.MethodWorkloads, query.Reply{})
	out, errOut, err := weir(t, "stat", "deploy", "--api-addr", start(t, b))
	if err != nil || out != "" || errOut != "No traffic found: no proxy has reported yet.\n" {
		t.Errorf("%q, %q, %v", out, errOut, err)
	}
}

func TestStatNoAggregator(t *testing.T) {
	out, errOut, err := weir(t, "stat", "deploy", "--api-addr", start(t, &apitest.Backend{}))
	golden(t, "stat_no_aggregator", out, errOut, err)
}

// What is missing in the numbers is said beside them.
func TestStatSaysWhatIsMissing(t *testing.T) {
	b := emojivoto()
	since := time.Date(2026, 3, 14, 12, 3, 50, 0, time.UTC).Unix()
	b.Answer(query.MethodStat, query.Reply{Member: "a", Members: 2, Oldest: since, Exact: since + 5, Total: 16, Partitions: []int{0, 1, 2}, Rows: []query.Row{
		{Resource: selector("emojivoto", "deploy", "web"), Stats: stats(100, 0, 1000, 2000), PodsSeen: 1, PodsLive: 1},
	}})
	addr := start(t, b)
	out, errOut, err := weir(t, append([]string{"stat", "deploy", "-n", "emojivoto", "--api-addr", addr}, lastMinute...)...)
	golden(t, "stat_partial", out, errOut, err)
	out, errOut, err = weir(t, append([]string{"stat", "deploy", "-n", "emojivoto", "-o", "wide", "--api-addr", addr}, lastMinute...)...)
	golden(t, "stat_partial_wide", out, errOut, err)
}

// Where all that is known of the time is in steps, an answer begins with the first
// whole one, later than statistics reach back to: that is less than was asked for, too.
func TestStatBeginsWithAWholeStep(t *testing.T) {
	b := emojivoto()
	reaches := now.Unix() - 95
	b.Answer(query.MethodStat, query.Reply{Member: "a", Members: 1, Oldest: reaches - 600, Reaches: reaches, Windows: []query.Window{{Since: reaches + 5, Until: now.Unix() - 60}}})
	_, errOut, err := weir(t, append([]string{"stat", "deploy", "-n", "emojivoto", "--api-addr", start(t, b)}, lastMinute...)...)
	if want := "Statistics reach back to 12:03:25: this is about 30s, not from 12:03:00 on.\n"; err != nil || !strings.HasPrefix(errOut, want) {
		t.Errorf("%q, %v", errOut, err)
	}
}

// So is what has not been read again since parts of the mesh changed hands.
func TestStatSaysWhatIsBehind(t *testing.T) {
	b := emojivoto()
	b.Answer(query.MethodStat, query.Reply{Member: "a", Members: 1, Total: 2, Partitions: []int{0, 1}, Behind: []int{1}})
	_, errOut, err := weir(t, append([]string{"stat", "deploy", "-n", "emojivoto", "--api-addr", start(t, b)}, lastMinute...)...)
	if want := "1 of 2 parts of the mesh have changed hands, and not all their events are read again: the numbers may be too low.\n"; err != nil || !strings.HasPrefix(errOut, want) {
		t.Errorf("%q, %v", errOut, err)
	}
}

// A window of which nothing is kept is named as it was asked for.
func TestStatOfWhatIsNotKept(t *testing.T) {
	b := emojivoto()
	oldest := now.Unix() - 30
	b.Answer(query.MethodStat, query.Reply{Member: "a", Members: 1, Oldest: oldest, Exact: oldest})
	out, errOut, err := weir(t, append([]string{"stat", "deploy", "-n", "emojivoto", "--api-addr", start(t, b)}, lastMinute...)...)
	want := "Nothing is kept of that window: statistics reach back to 12:04:30.\nNo traffic found for deploy in namespace emojivoto.\n"
	if err != nil || out != "" || errOut != want {
		t.Errorf("%q, %q, %v", out, errOut, err)
	}
}

// Who was asked about on the other side is named, too, and where nothing of the
// kind was seen, what may have been meant.
func TestStatOfNoSuchPeer(t *testing.T) {
	b := emojivoto()
	b.Answer(query.MethodStat, query.Reply{Member: "a", Members: 1, Oldest: 1, Exact: 1})
	addr := start(t, b)
	f := func(want string, args ...string) {
		t.Helper()
		out, errOut, err := weir(t, append(append([]string{"stat", "deploy/web", "-n", "emojivoto", "--api-addr", addr}, args...), lastMinute...)...)
		if err != nil || out != "" || errOut != want+"\n" {
			t.Errorf("%q, %q, %v", out, errOut, err)
		}
	}
	f("No traffic found for deploy/web in namespace emojivoto to deploy/votng in namespace emojivoto. Did you mean deploy/voting?", "--to", "deploy/votng")
	f("No traffic found for deploy/web in namespace emojivoto from deploy/vote-bot in namespace emojivoto between 12:03:00 and 12:04:00; its proxies last reported at 12:04:00.", "--from", "deploy/vote-bot")
}

// Whose batches were refused is said: in JSON in their rows.
func TestStatNamesOffenders(t *testing.T) {
	b := emojivoto()
	last := now.Unix() - 5
	b.Answer(query.MethodStat, query.Reply{Member: "a", Members: 1, Total: 1, Partitions: []int{0}, Rows: []query.Row{
		{Resource: selector("emojivoto", "deploy", "web"), Stats: stats(100, 0, 1000, 2000), PodsSeen: 1, PodsLive: 1, Direction: query.Inbound},
	}, Offenders: []query.Offender{
		{Source: selector("emojivoto", "deploy", "forger"), Reason: "wrong_source", Count: 12, Last: last},
		{Source: selector("emojivoto", "deploy", "web"), Reason: "clock", Count: 7, Last: last},
		{Source: selector("emojivoto", "deploy", "forger"), Reason: "malformed", Count: 3, Last: last},
	}})
	addr := start(t, b)
	for name, args := range map[string][]string{
		"stat_offenders":      {"deploy", "-n", "emojivoto"},
		"stat_offenders_json": {"deploy", "-n", "emojivoto", "-o", "json"},
	} {
		out, errOut, err := weir(t, append(append([]string{"stat", "--api-addr", addr}, args...), lastMinute...)...)
		golden(t, name, out, errOut, err)
	}
}

func TestStatAsks(t *testing.T) {
	f := func(want query.Request, args ...string) {
		t.Helper()
		b := emojivoto()
		addr := start(t, b)
		if _, _, err := weir(t, append([]string{"stat", "--api-addr", addr}, args...)...); err != nil {
			t.Fatal(err)
		}
		got := b.Asked()[0].Request
		if want.Since == 0 {
			got.Since, got.Until = 0, 0
		}
		if got.Resource != want.Resource || got.Since != want.Since || got.Until != want.Until || !same(got.To, want.To) || !same(got.From, want.From) {
			t.Errorf("weir stat %v asked %+v (to %v, from %v), want %+v", args, got, got.To, got.From, want)
		}
	}
	at := func(h, m, s int) int64 { return time.Date(2026, 3, 14, h, m, s, 0, time.UTC).Unix() }
	deploy := query.Selector{Namespace: "x", Kind: "deploy"}
	f(query.Request{Resource: query.Selector{Namespace: "default", Kind: "deploy"}}, "deployments")
	f(query.Request{Resource: query.Selector{Kind: "sts", Name: "db"}}, "statefulset/db", "-A")
	f(query.Request{Resource: query.Selector{Kind: "ns"}}, "ns")
	f(query.Request{Resource: query.Selector{Kind: "ns", Namespace: "x"}}, "namespace", "x")
	f(query.Request{Resource: query.Selector{Namespace: "x"}}, "all", "-n", "x")
	f(query.Request{Resource: query.Selector{Namespace: "x", Kind: "pod", Name: "a-0"}}, "po", "a-0", "-n", "x")
	f(query.Request{Resource: deploy, To: &query.Selector{Namespace: "x", Kind: "deploy", Name: "db"}}, "deploy", "-n", "x", "--to", "deploy/db")
	f(query.Request{Resource: deploy, To: &query.Selector{Namespace: "y"}}, "deploy", "-n", "x", "--to-namespace", "y")
	f(query.Request{Resource: deploy, From: &query.Selector{Namespace: "y", Kind: "pod"}}, "deploy", "-n", "x", "--from", "po", "--from-namespace", "y")
	f(query.Request{Resource: deploy, Since: at(11, 55, 0), Until: at(12, 0, 0)}, "deploy", "-n", "x", "--since", "10m", "--until", "12:00")
	f(query.Request{Resource: deploy, Since: at(10, 0, 0), Until: at(12, 0, 0)}, "deploy", "-n", "x", "-t", "2h", "--until", "12:00:00")
	f(query.Request{Resource: deploy, Since: at(10, 0, 0), Until: at(10, 30, 0)}, "deploy", "-n", "x", "-t", "30m", "--since", "2026-03-14T11:00:00+01:00")
	f(query.Request{Resource: deploy, Since: at(12, 30, 0) - 86400, Until: at(12, 0, 0)}, "deploy", "-n", "x", "--since", "12:30", "--until", "12:00")
}

func same(a, b *query.Selector) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

// A watch goes on when the aggregators come back.
func TestStatWatch(t *testing.T) {
	b := emojivoto()
	c := newCommand("stat", "deploy/vote-bot", "-n", "emojivoto", "-w", "--api-addr", start(t, b))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- c.root.ExecuteContext(ctx) }()
	until := func(what string, ok func() bool) {
		t.Helper()
		for !ok() {
			select {
			case err := <-ended:
				t.Fatalf("%s: ended with %v after %q, %q", what, err, c.out.String(), c.errOut.String())
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	until("two tables", func() bool { return strings.Count(c.out.String(), "MESHED") > 1 })
	if said := c.errOut.String(); strings.Count(said, "\n") > 1 {
		t.Errorf("notes come again: %q", said)
	}
	b.AnswerFunc(query.MethodStat)
	until("an error", func() bool { return strings.Contains(c.errOut.String(), "no aggregator answers") })
	b.Answer(query.MethodStat, query.Reply{Rows: []query.Row{{Resource: selector("emojivoto", "deploy", "back"), Stats: stats(60, 0, 1, 1)}}})
	until("a table again", func() bool { return strings.Contains(c.out.String(), "back") })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if strings.Contains(c.out.String(), "\x1b") {
		t.Errorf("escape codes although this is no terminal: %q", c.out.String())
	}
}

func TestEdges(t *testing.T) {
	b := emojivoto()
	web, voting := selector("emojivoto", "deploy", "web"), selector("emojivoto", "deploy", "voting")
	b.Answer(query.MethodEdges, query.Reply{Oldest: 1, Edges: []query.Edge{
		{Source: web, Destination: voting, Security: "none", Reason: "no_identity", SeenBy: "client", Stats: stats(6000, 76, 400, 12345)},
		{Source: selector("", "ext", "10.1.2.3"), Destination: web, Security: "passthrough", SeenBy: "server", Stats: stats(60, 0, 400, 500)},
		{Source: web, Destination: selector("shop", "sts", "db"), Security: "mutual", SeenBy: "client",
			SourceID: "spiffe://c/ns/emojivoto/sa/web", DestID: "spiffe://c/ns/shop/sa/db", Stats: query.Stats{Connections: 3}},
	}})
	addr := start(t, b)
	f := func(name string, args ...string) {
		t.Helper()
		out, errOut, err := weir(t, append(append([]string{"edges", "--api-addr", addr}, args...), lastMinute...)...)
		golden(t, name, out, errOut, err)
	}
	f("edges", "deploy", "-n", "emojivoto")
	f("edges_wide", "deploy", "-n", "emojivoto", "-o", "wide")
	f("edges_json", "deploy/web", "deploy/voting", "-n", "emojivoto", "-o", "json")
}

func TestRoutes(t *testing.T) {
	b := emojivoto()
	web := selector("emojivoto", "deploy", "web")
	b.Answer(query.MethodRoutes, query.Reply{Oldest: 1, Routes: []query.Route{
		{Resource: web, Direction: query.Inbound, Route: "GET /api/vote", Authority: "web.emojivoto:80", Protocol: "http/1", Stats: stats(6000, 76, 400, 12345)},
		{Resource: web, Direction: query.Inbound, Route: "GET /api/\x1b[31mlist", Authority: "web.emojivoto:80", Protocol: "http/1", Stats: stats(60, 0, 400, 500)},
		{Resource: web, Direction: query.Inbound, Route: "(other)", Stats: stats(20, 0, 400, 500)},
	}})
	addr := start(t, b)
	f := func(name string, args ...string) {
		t.Helper()
		out, errOut, err := weir(t, append(append([]string{"routes", "--api-addr", addr}, args...), lastMinute...)...)
		golden(t, name, out, errOut, err)
	}
	f("routes", "deploy/web", "-n", "emojivoto")
	f("routes_wide", "deploy/web", "-A", "-o", "wide")
	f("routes_json", "deploy/web", "-n", "emojivoto", "-o", "json")
}
