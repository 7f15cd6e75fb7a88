package aggregator

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/event"
)

func TestOffendersAreLoggedAndShown(t *testing.T) {
	var out bytes.Buffer
	a := &Aggregator{log: slog.New(slog.NewTextHandler(&out, nil))}
	now := time.Unix(1_800_000_000, 0)
	bad := event.Workload{Namespace: "shop", Kind: "deploy", Name: `we"b`}
	for i := range 100 {
		a.blame(3, []rollup.Offence{{Offender: rollup.Offender{Workload: bad, Kind: rollup.OffenceRoute}, Limit: 500, Count: 7, Example: "/x"}}, now.Add(time.Duration(i)*time.Second))
	}
	if n := strings.Count(out.String(), "\n"); n != 2 {
		t.Errorf("%d lines in 100 s: %s", n, out.String())
	}
	for _, want := range []string{"kind=route", "limit=500", "times=7", "times=420", "example=/x", "shop/deploy/we"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the log does not say %s: %s", want, out.String())
		}
	}
	for i := range 5000 {
		w := event.Workload{Namespace: "made-up", Kind: "deploy", Name: fmt.Sprint(i)}
		a.blame(3, []rollup.Offence{{Offender: rollup.Offender{Workload: w, Kind: rollup.OffencePeer}, Count: 1}}, now)
	}
	if n := len(a.offenders.all); n > maxOffenders {
		t.Errorf("%d offenders are remembered", n)
	}
	var metrics bytes.Buffer
	a.offenders.write(&metrics)
	want := `weir_aggregator_overflow_total{kind="route",cluster="",namespace="shop",workload_kind="deploy",name="we\"b"} 700` + "\n"
	if !strings.HasPrefix(metrics.String(), want) || strings.Count(metrics.String(), "\n") != shownOffenders {
		t.Errorf("metrics: %s", metrics.String())
	}
}

// A stat says whose batches were refused, and whose clocks are wrong.
func TestStatNamesOffenders(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	o := memoryOptions(&memory{}, "me", func() time.Time { return now })
	forger := event.Workload{Namespace: "ns", Kind: "deploy", Name: "forger"}
	other := event.Workload{Namespace: "other", Kind: "deploy", Name: "web"}
	o.Subjects.Parse = func(subject string) (event.Workload, error) {
		switch subject {
		case "forger":
			return forger, nil
		case "other":
			return other, nil
		}
		return event.Workload{}, fmt.Errorf("no workload in %q", subject)
	}
	o.Subjects.Events = func(event.Workload) string { return "" }
	p := owning(t, o)
	good, own := inbound("web", 3, now), inbound("forger", 3, now)
	for i, m := range []struct {
		subject string
		data    []byte
	}{
		{"forger", good},             // says that it is web
		{"forger", own[:len(own)-1]}, // truncated
		{"forger", own[:len(own)-2]},
		{"forger", make([]byte, event.MaxBatchBytes+1)},
		{"other", nil},
		{"nobody", good},
	} {
		if err := p.take(t.Context(), event.Mark{Sequence: uint64(i + 1)}, m.subject, m.data); err != nil {
			t.Fatal(err)
		}
	}
	p.a.blame(0, []rollup.Offence{{Offender: rollup.Offender{Workload: other, Kind: rollup.OffenceClock}, Count: 7}, {Offender: rollup.Offender{Workload: other, Kind: rollup.OffenceRoute}, Count: 9}}, now)

	ask := func(sel query.Selector, since int64) []string {
		var told []string
		for _, f := range p.a.offenders.tell(sel, since) {
			if f.Last != now.Unix() {
				t.Errorf("%+v: last %d, want %d", f, f.Last, now.Unix())
			}
			told = append(told, fmt.Sprint(f.Source.Name, " ", f.Reason, " ", f.Count))
		}
		slices.Sort(told)
		return told
	}
	request, err := json.Marshal(&query.Request{Since: now.Unix() - 60, Until: now.Unix(), Packed: true, Brief: true})
	if err != nil {
		t.Fatal(err)
	}
	if reply, err := query.Unpack(p.a.answer(query.MethodStat, request)); err != nil || len(reply.Offenders) != 6 {
		t.Errorf("%v, the answer names %+v", err, reply.Offenders)
	}
	forged := []string{"forger malformed 2", "forger oversized 1", "forger wrong_source 1"}
	all := append([]string{"nobody wrong_subject 1", "web clock 7", "web malformed 1"}, forged...)
	slices.Sort(all)
	for _, c := range []struct {
		of   query.Selector
		want []string
	}{
		{query.Selector{}, all},
		{query.Selector{Namespace: "ns"}, forged},
		{query.Selector{Namespace: "ns", Kind: query.KindPod, Name: "forger-0"}, forged},
		{query.Selector{Kind: query.KindNamespace, Name: "ns"}, forged},
		{query.Selector{Kind: "deploy", Name: "web"}, []string{"web clock 7", "web malformed 1"}},
		{query.Selector{Kind: "sts"}, nil},
	} {
		if got := ask(c.of, now.Unix()); !slices.Equal(got, c.want) {
			t.Errorf("%+v: %q, want %q", c.of, got, c.want)
		}
	}
	if got := ask(query.Selector{}, now.Unix()+1); got != nil {
		t.Errorf("after the window: %q", got)
	}
}

// What is remembered is bounded, and so is what is told: the newest, and of those
// the worst.
func TestOffendersAreBounded(t *testing.T) {
	var r offenders
	now := time.Unix(1_800_000_000, 0)
	for i := range 3 * maxOffenders {
		w := event.Workload{Namespace: "ns", Kind: "deploy", Name: fmt.Sprint("w", i)}
		for range i%100 + 1 {
			r.refuse(w, rollup.Malformed, now.Add(time.Duration(i)*time.Second))
		}
		if len(r.all) > maxOffenders {
			t.Fatalf("%d are remembered", len(r.all))
		}
	}
	told := r.tell(query.Selector{}, 0)
	if len(told) != toldOffenders || told[0].Count != 100 || told[len(told)-1].Count < 99 {
		t.Errorf("told %+v", told)
	}
	if got := r.tell(query.Selector{}, now.Unix()+3*maxOffenders-1); len(got) != 1 {
		t.Errorf("of the last second: %+v", got)
	}
}
