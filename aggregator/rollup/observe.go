package rollup

import (
	"math"

	"github.com/weirmesh/weir/event"
)

// events counts the events of the batch, whose decoder is at its beginning.
func (f *Folder) events(b *batch, visit func(int, *event.Event) bool) (n int) {
	if visit != nil {
		n = f.visited(b, visit)
	} else if n, ok := f.summed(b); ok {
		return n
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
		r.First, r.Last, r.Times = one.End, one.End, one.Latency|one.Duration
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

// observe counts events, a run of one second after the other. What most have in
// common is summed up by exchange and by peer, and settle brings it into the cells.
// The totals are the sums over the pods, and are worked out when they are needed.
func (f *Folder) observe(b *batch, r *event.Rows) {
	event.BucketPairs(b.at[:r.N], r.Latency[:], r.Duration[:])
	if b.allWithin(r) {
		f.run(b, r, 0, r.N)
		return
	}
	for i := 0; i < r.N; {
		if !b.within(r, i) {
			if second := f.second(b, r.End[i], r.Duration[i]); second != b.second {
				// Where seconds meet, some events are out of order.
				if i+1 < r.N && b.within(r, i+1) {
					f.single(b, r, i, second)
					i++
					continue
				}
				f.settle(b)
				b.second = second
			}
			b.bracket(f.pending >= 2*f.limits.Pending)
		}
		end := i + 1
		if !short(r, i) {
			f.single(b, r, i, b.second)
		} else {
			for end < r.N && b.within(r, end) && short(r, end) {
				end++
			}
			f.run(b, r, i, end)
		}
		i = end
	}
}

// within tells that an event is in the second at hand for certain.
func (b *batch) within(r *event.Rows, i int) bool {
	end := r.End[i]
	return end >= b.from && end < b.until && r.Duration[i] <= uint64(end)
}

// allWithin tells that all events are, and are short.
func (b *batch) allWithin(r *event.Rows) bool {
	if b.from >= b.until || r.N == 0 {
		return false
	}
	// The second at hand is not in 1970, so whatever is short began after that.
	return r.First >= b.from && r.Last < b.until && r.First > math.MaxUint32 && r.Times <= math.MaxUint32
}

// run counts short events of the second at hand.
func (f *Folder) run(b *batch, r *event.Rows, begin, end int) {
	side := uint8(0) // of the requests since begin, which their pod has yet to count
	running, ends, peers, lots := b.running, b.ends, b.peers, b.lots
	for i := begin; i < end; i++ {
		x, far := &running[r.Exchange[i]], ends[r.Connection[i]]
		if x.side&far.side == 0 {
			f.push(b, side, begin, i)
			begin = i
			plain := f.ready(b, r, i)
			running, ends, peers, lots = b.running, b.ends, b.peers, b.lots
			if !plain {
				side, begin = 0, i+1
				continue
			}
			far = ends[r.Connection[i]]
			side = x.side
		} else if x.side != side {
			f.push(b, side, begin, i)
			side, begin = x.side, i
		}
		latency, duration := r.Latency[i], r.Duration[i]
		requests, responses := r.RequestBytes[i], r.ResponseBytes[i]
		exchange, first := &x.sums, &lots[x.lot]
		if x.side == uint8(event.Outbound) {
			if q := f.pairing(b, r, i, far.peer); q != nil {
				lots = b.lots
				exchange, first = &q.sums, &lots[q.lot]
			} else {
				e := &b.exchanges[r.Exchange[i]]
				f.singleIn(b, e, f.pair(b, &peers[far.peer], e, int(r.Exchange[i]), int(r.Connection[i])), r, i, b.second)
			}
		}
		exchange.add(latency, duration, requests, responses)
		p := &peers[far.peer]
		if p.sums.n == 0 {
			b.met = append(b.met, far.peer)
		}
		p.sums.add(latency, duration, requests, responses)
		p.tally[x.class&(maxClasses-1)]++
		at := b.at[i]
		if !first.put(at) {
			f.spill(b, first, at)
		}
		if l := &lots[p.lot]; !l.put(at) {
			f.spill(b, l, at)
		}
	}
	f.push(b, side, begin, end)
}

// push counts the buckets of requests in the cell of their pod.
func (f *Folder) push(b *batch, side uint8, begin, end int) {
	if side != 0 && begin < end {
		b.podCells[side].pushAll(b.at[begin:end])
	}
}

// spill empties a full lot, and puts others into it.
func (f *Folder) spill(b *batch, l *lot, at uint32) {
	if l.cell == nil {
		l.cell = f.cell(l.slot, b.second)
	}
	l.empty()
	l.put(at)
}

// ready makes ready to count the event's exchange and peer in the second at
// hand. Where the event is none of those that are summed up, it is counted, if
// at all, and the result is false.
func (f *Folder) ready(b *batch, r *event.Rows, i int) bool {
	number := int(r.Exchange[i])
	x := f.exchange(b, number)
	if x.state == skipped || !x.request || x.class >= maxClasses {
		f.single(b, r, i, b.second)
		return false
	}
	f.find(b, x, r, i)
	if at := &b.running[number]; at.side == 0 {
		f.touch(b, x)
		at.side, at.class, at.lot = uint8(x.direction), x.class, b.routeLots[x.route]-1
		b.touched = append(b.touched, int32(number))
	}
	return true
}

// find finds the slots of an event's pod, route and peer.
func (f *Folder) find(b *batch, x *exchange, r *event.Rows, i int) {
	number, connection, d := int(r.Exchange[i]), int(r.Connection[i]), x.direction
	if b.pods[d] == nil {
		b.pods[d] = f.slot(Key{Dimension: ByPod, Direction: d, Workload: b.workload, Pod: b.pod}, b.second)
	}
	if b.routes[x.route] == nil {
		b.routes[x.route] = f.route(b, number)
		b.routeLots[x.route] = b.newLot(b.routes[x.route]) + 1
	}
	if far := &b.ends[connection]; far.side != uint8(d) {
		*far = end{f.peer(b, x, number, connection) - 1, uint8(d)}
	}
}

// touch finds the cells of an exchange's route and pod, of the second at hand,
// at its first event in it.
func (f *Folder) touch(b *batch, x *exchange) {
	if b.podCells[x.direction] == nil {
		b.podCells[x.direction] = f.cell(b.pods[x.direction], b.second)
	}
	l := &b.lots[b.routeLots[x.route]-1]
	if l.cell == nil {
		l.cell = f.cell(l.slot, b.second)
	}
	x.cell = l.cell
	b.bracket(f.pending >= 2*f.limits.Pending)
}

// single counts one event of a second in all its cells.
func (f *Folder) single(b *batch, r *event.Rows, i int, second int64) {
	x := f.exchange(b, int(r.Exchange[i]))
	if x.state == skipped {
		b.skipped++
		return
	}
	f.find(b, x, r, i)
	p := &b.peers[b.ends[r.Connection[i]].peer]
	for _, s := range [...]*slot{b.pods[x.direction], b.routes[x.route], b.lots[p.lot].slot} {
		f.singleIn(b, x, s, r, i, second)
	}
	if x.direction == event.Outbound {
		f.singleIn(b, x, f.pair(b, p, x, int(r.Exchange[i]), int(r.Connection[i])), r, i, second)
	}
}

// singleIn counts one event in one cell.
func (f *Folder) singleIn(b *batch, x *exchange, s *slot, r *event.Rows, i int, second int64) {
	c := f.cell(s, second)
	c.add(&x.outcome, x.request, x.success, 1, r.RequestBytes[i], r.ResponseBytes[i])
	if x.request {
		c.record(r.Latency[i], r.Duration[i], b.at[i])
	}
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
