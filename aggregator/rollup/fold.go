package rollup

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/weirmesh/weir/event"
)

// Clocks. Statistics are summed up by the second in which an exchange ended, by
// the wall clock of the proxy that saw it.
const (
	// maxSkew is how far a source's clock may differ from ours, µs. Beyond, its
	// times are moved by the difference.
	maxSkew = 2 * 60 * 1e6
	// maxBacklog is how old a batch may be that comes from the stream's
	// history, when nobody can tell when it arrived, µs.
	maxBacklog = 3 * 3600 * 1e6
	// maxAge is how long before its batch an event may have ended, µs.
	maxAge = 3600 * 1e6
	// farTime bounds times, so that sums of them can't overflow, µs.
	farTime = 1 << 55
)

// Reasons why a batch is refused.
const (
	// Malformed: the bytes are no batch, or a truncated one.
	Malformed = "malformed"
	// Oversized: more bytes than a batch may have.
	Oversized = "oversized"
	// WrongSource: the batch says that it is another workload's than the
	// subject that it came on.
	WrongSource = "wrong_source"
	// WrongSequence: no instance, no sequence, or one far ahead of the last.
	WrongSequence = "wrong_sequence"
	// WrongSubject: the subject names no workload.
	WrongSubject = "wrong_subject"
)

// Refusal is the error for a batch that was not counted.
type Refusal struct {
	// Reason is one of the constants above, Err says more.
	Reason string
	Err    error
}

// Error implements error.
func (r *Refusal) Error() string { return "batch refused (" + r.Reason + "): " + r.Err.Error() }

// Unwrap returns Err.
func (r *Refusal) Unwrap() error { return r.Err }

// Message is one message of the events stream. Other times are µs since 1970.
type Message struct {
	// Sequence in the stream, and when that got it, Unix ns (0: not known).
	Sequence uint64
	Stored   int64
	Data     []byte
	// Matches tells whether a workload may publish on the message's subject.
	Matches func(event.Workload) bool
	// Now is our clock. Arrived is when the message came to the stream, 0
	// where that is not known.
	Now, Arrived int64
	// Visit, where not nil, is called once for a batch that will be counted,
	// with the time it was sealed by our clock. What it returns, where not
	// nil, is called with each event before it is counted, until it returns
	// false; arguments are valid during the call only.
	Visit func(h *event.Header, sent int64) func(index int, e *event.Event) (more bool)
}

// Result tells what became of a batch.
type Result struct {
	// Duplicate: the batch was counted before.
	Duplicate bool
	// Skewed: its clock was wrong, and its times were moved by Shift, µs.
	Skewed bool
	Shift  int64
	// Sent is when it was sealed, by our clock, µs since 1970.
	Sent int64
	// Events that were counted, and Moved, those of them whose time was not
	// possible and was replaced by the batch's. Skipped were not counted, for
	// they are neither inbound nor outbound.
	Events, Moved, Skipped int
	// Coalesced events were counted as sums: their proxy shed their detail.
	Coalesced uint64
	// Lost batches that this one gives away; negative where it was one.
	Lost int64
}

// batch is what Fold needs to know of the batch at hand. Its slices are used
// again.
type batch struct {
	workload event.Workload
	pod      string
	// sent is the batch's time by our clock, shift what to add to its events'.
	sent, shift int64
	moved       int
	skipped     int
	pods        [3]*slot
	routings    [3]*routing
	// By the batch's dictionary numbers. ends tells of each connection which of
	// peers is at its other end, and in which direction.
	routes    []*slot
	ends      []end
	exchanges []exchange
	running   []running
	// pairings are those of exchanges and peers, paired the ones that have any
	// in the second at hand; pairingAt is the number of each, from 1, and empty
	// before the first.
	pairings  []pairing
	pairingAt []int32
	paired    []int32
	// peers are the different ones among the connections' peers, and byPeer
	// which of them the one of a number was last, from 1.
	peers  []peerSlots
	byPeer []int32
	// classes are the different outcomes, as far as cells tell them apart.
	classes []class
	// second is that of the events at hand. What follows holds for it alone:
	// touched are the exchanges that have sums, met the peers.
	second       int64
	touched, met []int32
	podCells     [3]*Cell
	// loaded is of what loadCells reads, which a compiler would else leave out.
	loaded uint64
	// lots are the buckets that wait for the cells of routes and of peers;
	// routeLots is the number of a route's, from 1.
	lots      []lot
	routeLots []int32
	// from and until are the ends of exchanges that are in this second for
	// certain, µs by the source's clock.
	from, until int64
	// at are the buckets of latency and duration of the rows at hand.
	at [event.RowsAtOnce]uint32
}

// exchange is what all events of a route and outcome have in common.
type exchange struct {
	state     exchangeState
	direction event.Direction
	request   bool
	success   bool
	class     uint8 // number in classes; maxClasses: in none
	route     int32
	cell      *Cell // of the route, in the second at hand
	outcome   outcome
}

type exchangeState uint8

const (
	unknown exchangeState = iota
	counted
	skipped // neither inbound nor outbound
)

// class is an outcome and what it is to the cells.
type class struct {
	number           int
	request, success bool
	outcome          outcome
}

// maxClasses is how many are counted together; events of others one by one.
const maxClasses = 16

// peerSlots are the slots of a peer in the batch at hand, with its sums in the
// second at hand.
type peerSlots struct {
	sums sums
	// tally are the events of each class in the second at hand.
	tally     [maxClasses]uint32
	lot       int32 // its number in lots
	direction event.Direction
	said      event.Peer
	security  event.Security
	reason    string
	// pairs are those with each route; empty where there would be too many.
	pairs []*slot
}

// Bounds of what is worth while to be remembered within a batch.
const (
	maxPeers = 64
	maxPairs = 1 << 16
	// maxLots are kept from one batch to the next.
	maxLots = 2048
)

// Fold counts one message of the stream, or refuses it with a *Refusal. Either
// way the position is then the message's. A batch is counted as a whole or not
// at all, and once, however often it comes.
func (f *Folder) Fold(m Message) (Result, error) {
	f.at = event.Mark{Sequence: m.Sequence, Stored: m.Stored}
	if len(m.Data) > event.MaxBatchBytes {
		return Result{}, &Refusal{Oversized, fmt.Errorf("%d bytes, at most %d are possible", len(m.Data), event.MaxBatchBytes)}
	}
	h, err := f.check(m.Data)
	if err != nil {
		return Result{}, &Refusal{Malformed, err}
	}
	if !m.Matches(h.Source.Workload) {
		return Result{}, &Refusal{WrongSource, fmt.Errorf("its source is %s", h.Source.Workload)}
	}
	id := SourceID{h.Instance, h.Source.Workload}
	s, known := f.sources[id]
	if !known {
		s = newSourceOf(h)
	}
	fresh, lost, ok := s.admit(h.Sequence, m.Now/1e6)
	if !ok || h.Instance == 0 {
		return Result{}, &Refusal{WrongSequence, fmt.Errorf("instance %016x, sequence %d after %d", h.Instance, h.Sequence, s.High)}
	}
	if !fresh {
		return Result{Duplicate: true}, nil
	}
	if !known {
		f.sources[s.ID] = s
		if len(f.sources) > f.limits.Sources+f.limits.Sources/10 {
			f.evict()
		}
	}
	f.changed[s.ID] = s
	if len(s.Missing) > 0 {
		f.gaps[s.ID] = s
	}
	shift := s.shift(h.Sent, m.Now, m.Arrived)
	sent := bounded(h.Sent) + shift
	own := f.recall(s, h, sent/1e6)
	b := f.begin(h, own, sent, shift)
	ledger := f.account(s, own, h, b, lost)
	r := Result{Skewed: shift != 0, Shift: shift, Sent: b.sent, Lost: lost}
	var visit func(int, *event.Event) bool
	if m.Visit != nil {
		visit = m.Visit(h, b.sent)
	}
	r.Events = f.events(b, visit)
	r.Events, r.Moved, r.Skipped = r.Events-b.skipped, b.moved, b.skipped
	s.Events += uint64(r.Events)
	s.Batches++
	if r.Skewed || r.Moved > 0 {
		f.offend(b.workload, OffenceClock, s.Pod)
	}
	r.Coalesced = f.coalesce(b)
	own.pods, own.routings = b.pods, b.routings
	ledger.Events += uint64(r.Events)
	ledger.Shed += r.Coalesced
	return r, nil
}

// check reads a batch's header. The decoder checks all of a batch before it
// gives anything, so no half of it can be counted.
func (f *Folder) check(data []byte) (*event.Header, error) {
	if err := f.decoder.Reset(data); err != nil {
		return nil, err
	}
	h := f.decoder.Header()
	if w := h.Source.Workload; w.Namespace == "" && w.Kind == "" && w.Name == "" {
		return nil, errors.New("the batch names no source")
	}
	return h, nil
}

func newSourceOf(h *event.Header) *Source {
	w := h.Source.Workload
	return &Source{
		ID:      SourceID{h.Instance, w.Clone()},
		Pod:     strings.Clone(cut(h.Source.Pod, maxName)),
		Node:    strings.Clone(cut(h.Source.Node, maxName)),
		Version: strings.Clone(cut(h.Version, maxName)),
	}
}

// shift is what to add to a source's times, 0 where its clock may be right.
//
// A batch from the future was written by a wrong clock. One from the past may
// also have waited in its proxy for an absent bus: that is assumed of a source
// whose clock has once been right. Where the time of arrival is not known (the
// batch is from the stream's history), the past is believed for some hours.
func (s *Source) shift(sent, now, arrived int64) int64 {
	sent = bounded(sent)
	reference := arrived
	if arrived == 0 {
		reference = now
		if sent <= now && now-sent < maxBacklog {
			return 0
		}
	}
	switch late := reference - sent; {
	case late < -maxSkew:
		s.ClockRight = false
		return late
	case late <= maxSkew:
		s.ClockRight = s.ClockRight || arrived != 0
		return 0
	case s.ClockRight && late < maxBacklog:
		return 0
	default:
		return late
	}
}

func bounded(t int64) int64 { return min(max(t, 0), farTime) }

// begin prepares f.batch.
func (f *Folder) begin(h *event.Header, m *memo, sent, shift int64) *batch {
	b := &f.batch
	routes, connections, _ := f.decoder.Counts()
	b.workload, b.pod = m.workload, m.pod
	b.sent, b.shift, b.moved, b.skipped = sent, shift, 0, 0
	b.pods, b.routings = m.pods, m.routings
	for d := range b.pods {
		if b.pods[d] != nil && b.pods[d].gone {
			b.pods[d] = nil
		}
	}
	b.routes = emptied(b.routes, routes)
	b.ends = emptied(b.ends, connections)
	b.exchanges = emptied(b.exchanges, f.decoder.Exchanges())
	b.running = emptied(b.running, f.decoder.Exchanges())
	b.routeLots = emptied(b.routeLots, routes)
	if cap(b.peers) > 16*maxPeers {
		b.peers = nil // of a burst
	}
	b.byPeer = emptied(b.byPeer, f.decoder.Peers())
	b.peers, b.classes = b.peers[:0], b.classes[:0]
	b.touched, b.met = b.touched[:0], b.met[:0]
	b.pairings, b.pairingAt, b.paired = b.pairings[:0], b.pairingAt[:0], b.paired[:0]
	if b.lots = b.lots[:0]; cap(b.lots) > maxLots {
		b.lots, b.pairings = nil, nil // of a burst
	}
	b.second, b.podCells = math.MinInt64, [3]*Cell{}
	b.from, b.until = 0, 0
	return b
}

// emptied is a slice of n zero values, in the memory of s where it suffices.
func emptied[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	s = s[:n]
	clear(s)
	return s
}

// account notes what the header says, and returns the cell of the ledger.
func (f *Folder) account(s *Source, m *memo, h *event.Header, b *batch, lost int64) *Cell {
	second := b.sent / 1e6
	if m.ledger == nil || m.ledger.gone {
		m.ledger = f.slot(ledgerKey(b.workload, s.Pod), second)
	}
	ledger := f.cell(m.ledger, second)
	ledger.Batches++
	ledger.Lost += lost
	s.Shed = max(s.Shed, h.Shed)
	s.Produced = max(s.Produced, h.Produced)
	if s.FirstSeen == 0 || second < s.FirstSeen {
		s.FirstSeen = second
	}
	if h.Sequence == s.High {
		s.OpenConnections = h.OpenConnections
	}
	s.LastSeen = max(s.LastSeen, second)
	s.Final = s.Final || h.Final
	return ledger
}

// route finds the slot of an event's route.
func (f *Folder) route(b *batch, exchange int) *slot {
	e := &f.event
	f.decoder.DescribeExchange(exchange, e)
	d := e.Direction
	if b.routings[d] == nil || b.routings[d].gone {
		b.routings[d] = f.routing(b.workload, d)
	}
	known := b.routings[d]
	f.name = appendName(f.name[:0], e)
	if s := known.remembered(f.name, b.second); s != nil {
		return s
	}
	k := Key{Dimension: ByRoute, Direction: d, Workload: b.workload}
	k.Route = f.routeOf(b.workload, known, e, b.second)
	s := f.slot(k, b.second)
	known.remember(f.name, e, s)
	return s
}

// peer finds the slots of an event's peer, that of another connection, mostly;
// the result is its number in b.peers, from 1.
func (f *Folder) peer(b *batch, x *exchange, exchange, connection int) int32 {
	number, security, reason := f.decoder.Peer(connection)
	if at := b.byPeer[number]; at > 0 {
		p := &b.peers[at-1]
		if p.direction == x.direction && p.security == security && p.reason == reason && (x.direction == event.Inbound || !p.said.Workload.IsZero()) {
			return at
		}
	}
	e := &f.event
	f.decoder.Describe(exchange, connection, e)
	for i := range b.peers[:min(len(b.peers), maxPeers)] {
		p := &b.peers[i]
		if p.direction == e.Direction && p.security == e.Security && p.reason == e.SecurityReason && samePeer(e, &p.said) {
			b.byPeer[number] = int32(i + 1)
			return int32(i + 1)
		}
	}
	if len(b.peers) < cap(b.peers) {
		b.peers = b.peers[:len(b.peers)+1]
	} else {
		b.peers = append(b.peers, peerSlots{})
	}
	p := &b.peers[len(b.peers)-1]
	*p = peerSlots{direction: e.Direction, said: e.Peer, security: e.Security, reason: e.SecurityReason, pairs: p.pairs[:0]}
	p.lot = b.newLot(f.slot(Key{Dimension: ByPeer, Direction: e.Direction, Workload: b.workload, Peer: peerOf(e)}, b.second))
	if e.Direction == event.Outbound && len(b.peers) <= maxPeers && len(b.routes)*maxPeers <= maxPairs {
		p.pairs = emptied(p.pairs, len(b.routes))
	}
	b.byPeer[number] = int32(len(b.peers))
	return int32(len(b.peers))
}

// samePeer tells whether an event's peer has the same key as p.
func samePeer(e *event.Event, p *event.Peer) bool {
	if e.Peer.Workload != p.Workload || e.Peer.Meshed != p.Meshed || e.Peer.Identity != p.Identity {
		return false
	}
	if !p.Workload.IsZero() {
		return true
	}
	if e.Direction == event.Outbound {
		return e.Peer.Addr == p.Addr
	}
	return e.Peer.Addr.Addr() == p.Addr.Addr()
}

// pair is the slot of a peer and route.
func (f *Folder) pair(b *batch, p *peerSlots, x *exchange, exchange, connection int) *slot {
	if len(p.pairs) > 0 && p.pairs[x.route] != nil {
		return p.pairs[x.route]
	}
	e := &f.event
	f.decoder.Describe(exchange, connection, e)
	key := Key{Dimension: ByPeerRoute, Direction: e.Direction, Workload: b.workload, Route: b.routes[x.route].key.Route}
	key.Peer.Workload = peerOf(e).Workload
	s := f.slot(key, b.second)
	if len(p.pairs) > 0 {
		p.pairs[x.route] = s
	}
	return s
}
