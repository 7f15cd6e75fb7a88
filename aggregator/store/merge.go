package store

import (
	"cmp"
	"slices"
)

// piece is one value that goes into a coarser block.
type piece struct {
	id   uint32
	data []byte
}

// row is the sum of pieces of one key.
type row[K any] struct {
	key    K
	other  K
	weight uint64
	data   []byte
}

// merge adds blocks of a finer tier to the one of t that begins at start. The
// lighter rows are added up where t keeps no more.
func (s *Store[K]) merge(t *tier, start int64, blocks []*block) error {
	if b := t.blocks[start]; b != nil {
		blocks = append(blocks, b)
		delete(t.blocks, start)
	}
	var pieces []piece
	for _, b := range blocks {
		for at, e := range b.entries {
			pieces = append(pieces, piece{e.id, b.value(at)})
		}
	}
	slices.SortFunc(pieces, func(a, b piece) int { return cmp.Compare(a.id, b.id) })
	rows, failed := s.rows(pieces)
	rows, err := s.heaviest(rows, t.Rows)
	if err != nil {
		failed = err
	}
	merged := &block{}
	for i := range rows {
		merged.append(s.hold(rows[i].key), rows[i].data)
	}
	for _, b := range blocks {
		s.release(b)
	}
	t.blocks[start] = merged
	return failed
}

// rows adds up pieces of the same id, which follow each other.
func (s *Store[K]) rows(pieces []piece) (rows []row[K], failed error) {
	for i := 0; i < len(pieces); {
		j := i
		s.sum.Reset()
		for ; j < len(pieces) && pieces[j].id == pieces[i].id; j++ {
			if err := s.sum.Add(pieces[j].data); err != nil {
				failed = err
			}
		}
		key := s.keys[pieces[i].id].key
		rows = append(rows, row[K]{key, key.Other(), s.sum.Weight(), s.sum.AppendBinary(nil)})
		i = j
	}
	return rows, failed
}

// heaviest leaves at most limit rows of each group, and adds the others up.
func (s *Store[K]) heaviest(rows []row[K], limit int) (kept []row[K], failed error) {
	if limit == 0 {
		return rows, nil
	}
	slices.SortStableFunc(rows, func(a, b row[K]) int { return cmp.Compare(b.weight, a.weight) })
	seen := map[K]int{}
	rest := map[K][][]byte{}
	for _, r := range rows {
		if r.key != r.other {
			if seen[r.other]++; seen[r.other] > limit {
				rest[r.other] = append(rest[r.other], r.data)
				continue
			}
		}
		kept = append(kept, r)
	}
	for other, values := range rest {
		at := slices.IndexFunc(kept, func(r row[K]) bool { return r.key == other })
		if at < 0 {
			at = len(kept)
			kept = append(kept, row[K]{key: other, other: other})
		} else {
			values = append(values, kept[at].data)
		}
		s.rest.Reset()
		for _, data := range values {
			if err := s.rest.Add(data); err != nil {
				failed = err
			}
		}
		kept[at].data = s.rest.AppendBinary(nil)
	}
	return kept, failed
}
