package store

import (
	"cmp"
	"slices"
	"sync"
)

// piece is one value to be added up.
type piece struct {
	id   uint32
	data []byte
}

// adding adds pieces up. Its memory is used again.
type adding struct {
	pieces []piece
	// ends are where the pieces of each id end in order, which has the numbers of
	// the pieces by id.
	ends, order []uint32
}

// addings are not in use: there are as many as add up at the same time.
var addings = sync.Pool{New: func() any { return new(adding) }}

// release gives an adding back.
func (a *adding) release() {
	clear(a.pieces) // what they point to may be let go
	a.pieces = a.pieces[:0]
	addings.Put(a)
}

// sort puts the numbers of the pieces of each id together, ids in ascending order and
// its pieces in theirs. Ids are dense, so that counting takes less than comparing.
func (a *adding) sort() {
	most := uint32(0)
	for i := range a.pieces {
		most = max(most, a.pieces[i].id)
	}
	a.order = slices.Grow(a.order[:0], len(a.pieces))[:len(a.pieces)]
	if int(most) >= 4*len(a.pieces)+64 {
		for i := range a.order {
			a.order[i] = uint32(i)
		}
		slices.SortStableFunc(a.order, func(x, y uint32) int { return cmp.Compare(a.pieces[x].id, a.pieces[y].id) })
		return
	}
	a.ends = slices.Grow(a.ends[:0], int(most)+1)[:most+1]
	clear(a.ends)
	for i := range a.pieces {
		a.ends[a.pieces[i].id]++
	}
	before := uint32(0)
	for id, n := range a.ends {
		a.ends[id], before = before, before+n
	}
	for i := range a.pieces {
		end := &a.ends[a.pieces[i].id]
		a.order[*end] = uint32(i)
		*end++
	}
}

// sums adds up pieces of the same id, and emits the sums by id. data is valid
// during the call only. A piece that is not valid is left out. scratch is memory to
// write sums in, which it returns for use again.
func (a *adding) sums(sum Summer, scratch []byte, emit func(id uint32, data []byte)) (room []byte, failed error) {
	if len(a.pieces) == 0 {
		return scratch, nil
	}
	a.sort()
	for i := 0; i < len(a.order); {
		first := &a.pieces[a.order[i]]
		j := i + 1
		for j < len(a.order) && a.pieces[a.order[j]].id == first.id {
			j++
		}
		if j == i+1 {
			emit(first.id, first.data)
			i = j
			continue
		}
		sum.Reset()
		for ; i < j; i++ {
			if err := sum.Add(a.pieces[a.order[i]].data); err != nil {
				failed = err
			}
		}
		scratch = sum.AppendBinary(scratch[:0])
		emit(first.id, scratch)
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
	// others are the numbers of the keys' Others, and 1 more; 0: nobody has asked.
	others []uint32
	steps  map[int64][]piece
	// copies is where sums are copied to.
	copies []byte
}

// NewGather returns one that sums up for a tier.
func NewGather[K Key[K]](newSummer func() Summer, t Tier) *Gather[K] {
	return &Gather[K]{tier: t, sum: newSummer(), ids: map[K]uint32{}, steps: map[int64][]piece{}}
}

// Add takes a value at a time. It keeps data.
func (g *Gather[K]) Add(at int64, key K, data []byte) {
	id := g.id(&key)
	start := floor(at, g.tier.Step)
	g.steps[start] = append(g.steps[start], piece{id, data})
}

// row is the sum of a key in a step. Keys are large, so it has their numbers.
type row struct {
	key, other uint32
	weight     uint64
	data       []byte
}

// id is a key's number.
func (g *Gather[K]) id(key *K) uint32 {
	id, ok := g.ids[*key]
	if !ok {
		id = uint32(len(g.keys))
		g.ids[*key] = id
		g.keys = append(g.keys, *key)
	}
	return id
}

// other is the number of a key's Other.
func (g *Gather[K]) other(id uint32) uint32 {
	for int(id) >= len(g.others) {
		g.others = append(g.others, 0)
	}
	if g.others[id] == 0 {
		other := g.keys[id].Other()
		g.others[id] = g.id(&other) + 1
	}
	return g.others[id] - 1
}

// copyChunk is how many bytes of copies are made room for at once.
const copyChunk = 64 << 10

// copy copies data to where it stays.
func (g *Gather[K]) copy(data []byte) []byte {
	if len(data) > copyChunk/4 {
		return slices.Clone(data)
	}
	if cap(g.copies)-len(g.copies) < len(data) {
		g.copies = make([]byte, 0, copyChunk)
	}
	at := len(g.copies)
	g.copies = append(g.copies, data...)
	return g.copies[at:len(g.copies):len(g.copies)]
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
	var rows, room []row
	add := addings.Get().(*adding)
	own := add.pieces
	defer func() { add.pieces = own; add.release() }()
	for _, start := range starts {
		rows = rows[:0]
		var err error
		add.pieces = g.steps[start]
		g.scratch, err = add.sums(g.sum, g.scratch, func(id uint32, data []byte) {
			rows = append(rows, row{key: id, other: g.other(id), data: g.copy(data)})
		})
		kept := rows
		if err == nil {
			kept, err = g.heaviest(rows, room[:0])
			room = kept
		}
		if err != nil {
			failed = err
		}
		for i := range kept {
			emit(start, g.keys[kept[i].key], kept[i].data)
		}
	}
	return failed
}

// heaviest leaves as many rows of each Other as the tier keeps, and adds the
// others up. They are in room, which rows have no part of.
func (g *Gather[K]) heaviest(rows, room []row) (kept []row, failed error) {
	kept = room
	count := map[uint32]int{}
	for i := range rows {
		count[rows[i].other]++
	}
	over := func(r *row) bool { return g.tier.Rows > 0 && r.key != r.other && count[r.other] > g.tier.Rows }
	var groups []uint32
	capped := map[uint32][]row{}
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
		slices.SortStableFunc(all, func(a, b row) int { return cmp.Compare(b.weight, a.weight) })
		n := min(g.tier.Rows, len(all))
		kept = append(kept, all[:n]...)
		if all = all[n:]; len(all) == 0 {
			continue
		}
		at := slices.IndexFunc(kept, func(r row) bool { return r.key == other })
		if at < 0 {
			at = len(kept)
			kept = append(kept, row{key: other, other: other})
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
