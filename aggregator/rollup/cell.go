package rollup

import (
	"math"
	"slices"
	"strings"

	"github.com/weirmesh/weir/event"
)

// Bounds of what one cell tells apart. Beyond them, counts go to OtherStatus,
// OtherGRPC and the reason OtherName.
const (
	maxStatuses = 128
	maxErrors   = 64

	OtherStatus uint16 = math.MaxUint16
	OtherGRPC   int16  = math.MaxInt16
)

// bufferSize is how many requests wait for the histograms.
const bufferSize = 128

// samples are requests that wait for the histograms: in which buckets they
// count.
type samples struct{ latency, duration [bufferSize]uint16 }

// spread are exact moments of latency and duration.
type spread struct{ latency, duration event.Moments }

func (s *spread) add(o *spread) {
	s.latency.Add(&o.latency)
	s.duration.Add(&o.duration)
}

// outcome is how an exchange ended, as far as a cell tells it apart.
type outcome struct {
	status     uint16
	grpcStatus int16
	// ended: it is over; grpc: it was a gRPC call.
	ended, grpc bool
	error       string
}

func outcomeOf(e *event.Event) outcome {
	return outcome{e.Status, e.GRPCStatus, e.Kind == event.End, e.Protocol == event.GRPC, e.Error}
}

// Count is how often a value was seen.
type Count[T any] struct {
	Value T
	N     uint64
}

// Cell sums up finished exchanges. Adding is commutative and exact. A cell is
// not safe for concurrent use.
type Cell struct {
	// Requests that ended, and those of them that succeeded.
	Requests, Successes uint64
	// Bytes of requests, connections and progress alike.
	RequestBytes, ResponseBytes uint64
	// Connections that ended (TCP and TLS passthrough).
	Connections uint64
	// Status counts requests by HTTP status, GRPC calls by gRPC status, Errors
	// requests and connections by reason. In no particular order.
	Status []Count[uint16]
	GRPC   []Count[int16]
	Errors []Count[string]
	// Latency and Duration of requests, µs: all but the last few of a cell
	// that is being folded, which wait in buffer. What Merge and AppendBinary
	// give is complete.
	Latency, Duration event.Histogram

	// waiting and buffer hold the last requests that were observed. A histogram
	// takes KiBs in several places of memory, which most cells never need, and
	// the others only once for many requests. overflown: more of waiting's
	// requests were observed than there is room for in buffer, and some are
	// already counted in the histograms' buckets; settle must follow.
	buffered  uint8
	overflown bool
	waiting   spread
	buffer    samples

	// The rest is set in cells of the dimension Ledger only.

	// Batches, and Events that were folded one by one.
	Batches, Events uint64
	// Shed are events whose detail their proxies shed: they were folded as sums.
	Shed uint64
	// Lost are batches that are missing; those that were found after having
	// been counted as lost are taken off, where (when) they were found.
	Lost int64
}

// Add adds one event. Strings of e are copied where they are kept.
func (c *Cell) Add(e *event.Event) {
	request, o := e.IsRequest(), outcomeOf(e)
	c.add(&o, request, request && e.Success(), 1, e.RequestBytes, e.ResponseBytes)
	if request {
		c.sample(e.Latency, e.Duration)
	}
}

// add adds n events of the same outcome, all but their latencies and durations.
// The bytes are those of all of them. Strings are copied where they are kept.
func (c *Cell) add(o *outcome, request, success bool, n, requestBytes, responseBytes uint64) {
	c.RequestBytes += requestBytes
	c.ResponseBytes += responseBytes
	if !o.ended {
		return
	}
	if o.error != "" {
		c.addError(o.error, n, true)
	}
	if !request {
		c.Connections += n
		return
	}
	c.Requests += n
	if success {
		c.Successes += n
	}
	if len(c.Status) > 0 && c.Status[0].Value == o.status {
		c.Status[0].N += n
	} else {
		c.Status = addCount(c.Status, o.status, n, OtherStatus)
	}
	if o.grpc {
		c.GRPC = addCount(c.GRPC, o.grpcStatus, n, OtherGRPC)
	}
}

// sample adds the latency and duration of one request, µs.
func (c *Cell) sample(latency, duration uint64) {
	var at [2]uint16
	event.Buckets(at[:], []uint64{latency, duration})
	c.record(latency, duration, at[0], at[1])
}

// record adds one request; latencyAt and durationAt are its buckets.
func (c *Cell) record(latency, duration uint64, latencyAt, durationAt uint16) {
	c.waiting.latency.Record(latency)
	c.waiting.duration.Record(duration)
	if c.push(latencyAt, durationAt) {
		c.settle()
	}
}

// push adds one request by its buckets, and tells whether the buffer is full
// then. What waiting must have of it, the caller adds before the cell is used
// for anything else.
func (c *Cell) push(latencyAt, durationAt uint16) (full bool) {
	i := c.buffered & (bufferSize - 1)
	c.buffer.latency[i] = latencyAt
	c.buffer.duration[i] = durationAt
	c.buffered++
	return c.buffered == bufferSize
}

// overflow makes room in the buffer.
func (c *Cell) overflow() {
	c.Latency.Fill(c.buffer.latency[:c.buffered])
	c.Duration.Fill(c.buffer.duration[:c.buffered])
	c.buffered, c.overflown = 0, true
}

// pushAll is push for many, and overflow.
func (c *Cell) pushAll(latencyAt, durationAt []uint16) {
	n := len(latencyAt)
	if int(c.buffered)+n < bufferSize {
		copy(c.buffer.latency[c.buffered:], latencyAt)
		copy(c.buffer.duration[c.buffered:], durationAt)
		c.buffered += uint8(n)
		return
	}
	c.Latency.Fill(latencyAt)
	c.Duration.Fill(durationAt)
	c.overflown = true
}

// settle brings all that waits into the histograms.
func (c *Cell) settle() {
	c.pour(&c.Latency, &c.Duration)
	c.buffered, c.overflown, c.waiting = 0, false, spread{}
}

// pour records what waits, which it leaves as it is.
func (c *Cell) pour(latency, duration *event.Histogram) {
	latency.Fill(c.buffer.latency[:c.buffered])
	duration.Fill(c.buffer.duration[:c.buffered])
	latency.AddMoments(&c.waiting.latency)
	duration.AddMoments(&c.waiting.duration)
}

// addCount adds n to the count of v, or to that of other when there are too
// many values already.
func addCount[T comparable](counts []Count[T], v T, n uint64, other T) []Count[T] {
	for i := range counts {
		if counts[i].Value == v {
			counts[i].N += n
			return counts
		}
	}
	if len(counts) >= maxStatuses && v != other {
		return addCount(counts, other, n, other)
	}
	return append(counts, Count[T]{v, n})
}

func (c *Cell) addError(reason string, n uint64, clone bool) {
	for i := range c.Errors {
		if c.Errors[i].Value == reason {
			c.Errors[i].N += n
			return
		}
	}
	if len(c.Errors) >= maxErrors && reason != OtherName {
		c.addError(OtherName, n, false)
		return
	}
	if clone {
		reason = strings.Clone(cut(reason, maxName))
	}
	c.Errors = append(c.Errors, Count[string]{reason, n})
}

// Merge adds all that o holds, which stays as it is.
func (c *Cell) Merge(o *Cell) {
	c.Requests += o.Requests
	c.Successes += o.Successes
	c.RequestBytes += o.RequestBytes
	c.ResponseBytes += o.ResponseBytes
	c.Connections += o.Connections
	for _, n := range o.Status {
		c.Status = addCount(c.Status, n.Value, n.N, OtherStatus)
	}
	for _, n := range o.GRPC {
		c.GRPC = addCount(c.GRPC, n.Value, n.N, OtherGRPC)
	}
	for _, n := range o.Errors {
		c.addError(n.Value, n.N, false)
	}
	c.Latency.Merge(&o.Latency)
	c.Duration.Merge(&o.Duration)
	o.pour(&c.Latency, &c.Duration)
	c.Batches += o.Batches
	c.Events += o.Events
	c.Shed += o.Shed
	c.Lost += o.Lost
}

// Distributions are the latency and the duration of requests, complete.
func (c *Cell) Distributions() (latency, duration event.SparseHistogram) {
	c.settle()
	return c.Latency.Sparse(), c.Duration.Sparse()
}

// Traffic tells whether the cell has seen any: a request, a connection, or
// bytes.
func (c *Cell) Traffic() bool {
	return c.Requests > 0 || c.Connections > 0 || c.RequestBytes > 0 || c.ResponseBytes > 0
}

// Weight orders cells where only the greatest can keep a row of their own.
func (c *Cell) Weight() uint64 { return c.Requests + c.Connections + c.Batches }

// Reset empties the cell and keeps its memory.
func (c *Cell) Reset() {
	clear(c.Errors)
	c.Requests, c.Successes, c.RequestBytes, c.ResponseBytes, c.Connections = 0, 0, 0, 0, 0
	c.Status, c.GRPC, c.Errors = c.Status[:0], c.GRPC[:0], c.Errors[:0]
	c.Latency.Reset()
	c.Duration.Reset()
	c.buffered, c.overflown, c.waiting = 0, false, spread{}
	c.Batches, c.Events, c.Shed, c.Lost = 0, 0, 0, 0
}

// sort puts the counts into the order of the wire format, so that equal cells
// have equal bytes.
func (c *Cell) sort() {
	slices.SortFunc(c.Status, func(a, b Count[uint16]) int { return int(a.Value) - int(b.Value) })
	slices.SortFunc(c.GRPC, func(a, b Count[int16]) int { return int(a.Value) - int(b.Value) })
	slices.SortFunc(c.Errors, func(a, b Count[string]) int { return strings.Compare(a.Value, b.Value) })
}
