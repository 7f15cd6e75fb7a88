package rollup

import (
	"math"

	"github.com/weirmesh/weir/event"
)

// events counts the events of the batch, whose decoder is at its beginning.
func (f *Folder) events(b *batch, visit func(int, *event.Event) bool) (n int) {
	if visit != nil {
		n = f.visited(b, visit)
	}
	for f.decoder.NextRows(&f.rows) {
		f.observe(b, &f.rows)
		n += f.rows.N
	}
	f.settle(b)
	return n
}

// visited counts events one by one while somebody is to see them, and up to the
// next that [event.Decoder.NextRows] may begin with.
func (f *Folder) visited(b *batch, visit func(int, *event.Event) bool) (n int) {
	r := &f.rows
	r.N = 1
	var one event.Row
	for more := true; (more || n%event.RowsAtOnce != 0) && f.decoder.NextRow(&one); n++ {
		if x := f.exchange(b, one.Exchange); more && x.state == counted {
			f.decoder.Fill(&f.whole)
			more = visit(n, &f.whole)
		}
		r.Exchange[0], r.Connection[0], r.End[0] = uint64(one.Exchange), uint64(one.Connection), one.End
		r.Latency[0], r.Duration[0], r.RequestBytes[0], r.ResponseBytes[0] = one.Latency, one.Duration, one.RequestBytes, one.ResponseBytes
		f.observe(b, r)
	}
	return n
}

// exchange is one of the batch's, met.
func (f *Folder) exchange(b *batch, number int) *exchange {
	x := &b.exchanges[number]
	if x.state == unknown {
		f.meet(b, x, number)
	}
	return x
}

// meet finds out what all events of an exchange have in common.
func (f *Folder) meet(b *batch, x *exchange, number int) {
	e := &f.event
	f.decoder.DescribeExchange(number, e)
	x.state, x.direction = counted, e.Direction
	if e.Direction != event.Inbound && e.Direction != event.Outbound {
		x.state = skipped
		return
	}
	route, number := f.decoder.Exchange(number)
	x.route = int32(route)
	x.outcome = outcomeOf(e)
	x.request = e.IsRequest()
	x.success = x.request && e.Success()
	x.class = maxClasses
	for i := range b.classes {
		c := &b.classes[i]
		if c.number == number && c.request == x.request && c.success == x.success && c.outcome.grpc == x.outcome.grpc {
			x.class = uint8(i)
			return
		}
	}
	if len(b.classes) < maxClasses {
		x.class = uint8(len(b.classes))
		b.classes = append(b.classes, class{number, x.request, x.success, x.outcome})
	}
}

// observe counts events: at once in their peers' cells, and in their exchanges'
// sums, which settle brings into the cells of routes and pods. Buckets count at
// once in all, worked out once. The totals are the sums over the pods, and are
// worked out when they are needed.
func (f *Folder) observe(b *batch, r *event.Rows) {
	event.BucketPairs(b.at[:r.N], r.Latency[:], r.Duration[:])
	// The rows since begin are requests of pod.
	var pod *Cell
	begin := 0
	flush := func(next *Cell, end int) {
		if pod != nil {
			pod.pushAll(b.at[begin:end])
		}
		pod, begin = next, end
	}
	for i := range r.N {
		x := f.exchange(b, int(r.Exchange[i]))
		if x.state == skipped {
			flush(nil, i)
			b.skipped++
			continue
		}
		if end := r.End[i]; end < b.from || end >= b.until || r.Duration[i] > uint64(end) {
			if second := f.second(b, end, r.Duration[i]); second != b.second {
				flush(nil, i)
				f.settle(b)
				b.second = second
			}
			b.bracket(f.pending >= 2*f.limits.Pending)
		}
		if x.n == 0 {
			f.touch(b, x, int(r.Exchange[i]))
		}
		x.n++
		x.requests += r.RequestBytes[i]
		x.responses += r.ResponseBytes[i]
		peer := f.withPeer(b, x, r, i)
		if !x.request {
			flush(nil, i)
			continue
		}
		if x.pod != pod {
			flush(x.pod, i)
		}
		x.waiting.latency.Record(r.Latency[i])
		x.waiting.duration.Record(r.Duration[i])
		x.cell.push(b.at[i])
		peer.record(r.Latency[i], r.Duration[i], b.at[i])
	}
	flush(nil, r.N)
}

// withPeer counts an event in the cell of its peer, which it returns, and in
// that of its peer and route where there is one; all but its latency and
// duration in the former.
func (f *Folder) withPeer(b *batch, x *exchange, r *event.Rows, i int) *Cell {
	at := b.conns[r.Connection[i]]
	if at == 0 || b.peers[at-1].direction != x.direction {
		at = f.peer(b, x, int(r.Exchange[i]), int(r.Connection[i]))
		b.conns[r.Connection[i]] = at
	}
	peer := &b.peers[at-1]
	if peer.cell == nil {
		peer.cell = f.cell(peer.slot, b.second)
	}
	c := peer.cell
	c.RequestBytes += r.RequestBytes[i]
	c.ResponseBytes += r.ResponseBytes[i]
	if x.class < maxClasses {
		peer.tally[x.class]++
	} else {
		c.add(&x.outcome, x.request, x.success, 1, 0, 0)
	}
	if x.direction == event.Outbound {
		pair := f.cell(f.pair(b, peer, x, int(r.Exchange[i]), int(r.Connection[i])), b.second)
		pair.add(&x.outcome, x.request, x.success, 1, r.RequestBytes[i], r.ResponseBytes[i])
		if x.request {
			pair.record(r.Latency[i], r.Duration[i], b.at[i])
		}
	}
	return c
}

// settle brings the sums of the exchanges and peers into the cells of their
// second.
func (f *Folder) settle(b *batch) {
	if len(b.touched) == 0 {
		return
	}
	for _, number := range b.touched {
		x := &b.exchanges[number]
		for _, c := range [...]*Cell{x.cell, x.pod} {
			c.add(&x.outcome, x.request, x.success, x.n, x.requests, x.responses)
			c.waiting.add(&x.waiting)
		}
		x.n, x.requests, x.responses, x.waiting = 0, 0, 0, spread{}
	}
	b.touched = b.touched[:0]
	b.podCells = [3]*Cell{}
	clear(b.routeCells)
	for i := range b.peers {
		b.peers[i].settle(b)
	}
}

// settle brings the tally of the second at hand into the peer's cell.
func (p *peerSlots) settle(b *batch) {
	if p.cell == nil {
		return
	}
	for i := range b.classes {
		if n := p.tally[i]; n > 0 {
			c := &b.classes[i]
			p.cell.add(&c.outcome, c.request, c.success, uint64(n), 0, 0)
			p.tally[i] = 0
		}
	}
	p.cell = nil
}

// touch finds the cells of an exchange's route and pod, of the second at hand,
// at its first event in it.
func (f *Folder) touch(b *batch, x *exchange, number int) {
	d := x.direction
	b.touched = append(b.touched, int32(number))
	if b.pods[d] == nil {
		b.pods[d] = f.slot(Key{Dimension: ByPod, Direction: d, Workload: b.workload, Pod: b.pod}, b.second)
	}
	if b.podCells[d] == nil {
		b.podCells[d] = f.cell(b.pods[d], b.second)
	}
	if b.routes[x.route] == nil {
		b.routes[x.route] = f.route(b, number)
	}
	if b.routeCells[x.route] == nil {
		b.routeCells[x.route] = f.cell(b.routes[x.route], b.second)
	}
	x.cell, x.pod = b.routeCells[x.route], b.podCells[d]
	b.bracket(f.pending >= 2*f.limits.Pending)
}

// second is the Unix second in which an exchange ended. Where that is not
// possible, or there are too many seconds at once, it is the batch's.
func (f *Folder) second(b *batch, end int64, duration uint64) int64 {
	start := bounded(end - int64(duration))
	end = start + int64(min(duration, farTime)) + b.shift
	if end > b.sent+maxSkew || end < b.sent-maxAge || f.pending >= 2*f.limits.Pending {
		b.moved++
		end = b.sent
	}
	return end / 1e6
}

// bracket sets from and until to the ends for which second would tell the
// second at hand, but for exchanges that began before 1970: none, where there
// are too many seconds at once.
func (b *batch) bracket(full bool) {
	b.from, b.until = 0, 0
	if full || b.second == math.MinInt64 {
		return
	}
	b.from = max(b.second*1e6, b.sent-maxAge, b.shift) - b.shift
	b.until = min((b.second+1)*1e6, b.sent+maxSkew+1) - b.shift
	b.until = min(b.until, farTime)
}
