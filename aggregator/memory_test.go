package aggregator

import (
	"fmt"
	"testing"
	"time"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/aggregator/store"
	"github.com/weirmesh/weir/event"
)

func TestShare(t *testing.T) {
	f := func(total, limit int, over bool, sizes ...int) {
		t.Helper()
		if got, is := share(sizes, total); got != limit || is != over {
			t.Errorf("%d over %v: %d, %v; want %d, %v", total, sizes, got, is, limit, over)
		}
	}
	f(100, 100, false, 10, 20)
	f(100, 45, true, 10, 200, 50)
	f(100, 33, true, 100, 100, 100)
	f(100, 100, true, 0, 0, 101)
	f(100, 100, false)
}

// TestTrim: at its cap an aggregator gives up fine edges, never a count, and
// says from when on they are fine.
func TestTrim(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	began := now
	o := memoryOptions(&memory{}, "me", func() time.Time { return now })
	o.Tiers, o.StoreBytes = []store.Tier{{Step: 1, Keep: 3000}, {Step: 10, Keep: 20_000}, {Step: 60, Keep: 90_000}}, 300_000
	p := owning(t, o)
	p.complete = true
	for i := range uint64(1200) {
		now = now.Add(time.Second)
		if err := p.take(t.Context(), event.Mark{Sequence: i + 1}, "", numbered(i+1, 10, now)); err != nil {
			t.Fatal(err)
		}
		if err := p.publish(t.Context()); err != nil {
			t.Fatal(err)
		}
		if j, due := p.nextJob(1, p.lasts[0]); due {
			if err := p.fold(t.Context(), j); err != nil {
				t.Fatal(err)
			}
		}
		p.maintain()
		p.a.trim(now)
	}
	if bytes := p.store.Bytes(); bytes > o.StoreBytes*11/10 {
		t.Errorf("the store takes %d bytes, its cap is %d", bytes, o.StoreBytes)
	}
	var reply query.Reply
	if err := p.a.fill(&reply, query.MethodStat, fmt.Appendf(nil, `{"since":%d,"until":%d}`, began.Unix()-100, now.Unix()+1)); err != nil {
		t.Fatal(err)
	}
	if reply.Rows[0].Stats.Requests != 12_000 || reply.Resolution == 1 || reply.Exact <= began.Unix() || reply.Reaches != 0 {
		t.Errorf("%d requests, steps of %d, exact since %d s after the beginning, reaches %d",
			reply.Rows[0].Stats.Requests, reply.Resolution, reply.Exact-began.Unix(), reply.Reaches)
	}
	if p.a.metrics.trimmed.Get() == 0 {
		t.Error("nothing was counted as trimmed")
	}
}

// TestWindowsSlide: a window over all tiers that is asked for again each second
// changes by what enters and what leaves, and names its edges.
func TestWindowsSlide(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	began := now.Unix()
	p := owning(t, memoryOptions(&memory{}, "me", func() time.Time { return now }))
	p.complete = true
	seen := map[int64]int64{}
	for i := range int64(1500) {
		now = now.Add(time.Second)
		n := 1 + i%3
		if err := p.take(t.Context(), event.Mark{Sequence: uint64(i + 1)}, "", numbered(uint64(i+1), int(n), now)); err != nil {
			t.Fatal(err)
		}
		seen[now.Unix()] = n
		p.maintain()
		if err := p.publish(t.Context()); err != nil {
			t.Fatal(err)
		}
		for tier := 1; tier < len(p.tiers); tier++ {
			if j, due := p.nextJob(tier, p.lasts[tier-1]); due {
				if err := p.fold(t.Context(), j); err != nil {
					t.Fatal(err)
				}
			}
		}
		var reply query.Reply
		if err := p.a.fill(&reply, query.MethodStat, fmt.Appendf(nil, `{"since":%d,"until":%d}`, now.Unix()-700, now.Unix()+1)); err != nil {
			t.Fatal(err)
		}
		w := reply.Windows[0]
		if now.Unix()-700-w.Since < 0 || now.Unix()-700-w.Since >= reply.Resolution || w.Until != now.Unix()+1 {
			t.Fatalf("after %d s: the window is %+v in steps of %d", i, w, reply.Resolution)
		}
		var want int64
		for at := max(w.Since, began); at < w.Until; at++ {
			want += seen[at]
		}
		if got := int64(reply.Rows[0].Stats.Requests); got != want {
			t.Fatalf("after %d s: %d requests in %+v, want %d", i, got, w, want)
		}
		if i == 1499 && reply.Resolution != 9 {
			t.Errorf("the old edge is not in the coarsest tier, but in steps of %d", reply.Resolution)
		}
	}
}

// numbered is a batch of n requests, of one proxy's sequence.
func numbered(sequence uint64, n int, now time.Time) []byte {
	latencies := make([]uint64, n)
	for i := range latencies {
		latencies[i] = 1000
	}
	return timings(1, sequence, now, latencies)
}
