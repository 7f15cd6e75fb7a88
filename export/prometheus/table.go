package prometheus

import (
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/export"
)

// ladder are the upper bounds of response_latency_ms, milliseconds: Linkerd's.
var ladder = [...]uint64{
	1, 2, 3, 4, 5, 10, 20, 30, 40, 50, 100, 200, 300, 400, 500, 1000, 2000, 3000, 4000, 5000, 10_000, 20_000, 30_000, 40_000, 50_000,
}

// Places of a row's counters. Those of a histogram are its buckets, not
// cumulative, then the sum, µs.
const (
	countTotal = 0
	countRead  = 1
	countWrite = 2

	countInfinite = len(ladder)
	countSum      = countInfinite + 1
	counters      = countSum + 1
)

// row is what was counted for one family and set of labels.
type row struct {
	family family
	labels labels
	n      [counters]uint64
	// used is when it was counted last, Unix seconds.
	used int64
}

// Bounds of a table.
const (
	// maxAuthorities of a workload and direction have rows of their own, and
	// maxDstPods that it sends to.
	maxAuthorities = 100
	maxDstPods     = 200
	// workloadShare of all rows may be one workload's.
	workloadShare = 4
	// maxTableBytes bounds the rows of a partition as they are stored: a state
	// must fit into one message of the bus.
	maxTableBytes = 4 << 20
	rowBytes      = 128
	// maxOpen long-lived connections of a partition are known to be counted.
	maxOpen = 4096
	// endedMemory is how long an ended one is remembered, seconds: an older
	// event of it may still come.
	endedMemory = 600
	// longLived connections may have told of themselves before their end, µs.
	longLived = 5e6
	// maxPeers of a batch are told apart cheaply.
	maxPeers = 128
)

// budget is how many rows there may be in all tables together.
type budget struct {
	limit int64
	used  atomic.Int64
}

// connectionID names a long-lived connection.
type connectionID struct {
	source     rollup.SourceID
	direction  event.Direction
	connection uint64
}

// table counts the events of a partition. It is not safe for concurrent use.
type table struct {
	budget *budget
	rows   map[string]*row
	bytes  int
	// perWorkload counts the rows of each workload and direction; authorities and
	// dstPods are those that it has rows for.
	perWorkload          map[string]int
	authorities, dstPods names
	// open has when connections ended that were counted while they were open:
	// 0 where they did not, yet.
	open   map[connectionID]int64
	events uint64

	// Of the batch at hand: its connections, the different peers among them, and
	// the entries of each of its exchanges, by peer.
	connections []connection
	peers       []peer
	entries     [][]*entry
	// latency is that of the summary at hand.
	latency event.Histogram
	id      []byte
}

// names are those that have rows of their own, by workload and direction.
type names map[string]map[string]struct{}

// bound is the name, or that of the others where a workload has most already.
func (n names) bound(workload, name string, most int) string {
	if known := n[workload]; name != "" && len(known) >= most {
		if _, ok := known[name]; !ok {
			return otherName
		}
	}
	return name
}

func (n names) add(workload, name string) {
	if name == "" || name == otherName {
		return
	}
	if n[workload] == nil {
		n[workload] = map[string]struct{}{}
	}
	n[workload][name] = struct{}{}
}

// peer is what the labels say of a connection.
type peer struct {
	workload event.Workload
	pod      string // of an outbound one
	security event.Security
	reason   string
}

// connection is one of a batch. Its peer is a number from 1; 0: it is not known
// yet.
type connection struct {
	id   uint64
	peer int
}

// entry is where the events of an exchange with a peer are counted.
type entry struct {
	request, response, latency, connection, close *row
	direction                                     event.Direction
	tcp, end                                      bool
	// counted is false for what is neither inbound nor outbound.
	counted bool
}

func newTable(b *budget) *table {
	return &table{
		budget:      b,
		rows:        map[string]*row{},
		perWorkload: map[string]int{},
		authorities: names{},
		dstPods:     names{},
		open:        map[connectionID]int64{},
	}
}

// fold counts the events of a batch, whose decoder is at its beginning. now is
// in Unix seconds.
func (t *table) fold(d *event.Decoder, now int64) {
	h := d.Header()
	t.begin(d)
	source := rollup.SourceID{Instance: h.Instance, Workload: h.Source.Workload}
	var r event.Row
	for d.NextRow(&r) {
		if x := t.lookup(d, &r, now); x.counted {
			t.count(x, &source, &r, now)
		}
	}
	t.coalesce(d, now)
}

// begin makes room for a batch.
func (t *table) begin(d *event.Decoder) {
	_, connections, _ := d.Counts()
	t.connections = slices.Grow(t.connections[:0], connections)[:connections]
	clear(t.connections)
	t.peers = t.peers[:0]
	t.entries = slices.Grow(t.entries[:0], d.Exchanges())[:d.Exchanges()]
	for i := range t.entries {
		t.entries[i] = t.entries[i][:0]
	}
}

// lookup finds the entry of an event. Most events have that of one before them.
func (t *table) lookup(d *event.Decoder, r *event.Row, now int64) *entry {
	known := t.entries[r.Exchange]
	if n := t.connections[r.Connection].peer; n > 0 && n <= len(known) && known[n-1] != nil {
		return known[n-1]
	}
	return t.learn(d, r, now)
}

// learn makes the entry of an event.
func (t *table) learn(d *event.Decoder, r *event.Row, now int64) *entry {
	var e event.Event
	d.Describe(r.Exchange, r.Connection, &e)
	c := &t.connections[r.Connection]
	if c.peer == 0 {
		c.id, c.peer = e.Connection, t.peer(&e)
	}
	known := t.entries[r.Exchange]
	if c.peer <= len(known) && known[c.peer-1] != nil {
		return known[c.peer-1]
	}
	x := t.entry(d.Header(), &e, now)
	if c.peer > maxPeers {
		return x
	}
	for len(known) < c.peer {
		known = append(known, nil)
	}
	known[c.peer-1] = x
	t.entries[r.Exchange] = known
	return x
}

// peer is the number of an event's peer: beyond maxPeers there is one for all,
// whose entries lookup does not keep.
func (t *table) peer(e *event.Event) int {
	p := peer{workload: e.Peer.Workload, security: e.Security, reason: e.SecurityReason}
	if e.Direction == event.Outbound {
		p.pod = e.Peer.Pod
	}
	if i := slices.Index(t.peers, p); i >= 0 {
		return i + 1
	}
	if len(t.peers) >= maxPeers {
		return maxPeers + 1
	}
	t.peers = append(t.peers, p)
	return len(t.peers)
}

// coalesce counts the batch's summaries, of events that their proxy could not
// keep one by one. Their latencies are those of a histogram: whether one just at
// a bound of the ladder is above or below it may be told wrong.
func (t *table) coalesce(d *event.Decoder, now int64) {
	h := d.Header()
	var s event.Summary
	for d.NextSummary(&s) {
		var e event.Event
		d.Describe(s.Exchange, s.Connection, &e)
		x := t.entry(h, &e, now)
		if !x.counted {
			continue
		}
		t.events += s.Events
		x.connection.n[countRead] += s.RequestBytes
		x.connection.n[countWrite] += s.ResponseBytes
		if x.close != nil {
			x.connection.n[countTotal] += s.Events
			x.close.n[countTotal] += s.Events
		}
		if x.request == nil {
			continue
		}
		x.request.n[countTotal] += s.Events
		x.response.n[countTotal] += s.Events
		_ = t.latency.UnmarshalBinary(s.Latency) // the decoder has checked it
		t.latency.Each(func(value float64, n uint64) { x.latency.n[bucket(uint64(value))] += n })
		x.latency.n[countSum] += t.latency.Sum()
	}
}

// entry finds the rows of an event.
func (t *table) entry(h *event.Header, e *event.Event, now int64) *entry {
	x := &entry{
		direction: e.Direction,
		tcp:       e.Protocol == event.TCP || e.Protocol == event.TLS,
		end:       e.Kind == event.End,
		counted:   e.Direction == event.Inbound || e.Direction == event.Outbound,
	}
	if !x.counted {
		return x
	}
	base := common(h, e)
	x.connection = t.row(connections, base, now)
	if x.tcp && x.end {
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

func cloneWorkload(w event.Workload) event.Workload {
	return event.Workload{
		Cluster:   strings.Clone(w.Cluster),
		Namespace: strings.Clone(w.Namespace),
		Kind:      strings.Clone(w.Kind),
		Name:      strings.Clone(w.Name),
	}
}

// count counts one event.
func (t *table) count(x *entry, source *rollup.SourceID, r *event.Row, now int64) {
	t.events++
	x.connection.n[countRead] += r.RequestBytes
	x.connection.n[countWrite] += r.ResponseBytes
	if x.tcp {
		t.connection(x, connectionID{*source, x.direction, t.connections[r.Connection].id}, r, now)
	}
	if x.request != nil {
		x.request.n[countTotal]++
		x.response.n[countTotal]++
		x.latency.n[bucket(r.Latency)]++
		x.latency.n[countSum] += r.Latency
	}
}

// bucket is the place of a latency, µs.
func bucket(latency uint64) int {
	low, high := 0, countInfinite
	for low < high {
		if mid := (low + high) / 2; latency <= ladder[mid]*1000 {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return low
}

// connection counts the open and the end of a connection, each once, whatever
// the order in which its events come.
func (t *table) connection(x *entry, id connectionID, r *event.Row, now int64) {
	ended, seen := t.open[id]
	if !x.end {
		if !seen && len(t.open) < maxOpen {
			id.source.Workload = cloneWorkload(id.source.Workload)
			t.open[id] = 0
			x.connection.n[countTotal]++
		}
		return
	}
	x.close.n[countTotal]++
	if !seen {
		x.connection.n[countTotal]++
	}
	if seen && ended == 0 || r.Duration >= longLived && len(t.open) < maxOpen {
		id.source.Workload = cloneWorkload(id.source.Workload)
		t.open[id] = now
	}
}

// row finds or makes a row, or that of the others where a bound is reached.
func (t *table) row(f family, l labels, now int64) *row {
	l.bounded()
	workload := l.workload()
	l[labelAuthority] = t.authorities.bound(workload, l[labelAuthority], maxAuthorities)
	l[labelDstPod] = t.dstPods.bound(workload, l[labelDstPod], maxDstPods)
	if r := t.find(f, &l, now); r != nil {
		return r
	}
	limit := t.budget.limit
	if t.perWorkload[workload] < int(limit/workloadShare) && t.bytes < maxTableBytes && t.budget.used.Load() < limit {
		return t.add(f, l, now)
	}
	l = l.ofWorkload()
	if r := t.find(f, &l, now); r != nil {
		return r
	}
	// Workloads have their other rows beyond the limit; not any number.
	if t.bytes < maxTableBytes*5/4 && t.budget.used.Load() < limit+limit/4 {
		return t.add(f, l, now)
	}
	l = l.ofAll()
	if r := t.find(f, &l, now); r != nil {
		return r
	}
	return t.add(f, l, now)
}

func (t *table) find(f family, l *labels, now int64) *row {
	t.id = l.appendID(t.id[:0], f)
	r := t.rows[string(t.id)]
	if r != nil {
		r.used = now
	}
	return r
}

// add makes a row. The strings of l may point into a batch.
func (t *table) add(f family, l labels, now int64) *row {
	for i := range l {
		l[i] = strings.Clone(l[i])
	}
	r := &row{family: f, labels: l, used: now}
	t.put(r)
	return r
}

// put takes in a row that is not there.
func (t *table) put(r *row) {
	t.rows[string(r.labels.appendID(t.id[:0], r.family))] = r
	t.account(r)
	t.budget.used.Add(1)
}

func (t *table) account(r *row) {
	w := r.labels.workload()
	t.bytes += rowBytes + r.labels.size()
	t.perWorkload[w]++
	t.authorities.add(w, r.labels[labelAuthority])
	t.dstPods.add(w, r.labels[labelDstPod])
}

// sweep drops the rows that were not counted in since horizon, Unix seconds, of
// pods that are not live and of those that a pod sent to, which may be no more;
// rows of others stay. It forgets connections that ended long before now.
func (t *table) sweep(live func(l *labels) bool, horizon, now int64) {
	maps.DeleteFunc(t.open, func(_ connectionID, ended int64) bool { return ended != 0 && now-ended > endedMemory })
	dropped := 0
	for id, r := range t.rows {
		dst := r.labels[labelDstPod]
		ended := r.labels[labelPod] != otherName && r.labels[labelNamespace] != otherName && !live(&r.labels)
		if r.used < horizon && (ended || dst != "" && dst != otherName) {
			delete(t.rows, id)
			dropped++
		}
	}
	if dropped == 0 {
		return
	}
	t.budget.used.Add(-int64(dropped))
	t.bytes = 0
	clear(t.perWorkload)
	clear(t.authorities)
	clear(t.dstPods)
	for _, r := range t.rows {
		t.account(r)
	}
}

// forget drops the connections of a source that is no more.
func (t *table) forget(id rollup.SourceID) {
	maps.DeleteFunc(t.open, func(c connectionID, _ int64) bool { return c.source == id })
}

// close gives back what the rows took of the budget.
func (t *table) close() { t.budget.used.Add(-int64(len(t.rows))) }

// livePods tells whether the pod of a row's labels was heard of since horizon,
// Unix seconds.
func livePods(in *export.Intake, horizon int64) func(*labels) bool {
	pods := map[labels]bool{}
	in.Live(horizon, func(w event.Workload, pod string) {
		pods[ofPod(w, pod)] = true
	})
	return func(l *labels) bool {
		var own labels
		for _, i := range []int{labelCluster, labelNamespace, labelKind, labelWorkload, labelPod} {
			own[i] = l[i]
		}
		return pods[own]
	}
}
