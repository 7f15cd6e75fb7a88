package prometheus

import (
	"slices"
	"strings"

	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/event"
)

// A batch is counted by pairs of a class and a peer: what the labels say of an
// event is the same for all of a pair. Its events are added up in the pair's
// tally, which comes into the rows once, at the end of the batch. Which rows are
// a pair's is remembered from batch to batch, for to find them takes as long as
// to count a hundred events.

// class is what the labels say of an exchange.
type class struct {
	authority, err string
	grpcStatus     int16
	status         uint16
	direction      event.Direction
	protocol       event.Protocol
	kind           event.Kind
}

// peer is what the labels say of a connection. The workload and pod are of
// outbound ones only.
type peer struct {
	workload event.Workload
	pod      string
	reason   string
	security event.Security
}

// origin is what the labels say of a batch.
type origin struct {
	workload event.Workload
	pod      string
}

// pairID names a pair of an origin, by the numbers that the table gave them.
type pairID struct{ origin, class, peer uint32 }

// rows are those of a pair; nil where the pair has none of the family.
type rows struct{ request, response, latency, connection, close *row }

// touch notes that the rows are in use.
func (x *rows) touch(now int64) {
	for _, r := range [...]*row{x.request, x.response, x.latency, x.connection, x.close} {
		if r != nil {
			r.used = now
		}
	}
}

// maxRemembered is how many pairs a table remembers.
const maxRemembered = 1 << 14

// memory is what a table knows of earlier batches. Nothing depends on it: what is
// remembered is what would be found.
type memory struct {
	origins map[origin]uint32
	classes map[class]uint32
	peers   map[peer]uint32
	pairs   map[pairID]rows
}

// forget begins anew.
func (m *memory) forget() {
	*m = memory{origins: map[origin]uint32{}, classes: map[class]uint32{}, peers: map[peer]uint32{}, pairs: map[pairID]rows{}}
}

// trim keeps the memory within its bound. Numbers given out before are void.
func (m *memory) trim() {
	if m.pairs == nil || max(len(m.origins), len(m.classes), len(m.peers), len(m.pairs)) > maxRemembered {
		m.forget()
	}
}

func (m *memory) origin(h *event.Header) uint32 {
	o := origin{h.Source.Workload, h.Source.Pod}
	n, ok := m.origins[o]
	if !ok {
		n = uint32(len(m.origins))
		o = origin{o.workload.Clone(), strings.Clone(o.pod)}
		m.origins[o] = n
	}
	return n
}

func (m *memory) class(e *event.Event) uint32 {
	c := class{e.Authority, e.Error, e.GRPCStatus, e.Status, e.Direction, e.Protocol, e.Kind}
	n, ok := m.classes[c]
	if !ok {
		n = uint32(len(m.classes))
		c.authority, c.err = strings.Clone(c.authority), strings.Clone(c.err)
		m.classes[c] = n
	}
	return n
}

func (m *memory) peer(e *event.Event) uint32 {
	p := peer{reason: e.SecurityReason, security: e.Security}
	if e.Direction == event.Outbound {
		p.workload, p.pod = e.Peer.Workload, e.Peer.Pod
	}
	n, ok := m.peers[p]
	if !ok {
		n = uint32(len(m.peers))
		p.workload, p.pod, p.reason = p.workload.Clone(), strings.Clone(p.pod), strings.Clone(p.reason)
		m.peers[p] = n
	}
	return n
}

// Bounds of what is found by an index; the rest is found by a map.
const (
	denseClasses = 256
	densePeers   = 64
	// keepTallies have their memory kept from batch to batch.
	keepTallies = 4096
)

// exchange is one of the batch at hand.
type exchange struct {
	class     int32 // number in the batch, from 1
	direction event.Direction
	tcp, end  bool
	// skipped ones are neither inbound nor outbound.
	skipped bool
}

// connection is one of the batch at hand.
type connection struct {
	// peer is its number in the batch as an inbound and as an outbound one, from 1;
	// 0: it was not met as such.
	peer [2]int32
}

// numbers gives what the table has numbered a number in the batch, from 1.
type numbers struct {
	of []uint32 // the table's, by the batch's less 1
	at []int32  // the batch's, by the table's; 0: none
}

func (n *numbers) reset() {
	for _, id := range n.of {
		n.at[id] = 0
	}
	n.of = n.of[:0]
}

func (n *numbers) number(id uint32) int32 {
	if int(id) >= len(n.at) {
		n.at = append(n.at, make([]int32, int(id)+1-len(n.at))...)
	}
	if n.at[id] == 0 {
		n.of = append(n.of, id)
		n.at[id] = int32(len(n.of))
	}
	return n.at[id]
}

// tally adds up the events of a pair in a batch.
type tally struct {
	rows        rows
	events      uint64
	read, write uint64
	latency     uint64
	buckets     [countInfinite + 1]uint32
}

// batch is the one at hand. Its memory is used again.
type batch struct {
	now     int64
	source  rollup.SourceID
	origin  uint32
	rows    event.Rows
	summary event.Summary
	event   event.Event
	// latency is that of a summary.
	latency event.Histogram

	exchanges      []exchange
	connections    []connection
	classes, peers numbers
	// dense and sparse have the number of a pair's tally, from 1; 0: none.
	dense   []int32
	sparse  map[uint64]int32
	tallies []tally
}

func (b *batch) begin(d *event.Decoder, now int64) {
	_, connections, _ := d.Counts()
	h := d.Header()
	b.now, b.source = now, rollup.SourceID{Instance: h.Instance, Workload: h.Source.Workload}
	b.exchanges = emptied(b.exchanges, d.Exchanges())
	b.connections = emptied(b.connections, connections)
	b.classes.reset()
	b.peers.reset()
	b.dense = b.dense[:0]
	clear(b.sparse)
	if cap(b.tallies) > keepTallies {
		b.tallies, b.sparse = nil, nil // of a batch out of the ordinary
	}
	b.tallies = b.tallies[:0]
}

// emptied is a slice of n zero values, in the memory of s where it suffices.
func emptied[T any](s []T, n int) []T {
	s = slices.Grow(s[:0], n)[:n]
	clear(s)
	return s
}

// fold counts the events of a batch, whose decoder is at its beginning. now is
// in Unix seconds.
func (t *table) fold(d *event.Decoder, now int64) {
	t.memory.trim()
	b := &t.batch
	b.begin(d, now)
	b.origin = t.memory.origin(d.Header())
	b.rows.Untimed = true // only the ends of connections need their times
	for i := range b.exchanges {
		t.meet(d, i)
	}
	for d.NextRows(&b.rows) {
		t.count(d)
	}
	t.coalesce(d)
	t.settle()
}

// count counts the rows at hand.
func (t *table) count(d *event.Decoder) {
	b := &t.batch
	r := &b.rows
	n := r.N
	connections, latencies, reads, writes := r.Connection[:n], r.Latency[:n], r.RequestBytes[:n], r.ResponseBytes[:n]
	for i, exchange := range r.Exchange[:n] {
		x := &b.exchanges[exchange]
		if x.skipped {
			continue
		}
		at := int32(0)
		if peer := b.connections[connections[i]].peer[x.direction&1]; uint32(peer-1) < densePeers && x.class <= denseClasses {
			at = b.dense[(x.class-1)*densePeers+peer-1]
		}
		if at == 0 {
			at = t.tally(d, x, int(exchange), int(connections[i]))
		}
		c := &b.tallies[at-1]
		c.buckets[bucket(latencies[i])]++
		c.latency += latencies[i]
		c.read += reads[i]
		c.write += writes[i]
		if x.tcp {
			t.connection(d, x, c, i)
		}
	}
}

// meet finds out what an exchange of the batch is.
func (t *table) meet(d *event.Decoder, number int) {
	b := &t.batch
	e, x := &b.event, &b.exchanges[number]
	d.DescribeExchange(number, e)
	x.direction, x.skipped = e.Direction, e.Direction != event.Inbound && e.Direction != event.Outbound
	b.rows.Untimed = b.rows.Untimed && e.Protocol != event.TCP && e.Protocol != event.TLS
	x.tcp, x.end = e.Protocol == event.TCP || e.Protocol == event.TLS, e.Kind == event.End
	if x.skipped {
		return
	}
	x.class = b.classes.number(t.memory.class(e))
	if x.class <= denseClasses && len(b.dense) < int(x.class)*densePeers {
		b.dense = append(b.dense, make([]int32, densePeers)...)
	}
}

// tally is the number, from 1, of where an event is counted.
func (t *table) tally(d *event.Decoder, x *exchange, exchange, connection int) int32 {
	b := &t.batch
	peer := b.connections[connection].peer[x.direction&1]
	if peer == 0 {
		peer = t.meetPeer(d, x, exchange, connection)
	}
	var at int32
	if x.class <= denseClasses && peer <= densePeers {
		at = b.dense[(x.class-1)*densePeers+peer-1]
	} else {
		at = b.sparse[uint64(x.class)<<32|uint64(peer)]
	}
	if at == 0 {
		at = t.newTally(d, x, peer, exchange, connection)
	}
	return at
}

// meetPeer finds out whom a connection of the batch is to.
func (t *table) meetPeer(d *event.Decoder, x *exchange, exchange, connection int) int32 {
	b := &t.batch
	d.Describe(exchange, connection, &b.event)
	n := b.peers.number(t.memory.peer(&b.event))
	b.connections[connection].peer[x.direction&1] = n
	return n
}

// newTally begins to count a pair of the batch.
func (t *table) newTally(d *event.Decoder, x *exchange, peer int32, exchange, connection int) int32 {
	b, m := &t.batch, &t.memory
	id := pairID{b.origin, b.classes.of[x.class-1], b.peers.of[peer-1]}
	of, ok := m.pairs[id]
	if !ok {
		d.Describe(exchange, connection, &b.event)
		of = t.find(d.Header(), &b.event, b.now)
		m.pairs[id] = of
	}
	of.touch(b.now)
	b.tallies = append(b.tallies, tally{rows: of})
	at := int32(len(b.tallies))
	if x.class <= denseClasses && peer <= densePeers {
		b.dense[(x.class-1)*densePeers+peer-1] = at
		return at
	}
	if b.sparse == nil {
		b.sparse = map[uint64]int32{}
	}
	b.sparse[uint64(x.class)<<32|uint64(peer)] = at
	return at
}

// find finds the rows of an event.
func (t *table) find(h *event.Header, e *event.Event, now int64) rows {
	base := common(h, e)
	x := rows{connection: t.row(connections, base, now)}
	if tcp := e.Protocol == event.TCP || e.Protocol == event.TLS; tcp && e.Kind == event.End {
		x.close = t.row(closes, base.asClose(e), now)
	}
	if e.IsRequest() {
		request := base.asRequest(e)
		latency := request.asLatency(e)
		x.request = t.row(requests, request, now)
		x.latency = t.row(latencies, latency, now)
		x.response = t.row(responses, latency.asResponse(e), now)
	}
	return x
}

// connection counts the open and the end of a connection, each once, whatever
// the order in which its events come.
func (t *table) connection(d *event.Decoder, x *exchange, c *tally, i int) {
	b := &t.batch
	d.Describe(int(b.rows.Exchange[i]), int(b.rows.Connection[i]), &b.event)
	id := connectionID{b.source, x.direction, b.event.Connection}
	ended, seen := t.open[id]
	if !x.end {
		if !seen && len(t.open) < maxOpen {
			id.source.Workload = id.source.Workload.Clone()
			t.open[id] = 0
			c.rows.connection.n[countTotal]++
		}
		return
	}
	c.rows.close.n[countTotal]++
	if !seen {
		c.rows.connection.n[countTotal]++
	}
	if seen && ended == 0 || b.rows.Duration[i] >= longLived && len(t.open) < maxOpen {
		id.source.Workload = id.source.Workload.Clone()
		t.open[id] = b.now
	}
}

// coalesce counts the batch's summaries, of events that their proxy could not
// keep one by one. Their latencies are those of a histogram: whether one just at
// a bound of the ladder is above or below it may be told wrong.
func (t *table) coalesce(d *event.Decoder) {
	b := &t.batch
	s := &b.summary
	for d.NextSummary(s) {
		x := &b.exchanges[s.Exchange]
		if x.skipped {
			continue
		}
		c := &b.tallies[t.tally(d, x, s.Exchange, s.Connection)-1]
		c.events += s.Events
		c.read += s.RequestBytes
		c.write += s.ResponseBytes
		if c.rows.close != nil {
			c.rows.connection.n[countTotal] += s.Events
			c.rows.close.n[countTotal] += s.Events
		}
		if c.rows.latency == nil {
			continue
		}
		_ = b.latency.UnmarshalBinary(s.Latency) // the decoder has checked it
		b.latency.Each(func(value float64, n uint64) { c.rows.latency.n[bucket(uint64(value))] += n })
		c.latency += b.latency.Sum()
	}
}

// settle brings the tallies of the batch into the rows.
func (t *table) settle() {
	for i := range t.batch.tallies {
		c := &t.batch.tallies[i]
		if c.rows.latency != nil {
			for k, n := range c.buckets {
				c.rows.latency.n[k] += uint64(n)
			}
			c.rows.latency.n[countSum] += c.latency
		}
		for _, n := range c.buckets {
			c.events += uint64(n)
		}
		t.events += c.events
		c.rows.connection.n[countRead] += c.read
		c.rows.connection.n[countWrite] += c.write
		if c.rows.request != nil {
			c.rows.request.n[countTotal] += c.events
			c.rows.response.n[countTotal] += c.events
		}
	}
}

// places has the place of latencies up to a second, by their milliseconds,
// rounded up.
var places = func() (to [1001]uint8) {
	place := 0
	for ms := range to {
		if uint64(ms) > ladder[place] {
			place++
		}
		to[ms] = uint8(place)
	}
	return to
}()

// bucket is the place of a latency, µs.
func bucket(latency uint64) int {
	if latency <= 1_000_000 {
		return int(places[(latency+999)/1000])
	}
	low, high := int(places[1000]), countInfinite
	for low < high {
		if mid := (low + high) / 2; latency <= ladder[mid]*1000 {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return low
}
