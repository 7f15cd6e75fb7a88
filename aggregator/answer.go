package aggregator

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/aggregator/store"
	"github.com/weirmesh/weir/event"
)

// Bounds of a request.
const (
	maxWindow = 366 * 24 * 3600
	maxPoints = 3600
	// maxCells bounds rows times points of a series.
	maxCells = 200_000
)

// answer answers one request of a method, always.
func (a *Aggregator) answer(method string, request []byte) []byte {
	a.metrics.queries.Inc()
	reply := a.head()
	if err := a.fill(&reply, method, request); err != nil {
		reply = a.head()
		reply.Error = err.Error()
	}
	data, err := encode(&reply, request)
	if err == nil && len(data) > a.o.MaxReply {
		err = fmt.Errorf("the answer has %d bytes, more than %d: ask for fewer resources, by namespace, kind or name, or for a shorter row of points", len(data), a.o.MaxReply)
	}
	if err != nil {
		failed := a.head()
		failed.Error = err.Error()
		data, _ = json.Marshal(&failed) // nothing in it can fail
	}
	return data
}

// encode writes a reply in the form that the request asks for.
func encode(reply *query.Reply, request []byte) ([]byte, error) {
	var q query.Request
	if err := json.Unmarshal(request, &q); err == nil && q.Packed {
		return query.Pack(reply)
	}
	return json.Marshal(reply)
}

func (a *Aggregator) head() query.Reply {
	a.mu.Lock()
	defer a.mu.Unlock()
	return query.Reply{Member: a.o.ID, Members: a.members, Total: a.o.Partitions, Partitions: []int{}}
}

// question is a request that is being answered.
type question struct {
	a *Aggregator
	query.Request
	now     int64
	reply   *query.Reply
	decoder rollup.Decoder
	// folder is that of the partition that is being asked.
	folder *rollup.Folder
	// terms are the folders of the partitions that the answer is about, by
	// number; nil for the others.
	terms []*rollup.Folder
	// totals: what is asked for is not by peer nor by route.
	totals bool
	// changed tells that one of them was given up under way.
	changed atomic.Bool
}

// fillTries bounds how often an answer is begun again.
const fillTries = 10

// fill answers a request. An answer looks at a partition several times. What it
// says must be of the same ones each time: one that is given up in between would
// be in the numbers, and not among the partitions that they are said to be of, so
// that its next owner's numbers would be added to them. Then it begins again; and
// where that has no end, it is about no partition, for which it is asked again.
func (a *Aggregator) fill(reply *query.Reply, method string, request []byte) error {
	var asked query.Request
	if err := json.Unmarshal(request, &asked); err != nil {
		return fmt.Errorf("cannot read the request: %w", err)
	}
	blank := *reply
	for range fillTries {
		*reply = blank
		q := &question{a: a, Request: asked, now: a.o.Now().Unix(), reply: reply}
		q.begin()
		if err := q.fill(method); err != nil || !q.changed.Load() {
			return err
		}
	}
	*reply = blank
	return nil
}

// begin settles which partitions the answer is about.
func (q *question) begin() {
	q.terms = make([]*rollup.Folder, len(q.a.partitions))
	if q.a.untouched(time.Now(), lease) {
		return // others may be answering for more than is known here
	}
	for i, p := range q.a.partitions {
		p.mu.RLock()
		if p.answering() {
			q.terms[i] = p.folder
		}
		p.mu.RUnlock()
	}
}

// about tells whether the answer is about a partition, whose mu is held.
func (q *question) about(p *partition) bool {
	if q.terms == nil {
		return p.ready
	}
	term := q.terms[p.number]
	if term == nil {
		return false
	}
	if !p.ready || p.folder != term {
		q.changed.Store(true)
		return false
	}
	return true
}

// fill answers the question.
func (q *question) fill(method string) error {
	if method == query.MethodWorkloads {
		return q.workloads()
	}
	if q.Until <= q.Since || q.Since < 0 || q.Until-q.Since > maxWindow {
		return fmt.Errorf("the window [%d, %d) is empty, negative or longer than a year", q.Since, q.Until)
	}
	if q.To != nil && q.From != nil {
		return errors.New("traffic to one peer and from another at once is not known: give either to or from")
	}
	for _, peer := range []*query.Selector{q.To, q.From} {
		if peer != nil && (peer.Kind == query.KindPod || q.Resource.Kind == query.KindPod) {
			return errors.New("traffic between pods is summed up by workload: ask for their workloads, or tap them")
		}
	}
	q.totals = q.To == nil && q.From == nil && (method == query.MethodStat || method == query.MethodSeries)
	q.align(method == query.MethodSeries)
	switch method {
	case query.MethodStat:
		return q.stat()
	case query.MethodSeries:
		return q.series()
	case query.MethodEdges:
		return q.edges()
	case query.MethodRoutes:
		return q.routes()
	default:
		return fmt.Errorf("no such method: %q", method)
	}
}

// align moves the window's edges to where they can be. It can reach back no
// further than all partitions do, and where one has only coarser steps, the
// edges are at theirs. Both move down, so that windows which follow each other
// count everything once, and a window that slides changes only by what enters
// and leaves it.
func (q *question) align(keep bool) {
	stepAt := func(at int64) int64 {
		found := int64(1)
		_ = q.partitions(func(p *partition) error { // fn does not fail
			found = max(found, q.bounds(p).Step(at))
			return nil
		})
		return found
	}
	_ = q.partitions(func(p *partition) error {
		q.reply.Reaches = max(q.reply.Reaches, q.bounds(p).Reaches())
		q.reply.Loading = q.reply.Loading || !p.complete
		if p.behind() {
			q.reply.Behind = append(q.reply.Behind, p.number)
		}
		return nil
	})
	since, until := max(q.Since, q.reply.Reaches), q.Until
	step := stepAt(since)
	if since -= since % step; since < q.reply.Reaches {
		since += step
	}
	until -= until % stepAt(until)
	if until <= since {
		until = max(since+step, q.Until)
	}
	q.reply.Resolution = step
	q.reply.Partitions = q.reply.Partitions[:0]
	if !keep {
		q.Since, q.Until = since, until
	}
	q.reply.Windows = []query.Window{{Since: q.Since, Until: q.Until}}
}

// bounds are where windows on a partition can begin and end. Where nothing but
// totals are asked for, edges may be finer than those of all there is.
func (q *question) bounds(p *partition) store.Edges {
	if q.totals {
		return p.store.Totals()
	}
	return p.store
}

// partitions calls fn with each partition that is ready, while it does not
// change.
func (q *question) partitions(fn func(*partition) error) error {
	for _, p := range q.a.partitions {
		if err := q.partition(p, fn); err != nil {
			return err
		}
	}
	return nil
}

func (q *question) partition(p *partition, fn func(*partition) error) error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if !q.about(p) {
		return nil
	}
	q.covered(p.number, p.oldest(), q.bounds(p).Finest())
	return fn(p)
}

// covered notes that the answer is about a partition, too.
func (q *question) covered(number int, oldest, finest int64) {
	q.reply.Partitions = append(q.reply.Partitions, number)
	if oldest != 0 && (q.reply.Oldest == 0 || oldest < q.reply.Oldest) {
		q.reply.Oldest = oldest
	}
	q.reply.Exact = max(q.reply.Exact, finest)
}

// adder gives the cell to add a key's values to that begin at a second.
type adder func(second int64) *rollup.Cell

// scan adds up all values of the window: pick is asked once or twice for each
// key that has any, and may return nil.
func (q *question) scan(pick func(rollup.Key) adder) error {
	return q.partitions(func(p *partition) error {
		q.folder = p.folder
		var failed error
		p.store.Scan(q.Since, q.Until, q.Step, func(k rollup.Key) func(int64, []byte) {
			to := pick(k)
			if to == nil {
				return nil
			}
			return func(second int64, data []byte) {
				if err := q.decoder.Add(to(second), data); err != nil {
					failed = err
				}
			}
		})
		p.folder.Scan(q.Since, q.Until, func(k rollup.Key) func(int64, *rollup.Cell) {
			to := pick(k)
			if to == nil {
				return nil
			}
			return func(second int64, c *rollup.Cell) { to(second).Merge(c) }
		})
		return failed
	})
}

// in always adds to the same cell.
func in(c *rollup.Cell) adder { return func(int64) *rollup.Cell { return c } }

func selector(w event.Workload) query.Selector {
	return query.Selector{Cluster: w.Cluster, Namespace: w.Namespace, Kind: w.Kind, Name: w.Name}
}

// matches tells whether a selector, not of kind pod, selects a workload.
func matches(s *query.Selector, w *event.Workload) bool {
	is := func(want, have string) bool { return want == "" || want == have }
	if !is(s.Cluster, w.Cluster) || !is(s.Namespace, w.Namespace) {
		return false
	}
	if s.Kind == query.KindNamespace {
		return is(s.Name, w.Namespace)
	}
	return is(s.Kind, w.Kind) && is(s.Name, w.Name)
}

// resource is what a workload's numbers go to: itself, or its namespace.
func (q *question) resource(w event.Workload) query.Selector {
	if q.Resource.Kind == query.KindNamespace {
		return query.Selector{Cluster: w.Cluster, Kind: query.KindNamespace, Name: w.Namespace}
	}
	return selector(w)
}

// statsOf copies a cell's sums.
func statsOf(c *rollup.Cell) query.Stats {
	s := query.Stats{
		Requests:      c.Requests,
		Successes:     c.Successes,
		RequestBytes:  c.RequestBytes,
		ResponseBytes: c.ResponseBytes,
		Connections:   c.Connections,
		Status:        counts(c.Status),
		GRPC:          counts(c.GRPC),
		Errors:        counts(c.Errors),
	}
	s.Latency, s.Duration = c.Distributions()
	return s
}

func counts[T comparable](all []rollup.Count[T]) map[T]uint64 {
	if len(all) == 0 {
		return nil
	}
	m := make(map[T]uint64, len(all))
	for _, n := range all {
		m[n.Value] = n.N
	}
	return m
}

// workloads lists all that is known of the sources.
func (q *question) workloads() error {
	found := map[event.Workload]*query.Workload{}
	err := q.partitions(func(p *partition) error {
		p.folder.Sources(func(s *rollup.Source) bool {
			if w := s.ID.Workload; matches(&q.Resource, &w) {
				q.present(found, s)
			}
			return true
		})
		return nil
	})
	var all query.Reply
	for _, w := range found {
		all.Workloads = append(all.Workloads, *w)
	}
	if err != nil {
		return err
	}
	merged, err := query.Merge([]query.Reply{all})
	if err != nil {
		return err
	}
	q.reply.Workloads = merged.Workloads
	return nil
}

// present adds a source to its workload: as one more pod, or as one more
// process of a pod.
func (q *question) present(found map[event.Workload]*query.Workload, s *rollup.Source) {
	w := found[s.ID.Workload]
	if w == nil {
		w = &query.Workload{Resource: selector(s.ID.Workload), FirstSeen: s.FirstSeen}
		found[s.ID.Workload] = w
	}
	w.FirstSeen, w.LastSeen = min(w.FirstSeen, s.FirstSeen), max(w.LastSeen, s.LastSeen)
	pod := query.Pod{Name: s.Pod, Node: s.Node, LastSeen: s.LastSeen, Live: live(s, q.now)}
	if pod.Live {
		pod.OpenConnections = s.OpenConnections
	}
	w.Pods = append(w.Pods, pod)
}
