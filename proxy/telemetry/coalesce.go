package telemetry

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/weirmesh/weir/event"
)

// Bounds of what is kept of events that are coalesced.
const (
	// maxCoalescedBytes lets all summaries fit into one batch.
	maxCoalescedBytes = 512 << 10
	// maxCells are summed up at a time; a cell takes some KiB.
	maxCells = 64
	// maxKinds of summaries are told apart when there are too many.
	maxKinds = 64
	// maxWidth is, in seconds, more than any time: all are one.
	maxWidth = 1 << 40
	// rowBytes and kindBytes are what a summary and a kind take beside their
	// histograms.
	rowBytes  = 112
	kindBytes = 448
	// otherName stands for errors that are no longer told apart.
	otherName = "(other)"
)

// How much is told apart of what summaries are of.
const (
	coarsePeers    = 1 // not the peers
	coarseOutcomes = 2 // nor the outcomes, but for success and class of status
	coarseAll      = 3 // nothing but direction, success and what is a request
)

// coalescer sums up events whose detail cannot be kept. Sums are exact,
// whatever happens; what gives way, where there are too many, is how many are
// told apart: seconds are merged, then peers, then outcomes.
type coalescer struct {
	// kinds are what summaries are of, byKind their numbers.
	kinds  []event.Event
	byKind map[event.Event]int
	rows   []row
	bytes  int
	events uint64
	width  int64 // seconds that count as one
	coarse int

	decoder event.Decoder
	// seen are the kinds of the batch at hand by exchange and connection.
	seen  map[[2]int]int
	cells map[cellKey]*cell
	spare []*cell
}

// row is a summary: of what, and how much.
type row struct {
	kind int
	event.Summary
}

type cellKey struct {
	kind   int
	second int64
}

// cell is a summary that is being made.
type cell struct {
	events, request, response uint64
	latency, duration         event.Histogram
}

func (c *coalescer) empty() bool { return len(c.rows) == 0 }

// add sums up all events and summaries of an encoded batch.
func (c *coalescer) add(batch []byte) error {
	if err := c.decoder.Reset(batch); err != nil {
		return err
	}
	if c.cells == nil {
		c.cells, c.byKind, c.seen = make(map[cellKey]*cell), make(map[event.Event]int), make(map[[2]int]int)
		c.width = 1
	}
	clear(c.seen)
	var r event.Row
	for c.decoder.NextRow(&r) {
		at := [2]int{r.Exchange, r.Connection}
		kind, ok := c.seen[at]
		if !ok {
			kind = c.kind(c.describe(r.Exchange, r.Connection))
			c.seen[at] = kind
		}
		s := c.cell(kind, floorDiv(r.End, 1e6))
		s.events++
		s.request += r.RequestBytes
		s.response += r.ResponseBytes
		if c.kinds[kind].IsRequest() {
			s.latency.Record(r.Latency)
			s.duration.Record(r.Duration)
		}
		c.events++
	}
	var sum event.Summary
	for c.decoder.NextSummary(&sum) {
		c.addRow(c.kind(c.describe(sum.Exchange, sum.Connection)), sum)
		c.events += sum.Events
	}
	c.freeze()
	if c.bytes > maxCoalescedBytes || len(c.rows) > event.MaxSummaries {
		c.compact()
	}
	return nil
}

// floorDiv rounds down.
func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// describe is what the statistics of an event depend on.
func (c *coalescer) describe(exchange, connection int) event.Event {
	var e event.Event
	c.decoder.Describe(exchange, connection, &e)
	return e
}

// kind finds or makes what summaries are of, as coarse as it must be now.
func (c *coalescer) kind(e event.Event) int {
	k := coarser(&e, c.coarse)
	if n, ok := c.byKind[k]; ok {
		return n
	}
	for _, s := range []*string{
		&k.Error, &k.SecurityReason, &k.Peer.Identity, &k.Peer.Workload.Cluster,
		&k.Peer.Workload.Namespace, &k.Peer.Workload.Kind, &k.Peer.Workload.Name,
	} {
		*s = strings.Clone(*s)
	}
	n := len(c.kinds)
	c.kinds = append(c.kinds, k)
	c.byKind[k] = n
	c.bytes += kindBytes
	return n
}

// coarser leaves of an event what is to be told apart. Whether it is a request,
// and a success, never changes.
func coarser(e *event.Event, coarse int) event.Event {
	k := event.Event{
		Kind: e.Kind, Direction: e.Direction, Protocol: e.Protocol, Status: e.Status, GRPCStatus: e.GRPCStatus,
		Error: e.Error, Path: event.CoalescedPath, Security: e.Security, SecurityReason: e.SecurityReason,
		Peer: event.Peer{Workload: e.Peer.Workload, Identity: e.Peer.Identity, Meshed: e.Peer.Meshed},
	}
	if e.Peer.Workload.IsZero() {
		k.Peer.Addr = e.Peer.Addr
		if e.Direction != event.Outbound {
			k.Peer.Addr = netip.AddrPortFrom(e.Peer.Addr.Addr(), 0)
		}
	}
	if coarse >= coarsePeers {
		k.Peer = event.Peer{Meshed: e.Peer.Meshed}
		k.Security, k.SecurityReason = 0, ""
	}
	if coarse < coarseOutcomes {
		return k
	}
	success := e.Success()
	if k.Error != "" {
		k.Error = otherName
	}
	k.Status = min(k.Status/100*100, 500)
	if e.Status > 0 {
		k.Status = max(k.Status, 100)
	}
	if k.Protocol == event.GRPC && k.GRPCStatus > 0 {
		k.GRPCStatus = 2 // for any that fails
		if alone := (event.Event{Protocol: event.GRPC, Status: 200, GRPCStatus: e.GRPCStatus}); alone.Success() {
			k.GRPCStatus = 0
		}
	}
	if coarse < coarseAll {
		return k
	}
	all := event.Event{Kind: e.Kind, Direction: e.Direction, GRPCStatus: event.NoGRPCStatus, Path: event.CoalescedPath, Status: 200}
	if e.Protocol == event.TCP || e.Protocol == event.TLS {
		all.Protocol, all.Status = event.TCP, 0
	}
	if !success {
		all.Error = otherName
	}
	return all
}

// cell finds or makes the one of a kind and second.
func (c *coalescer) cell(kind int, second int64) *cell {
	k := cellKey{kind, floorDiv(second, c.width) * c.width}
	if s := c.cells[k]; s != nil {
		return s
	}
	if len(c.cells) == maxCells {
		c.freeze()
	}
	var s *cell
	if n := len(c.spare); n > 0 {
		s, c.spare = c.spare[n-1], c.spare[:n-1]
	} else {
		s = new(cell)
	}
	c.cells[k] = s
	return s
}

// freeze makes summaries of all cells.
func (c *coalescer) freeze() {
	for k, s := range c.cells {
		c.addRow(k.kind, event.Summary{
			Second: k.second, Events: s.events, RequestBytes: s.request, ResponseBytes: s.response,
			Latency: s.latency.AppendBinary(nil), Duration: s.duration.AppendBinary(nil),
		})
		s.events, s.request, s.response = 0, 0, 0
		s.latency.Reset()
		s.duration.Reset()
		c.spare = append(c.spare, s)
	}
	clear(c.cells)
}

// addRow adds a summary, whose histograms may be in the batch at hand.
func (c *coalescer) addRow(kind int, s event.Summary) {
	s.Latency, s.Duration = slices.Clone(s.Latency), slices.Clone(s.Duration)
	c.rows = append(c.rows, row{kind, s})
	c.bytes += rowBytes + len(s.Latency) + len(s.Duration)
}

// compact tells less and less apart until half of the room is free, or nothing
// is left to merge.
func (c *coalescer) compact() {
	for c.merge(); c.bytes > maxCoalescedBytes/2 || len(c.rows) > event.MaxSummaries/2; c.merge() {
		switch {
		case len(c.kinds) > maxKinds && c.coarse < coarseAll:
			c.coarse++
		case c.width < maxWidth:
			c.width *= 2
		case c.coarse < coarseAll:
			c.coarse++
		default:
			return
		}
	}
}

// merge joins the summaries that are no longer told apart.
func (c *coalescer) merge() {
	rows, kinds := c.rows, c.kinds
	c.kinds, c.rows, c.bytes = nil, nil, 0
	clear(c.byKind)
	for i := range rows {
		rows[i].kind = c.kind(kinds[rows[i].kind])
		rows[i].Second = floorDiv(rows[i].Second, c.width) * c.width
	}
	slices.SortStableFunc(rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.Second, b.Second))
	})
	var one, sum event.Histogram
	both := func(a, b []byte) []byte {
		// Both were made by AppendBinary.
		_ = one.UnmarshalBinary(a)
		sum.Reset()
		sum.Merge(&one)
		_ = one.UnmarshalBinary(b)
		sum.Merge(&one)
		return sum.AppendBinary(nil)
	}
	for _, r := range rows {
		if n := len(c.rows); n > 0 && c.rows[n-1].kind == r.kind && c.rows[n-1].Second == r.Second {
			s := &c.rows[n-1]
			c.bytes -= len(s.Latency) + len(s.Duration)
			s.Events += r.Events
			s.RequestBytes += r.RequestBytes
			s.ResponseBytes += r.ResponseBytes
			s.Latency, s.Duration = both(s.Latency, r.Latency), both(s.Duration, r.Duration)
			c.bytes += len(s.Latency) + len(s.Duration)
			continue
		}
		c.rows = append(c.rows, r)
		c.bytes += rowBytes + len(r.Latency) + len(r.Duration)
	}
}

// put adds all summaries to an encoder.
func (c *coalescer) put(enc *event.Encoder) {
	for i := range c.rows {
		enc.AddSummary(&c.kinds[c.rows[i].kind], &c.rows[i].Summary)
	}
}

// reset forgets all, its memory included: it is seldom needed.
func (c *coalescer) reset() { *c = coalescer{} }
