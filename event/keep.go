package event

// What is kept of an encoder's memory from batch to batch: what the largest of
// the last batches needed. So a batch of the usual size allocates nothing, and
// traffic that changes its nature, from one path to many, say, does not leave
// behind what only the former nature needed.
const (
	// usualBatches is in how many batches each memory is needed at least once, or
	// is given back.
	usualBatches = 16
	// roomy is by how many times memory may exceed what was needed, for it grows
	// by doubling and batches differ; leastRoom is what is not worth giving back.
	roomy     = 4
	leastRoom = 64
)

// unneeded tells whether memory for so many is too much for the most that were
// needed.
func unneeded(room, most int) bool { return room > roomy*most+leastRoom }

// emptied is a list without its entries. It is without its memory, too, where
// they were more than keep, or where that is over which most is told and it was
// far more than was needed.
func emptied[T any](list []T, most *int, keep int, over bool) []T {
	*most = max(*most, len(list))
	if len(list) > keep || over && unneeded(cap(list), *most) {
		list = nil
	}
	if over {
		*most = 0
	}
	return list[:0]
}
