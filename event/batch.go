package event

// Header is what a batch says of itself.
type Header struct {
	Source Source
	// Instance is the proxy process: random, new at each boot, never 0.
	Instance uint64
	// Sequence numbers the batches of an instance, from 1, without gaps.
	Sequence uint64
	// Sent is when the batch was sealed, wall clock, µs since 1970.
	Sent int64
	// Produced counts all events of the instance up to and including this
	// batch; Shed counts those of them that no batch carries, because a bound
	// was reached. Both are cumulative, so that a lost batch loses no count.
	Produced, Shed uint64
	// OpenConnections is a gauge: client connections open when sealed.
	OpenConnections uint64
	// Final says that the instance ends with this batch, by its own will.
	Final bool
	// Version is the proxy's build.
	Version string
}
