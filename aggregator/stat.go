package aggregator

import (
	"fmt"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/event"
)

// podID names a pod.
type podID struct {
	workload event.Workload
	pod      string
}

// row is a row of traffic with a peer, under way.
type row struct {
	sums   rollup.Cell
	ledger rollup.Cell
	// seen and live are its pods.
	seen, live map[podID]struct{}
	open       uint64
}

// rows are the rows of a stat under way.
type rows map[query.Selector]*row

func (r rows) at(key query.Selector) *row {
	if r[key] == nil {
		r[key] = &row{seen: map[podID]struct{}{}, live: map[podID]struct{}{}}
	}
	return r[key]
}

// group is the row that numbers of a pod of a workload go to, if any.
func (q *question) group(w event.Workload, pod string) (query.Selector, bool) {
	if q.Resource.Kind != query.KindPod {
		return q.resource(w), matches(&q.Resource, &w)
	}
	without := query.Selector{Cluster: q.Resource.Cluster, Namespace: q.Resource.Namespace}
	if !matches(&without, &w) || q.Resource.Name != "" && q.Resource.Name != pod {
		return query.Selector{}, false
	}
	return query.Selector{Cluster: w.Cluster, Namespace: w.Namespace, Kind: query.KindPod, Name: pod}, true
}

// stat sums up each resource of the request, and names who sent what could not
// be counted.
func (q *question) stat() error {
	err := q.statSums()
	if err == nil {
		q.reply.Offenders = q.a.offenders.tell(q.Resource, q.Since)
	}
	return err
}

// statSums sums up each resource of the request.
func (q *question) statSums() error {
	if q.To == nil && q.From == nil {
		return q.statRows()
	}
	found := rows{}
	err := q.scan(func(k rollup.Key) adder {
		return q.pickPeer(k, func(key query.Selector) adder { return in(&found.at(key).sums) })
	})
	if err != nil {
		return err
	}
	if err := q.presence(found); err != nil {
		return err
	}
	for key, r := range found {
		out := query.Row{
			Resource:        key,
			Direction:       q.peerDirection(),
			Stats:           statsOf(&r.sums),
			PodsSeen:        len(r.seen),
			PodsLive:        len(r.live),
			OpenConnections: r.open,
			Shed:            r.ledger.Shed,
			LostBatches:     uint64(max(r.ledger.Lost, 0)),
		}
		q.reply.Rows = append(q.reply.Rows, out)
	}
	return q.sorted()
}

// peerDirection is whose requests a request with a peer is about.
func (q *question) peerDirection() string {
	if q.To != nil {
		return query.Outbound
	}
	return query.Inbound
}

// pickPeer adds traffic between the resource and a peer to the cell that at
// gives for the resource. The client's side counts where it is meshed, else the
// server's.
func (q *question) pickPeer(k rollup.Key, at func(query.Selector) adder) adder {
	if k.Dimension != rollup.ByPeer {
		return nil
	}
	client, server, counts := sides(&k)
	if !counts {
		return nil
	}
	resource, peer, want := client, server, q.To
	if q.From != nil {
		resource, peer, want = server, client, q.From
	}
	if !matches(&q.Resource, &resource) || !matches(want, &peer) {
		return nil
	}
	return at(q.resource(resource))
}

// sides are the two ends of an edge, and whether this side's sums of it count.
func sides(k *rollup.Key) (client, server event.Workload, counts bool) {
	if k.Direction == event.Outbound {
		return k.Workload, k.Peer.Workload, true
	}
	return k.Peer.Workload, k.Workload, !k.Peer.Meshed
}

// presence adds what the ledger and the live proxies say to rows that are there.
func (q *question) presence(found rows) error {
	// The peer's partition may be another than the resource's.
	q.reply.Partitions = q.reply.Partitions[:0]
	err := q.scan(func(k rollup.Key) adder {
		key, ok := q.group(k.Workload, k.Pod)
		if k.Dimension != rollup.Ledger || !ok || found[key] == nil {
			return nil
		}
		found[key].seen[podID{k.Workload, k.Pod}] = struct{}{}
		return in(&found[key].ledger)
	})
	if err != nil {
		return err
	}
	q.reply.Partitions = q.reply.Partitions[:0]
	return q.partitions(func(p *partition) error {
		p.folder.Sources(func(s *rollup.Source) bool {
			key, ok := q.group(s.ID.Workload, s.Pod)
			if ok && found[key] != nil && live(s, q.now) {
				found[key].live[podID{s.ID.Workload, s.Pod}] = struct{}{}
				found[key].open += s.OpenConnections
			}
			return true
		})
		return nil
	})
}

// sorted sorts the reply's rows.
func (q *question) sorted() error {
	merged, err := query.Merge([]query.Reply{*q.reply})
	if err != nil {
		return err
	}
	*q.reply = *merged
	return nil
}

// steps are the sums of a resource's steps.
type steps struct{ in, out []*rollup.Cell }

func (s *steps) of(d event.Direction) []*rollup.Cell {
	if d == event.Outbound {
		return s.out
	}
	return s.in
}

// series sums up each step of each resource.
func (q *question) series() error {
	step := q.Step
	if step <= 0 || (q.Until-q.Since-1)/step+1 > maxPoints {
		return fmt.Errorf("a step of %d s over %d s: it must be 1 s or more, for at most %d points", step, q.Until-q.Since, maxPoints)
	}
	points := int((q.Until-q.Since-1)/step + 1)
	found := map[query.Selector]*steps{}
	var tooMany bool
	at := func(key query.Selector, d event.Direction) adder {
		if found[key] == nil {
			if (len(found)+1)*points > maxCells {
				tooMany = true
				return nil
			}
			found[key] = &steps{make([]*rollup.Cell, points), make([]*rollup.Cell, points)}
		}
		cells := found[key].of(d)
		return func(second int64) *rollup.Cell {
			i := (second - q.Since) / step
			if cells[i] == nil {
				cells[i] = &rollup.Cell{}
			}
			return cells[i]
		}
	}
	totals := rollup.Total
	if q.Resource.Kind == query.KindPod {
		totals = rollup.ByPod
	}
	err := q.scan(func(k rollup.Key) adder {
		if q.To != nil || q.From != nil {
			return q.pickPeer(k, func(key query.Selector) adder { return at(key, event.Inbound) })
		}
		key, ok := q.group(k.Workload, k.Pod)
		if k.Dimension != totals || !ok {
			return nil
		}
		return at(key, k.Direction)
	})
	if err != nil {
		return err
	}
	if tooMany {
		return fmt.Errorf("more than %d points: ask for fewer resources, by namespace, kind or name, or for longer steps", maxCells)
	}
	for key, s := range found {
		q.reply.Series = append(q.reply.Series, q.row(key, s))
	}
	return q.sorted()
}

// row is the series of one resource.
func (q *question) row(key query.Selector, s *steps) query.Series {
	direction, cells := query.Inbound, s.in
	if !traffic(s.in) && traffic(s.out) {
		direction, cells = query.Outbound, s.out
	}
	if q.To != nil || q.From != nil {
		direction = q.peerDirection()
	}
	out := query.Series{Resource: key, Direction: direction, Points: make([]query.Stats, len(cells))}
	for i, c := range cells {
		if c != nil {
			out.Points[i] = statsOf(c)
		}
	}
	return out
}

func traffic(cells []*rollup.Cell) bool {
	for _, c := range cells {
		if c != nil && c.Traffic() {
			return true
		}
	}
	return false
}
