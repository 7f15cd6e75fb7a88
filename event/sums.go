package event

// Sums repeat what a batch says of its events one by one, added up as statistics
// want it: for those who only count, reading them takes a fraction of reading the
// events. An [Encoder] writes them where they are short, which is where there are
// many events of few routes and peers, all of which ended in the same second.

// Bounds of the sums of a batch. The encoder writes none of fewer events than
// leastSummed, nor where there would be fewer than eventsPerSum for each sum; then
// they would take nearly as long to read as the events, and many bytes.
const (
	// MaxSums is how many sums a batch may have.
	MaxSums      = 512
	leastSummed  = 256
	eventsPerSum = 100
	// maxSumOutcomes is of how many outcomes sums are written, maxSumPairs for how
	// many possible pairs of outbound routes and peers.
	maxSumOutcomes = 64
	maxSumPairs    = 1 << 14
	// maxSumBytes bounds the bytes of an event that is summed, so that no sum
	// overflows.
	maxSumBytes = 1 << 40
)

// Sum is of those events of a batch that have in common: the direction, whether
// they are requests (see [Event.IsRequest]) and gRPC calls, and the route, or the
// peer and its security, or both. Every inbound event is in one sum of its route
// and in one of its peer, every outbound one in one sum of both.
type Sum struct {
	// OfRoute and OfPeer tell what the events have in common.
	OfRoute, OfPeer bool
	// Exchange is the number of an exchange of the route, or, where OfRoute is not
	// set, of one that is as much a request and a gRPC call. Connection is the
	// number of one to the peer, where OfPeer is set. See [Decoder.Describe].
	Exchange, Connection int
	// RequestBytes and ResponseBytes are what they carried.
	RequestBytes, ResponseBytes uint64
	// Events is how many they are, Outcomes how many of each outcome: see
	// [Decoder.DescribeOutcome].
	Events   uint64
	Outcomes []uint64
	// Latency and Duration are the moments of requests, µs; empty for what are
	// none. The buckets of a [Histogram] that they are in follow, ascending.
	Latency, Duration               Moments
	LatencyBuckets, DurationBuckets []BucketCount
}

// BucketCount is how many values, 65,536 at most, are in one bucket of a
// [Histogram].
type BucketCount uint32

const bucketBits = 12

// makeBucketCount is n values in a bucket.
func makeBucketCount(bucket int, n uint32) BucketCount {
	return BucketCount(n<<bucketBits | uint32(bucket))
}

// Bucket is the bucket's number.
func (c BucketCount) Bucket() int { return int(c & (1<<bucketBits - 1)) }

// Count is how many values are in it.
func (c BucketCount) Count() uint64 { return uint64(c >> bucketBits) }

// AddCounts counts values of which it is known how many are in which bucket; the
// buckets must ascend.
func (t *Tally) AddCounts(counts []BucketCount) {
	if len(counts) == 0 {
		return
	}
	t.reach(counts[0].Bucket())
	t.reach(counts[len(counts)-1].Bucket())
	to, low := t.counts, t.low
	for _, c := range counts {
		k := c.Bucket() - low
		if uint(k) >= uint(len(to)) {
			continue // they do not ascend
		}
		n := uint32(to[k]) + uint32(c>>bucketBits)
		to[k] = uint16(n)
		for ; n >= 1<<16; n -= 1 << 16 {
			t.carried = append(t.carried, uint16(c.Bucket()))
		}
	}
}
