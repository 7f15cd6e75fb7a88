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

// Mark is a moment between two changes.
func (s *Store[K]) Mark() uint64 { return s.changes.count }

// Changed calls fn with the number and key of each key whose values have changed
// since a mark, but for those that are gone: of what is older than a tier keeps,
// the next tells. Numbers are the keys' as long as these have values; another
// key may get the number later, which is a change.
func (s *Store[K]) Changed(mark uint64, fn func(id uint32, key *K)) {
	if mark == s.changes.count {
		return
	}
	for id, at := range s.changes.last {
		if at > mark && id < len(s.keys) && s.keys[id].blocks > 0 {
			fn(uint32(id), &s.keys[id].key)
		}
	}
}
