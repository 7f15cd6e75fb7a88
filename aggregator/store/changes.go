package store

// changes tell what has changed of a store, so that who remembers what it made of
// the values need not look at all of them again.
type changes struct {
	// count goes up with each change of a key's values; last is what it was
	// at a key's last one, by the key's number.
	count uint64
	last  []uint64
}

func (c *changes) touch(id uint32) {
	c.count++
	for int(id) >= len(c.last) {
		c.last = append(c.last, 0)
	}
	c.last[id] = c.count
}

// Mark is a moment between two changes of keys that are not of detail.
func (s *Store[K]) Mark() uint64 { return s.totals.changes.count }

// Changed calls fn with the number and key of each key that is not of detail and
// whose values have changed since a mark, but for those that are gone, and what
// changed before From(0). Numbers are the keys' as long as these have values;
// another key may get the number later, which is a change.
func (s *Store[K]) Changed(mark uint64, fn func(id uint32, key *K)) {
	t := s.totals
	if mark == t.changes.count {
		return
	}
	for id, at := range t.changes.last {
		if at > mark && id < len(t.keys) && t.keys[id].blocks > 0 {
			fn(uint32(id), &t.keys[id].key)
		}
	}
}
