package query

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// edgeKey, routeKey: rows that are equal in these are one row.
type edgeKey struct {
	Source, Destination Selector
	SourceID, DestID    string
	Security, Reason    string
	SeenBy              string
}

type routeKey struct {
	Resource                              Selector
	Direction, Route, Authority, Protocol string
}

// ErrBrief is what Merge's error wraps where a row that cannot be added to
// another has to be. The question is to be put again, not Brief.
var ErrBrief = errors.New("a row of two members came without what is needed to add it up")

// merger holds the sums under way.
type merger struct {
	rows      []*Row // of the replies
	series    map[Selector]*Series
	edges     map[edgeKey]*Stats
	routes    map[routeKey]*Stats
	workloads map[Selector]*Workload
	offenders map[offenderKey]Offender
}

// offenderKey: what of the same has gone wrong for the same reason adds up.
type offenderKey struct {
	source Selector
	reason string
}

// Merge adds up the replies of several members to one request. Rows of the same
// key become one; the order of the replies does not matter, nor does it in
// which portions they are merged. The rows come sorted. Merge does not change
// the replies. It fails where they can't be answers to one request, or one
// carries an Error, and with [ErrBrief]. What [UnpackRaw] left as it is stays so.
func Merge(replies []Reply) (*Reply, error) {
	out := &Reply{}
	m := merger{
		series: map[Selector]*Series{}, edges: map[edgeKey]*Stats{}, routes: map[routeKey]*Stats{}, workloads: map[Selector]*Workload{},
		offenders: map[offenderKey]Offender{},
	}
	rows := 0
	for i := range replies {
		rows += len(replies[i].Rows)
	}
	m.rows = make([]*Row, 0, rows)
	for i := range replies {
		r := &replies[i]
		if r.Error != "" {
			return nil, fmt.Errorf("cannot merge the reply of %s: %s", r.Member, r.Error)
		}
		mergeHead(out, r)
		if err := m.add(r); err != nil {
			return nil, fmt.Errorf("cannot merge the reply of %s: %w", r.Member, err)
		}
	}
	slices.Sort(out.Partitions)
	slices.Sort(out.Behind)
	slices.SortFunc(out.Windows, func(a, b Window) int { return cmp.Or(cmp.Compare(a.Since, b.Since), cmp.Compare(a.Until, b.Until)) })
	var err error
	if out.Rows, err = mergeRows(m.rows); err != nil {
		return nil, err
	}
	m.collect(out)
	return out, nil
}

// Missing tells which partitions no reply answers for, and which more than one
// does: while a partition changes hands there is either. Where both are empty
// the merged replies are the whole answer; else the request is to be put again
// in a moment. Duplicates tell of a double count.
func Missing(merged *Reply) (missing, duplicate []int) {
	count := make([]int, max(merged.Total, 0))
	for _, p := range merged.Partitions {
		if p >= 0 && p < len(count) {
			count[p]++
		}
	}
	for p, n := range count {
		switch {
		case n == 0:
			missing = append(missing, p)
		case n > 1:
			duplicate = append(duplicate, p)
		}
	}
	return missing, duplicate
}

func mergeHead(out, r *Reply) {
	if out.Member == "" || r.Member != "" && r.Member < out.Member {
		out.Member = r.Member
	}
	out.Members = max(out.Members, r.Members)
	out.Total = max(out.Total, r.Total)
	out.Exact = max(out.Exact, r.Exact)
	if out.Oldest == 0 || r.Oldest != 0 && r.Oldest < out.Oldest {
		out.Oldest = r.Oldest
	}
	out.Resolution = max(out.Resolution, r.Resolution)
	out.Reaches = max(out.Reaches, r.Reaches)
	out.Loading = out.Loading || r.Loading
	out.Behind = append(out.Behind, r.Behind...)
	for _, w := range r.Windows {
		if !slices.Contains(out.Windows, w) {
			out.Windows = append(out.Windows, w)
		}
	}
	out.Partitions = append(out.Partitions, r.Partitions...)
	out.raw = append(out.raw, r.raw...)
}

// Again tells whether the merged replies are about different windows, and what
// to ask instead so that all can answer about the same.
func Again(q Request, merged *Reply) (next Request, again bool) {
	if len(merged.Windows) <= 1 {
		return q, false
	}
	step := max(merged.Resolution, 1)
	until := merged.Windows[0].Until
	for _, w := range merged.Windows {
		until = min(until, w.Until)
	}
	next = q
	next.Since = q.Since - q.Since%step
	if merged.Reaches > next.Since {
		next.Since = merged.Reaches + step - 1
		next.Since -= next.Since % step
	}
	if until != q.Until {
		next.Until = until - until%step
	}
	next.Until = max(next.Until, next.Since+step)
	return next, true
}

func (m *merger) add(r *Reply) error {
	for i := range r.Rows {
		m.rows = append(m.rows, &r.Rows[i])
	}
	for i := range r.Series {
		if err := m.serie(&r.Series[i]); err != nil {
			return err
		}
	}
	for i := range r.Edges {
		e := &r.Edges[i]
		key := edgeKey{e.Source, e.Destination, e.SourceID, e.DestID, e.Security, e.Reason, e.SeenBy}
		addStats(m.edges, key, &e.Stats)
	}
	for i := range r.Routes {
		t := &r.Routes[i]
		addStats(m.routes, routeKey{t.Resource, t.Direction, t.Route, t.Authority, t.Protocol}, &t.Stats)
	}
	for i := range r.Workloads {
		m.workload(&r.Workloads[i])
	}
	for _, o := range r.Offenders {
		key := offenderKey{o.Source, o.Reason}
		have := m.offenders[key]
		o.Count, o.Last = o.Count+have.Count, max(o.Last, have.Last)
		m.offenders[key] = o
	}
	return nil
}

func addStats[K comparable](to map[K]*Stats, key K, s *Stats) {
	if to[key] == nil {
		to[key] = &Stats{}
	}
	to[key].Add(s)
}

// Add adds all of o, which stays as it is and shares nothing with s.
func (s *Stats) Add(o *Stats) {
	s.Requests += o.Requests
	s.Successes += o.Successes
	s.Status = addCounts(s.Status, o.Status)
	s.GRPC = addCounts(s.GRPC, o.GRPC)
	s.Errors = addCounts(s.Errors, o.Errors)
	s.Latency.Merge(&o.Latency)
	s.Duration.Merge(&o.Duration)
	s.RequestBytes += o.RequestBytes
	s.ResponseBytes += o.ResponseBytes
	s.Connections += o.Connections
}

func addCounts[K comparable](to, from map[K]uint64) map[K]uint64 {
	if to == nil && len(from) > 0 {
		to = make(map[K]uint64, len(from))
	}
	for k, n := range from {
		to[k] += n
	}
	return to
}

// prefer says which of two parts of a resource's sums count, where one is what
// it got and the other what it sent: what it got. first tells that a counts,
// second that b does.
func prefer(a, b string) (first, second bool) {
	if a == b {
		return true, true
	}
	return a == Inbound, b == Inbound
}

func (m *merger) serie(s *Series) error {
	have := m.series[s.Resource]
	if have == nil {
		have = &Series{Resource: s.Resource, Direction: s.Direction, Points: make([]Stats, len(s.Points))}
		m.series[s.Resource] = have
	}
	if len(have.Points) != len(s.Points) {
		return fmt.Errorf("a series of %d points where others have %d", len(s.Points), len(have.Points))
	}
	first, second := prefer(have.Direction, s.Direction)
	if !first {
		clear(have.Points)
		have.Direction = s.Direction
	}
	if second {
		for i := range s.Points {
			have.Points[i].Add(&s.Points[i])
		}
	}
	return nil
}

func (m *merger) workload(w *Workload) {
	have := m.workloads[w.Resource]
	if have == nil {
		have = &Workload{Resource: w.Resource, FirstSeen: w.FirstSeen}
		m.workloads[w.Resource] = have
	}
	have.FirstSeen = min(have.FirstSeen, w.FirstSeen)
	have.LastSeen = max(have.LastSeen, w.LastSeen)
	for _, p := range w.Pods {
		at := slices.IndexFunc(have.Pods, func(q Pod) bool { return q.Name == p.Name })
		if at < 0 {
			have.Pods = append(have.Pods, p)
			continue
		}
		have.Pods[at] = mergePod(have.Pods[at], p)
	}
}

func mergePod(a, b Pod) Pod {
	if b.LastSeen > a.LastSeen || b.LastSeen == a.LastSeen && b.Node > a.Node {
		a.Node = b.Node
	}
	a.LastSeen = max(a.LastSeen, b.LastSeen)
	a.Live = a.Live || b.Live
	a.OpenConnections += b.OpenConnections
	return a
}

func (m *merger) collect(out *Reply) {
	for _, s := range m.series {
		out.Series = append(out.Series, *s)
	}
	for k, s := range m.edges {
		out.Edges = append(out.Edges, Edge{k.Source, k.Destination, k.SourceID, k.DestID, k.Security, k.Reason, k.SeenBy, *s})
	}
	for k, s := range m.routes {
		out.Routes = append(out.Routes, Route{k.Resource, k.Direction, k.Route, k.Authority, k.Protocol, *s})
	}
	for _, w := range m.workloads {
		slices.SortFunc(w.Pods, func(a, b Pod) int { return strings.Compare(a.Name, b.Name) })
		out.Workloads = append(out.Workloads, *w)
	}
	for _, o := range m.offenders {
		out.Offenders = append(out.Offenders, o)
	}
	slices.SortFunc(out.Offenders, func(a, b Offender) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), compare(a.Source, b.Source), strings.Compare(a.Reason, b.Reason))
	})
	slices.SortFunc(out.Series, func(a, b Series) int { return compare(a.Resource, b.Resource) })
	slices.SortFunc(out.Edges, compareEdges)
	slices.SortFunc(out.Routes, compareRoutes)
	slices.SortFunc(out.Workloads, func(a, b Workload) int { return compare(a.Resource, b.Resource) })
}

func compare(a, b Selector) int {
	return cmp.Or(strings.Compare(a.Cluster, b.Cluster), strings.Compare(a.Namespace, b.Namespace),
		strings.Compare(a.Kind, b.Kind), strings.Compare(a.Name, b.Name))
}

func compareEdges(a, b Edge) int {
	return cmp.Or(compare(a.Source, b.Source), compare(a.Destination, b.Destination),
		strings.Compare(a.SeenBy, b.SeenBy), strings.Compare(a.SourceID, b.SourceID), strings.Compare(a.DestID, b.DestID),
		strings.Compare(a.Security, b.Security), strings.Compare(a.Reason, b.Reason))
}

func compareRoutes(a, b Route) int {
	return cmp.Or(compare(a.Resource, b.Resource), strings.Compare(a.Direction, b.Direction), strings.Compare(a.Route, b.Route),
		strings.Compare(a.Authority, b.Authority), strings.Compare(a.Protocol, b.Protocol))
}
