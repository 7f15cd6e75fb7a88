package aggregator

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/event"
)

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
		if err := p.take(t.Context(), uint64(i+1), m.subject, m.data); err != nil {
			t.Fatal(err)
		}
	}
	p.a.blame(0, []rollup.Offence{{Workload: other, Kind: rollup.OffenceClock, Count: 7}, {Workload: other, Kind: rollup.OffenceRoute, Count: 9}}, now)

	ask := func(sel query.Selector, since int64) []string {
		var told []string
		for _, f := range p.a.refusals.told(sel, since) {
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
func TestRefusalsAreBounded(t *testing.T) {
	var r refusals
	now := time.Unix(1_800_000_000, 0)
	for i := range 3 * maxRefusals {
		w := event.Workload{Namespace: "ns", Kind: "deploy", Name: fmt.Sprint("w", i)}
		r.note(w, rollup.Malformed, uint64(i%100+1), now.Add(time.Duration(i)*time.Second))
		if len(r.all) > maxRefusals {
			t.Fatalf("%d are remembered", len(r.all))
		}
	}
	told := r.told(query.Selector{}, 0)
	if len(told) != toldRefusals || told[0].Count != 100 || told[len(told)-1].Count < 99 {
		t.Errorf("told %+v", told)
	}
	if got := r.told(query.Selector{}, now.Unix()+3*maxRefusals-1); len(got) != 1 {
		t.Errorf("of the last second: %+v", got)
	}
}
