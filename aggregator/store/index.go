package store

import (
	"hash/maphash"
	"math"
)

// keyIndex leads from a key's hash to the first of the keys that have it, from 1.
// Next to none have the same. An index by the keys themselves would have each of
// them twice, with all the strings that a collection of garbage has to look at.
type keyIndex struct {
	seed maphash.Seed
	// mask are the bits of a hash that count: all, but in tests.
	mask  uint64
	first map[uint64]uint32
}

func newKeyIndex() keyIndex {
	return keyIndex{seed: maphash.MakeSeed(), mask: math.MaxUint64, first: map[uint64]uint32{}}
}

func (s *shelf[K]) hash(key *K) uint64 {
	return maphash.Comparable(s.index.seed, *key) & s.index.mask
}

// lookup is the number of a key, if it has one.
func (s *shelf[K]) lookup(key *K) (id uint32, known bool) {
	for at := s.index.first[s.hash(key)]; at != 0; at = s.keys[at-1].same {
		if s.keys[at-1].key == *key {
			return at - 1, true
		}
	}
	return 0, false
}

// id gives a key its number.
func (s *shelf[K]) id(key K) uint32 {
	hash := s.hash(&key)
	first := s.index.first[hash]
	for at := first; at != 0; at = s.keys[at-1].same {
		if s.keys[at-1].key == key {
			return at - 1
		}
	}
	id := uint32(len(s.keys))
	if n := len(s.free); n > 0 {
		id, s.free = s.free[n-1], s.free[:n-1]
	} else {
		s.keys = append(s.keys, keyState[K]{})
	}
	s.keys[id] = keyState[K]{key: key, same: first}
	s.index.first[hash] = id + 1
	return id
}

// drop takes a key's number away.
func (s *shelf[K]) drop(id uint32) {
	k := &s.keys[id]
	hash := s.hash(&k.key)
	if first := s.index.first[hash]; first != id+1 {
		before := &s.keys[first-1]
		for before.same != id+1 {
			before = &s.keys[before.same-1]
		}
		before.same = k.same
	} else if k.same != 0 {
		s.index.first[hash] = k.same
	} else {
		delete(s.index.first, hash)
	}
	*k = keyState[K]{}
	s.free = append(s.free, id)
}

// keyCount is how many keys there are.
func (s *shelf[K]) keyCount() int { return len(s.keys) - len(s.free) }
