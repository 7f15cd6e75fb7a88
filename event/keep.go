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

// need is how much of a memory was needed of late, and how much is kept whatever
// was.
type need struct{ most, least int }

// exceeded notes what a batch needed, and tells whether room for so many is too
// much, where that is over which most is told.
func (n *need) exceeded(room, used int, over bool) bool {
	n.most = max(n.most, used)
	much := over && unneeded(room, max(n.most, n.least))
	if over {
		n.most = 0
	}
	return much
}

// emptied is a list without its entries. It is without its memory, too, where
// they were more than keep, or where that is over which need is told and it was
// far more than was needed.
func emptied[T any](list []T, n *need, keep int, over bool) []T {
	if n.exceeded(cap(list), len(list), over) || len(list) > keep {
		return nil
	}
	return list[:0]
}

// Reserve has the encoder hold memory for so many exchanges, of a path each, from
// now on; it must be new. So batches of few take as much as batches of so many,
// and a process does not grow where its traffic changes from the ones to the
// others.
func (e *Encoder) Reserve(exchanges int) {
	m, t := &e.most, &e.strings
	texts := exchanges + reservedWords
	m.routes.least, m.exchanges.least = exchanges, exchanges
	t.most.strings.least, t.most.class.least = texts, texts
	e.routes = make([]routeKey, 0, exchanges)
	e.exchanges = make([]exchangeState, 0, exchanges)
	t.strings, t.class = make([]string, 0, texts), make([]uint8, 0, texts)
	e.routeIndex.reserve(exchanges)
	e.exchangeIndex.reserve(exchanges)
	t.index.reserve(texts)
	for t.most.chunks.least = 0; t.most.chunks.least < texts*reservedBytes; t.most.chunks.least += chunkBytes {
		t.chunks = append(t.chunks, make([]byte, 0, chunkBytes))
	}
}

// What is reserved beside the exchanges: strings other than paths, and so many
// bytes a string.
const (
	reservedWords = 32
	reservedBytes = 24
)
