// Package bus is the reference of what travels on Weir's bus, as data: the
// subjects and how names are written in them, the streams that keep events and
// rollups, and the errors by which client and server tell what went wrong.
//
// It links no NATS library; bus/client and bus/server do.
package bus

import (
	"errors"
	"fmt"
)

// Partitions is how many parts the events stream is divided into; each has one
// owner among the aggregators. Changing it changes which partition a workload
// belongs to, so it is a property of the version, not of an installation.
const Partitions = 16

// Sizes that both sides hold to, in bytes.
const (
	// MaxBatch is the largest batch that the events stream takes.
	MaxBatch = 1 << 20
	// MaxPayload is the largest message that the bus carries at all: a rollup
	// or the answer to a query.
	MaxPayload = 8 << 20
)

// Ports of NATS. Its server speaks first, which no protocol detection can
// wait for, so proxies treat these ports as opaque.
const (
	PortClient   = 4222
	PortCluster  = 6222
	PortLeafNode = 7422
)

// Errors of the bus. Those returned by bus/client wrap them; test with
// errors.Is.
var (
	// ErrFenced: another owner has written to the partition since. Whoever gets
	// it no longer owns the partition and must read the last rollup again.
	ErrFenced = errors.New("another owner has written this partition")
	// ErrNoResponders: nobody listens on the subject.
	ErrNoResponders = errors.New("nobody answers")
	// ErrTooLarge: the message is larger than the bus or the stream accepts.
	// Sending it again is of no use.
	ErrTooLarge = errors.New("message too large for the bus")
	// ErrNotConnected: there is no connection to the bus now, or it was lost
	// before the answer came. Sending again later is right.
	ErrNotConnected = errors.New("not connected to the bus")
	// ErrRefused: the bus answered and refuses the message (a full disk, a
	// missing stream, no permission); the text says why.
	ErrRefused = errors.New("refused by the bus")
	// ErrPartition: the number is not in [0, Partitions).
	ErrPartition = errors.New("no such partition")
	// ErrTier: the number is not in [0, Tiers).
	ErrTier = errors.New("no such tier")
)

// DroppedError tells that a subscriber was too slow and some messages of its
// live subscription were dropped. The publishers were not held up.
type DroppedError struct {
	// Count is how many messages the subscriber missed.
	Count uint64
}

// Error implements error.
func (e *DroppedError) Error() string {
	return fmt.Sprintf("%d messages dropped because the subscriber was too slow", e.Count)
}
