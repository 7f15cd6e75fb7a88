package event

import "math"

// summer works out the sums of a batch. It keeps its memory, while batches have
// sums.
type summer struct {
	rows     []sumRow
	outcomes []uint32 // of each row, one after the other
	// classes are the different peers, with their security; connections has the
	// number of each connection's.
	classes     []peerClass
	connections []uint32
	exchanges   []sumExchange
	// byRoute, byPeer and byPair are numbers of rows, from 1.
	byRoute, byPeer, byPair []uint32
	// Of each event: the number of its exchange, those of its rows, and its
	// buckets, as BucketPairs has them.
	exchange []uint16
	in       []rowPair
	at       []uint32
	sorted   []uint32 // the buckets, by row
	counts   [buckets]uint32
	list     []BucketCount

	// most is how many rows there may be, of how many outcomes there are.
	most int
	of   uint32
	// end is that of the event at hand, from when its second begins.
	end, from int64

	columns [sumColumns]column
	events  column
}

// sumRow is a sum in the making.
type sumRow struct {
	part, exchange, connection uint32
	request                    bool
	n                          uint32
	end                        uint32    // of its buckets in sorted
	bytes                      [2]uint64 // of requests, of responses
	latency, duration          sumExtent
}

// sumExtent are moments of times of 32 bits.
type sumExtent struct {
	sum         uint64
	least, most uint32
}

func (e *sumExtent) add(v uint64) {
	e.sum += v
	e.least, e.most = min(e.least, uint32(v)), max(e.most, uint32(v))
}

// rowPair are the rows of an event: of its route, or of route and peer; and of its
// peer, or none.
type rowPair struct{ route, peer uint16 }

const noRow = math.MaxUint16

// peerClass is what connections must have in common for their events to be in one
// sum.
type peerClass struct {
	peer, reason uint32
	security     Security
}

// sumExchange is what the summer needs to know of an exchange.
type sumExchange struct {
	route, outcome uint32
	variant        uint32 // whether it is a request, and of gRPC
	outbound       bool
	bytes          [2]uint64 // of its previous event: request, response
}

const (
	variantRequest = 1
	variantGRPC    = 2
	variants       = 4
)

// summing is the summer that the events of a batch are to be given to, column by
// column, or nil where the batch is to have no sums.
func (e *Encoder) summing(sent int64) *summer {
	if !e.summable() {
		if e.work.unsummed++; e.work.unsummed >= usualBatches {
			e.work.sums = nil
		}
		return nil
	}
	if e.work.unsummed = 0; e.work.sums == nil {
		e.work.sums = new(summer)
	}
	if s := e.work.sums; s.begin(e, sent) {
		return s
	}
	return nil
}

// appendSums writes the section of sums, unless it takes too much.
func (e *Encoder) appendSums(dst []byte, s *summer) []byte {
	start := len(dst)
	if dst = s.append(e, dst); len(dst)-start > e.count {
		return dst[:start]
	}
	return dst
}

// summable tells, as far as it shows at first sight, whether the batch is to have
// sums.
func (e *Encoder) summable() bool {
	most := min(e.count/eventsPerSum, MaxSums)
	return e.count >= leastSummed && e.summaries == 0 && len(e.outcomes) <= maxSumOutcomes &&
		len(e.routes) <= most && len(e.peers) <= most && len(e.connStates) <= e.count/4 &&
		(e.columns[eventLatency].any|e.columns[eventTail].any) < 1<<31
}

// begin prepares for a batch, and returns false where its sums would be too many.
func (s *summer) begin(e *Encoder, sent int64) bool {
	s.rows, s.outcomes, s.classes = s.rows[:0], s.outcomes[:0], s.classes[:0]
	s.connections = room(s.connections, len(e.connStates))
	most := min(e.count/eventsPerSum, MaxSums)
	s.most, s.of = most, uint32(len(e.outcomes))
	s.end, s.from = sent, floorSecond(e.firstEnd)
	s.at, s.in, s.exchange = room(s.at, e.count), room(s.in, e.count), room(s.exchange, e.count)
	for i := range e.connStates {
		c := &e.connStates[i]
		number, ok := s.class(peerClass{c.peer, c.reason, c.security}, most)
		if !ok {
			return false
		}
		s.connections[i] = number
	}
	outbound := false
	s.exchanges = room(s.exchanges, len(e.exchanges))
	request, response := e.exchangeColumns[exchangeRequest].data, e.exchangeColumns[exchangeResponse].data
	for i := range e.exchanges {
		x := &e.exchanges[i]
		r, o := &e.routes[x.route], &e.outcomes[x.outcome]
		if r.direction != Inbound && r.direction != Outbound {
			return false
		}
		var first [1]uint64
		at := sumExchange{route: x.route, outcome: x.outcome, outbound: r.direction == Outbound}
		request = decodeVarints(first[:], request)
		at.bytes[0] = uint64(unzigzag(first[0]))
		response = decodeVarints(first[:], response)
		at.bytes[1] = uint64(unzigzag(first[0]))
		if of := (Event{Kind: o.kind, Protocol: r.protocol}); of.IsRequest() {
			at.variant |= variantRequest
		}
		if r.protocol == GRPC {
			at.variant |= variantGRPC
		}
		s.exchanges[i] = at
		outbound = outbound || at.outbound
	}
	s.byRoute, s.byPeer, s.byPair = cleared(s.byRoute, variants*len(e.routes)), cleared(s.byPeer, variants*len(s.classes)), s.byPair[:0]
	if outbound {
		pairs := variants * len(e.routes) * len(s.classes)
		if pairs > maxSumPairs {
			return false
		}
		s.byPair = cleared(s.byPair, pairs)
	}
	return true
}

// class is the number of a class, or a new one, of which there are most at most.
func (s *summer) class(c peerClass, most int) (uint32, bool) {
	for i := range s.classes {
		if s.classes[i] == c {
			return uint32(i), true
		}
	}
	if len(s.classes) >= most {
		return 0, false
	}
	s.classes = append(s.classes, c)
	return uint32(len(s.classes) - 1), true
}

// cleared are n zeros, in the memory of list where it suffices.
func cleared(list []uint32, n int) []uint32 {
	list = room(list, n)
	clear(list)
	return list
}

// zeros are of a column that is absent.
var zeros [blockRows]uint64

// take takes a column of all events, nil where all are zeros, in the order of the
// columns. It returns false where the batch can have no sums.
func (s *summer) take(column int, values []uint64) bool {
	for first := 0; first < len(s.at); first += blockRows {
		block := zeros[:min(blockRows, len(s.at)-first)]
		if values != nil {
			block = values[first : first+len(block)]
		}
		ok := true
		switch column {
		case eventEnd:
			ok = s.within(block)
		case eventExchange:
			for i, number := range block {
				s.exchange[first+i] = uint16(number)
			}
		case eventConnection:
			ok = s.assign(block, first)
		case eventLatency:
			for i, latency := range block {
				s.at[first+i] = uint32(latency)
			}
		case eventTail:
			s.times(block, first)
		case eventRequestBytes:
			ok = s.bytes(0, block, first)
		case eventResponseBytes:
			ok = s.bytes(1, block, first)
		}
		if !ok {
			return false
		}
	}
	return true
}

// floorSecond is when the second of a time begins, µs.
func floorSecond(t int64) int64 {
	part := t % 1e6
	if part < 0 {
		part += 1e6
	}
	return t - part
}

// within tells whether events end in the second of the first, by the steps from
// one to the next.
func (s *summer) within(steps []uint64) bool {
	end := s.end
	least, most := int64(math.MaxInt64), int64(math.MinInt64)
	for _, step := range steps {
		end += int64(step)
		least, most = min(least, end), max(most, end)
	}
	s.end = end
	return least >= s.from && most < s.from+1e6
}

// assign finds the rows of events, whose connections these are.
func (s *summer) assign(connections []uint64, first int) bool {
	of := s.of
	for i, connection := range connections {
		number := s.exchange[first+i]
		x := &s.exchanges[number]
		class := s.connections[connection]
		in := rowPair{peer: noRow}
		if x.outbound {
			in.route = s.row(&s.byPair[(x.route*uint32(len(s.classes))+class)*variants+x.variant], partRoute|partPeer, number, uint32(connection))
		} else {
			in.route = s.row(&s.byRoute[x.route*variants+x.variant], partRoute, number, 0)
			in.peer = s.row(&s.byPeer[class*variants+x.variant], partPeer, number, uint32(connection))
			s.rows[in.peer].n++
			s.outcomes[uint32(in.peer)*of+x.outcome]++
		}
		s.rows[in.route].n++
		s.outcomes[uint32(in.route)*of+x.outcome]++
		s.in[first+i] = in
	}
	return len(s.rows) <= s.most
}

// row is the row of a number, from 1, which is 0 where it is new.
func (s *summer) row(number *uint32, part uint32, exchange uint16, connection uint32) uint16 {
	if *number == 0 {
		s.newRow(number, part, exchange, connection)
	}
	return uint16(*number - 1)
}

func (s *summer) newRow(number *uint32, part uint32, exchange uint16, connection uint32) {
	if len(s.rows) < noRow { // else there are too many, and assign will tell
		s.rows = append(s.rows, sumRow{part: part, exchange: uint32(exchange), connection: connection,
			request: s.exchanges[exchange].variant&variantRequest != 0,
			latency: sumExtent{least: math.MaxUint32}, duration: sumExtent{least: math.MaxUint32}})
		for range s.of {
			s.outcomes = append(s.outcomes, 0)
		}
	}
	*number = uint32(len(s.rows))
}

// times adds latencies, which are in at, and by how much durations are longer, and
// has their buckets in at.
func (s *summer) times(tails []uint64, first int) {
	var latencies, durations [blockRows]uint64
	at, in := s.at[first:first+len(tails)], s.in[first:first+len(tails)]
	for i, tail := range tails {
		latency := uint64(at[i])
		latencies[i], durations[i] = latency, latency+tail
	}
	BucketPairs(at, latencies[:], durations[:])
	for i, of := range in {
		r := &s.rows[of.route]
		r.latency.add(latencies[i])
		r.duration.add(durations[i])
		if of.peer != noRow {
			r = &s.rows[of.peer]
			r.latency.add(latencies[i])
			r.duration.add(durations[i])
		}
	}
}

// bytes adds those of requests (side 0) or responses (1), by how much each exceeds
// that before of the same exchange.
func (s *summer) bytes(side int, steps []uint64, first int) bool {
	many := uint64(0)
	in := s.in[first : first+len(steps)]
	for i, step := range steps {
		last := &s.exchanges[s.exchange[first+i]].bytes[side&1]
		*last += step
		many |= *last
		s.rows[in[i].route].bytes[side&1] += *last
		if in[i].peer != noRow {
			s.rows[in[i].peer].bytes[side&1] += *last
		}
	}
	return many < maxSumBytes
}

// sort puts the buckets of each row together.
func (s *summer) sort() {
	total := uint32(0)
	for i := range s.rows {
		s.rows[i].end = total
		total += s.rows[i].n
	}
	s.sorted = room(s.sorted, int(total))
	for i, in := range s.in {
		r := &s.rows[in.route]
		s.sorted[r.end] = s.at[i]
		r.end++
		if in.peer != noRow {
			r = &s.rows[in.peer]
			s.sorted[r.end] = s.at[i]
			r.end++
		}
	}
}

// append writes the section.
func (s *summer) append(e *Encoder, dst []byte) []byte {
	s.sort()
	resetColumns(s.columns[:], false)
	s.events.reset(false)
	c := &s.columns
	for i := range s.rows {
		r := &s.rows[i]
		c[sumPart].put(uint64(r.part))
		c[sumExchangeNumber].put(uint64(r.exchange))
		c[sumConnection].put(uint64(r.connection))
		c[sumRequest].put(r.bytes[0])
		c[sumResponse].put(r.bytes[1])
		if !r.request {
			r.latency, r.duration = sumExtent{}, sumExtent{}
		}
		l, d := &r.latency, &r.duration
		c[sumLeast].put(uint64(l.least))
		c[sumSpread].put(uint64(l.most - l.least))
		c[sumRest].put(l.sum - uint64(l.least)*uint64(r.n))
		c[sumTailLeast].put(uint64(d.least) - uint64(l.least))
		c[sumTailSpread].put(uint64(d.most-d.least) - uint64(l.most-l.least))
		c[sumTailRest].put(d.sum - uint64(d.least)*uint64(r.n) - (l.sum - uint64(l.least)*uint64(r.n)))
	}
	for _, n := range s.outcomes {
		s.events.put(uint64(n))
	}
	dst, at := begin(dst, fieldSums, len(s.rows))
	dst = e.appendColumns(dst, len(s.rows), c[:], nil, 0)
	dst = e.work.packer.append(dst, fieldSumEvents, source{data: s.events.data, n: len(s.outcomes)})
	dst = append(dst, fieldSumBuckets<<3|wireBytes)
	buckets := len(dst)
	w := bitWriter{dst: dst}
	for i := range s.rows {
		if r := &s.rows[i]; r.request {
			values := s.sorted[r.end-r.n : r.end]
			s.histogram(&w, values, 0, &r.latency)
			s.histogram(&w, values, 16, &r.duration)
		}
	}
	return endField(endField(w.end(), buckets), at)
}

// histogram writes the buckets of values, of which the numbers begin at a bit.
func (s *summer) histogram(w *bitWriter, values []uint32, shift uint, of *sumExtent) {
	for _, at := range values {
		s.counts[at>>shift&0xffff]++
	}
	s.list = s.list[:0]
	first, last := bucket(uint64(of.least)), bucket(uint64(of.most))
	for i, n := range s.counts[first : last+1] {
		if n > 0 {
			s.list = append(s.list, makeBucketCount(first+i, n))
		}
	}
	clear(s.counts[first : last+1])
	w.histogram(s.list, uint64(len(values)))
}
