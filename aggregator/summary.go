package aggregator

import (
	"encoding/json"
	"hash/maphash"
	"math/bits"
	"time"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/aggregator/tap"
	"github.com/weirmesh/weir/event"
)

// liveFor is how long after its last batch a proxy counts as live. Proxies
// without traffic send one every ten seconds.
const liveFor = 25

// askedAtOnce is about how many summaries a partition sends a second where nobody is
// known to listen, only to find out whether somebody does (see tap.Publisher). Workloads
// beyond that take turns: asking about each of 10,000 every other second, and being told
// that nobody is there, took an aggregator more than to count a request of each every
// ten seconds (docs/benchmarks.md, "Statistics of 10,000 workloads").
const askedAtOnce = 100

// summary gathers what goes on the stats subjects next. Most of it is of
// workloads that nobody listens to, so it is added up only when it is sent.
type summary struct {
	sums map[event.Workload]*both
	// data is the memory of what sums have.
	data []byte
	// adder, in and out are for adding up, one workload after the other.
	adder   rollup.Adder
	in, out rollup.Cell
	// here are the workloads that are live, in the memory of the second before;
	// index leads to them.
	here  []presence
	index map[event.Workload]int32
	// sent are the subjects of the last second's summaries. turn counts the seconds, seed
	// divides the workloads among them.
	sent []string
	turn uint64
	seed maphash.Seed
}

// both are the sums of what a workload got and what it sent, encoded.
type both struct{ in, out [][]byte }

func newSummary() *summary {
	return &summary{sums: map[event.Workload]*both{}, seed: maphash.MakeSeed()}
}

// add gathers a delta's totals, where they are not history. It copies them.
func (s *summary) add(d *rollup.Delta, now time.Time) {
	oldest := now.Add(-tap.MaxAge).Unix()
	for i := range d.Items {
		it := &d.Items[i]
		if it.Key.Dimension != rollup.Total || it.Second < oldest {
			continue
		}
		sums := s.sums[it.Key.Workload]
		if sums == nil {
			sums = &both{}
			s.sums[it.Key.Workload] = sums
		}
		start := len(s.data)
		s.data = append(s.data, it.Sums...)
		own := s.data[start:len(s.data):len(s.data)]
		if it.Key.Direction == event.Outbound {
			sums.out = append(sums.out, own)
		} else {
			sums.in = append(sums.in, own)
		}
	}
}

// sum adds values up in c's memory.
func (s *summary) sum(c *rollup.Cell, values [][]byte) query.Stats {
	c.Reset()
	for _, data := range values {
		// It was encoded just now.
		_ = s.adder.Add(c, data)
	}
	return statsOf(c)
}

// presence is what a workload's live proxies say.
type presence struct {
	workload event.Workload
	// pod is the first of its pods, more are the others, if any: most have one.
	pod  string
	more map[string]struct{}
	open uint64
}

func (h *presence) add(src *rollup.Source) {
	h.open += src.OpenConnections
	if src.Pod == h.pod {
		return
	}
	if h.more == nil {
		h.more = map[string]struct{}{}
	}
	h.more[src.Pod] = struct{}{}
}

// present finds the workloads that are live.
func (s *summary) present(p *partition, now int64) {
	if s.index == nil {
		s.index = map[event.Workload]int32{}
	}
	if cap(s.here) > 4*len(s.here) {
		s.here = nil
	}
	clear(s.index)
	clear(s.here)
	s.here = s.here[:0]
	p.folder.Sources(func(src *rollup.Source) bool {
		if !live(src, now) {
			return true
		}
		at, ok := s.index[src.ID.Workload]
		if !ok {
			at = int32(len(s.here))
			s.index[src.ID.Workload] = at
			s.here = append(s.here, presence{workload: src.ID.Workload, pod: src.Pod})
		}
		s.here[at].add(src)
		return true
	})
}

func live(s *rollup.Source, now int64) bool { return !s.Final && now-s.LastSeen <= liveFor }

// listened tells whether somebody got one of the last second's summaries: whoever
// listens to several workloads at once is found with the first of them.
func (s *summary) listened(to Publisher) bool {
	for _, subject := range s.sent {
		if to.Listened(subject) {
			return true
		}
	}
	return false
}

// publish sends the summaries of all live workloads to who listens, and begins
// anew. While nobody is known to, only so many are asked about. p.mu is held.
func (s *summary) publish(p *partition, now time.Time) {
	s.present(p, now.Unix())
	others := uint64(0) // 2^n-1, where each turn is of one workload in 2^n
	if n := len(s.here); n > askedAtOnce && !s.listened(p.a.o.Publisher) {
		others = 1<<bits.Len(uint((n-1)/askedAtOnce)) - 1
	}
	s.turn++
	s.sent = s.sent[:0]
	for i := range s.here {
		here := &s.here[i]
		w := here.workload
		if others > 0 && (maphash.Comparable(s.seed, w)^s.turn)&others != 0 {
			continue
		}
		subject := p.a.o.Subjects.Stats(w)
		// While nobody listens about every other summary is made all the same: it
		// is the message that finds out whether somebody has come.
		if !p.a.o.Publisher.Interested(subject) {
			continue
		}
		m := query.Summary{Time: now.Unix(), Resource: selector(w), PodsLive: 1 + len(here.more), OpenConnections: here.open}
		if sums := s.sums[w]; sums != nil {
			in, out := s.sum(&s.in, sums.in), s.sum(&s.out, sums.out)
			m.Inbound, m.Outbound = in.Summarize(), out.Summarize()
		}
		if data, err := json.Marshal(&m); err == nil {
			if p.a.o.Publisher.PublishInterest(subject, data) {
				s.sent = append(s.sent, subject)
			}
		}
	}
	if cap(s.data) > 4*len(s.data) {
		s.data = nil
	}
	clear(s.sums)
	s.data = s.data[:0]
}
