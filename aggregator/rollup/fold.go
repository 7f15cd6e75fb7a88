package rollup

import (
	"errors"
	"fmt"
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
	// Skewed: its clock was wrong.
	Skewed bool
	// Sent is when it was sealed, by our clock, µs since 1970.
	Sent int64
	// Events that were counted, and Moved, those of them whose time was not
	// possible and was replaced by the batch's.
	Events, Moved int
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
	totals      [3]*slot
	pods        [3]*slot
	// By the batch's dictionary numbers.
	peers  [3][]*slot
	routes []*slot
	pairs  map[[2]int]*slot
}

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
	r := Result{Skewed: shift != 0, Sent: b.sent, Lost: lost}
	var visit func(int, *event.Event)
	if m.Visit != nil {
		visit = m.Visit(h, b.sent)
	}
	r.Events = f.events(b, m.Data, visit)
	r.Moved = b.moved
	s.Events += uint64(r.Events)
	f.ledger(s, b.sent/1e6).Events += uint64(r.Events)
	return r, nil
}

// check reads a batch to its end, so that no half of it is counted, and leaves
// the decoder at its beginning.
func (f *Folder) check(data []byte) (*event.Header, error) {
	if err := f.decoder.Reset(data); err != nil {
		return nil, err
	}
	var e event.Event
	for f.decoder.Next(&e) {
		if e.Direction != event.Inbound && e.Direction != event.Outbound {
			return nil, fmt.Errorf("an event's direction is %d", e.Direction)
		}
	}
	if err := f.decoder.Err(); err != nil {
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
		ID: SourceID{h.Instance, event.Workload{
			Cluster:   strings.Clone(w.Cluster),
			Namespace: strings.Clone(w.Namespace),
			Kind:      strings.Clone(w.Kind),
			Name:      strings.Clone(w.Name),
		}},
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
	b.sent, b.shift, b.moved = sent, shift, 0
	b.totals, b.pods = [3]*slot{}, [3]*slot{}
	b.routes = emptied(b.routes, routes)
	for i := range b.peers {
		b.peers[i] = emptied(b.peers[i], connections)
	}
	if b.pairs == nil {
		b.pairs = map[[2]int]*slot{}
	}
	clear(b.pairs)
	return b
}

// emptied is a slice of n nils, in the memory of s where it suffices.
func emptied(s []*slot, n int) []*slot {
	if cap(s) < n {
		return make([]*slot, n)
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
	if h.Shed > s.Shed {
		ledger.Shed += h.Shed - s.Shed
		s.Shed = h.Shed
	}
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

// events counts the events of the batch, which has been checked.
func (f *Folder) events(b *batch, data []byte, visit func(int, *event.Event)) (n int) {
	if f.decoder.Reset(data) != nil {
		return 0 // not possible: it was checked
	}
	var e event.Event
	for ; f.decoder.Next(&e); n++ {
		if visit != nil {
			visit(n, &e)
		}
		f.observe(b, &e)
	}
	return n
}

// observe counts one event in each of its cells.
func (f *Folder) observe(b *batch, e *event.Event) {
	second := f.second(b, e)
	route, conn, _ := f.decoder.Indexes()
	d := e.Direction
	if b.totals[d] == nil {
		b.totals[d] = f.slot(Key{Dimension: Total, Direction: d, Workload: b.workload}, second)
		b.pods[d] = f.slot(Key{Dimension: ByPod, Direction: d, Workload: b.workload, Pod: b.pod}, second)
	}
	peer := b.peers[d][conn]
	if peer == nil {
		peer = f.slot(Key{Dimension: ByPeer, Direction: d, Workload: b.workload, Peer: peerOf(e)}, second)
		b.peers[d][conn] = peer
	}
	if b.routes[route] == nil {
		b.routes[route] = f.slot(Key{Dimension: ByRoute, Direction: d, Workload: b.workload, Route: routeOf(e)}, second)
	}
	request := e.IsRequest()
	success := request && e.Success()
	f.cell(b.totals[d], second).observe(e, request, success)
	f.cell(b.pods[d], second).observe(e, request, success)
	f.cell(peer, second).observe(e, request, success)
	f.cell(b.routes[route], second).observe(e, request, success)
	if d == event.Outbound {
		pair := b.pairs[[2]int{route, conn}]
		if pair == nil {
			key := Key{Dimension: ByPeerRoute, Direction: d, Workload: b.workload, Route: routeOf(e)}
			key.Peer.Workload = peerOf(e).Workload
			pair = f.slot(key, second)
			b.pairs[[2]int{route, conn}] = pair
		}
		f.cell(pair, second).observe(e, request, success)
	}
}

// second is the Unix second in which an exchange ended. Where that is not
// possible, or there are too many seconds at once, it is the batch's.
func (f *Folder) second(b *batch, e *event.Event) int64 {
	end := bounded(e.Start) + int64(min(e.Duration, farTime)) + b.shift
	if end > b.sent+maxSkew || end < b.sent-maxAge || f.pending >= 2*f.limits.Pending {
		b.moved++
		end = b.sent
	}
	return end / 1e6
}
