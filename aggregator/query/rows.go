package query

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// place is where a row of several replies is, and all that its order is told
// from mostly: there are ten thousands, and looking at the rows themselves
// would take most of the time.
type place struct {
	// group is the rank of what comes before the name.
	group int32
	at    int32
	// name is its first bytes.
	name uint64
}

// order sorts rows by resource; those that are equal are neighbours.
func order(rows []*Row) []place {
	places := make([]place, len(rows))
	type known struct {
		Selector // without the name
		id       int32
	}
	ids := map[Selector]int32{}
	var groups []known
	last := int32(-1)
	for i, r := range rows {
		// Neighbours are of one group mostly.
		if s := &r.Resource; last < 0 || s.Namespace != groups[last].Namespace || s.Kind != groups[last].Kind || s.Cluster != groups[last].Cluster {
			group := *s
			group.Name = ""
			id, ok := ids[group]
			if !ok {
				id = int32(len(groups))
				ids[group] = id
				groups = append(groups, known{group, id})
			}
			last = id
		}
		var name [8]byte
		copy(name[:], r.Resource.Name)
		places[i] = place{last, int32(i), binary.BigEndian.Uint64(name[:])}
	}
	slices.SortFunc(groups, func(a, b known) int { return compare(a.Selector, b.Selector) })
	ranks := make([]int32, len(groups))
	for rank, g := range groups {
		ranks[g.id] = int32(rank)
	}
	for i := range places {
		places[i].group = ranks[places[i].group]
	}
	slices.SortFunc(places, func(a, b place) int {
		switch {
		case a.group != b.group:
			return cmp.Compare(a.group, b.group)
		case a.name != b.name:
			return cmp.Compare(a.name, b.name)
		}
		return strings.Compare(rows[a.at].Resource.Name, rows[b.at].Resource.Name)
	})
	return places
}

// mergeRows adds up rows of the same resource, and gives them sorted.
func mergeRows(rows []*Row) ([]Row, error) {
	if len(rows) == 0 {
		return nil, nil
	}
	out := make([]Row, 0, len(rows))
	// own tells that the last row's Stats are no reply's.
	own := false
	for _, p := range order(rows) {
		r := rows[p.at]
		if n := len(out); n > 0 && out[n-1].Resource == r.Resource {
			have := &out[n-1]
			if have.Brief || r.Brief {
				return nil, fmt.Errorf("cannot merge the rows of %s %s: %w", r.Resource.Kind, r.Resource.Name, ErrBrief)
			}
			own = have.add(r, own)
			continue
		}
		out, own = append(out, *r), false
	}
	return out, nil
}

// add adds another row of the resource. own tells whether r's Stats may be
// changed; add, whether they may now.
func (r *Row) add(o *Row, own bool) bool {
	first, second := prefer(r.Direction, o.Direction)
	if !first {
		r.Stats, r.Direction, own = Stats{}, o.Direction, true
	}
	if second {
		if !own {
			var sum Stats
			sum.Add(&r.Stats)
			r.Stats, own = sum, true
		}
		r.Stats.Add(&o.Stats)
	}
	if o.Owner != nil && (r.Owner == nil || compare(*o.Owner, *r.Owner) < 0) {
		r.Owner = o.Owner
	}
	r.PodsSeen += o.PodsSeen
	r.PodsLive += o.PodsLive
	r.OpenConnections += o.OpenConnections
	r.Shed += o.Shed
	r.LostBatches += o.LostBatches
	return own
}
