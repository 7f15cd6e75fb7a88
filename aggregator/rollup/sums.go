package rollup

import (
	"math"

	"github.com/weirmesh/weir/event"
)

// What is counted of a batch is summed up in little memory, that a core's nearest
// cache holds, and brought into the cells, which no such cache can hold, once for
// all events of an exchange or a peer that ended in the same second.

// sums are of requests of one second that are short: their times have 32 bits.
type sums struct {
	n                   uint64
	requests, responses uint64 // bytes
	latency, duration   extent
}

// extent are moments of times, µs. A batch has too few for their sum to
// overflow.
type extent struct {
	sum uint64
	// least is the complement of the least, so that 0 stands for none.
	least, most uint32
}

// running are the sums of an exchange in the second at hand. It fills a line of
// the cache.
type running struct {
	side  uint8 // the direction; 0: not ready
	class uint8
	lot   int32
	sums  sums
}

// end is what is at the other end of a connection: the peer's number, in a
// direction; 0: not known.
type end struct {
	peer int32
	side uint8
}

// pairing are the sums of an outbound exchange with one of the peers, which are
// the exchange's, too.
type pairing struct {
	exchange, lot int32
	sums          sums
}

// maxPaired is how many exchanges of a batch have pairings; requests of others,
// and with other peers than the first maxPeers, are counted one by one.
const maxPaired = 1024

// lotSize makes a lot fill two lines of the cache.
const lotSize = 25

// lot are requests by their buckets, as [event.BucketPairs] has them, that wait
// to be counted in a cell of the second at hand.
type lot struct {
	slot *slot
	cell *Cell // of the second at hand, once it was asked for
	also *Cell // of a pairing's route
	n    uint32
	at   [lotSize]uint32
}

// add counts a request.
func (s *sums) add(latency, duration, requests, responses uint64) {
	s.n++
	s.requests += requests
	s.responses += responses
	s.latency.add(latency)
	s.duration.add(duration)
}

func (e *extent) add(v uint64) {
	e.sum += v
	e.least = max(e.least, ^uint32(v))
	e.most = max(e.most, uint32(v))
}

// plus adds those of o.
func (s *sums) plus(o *sums) {
	s.n += o.n
	s.requests += o.requests
	s.responses += o.responses
	s.latency.plus(&o.latency)
	s.duration.plus(&o.duration)
}

func (e *extent) plus(o *extent) {
	e.sum += o.sum
	e.least = max(e.least, o.least)
	e.most = max(e.most, o.most)
}

// waits adds the moments of sums to those that wait in a cell.
func (c *Cell) waits(s *sums) {
	c.RequestBytes += s.requests
	c.ResponseBytes += s.responses
	c.waiting.latency.AddSums(s.n, s.latency.sum, uint64(^s.latency.least), uint64(s.latency.most))
	c.waiting.duration.AddSums(s.n, s.duration.sum, uint64(^s.duration.least), uint64(s.duration.most))
}

// put adds a request's buckets, and returns false where the lot is full.
func (l *lot) put(at uint32) bool {
	n := l.n
	if n >= lotSize {
		return false
	}
	l.at[n], l.n = at, n+1
	return true
}

// newLot is the number of a lot of a slot.
func (b *batch) newLot(s *slot) int32 {
	if len(b.lots) < cap(b.lots) {
		b.lots = b.lots[:len(b.lots)+1]
	} else {
		b.lots = append(b.lots, lot{})
	}
	l := &b.lots[len(b.lots)-1]
	l.slot, l.cell, l.also, l.n = s, nil, nil, 0
	return int32(len(b.lots) - 1)
}

// empty counts what is in a lot.
func (l *lot) empty() {
	if l.n > 0 {
		l.cell.pushAll(l.at[:l.n])
		if l.also != nil {
			l.also.pushAll(l.at[:l.n])
		}
		l.n = 0
	}
}

// close empties a lot and forgets the cells.
func (l *lot) close() {
	l.empty()
	l.cell, l.also = nil, nil
}

// settle brings the sums of the exchanges and peers into the cells of their
// second.
func (f *Folder) settle(b *batch) {
	b.unpair()
	b.loadCells()
	var pods [3]sums
	var tally [3][maxClasses]uint64
	for _, number := range b.touched {
		x, at := &b.exchanges[number], &b.running[number]
		pods[at.side].plus(&at.sums)
		tally[at.side][at.class] += at.sums.n
		x.cell.add(&x.outcome, true, x.success, at.sums.n, 0, 0)
		x.cell.waits(&at.sums)
		b.lots[at.lot].close()
		x.cell, *at = nil, running{}
	}
	for side := range pods {
		if pods[side].n > 0 {
			c := b.podCells[side]
			c.waits(&pods[side])
			for i := range b.classes {
				b.classes[i].count(c, tally[side][i])
			}
		}
	}
	for _, number := range b.met {
		p := &b.peers[number]
		l := &b.lots[p.lot]
		if l.cell == nil {
			l.cell = f.cell(l.slot, b.second)
		}
		l.cell.waits(&p.sums)
		for i := range b.classes {
			b.classes[i].count(l.cell, uint64(p.tally[i]))
			p.tally[i] = 0
		}
		p.sums = sums{}
		l.close()
	}
	b.touched, b.met = b.touched[:0], b.met[:0]
	b.podCells = [3]*Cell{}
}

// loadCells reads a little of the cells of the exchanges that have sums. No near
// cache holds them, and where nothing else is to be done in between, a core waits
// for several at a time.
func (b *batch) loadCells() {
	for _, number := range b.touched {
		c := b.exchanges[number].cell
		var last uint32
		if n := len(c.buffer); n > 0 {
			last = c.buffer[n-1]
		}
		b.loaded += c.Requests + c.waiting.latency.Count() + c.waiting.duration.Count() + uint64(last)
	}
}

// pairing is that of an outbound event, nil where it has none.
func (f *Folder) pairing(b *batch, r *event.Rows, i int, peer int32) *pairing {
	number := int(r.Exchange[i])
	at := number*maxPeers + int(peer)
	if peer >= maxPeers || number >= maxPaired {
		return nil
	}
	if len(b.pairingAt) == 0 {
		b.pairingAt = emptied(b.pairingAt, min(len(b.exchanges), maxPaired)*maxPeers)
	}
	x := &b.exchanges[number]
	if b.pairingAt[at] == 0 {
		l := b.newLot(f.pair(b, &b.peers[peer], x, number, int(r.Connection[i])))
		b.pairings = append(b.pairings, pairing{exchange: int32(number), lot: l})
		b.pairingAt[at] = int32(len(b.pairings))
	}
	n := b.pairingAt[at] - 1
	q := &b.pairings[n]
	if q.sums.n == 0 {
		l := &b.lots[q.lot]
		l.cell, l.also = f.cell(l.slot, b.second), x.cell
		b.paired = append(b.paired, n)
	}
	return q
}

// unpair brings the sums of the pairings into their cells and those of the
// exchanges.
func (b *batch) unpair() {
	for _, n := range b.paired {
		q := &b.pairings[n]
		x, l := &b.exchanges[q.exchange], &b.lots[q.lot]
		l.cell.add(&x.outcome, true, x.success, q.sums.n, 0, 0)
		l.cell.waits(&q.sums)
		l.close()
		b.running[q.exchange].sums.plus(&q.sums)
		q.sums = sums{}
	}
	b.paired = b.paired[:0]
}

// count adds n requests of a class, all but their bytes and times.
func (c *class) count(to *Cell, n uint64) {
	if n > 0 {
		to.add(&c.outcome, c.request, c.success, n, 0, 0)
	}
}

// short tells that an event's times have 32 bits.
func short(r *event.Rows, i int) bool { return r.Latency[i]|r.Duration[i] <= math.MaxUint32 }
