package cli

import (
	"testing"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/api/apitest"
)

// twoWindows answers differently about the minute before 12:04 and about what
// was ten minutes earlier; statistics reach back to oldest.
func twoWindows(oldest int64) *apitest.Backend {
	b := emojivoto()
	at := now.Unix() - 60
	web, voting, bot := selector("emojivoto", "deploy", "web"), selector("emojivoto", "deploy", "voting"), selector("emojivoto", "deploy", "vote-bot")
	row := func(r query.Selector, s query.Stats) query.Row {
		return query.Row{Resource: r, Direction: query.Inbound, Stats: s, PodsSeen: 1, PodsLive: 1}
	}
	b.AnswerFunc(query.MethodStat, func(q query.Request) query.Reply {
		r := query.Reply{Members: 1, Oldest: oldest, Exact: oldest}
		if q.Until < at {
			r.Rows = []query.Row{row(web, stats(12000, 0, 2100, 400000)), row(voting, stats(6000, 300, 400, 12345))}
		} else {
			r.Rows = []query.Row{row(web, stats(12600, 126, 4200, 401000)), row(bot, stats(60, 0, 400, 500))}
		}
		return r
	})
	b.AnswerFunc(query.MethodRoutes, func(q query.Request) query.Reply {
		route := func(name string, s query.Stats) query.Route {
			return query.Route{Resource: web, Direction: query.Inbound, Route: name, Authority: "web:80", Protocol: "http/1", Stats: s}
		}
		if q.Until < at {
			return query.Reply{Oldest: oldest, Routes: []query.Route{route("GET /old", stats(60, 0, 400, 500)), route("GET /", stats(60, 0, 400, 500))}}
		}
		return query.Reply{Oldest: oldest, Routes: []query.Route{route("GET /", stats(60, 0, 400, 500)), route("GET /new", stats(120, 60, 400, 500))}}
	})
	b.AnswerFunc(query.MethodEdges, func(q query.Request) query.Reply {
		edge := func(to query.Selector, security, reason string) query.Edge {
			return query.Edge{Source: web, Destination: to, Security: security, Reason: reason, SeenBy: "client", Stats: stats(600, 0, 400, 500)}
		}
		if q.Until < at {
			return query.Reply{Oldest: oldest, Edges: []query.Edge{edge(voting, "none", "no_identity"), edge(bot, "mutual", "")}}
		}
		return query.Reply{Oldest: oldest, Edges: []query.Edge{edge(voting, "mutual", ""), edge(bot, "mutual", "")}}
	})
	return b
}

func TestCompare(t *testing.T) {
	addr := start(t, twoWindows(1))
	f := func(name string, args ...string) {
		t.Helper()
		args = append(append(args, "-n", "emojivoto", "--compare", "10m", "--api-addr", addr), lastMinute...)
		out, errOut, err := weir(t, args...)
		golden(t, name, out, errOut, err)
	}
	f("compare_stat", "stat", "deploy")
	f("compare_stat_wide", "stat", "deploy", "-o", "wide")
	f("compare_stat_json", "stat", "deploy", "-o", "json")
	f("compare_routes", "routes", "deploy/web")
	f("compare_edges", "edges", "deploy")
	f("compare_edges_wide", "edges", "deploy", "-o", "wide")
}

// What statistics do not reach back to is said, not made up.
func TestCompareBeyondWhatIsKept(t *testing.T) {
	f := func(name string, oldest int64) {
		t.Helper()
		addr := start(t, twoWindows(oldest))
		out, errOut, err := weir(t, append([]string{"stat", "deploy", "-n", "emojivoto", "--compare", "10m", "--api-addr", addr}, lastMinute...)...)
		golden(t, name, out, errOut, err)
	}
	begin := now.Unix() - 120 // of the window
	f("compare_nothing_kept", begin)
	f("compare_half_kept", begin-600+30)
}

func TestCompareColours(t *testing.T) {
	c := &comparison{coloured: true}
	if got := c.paint("+1", 1); width(got) != 2 || got == c.paint("+1", -1) {
		t.Errorf("%q has width %d", got, width(got))
	}
	if got := c.paint("+1", 0); got != "+1" {
		t.Errorf("%q is neither better nor worse", got)
	}
}
