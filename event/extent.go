package event

import "time"

// Extent is what the stream of batches holds when somebody begins to read it.
type Extent struct {
	// Created is when the stream was made: it tells it from one that has taken
	// its place, whose sequences mean nothing in this one.
	Created time.Time
	// Oldest and Newest are when the messages First and Last, by their sequences,
	// were stored. Where the stream is empty both are zero, and First is Last+1.
	Oldest, Newest time.Time
	First, Last    uint64
	// Waiting is how many batches of those there are the reader will get.
	Waiting uint64
}
