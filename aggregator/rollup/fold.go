package rollup

import (
	"errors"
	"fmt"
	"slices"
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

// Message is one message of the events stream. Times are µs since 1970.
type Message struct {
	// Sequence in the stream.
	Sequence uint64
	Data     []byte
	// Matches tells whether a workload may publish on the message's subject.
	Matches func(event.Workload) bool
	// Now is our clock. Arrived is when the message came to the stream, 0
	// where that is not known.
	Now, Arrived int64
	// Visit, where not nil, is called once for a batch that will be counted,
	// with the time it was sealed by our clock. What it returns, where not
	// nil, is called with each event before it is counted; arguments are valid
	// during the call only.
	Visit func(h *event.Header, sent int64) func(index int, e *event.Event)
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
	// By the batch's dictionary numbers.
	routes    []*slot
	conns     []*peerSlots
	exchanges []exchange
	// peers are the different ones among the connections' peers.
	peers []*peerSlots
}

// exchange is what all events of a route and outcome have in common, with room
// for what one of them has of its own.
type exchange struct {
	event            event.Event
	route            int
	known            bool
	request, success bool
}

// peerSlots are the slots of a peer in the batch at hand.
type peerSlots struct {
	direction event.Direction
	said      event.Peer
	security  event.Security
	reason    string
	slot      *slot
	// pairs are those with each route; nil where there would be too many.
	pairs []*slot
}

// Bounds of what is worth while to be remembered within a batch.
const (
	maxPeers = 64
	maxPairs = 1 << 16
)

// Fold counts one message of the stream, or refuses it with a *Refusal. Either
// way the position is then the message's. A batch is counted as a whole or not
// at all, and once, however often it comes.
func (f *Folder) Fold(m Message) (Result, error) {
	f.position = m.Sequence
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
	b := f.begin(h, bounded(h.Sent)+shift, shift)
	f.account(s, h, b, lost)
	r := Result{Skewed: shift != 0, Shift: shift, Sent: b.sent, Lost: lost}
	var visit func(int, *event.Event)
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
	ledger := f.ledger(s, b.sent/1e6)
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
		ID:      SourceID{h.Instance, cloneWorkload(w)},
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
func (f *Folder) begin(h *event.Header, sent, shift int64) *batch {
	b := &f.batch
	routes, connections, _ := f.decoder.Counts()
	b.workload = f.admitWorkload(h.Source.Workload, sent/1e6)
	b.pod = cut(h.Source.Pod, maxName)
	b.sent, b.shift, b.moved, b.skipped = sent, shift, 0, 0
	b.pods, b.routings = [3]*slot{}, [3]*routing{}
	b.routes = emptied(b.routes, routes)
	b.conns = emptied(b.conns, connections)
	b.peers = b.peers[:0]
	b.exchanges = slices.Grow(b.exchanges[:0], f.decoder.Exchanges())[:f.decoder.Exchanges()]
	clear(b.exchanges)
	return b
}

// emptied is a slice of n nils, in the memory of s where it suffices.
func emptied[T any](s []*T, n int) []*T {
	if cap(s) < n {
		return make([]*T, n)
	}
	s = s[:n]
	clear(s)
	return s
}

// account notes what the header says.
func (f *Folder) account(s *Source, h *event.Header, b *batch, lost int64) {
	second := b.sent / 1e6
	ledger := f.ledger(s, second)
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
}

// events counts the events of the batch, whose decoder is at its beginning.
func (f *Folder) events(b *batch, visit func(int, *event.Event)) (n int) {
	var r event.Row
	var whole event.Event
	for ; f.decoder.NextRow(&r); n++ {
		x := &b.exchanges[r.Exchange]
		if !x.known {
			f.decoder.Describe(r.Exchange, r.Connection, &x.event)
			x.route, _ = f.decoder.Exchange(r.Exchange)
			x.request = x.event.IsRequest()
			x.success = x.request && x.event.Success()
			x.known = true
		}
		if x.event.Direction != event.Inbound && x.event.Direction != event.Outbound {
			b.skipped++
			continue
		}
		if visit != nil {
			f.decoder.Fill(&whole)
			visit(n, &whole)
		}
		f.observe(b, x, &r)
	}
	return n
}

// observe counts one event in each of its cells. The total is the sum over the
// pods, and is worked out when it is needed.
func (f *Folder) observe(b *batch, x *exchange, r *event.Row) {
	second := f.second(b, r)
	e := &x.event
	e.Latency, e.Duration = r.Latency, r.Duration
	e.RequestBytes, e.ResponseBytes = r.RequestBytes, r.ResponseBytes
	pod := b.pods[e.Direction]
	if pod == nil {
		pod = f.slot(Key{Dimension: ByPod, Direction: e.Direction, Workload: b.workload, Pod: b.pod}, second)
		b.pods[e.Direction] = pod
	}
	route := b.routes[x.route]
	if route == nil {
		route = f.route(b, e, second)
		b.routes[x.route] = route
	}
	peer := b.conns[r.Connection]
	if peer == nil || peer.direction != e.Direction {
		f.decoder.Describe(r.Exchange, r.Connection, e)
		peer = f.peer(b, e, second)
		b.conns[r.Connection] = peer
	}
	f.cell(pod, second).observe(e, x.request, x.success)
	f.cell(route, second).observe(e, x.request, x.success)
	f.cell(peer.slot, second).observe(e, x.request, x.success)
	if e.Direction == event.Outbound {
		f.cell(f.pair(b, peer, x, r, second), second).observe(e, x.request, x.success)
	}
}

// route finds the slot of an event's route.
func (f *Folder) route(b *batch, e *event.Event, second int64) *slot {
	if b.routings[e.Direction] == nil {
		b.routings[e.Direction] = f.routing(b.workload, e.Direction)
	}
	k := Key{Dimension: ByRoute, Direction: e.Direction, Workload: b.workload}
	k.Route = f.routeOf(b.workload, b.routings[e.Direction], e, second)
	return f.slot(k, second)
}

// peer finds the slots of an event's peer: that of another connection, mostly.
func (f *Folder) peer(b *batch, e *event.Event, second int64) *peerSlots {
	for _, p := range b.peers {
		if p.direction == e.Direction && p.security == e.Security && p.reason == e.SecurityReason && samePeer(e, &p.said) {
			return p
		}
	}
	p := &peerSlots{direction: e.Direction, said: e.Peer, security: e.Security, reason: e.SecurityReason}
	p.slot = f.slot(Key{Dimension: ByPeer, Direction: e.Direction, Workload: b.workload, Peer: peerOf(e)}, second)
	if len(b.peers) < maxPeers {
		b.peers = append(b.peers, p)
		if e.Direction == event.Outbound && len(b.routes)*maxPeers <= maxPairs {
			p.pairs = make([]*slot, len(b.routes))
		}
	}
	return p
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
func (f *Folder) pair(b *batch, p *peerSlots, x *exchange, r *event.Row, second int64) *slot {
	if p.pairs != nil && p.pairs[x.route] != nil {
		return p.pairs[x.route]
	}
	e := &x.event
	f.decoder.Describe(r.Exchange, r.Connection, e) // its peer may be another event's
	key := Key{Dimension: ByPeerRoute, Direction: e.Direction, Workload: b.workload, Route: b.routes[x.route].key.Route}
	key.Peer.Workload = peerOf(e).Workload
	s := f.slot(key, second)
	if p.pairs != nil {
		p.pairs[x.route] = s
	}
	return s
}

// second is the Unix second in which an exchange ended. Where that is not
// possible, or there are too many seconds at once, it is the batch's.
func (f *Folder) second(b *batch, r *event.Row) int64 {
	start := bounded(r.End - int64(r.Duration))
	end := start + int64(min(r.Duration, farTime)) + b.shift
	if end > b.sent+maxSkew || end < b.sent-maxAge || f.pending >= 2*f.limits.Pending {
		b.moved++
		end = b.sent
	}
	return end / 1e6
}
