package store

import (
	"cmp"
	"slices"
)

// piece is one value to be added up.
type piece struct {
	id   uint32
	data []byte
}

// sumPieces adds up pieces of the same id, and emits the sums by id. data is
// valid during the call only. A piece that is not valid is left out. scratch is
// memory to write sums in, which it returns for use again.
func sumPieces(sum Summer, pieces []piece, scratch []byte, emit func(id uint32, data []byte)) (room []byte, failed error) {
	slices.SortStableFunc(pieces, func(a, b piece) int { return cmp.Compare(a.id, b.id) })
	for i := 0; i < len(pieces); {
		j := i + 1
		for j < len(pieces) && pieces[j].id == pieces[i].id {
			j++
		}
		if j == i+1 {
			emit(pieces[i].id, pieces[i].data)
			i = j
			continue
		}
		sum.Reset()
		for ; i < j; i++ {
			if err := sum.Add(pieces[i].data); err != nil {
				failed = err
			}
		}
		scratch = sum.AppendBinary(scratch[:0])
		emit(pieces[i-1].id, scratch)
	}
	return scratch, failed
}

// Gather sums up groups of a tier for a group of the next. The same groups in
// the same order give the same sums. It is not safe for concurrent use.
type Gather[K Key[K]] struct {
	tier Tier
	sum  Summer
	// scratch is memory to write sums in.
	scratch []byte
	ids     map[K]uint32
	keys    []K
	steps   map[int64][]piece
}

// NewGather returns one that sums up for a tier.
func NewGather[K Key[K]](newSummer func() Summer, t Tier) *Gather[K] {
	return &Gather[K]{tier: t, sum: newSummer(), ids: map[K]uint32{}, steps: map[int64][]piece{}}
}

// Add takes a value at a time. It keeps data.
func (g *Gather[K]) Add(at int64, key K, data []byte) {
	id, ok := g.ids[key]
	if !ok {
		id = uint32(len(g.keys))
		g.ids[key] = id
		g.keys = append(g.keys, key)
	}
	start := floor(at, g.tier.Step)
	g.steps[start] = append(g.steps[start], piece{id, data})
}

// row is the sum of a key in a step.
type row[K any] struct {
	key, other K
	weight     uint64
	data       []byte
}

// Sums calls emit with each sum, by time; data is emit's to keep. In each step
// the heaviest rows of the same Other stay, as many as the tier has, and the
// rest is summed up as that. It fails where a value was not valid, which is left
// out.
func (g *Gather[K]) Sums(emit func(start int64, key K, data []byte)) (failed error) {
	starts := make([]int64, 0, len(g.steps))
	for start := range g.steps {
		starts = append(starts, start)
	}
	slices.Sort(starts)
	for _, start := range starts {
		var rows []row[K]
		var err error
		g.scratch, err = sumPieces(g.sum, g.steps[start], g.scratch, func(id uint32, data []byte) {
			key := g.keys[id]
			rows = append(rows, row[K]{key: key, other: key.Other(), data: slices.Clone(data)})
		})
		if err == nil {
			rows, err = g.heaviest(rows)
		}
		if err != nil {
			failed = err
		}
		for i := range rows {
			emit(start, rows[i].key, rows[i].data)
		}
	}
	return failed
}

// heaviest leaves as many rows of each Other as the tier keeps, and adds the
// others up.
func (g *Gather[K]) heaviest(rows []row[K]) (kept []row[K], failed error) {
	count := map[K]int{}
	for i := range rows {
		count[rows[i].other]++
	}
	over := func(r *row[K]) bool { return g.tier.Rows > 0 && r.key != r.other && count[r.other] > g.tier.Rows }
	var groups []K
	capped := map[K][]row[K]{}
	for i := range rows {
		r := &rows[i]
		if !over(r) {
			kept = append(kept, *r)
			continue
		}
		g.sum.Reset()
		if err := g.sum.Add(r.data); err != nil {
			failed = err
			continue
		}
		r.weight = g.sum.Weight()
		if capped[r.other] == nil {
			groups = append(groups, r.other)
		}
		capped[r.other] = append(capped[r.other], *r)
	}
	for _, other := range groups {
		all := capped[other]
		slices.SortStableFunc(all, func(a, b row[K]) int { return cmp.Compare(b.weight, a.weight) })
		n := min(g.tier.Rows, len(all))
		kept = append(kept, all[:n]...)
		if all = all[n:]; len(all) == 0 {
			continue
		}
		at := slices.IndexFunc(kept, func(r row[K]) bool { return r.key == other })
		if at < 0 {
			at = len(kept)
			kept = append(kept, row[K]{key: other, other: other})
		}
		g.sum.Reset()
		if kept[at].data != nil {
			all = append(all, kept[at])
		}
		for _, r := range all {
			if err := g.sum.Add(r.data); err != nil {
				failed = err
			}
		}
		kept[at].data = g.sum.AppendBinary(nil)
	}
	return kept, failed
}
