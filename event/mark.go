package event

// Mark is a message of the stream of batches that was read. A bus that dies with its
// machine loses what came last of a stream, and gives the sequences again: the
// message at a sequence is the one that was read where the stream got it at the same
// time.
type Mark struct {
	// Sequence in the stream; 0: the stream's beginning.
	Sequence uint64
	// Stored is when the stream got it, Unix ns; 0 where that is not known.
	Stored int64
}
