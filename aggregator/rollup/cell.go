package rollup

import (
	"cmp"
	"math"
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

// bufferSize is how many requests may wait to be counted in a cell's tallies, and
// bufferLeast for how many there is room from the first one on. A cell that has no
// more needs no tallies, and one that has counts so many at once, while they are in
// the core's cache.
const (
	bufferSize  = 256
	bufferLeast = 32
)

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
	// Latency and Duration of requests, µs: of those that were merged, or told
	// as sums. The others, that were observed one by one, are in what follows.
	// What Merge and AppendBinary give is complete.
	Latency, Duration event.Histogram

	// waiting are the moments of the requests that were observed one by one. In
	// which buckets they count is in buffer, in the order in which they came, and
	// once that was full in the tallies, a KiB each as a rule.
	waiting                     spread
	buffer                      []uint32
	tallied                     bool // the tallies have any
	latencyTally, durationTally event.Tally

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
	var at [1]uint32
	event.BucketPairs(at[:], []uint64{latency}, []uint64{duration})
	c.record(latency, duration, at[0])
}

// record adds one request; at are its buckets, as [event.BucketPairs] has them.
func (c *Cell) record(latency, duration uint64, at uint32) {
	c.waiting.latency.Record(latency)
	c.waiting.duration.Record(duration)
	c.push(at)
}

// touch reads a little of all that is to be encoded.
func (c *Cell) touch() (read uint64) {
	read = c.Requests + c.waiting.latency.Count() + c.waiting.duration.Count() + c.Batches
	if c.tallied {
		read += c.latencyTally.Touch() + c.durationTally.Touch()
	}
	for i := 0; i < len(c.buffer); i += 16 {
		read += uint64(c.buffer[i])
	}
	if len(c.Status) > 0 {
		read += c.Status[0].N
	}
	return read
}

// push adds one request by its buckets. What waiting must have of it, the caller
// adds before the cell is used for anything else.
func (c *Cell) push(at uint32) {
	if len(c.buffer) == cap(c.buffer) {
		c.makeRoom()
	}
	c.buffer = append(c.buffer, at)
}

// pushAll is push for many.
func (c *Cell) pushAll(at []uint32) {
	if len(at) >= bufferLeast && (c.tallied || len(c.buffer)+len(at) > bufferSize) {
		event.TallyPairs(at, &c.latencyTally, &c.durationTally)
		c.tallied = true
		return
	}
	for len(at) > 0 {
		if len(c.buffer) == cap(c.buffer) {
			c.makeRoom()
		}
		n := min(cap(c.buffer)-len(c.buffer), len(at))
		c.buffer = append(c.buffer, at[:n]...)
		at = at[n:]
	}
}

// makeRoom makes room in the buffer, which is full.
func (c *Cell) makeRoom() {
	if len(c.buffer) >= bufferSize {
		c.flush()
		return
	}
	buffer := make([]uint32, len(c.buffer), min(max(4*len(c.buffer), bufferLeast), bufferSize))
	copy(buffer, c.buffer)
	c.buffer = buffer
}

// flush brings what is in the buffer into the tallies.
func (c *Cell) flush() {
	if len(c.buffer) > 0 {
		event.TallyPairs(c.buffer, &c.latencyTally, &c.durationTally)
		c.buffer, c.tallied = c.buffer[:0], true
	}
}

// settle brings all that was observed into the histograms.
func (c *Cell) settle() {
	c.flush()
	c.pour(&c.Latency, &c.Duration)
	c.forget()
}

// forget empties what was observed one by one.
func (c *Cell) forget() {
	if c.tallied {
		c.latencyTally.Reset(&c.waiting.latency)
		c.durationTally.Reset(&c.waiting.duration)
	}
	c.buffer, c.tallied, c.waiting = c.buffer[:0], false, spread{}
}

// pour adds what was observed to histograms, and leaves it as it is: others may
// read c at the same time.
func (c *Cell) pour(latency, duration *event.Histogram) {
	latency.FillPairs(duration, c.buffer)
	c.latencyTally.AddTo(latency, &c.waiting.latency)
	c.durationTally.AddTo(duration, &c.waiting.duration)
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
	c.mergeCounts(o)
	c.Latency.Merge(&o.Latency)
	c.Duration.Merge(&o.Duration)
	o.pour(&c.Latency, &c.Duration)
}

// absorb is Merge, but what was observed one by one stays as such: c is to be
// encoded, and not to be looked at.
func (c *Cell) absorb(o *Cell) {
	c.mergeCounts(o)
	c.Latency.Merge(&o.Latency)
	c.Duration.Merge(&o.Duration)
	c.waiting.add(&o.waiting)
	c.pushAll(o.buffer)
	if o.tallied {
		c.latencyTally.Add(&o.latencyTally, &o.waiting.latency)
		c.durationTally.Add(&o.durationTally, &o.waiting.duration)
		c.tallied = true
	}
}

// mergeCounts adds all of o but its distributions.
func (c *Cell) mergeCounts(o *Cell) {
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
	c.forget()
	c.Batches, c.Events, c.Shed, c.Lost = 0, 0, 0, 0
}

// sort puts the counts into the order of the wire format, so that equal cells
// have equal bytes.
func (c *Cell) sort() {
	sortCounts(c.Status)
	sortCounts(c.GRPC)
	sortCounts(c.Errors)
}

// sortCounts puts counts into the order of their values. Most cells have two or
// three, of which calling a function to compare two would be most of the work.
func sortCounts[T cmp.Ordered](counts []Count[T]) {
	for i := 1; i < len(counts); i++ {
		for k := i; k > 0 && counts[k].Value < counts[k-1].Value; k-- {
			counts[k], counts[k-1] = counts[k-1], counts[k]
		}
	}
}
