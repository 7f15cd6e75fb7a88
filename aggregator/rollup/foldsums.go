package rollup

import (
	"math"

	"github.com/weirmesh/weir/event"
)

// summed counts the batch by its sums, where it has any that are sure to be what
// its events would give: all are in one second, which is possible, by a clock that
// is right.
func (f *Folder) summed(b *batch) (events int, ok bool) {
	second, sums := f.decoder.Sums()
	if len(sums) == 0 || b.shift != 0 || second > farTime/1_000_000 || second*1e6 <= math.MaxUint32 {
		return 0, false
	}
	b.second = second
	if b.bracket(f.pending >= 2*f.limits.Pending); b.from != second*1e6 || b.until != (second+1)*1e6 {
		b.second, b.from, b.until = math.MinInt64, 0, 0
		return 0, false
	}
	for i := range sums {
		f.sum(b, &sums[i])
	}
	return f.decoder.Len(), true
}

// sum counts one of a batch's sums in its cells.
func (f *Folder) sum(b *batch, s *event.Sum) {
	x := f.exchange(b, s.Exchange)
	d := x.direction
	f.outcomes(s, x)
	var route, peer *slot
	if s.OfRoute {
		if b.pods[d] == nil {
			b.pods[d] = f.slot(Key{Dimension: ByPod, Direction: d, Workload: b.workload, Pod: b.pod}, b.second)
		}
		if b.routes[x.route] == nil {
			b.routes[x.route] = f.route(b, s.Exchange)
		}
		route = b.routes[x.route]
		f.cell(b.pods[d], b.second).sum(s, f.counts)
		f.cell(route, b.second).sum(s, f.counts)
	}
	if s.OfPeer {
		far := f.peer(b, x, s.Exchange, s.Connection) - 1
		peer = b.lots[b.peers[far].lot].slot
		f.cell(peer, b.second).sum(s, f.counts)
		if route != nil {
			pair := f.pair(b, &b.peers[far], x, s.Exchange, s.Connection)
			f.cell(pair, b.second).sum(s, f.counts)
		}
	}
}

// outcomeCount is how many events of a sum had an outcome.
type outcomeCount struct {
	outcome          outcome
	n                uint64
	request, success bool
}

// outcomes sets f.counts to those of a sum.
func (f *Folder) outcomes(s *event.Sum, x *exchange) {
	f.counts = f.counts[:0]
	e := &f.event
	f.decoder.DescribeExchange(s.Exchange, e)
	for number, n := range s.Outcomes {
		if n > 0 {
			f.decoder.DescribeOutcome(number, e)
			f.counts = append(f.counts, outcomeCount{outcomeOf(e), n, x.request, x.request && e.Success()})
		}
	}
}

// sum adds a sum, whose outcomes are counts.
func (c *Cell) sum(s *event.Sum, counts []outcomeCount) {
	for i := range counts {
		o := &counts[i]
		c.add(&o.outcome, o.request, o.success, o.n, 0, 0)
	}
	c.RequestBytes += s.RequestBytes
	c.ResponseBytes += s.ResponseBytes
	if s.Latency.Count() > 0 {
		c.waiting.latency.Add(&s.Latency)
		c.waiting.duration.Add(&s.Duration)
		c.latencyTally.AddCounts(s.LatencyBuckets)
		c.durationTally.AddCounts(s.DurationBuckets)
		c.tallied = true
	}
}
