package aggregator

import (
	"fmt"
	"testing"
	"time"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/event"
)

// counted is what the first messages of the stream tell of each workload: each batch
// once.
func (w *world) counted(position uint64) map[string]uint64 {
	w.t.Helper()
	type id struct{ instance, sequence uint64 }
	seen, sums := map[id]bool{}, map[string]uint64{}
	var d event.Decoder
	for _, data := range w.bus.events[:position] {
		if err := d.Reset(data); err != nil {
			w.t.Fatal(err)
		}
		h := d.Header()
		if b := (id{h.Instance, h.Sequence}); !seen[b] {
			seen[b] = true
			sums[h.Source.Workload.Name] += uint64(d.Len())
		}
	}
	return sums
}

// askAll holds what each member answers against what it has read, where it says
// that it knows all of it. It returns how many did.
func (w *world) askAll(when string) (whole int) {
	w.t.Helper()
	for i, p := range w.members {
		since := w.began.Unix() - 600
		request := fmt.Appendf(nil, `{"since":%d,"until":%d,"resource":{}}`, since, w.now.Unix()+3600)
		var reply query.Reply
		if err := p.a.fill(&reply, query.MethodStat, request); err != nil {
			w.t.Fatal(err)
		}
		if len(reply.Partitions) == 0 || reply.Windows[0].Since > since {
			continue
		}
		whole++
		want, got := w.counted(p.folder.Position()), map[string]uint64{}
		for _, r := range reply.Rows {
			got[r.Resource.Name] = r.Stats.Requests
		}
		for name, n := range want {
			if got[name] != n {
				w.t.Errorf("%s: member %d has read %d messages, and answers from %d on: %s has %d requests, want %d", when, i, p.folder.Position(), reply.Windows[0].Since, name, got[name], n)
			}
		}
	}
	return whole
}

// TestWholeAnswers: whatever an owner is at, taking over, loading the past, summing
// it up, or going on after the bus lost what came last of the rollups: where it says
// that an answer is about all there ever was, it is.
func TestWholeAnswers(t *testing.T) {
	whole := 0
	eachSeed(t, 12, func(w *world) {
		n := 0
		w.bus.reading = func() {
			if n++; n%20 == 0 && !w.t.Failed() {
				whole += w.askAll("while rollups are read")
			}
		}
		w.each = func(i int) {
			if i%4 == 0 && !w.t.Failed() {
				whole += w.askAll(fmt.Sprint("after step ", i))
			}
		}
		w.losing(300, 40, func() {
			w.lose()
			if w.rng.IntN(3) == 0 {
				w.now = w.now.Add(5 * time.Minute)
			}
		})
		w.settle()
	})
	if whole == 0 {
		t.Error("no answer was whole")
	}
}
