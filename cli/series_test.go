package cli

import (
	"testing"
	"time"

	"github.com/weirmesh/weir/aggregator/query"
)

func TestSeries(t *testing.T) {
	b := emojivoto()
	web, voting := selector("emojivoto", "deploy", "web"), selector("emojivoto", "deploy", "voting")
	b.AnswerFunc(query.MethodSeries, func(q query.Request) query.Reply {
		r := query.Reply{Members: 1, Oldest: 1, Exact: 1}
		points := make([]query.Stats, (q.Until-q.Since)/q.Step)
		points[0], points[2] = stats(1200, 12, 4200, 420000), stats(600, 0, 400, 500)
		for _, sel := range []query.Selector{web, voting} {
			if q.Resource.Name == "" || q.Resource.Name == sel.Name {
				r.Series = append(r.Series, query.Series{Resource: sel, Direction: query.Inbound, Points: points})
			}
		}
		return r
	})
	addr := start(t, b)
	f := func(name string, args ...string) {
		t.Helper()
		out, errOut, err := weir(t, append(append([]string{"series", "--api-addr", addr, "-n", "emojivoto"}, args...), lastMinute...)...)
		golden(t, name, out, errOut, err)
	}
	f("series", "deploy/web", "--step", "20s")
	f("series_several", "deploy", "--step", "20s", "-o", "wide")
	f("series_json", "deploy/web", "deploy/voting", "--step", "20s", "-o", "json")
	f("series_missing", "deploy/wbe", "--step", "20s")
	for _, q := range b.Asked() {
		if q.Method == query.MethodSeries && (q.Request.Step != 20 || q.Request.Until-q.Request.Since != 60) {
			t.Errorf("asked %+v", q.Request)
		}
	}
}

// top begins with the past that is asked for, and prints when that is read.
func TestTopOfThePast(t *testing.T) {
	b := emojivoto()
	publishTop(b, now.UnixMicro())
	addr := start(t, b)
	f := func(name string, args ...string) {
		t.Helper()
		out, errOut, err := weir(t, append([]string{"top", "deploy/web", "-n", "emojivoto", "--api-addr", addr}, args...)...)
		golden(t, name, out, errOut, err)
	}
	at := func(d time.Duration) string { return now.Add(d).Format(time.RFC3339) }
	f("top_past", "--since", at(0), "--until", at(time.Minute), "-o", "table")
	f("top_past_json", "--since", at(-time.Minute), "-t", "2m", "-o", "json", "--method", "POST")
	f("top_past_empty", "--since", at(-2*time.Minute), "--until", at(-time.Minute))
}
