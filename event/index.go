package event

import "math/bits"

// index finds entries of a list by the hash of what they are of: a table of eight
// bytes a slot, where a map of the same would hold every key once more. What the
// entries are is the caller's to compare.
type index struct {
	// slots have the upper half of the hash, and the entry's number + 1 below; 0
	// is empty. There is always one.
	slots []uint64
	count int
	most  need
}

const (
	leastSlots = 16
	hashHalf   = 32
)

// find gives the number of the entry that has a hash and of which same holds.
func (x *index) find(hash uint64, same func(n uint32) bool) (uint32, bool) {
	if x.count == 0 {
		return 0, false
	}
	mask := uint64(len(x.slots) - 1)
	for at := home(hash) & mask; ; at = (at + 1) & mask {
		slot := x.slots[at]
		if slot == 0 {
			return 0, false
		}
		if n := uint32(slot) - 1; slot>>hashHalf == hash>>hashHalf && same(n) {
			return n, true
		}
	}
}

// add adds the next entry, whose number is how many there were.
func (x *index) add(hash uint64) {
	if 4*(x.count+1) > 3*len(x.slots) {
		x.grow()
	}
	x.count++
	// The slot is told by the half of the hash that is kept, so that growing needs
	// no entry's.
	x.put(hash>>hashHalf<<hashHalf | uint64(x.count))
}

func (x *index) put(slot uint64) {
	mask := uint64(len(x.slots) - 1)
	at := home(slot) & mask
	for x.slots[at] != 0 {
		at = (at + 1) & mask
	}
	x.slots[at] = slot
}

func (x *index) grow() {
	old := x.slots
	x.slots = make([]uint64, max(2*len(old), leastSlots))
	for _, slot := range old {
		if slot != 0 {
			x.put(slot)
		}
	}
}

// reserve has an empty index keep room for so many entries.
func (x *index) reserve(entries int) {
	x.most.least = entries
	slots := leastSlots
	for 4*entries > 3*slots {
		slots *= 2
	}
	x.slots = make([]uint64, slots)
}

// home is where a hash, or a slot that keeps half of it, belongs.
func home(hash uint64) uint64 { return hash >> hashHalf }

// reset forgets all entries, and the memory where they were more than keep, or
// where that is over which most is told and it was far more than was needed.
func (x *index) reset(keep int, over bool) {
	// A table of more than 3/8 of its slots has not grown too large.
	if x.most.exceeded(len(x.slots)/2, x.count, over) || x.count > keep {
		x.slots = nil
	}
	if x.count > 0 {
		clear(x.slots)
	}
	x.count = 0
}

// mix is a hash of two numbers, of which one may be a hash.
func mix(a, b uint64) uint64 {
	high, low := bits.Mul64(a^0x9e3779b97f4a7c15, b^0xd6e8feb86659fd93)
	return high ^ low
}
