package event

// Bounds of a batch. An [Encoder] cuts strings to MaxStringBytes and leaves it
// to its caller to seal in time (see [Encoder.Full]); a [Decoder] accepts
// nothing beyond any of them.
const (
	// MaxBatchBytes is how long an encoded batch may be: what a NATS server
	// accepts in one message unless configured otherwise.
	MaxBatchBytes = 1 << 20
	// MaxEvents is how many events a batch may carry.
	MaxEvents = 1 << 16
	// MaxStringBytes is how long any string of an event may be.
	MaxStringBytes = 2048
	// MaxEventBytes is what one event adds to a batch at the very most, with
	// eleven strings never seen before: see [Encoder.Size].
	MaxEventBytes = 24 << 10
	// MaxHeaderBytes is what a header takes at the very most.
	MaxHeaderBytes = 16 << 10
)

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
	// batch; Shed counts those of them whose detail was shed, because a bound
	// was reached: this batch or one before carries them in a [Summary] only.
	// Both are cumulative, so that a lost batch loses no count.
	Produced, Shed uint64
	// OpenConnections is a gauge: client connections open when sealed.
	OpenConnections uint64
	// Final says that the instance ends with this batch, by its own will.
	Final bool
	// Version is the proxy's build.
	Version string
}

// Numbers of the fields of event.proto.
const (
	fieldInstance        = 1
	fieldSequence        = 2
	fieldSent            = 3
	fieldProduced        = 4
	fieldShed            = 5
	fieldOpenConnections = 6
	fieldFinal           = 7
	fieldVersion         = 8
	fieldSource          = 9
	fieldStrings         = 10
	fieldRoutes          = 11
	fieldPeers           = 12
	fieldConnections     = 13
	fieldOutcomes        = 14
	fieldExchanges       = 15
	fieldEvents          = 16
	fieldSummaries       = 17
	fieldSums            = 18

	fieldCluster   = 1
	fieldNamespace = 2
	fieldKind      = 3
	fieldName      = 4
	fieldPod       = 5
	fieldNode      = 6

	// In every section, field 1 is the count; the columns begin with field 2,
	// and are in an array in order of their fields.
	fieldCount  = 1
	fieldColumn = 2

	stringShared, stringLength, stringColumns = 0, 1, 2
	fieldText                                 = 4
	fieldJoined                               = 5

	joinedHead, joinedTail, joinedColumns = 0, 1, 2

	routeKind, routeMethod, routeAuthority, routePath, routeColumns = 0, 1, 2, 3, 4

	peerIPLength, peerCluster, peerNamespace, peerKind, peerName = 0, 1, 2, 3, 4
	peerPod, peerIdentity, peerFlags, peerColumns                = 5, 6, 7, 8
	fieldPeerIP                                                  = 10
	fieldPeerIPv4                                                = 11

	// connUnused is a column of a number that was never in use.
	connUnused, connPeer, connPort, connSecurity, connReason = 0, 1, 2, 3, 4
	connDetection, connDetectionTime, connStream, connID     = 5, 6, 7, 8
	connColumns                                              = 9

	outcomeKind, outcomeStatus, outcomeGRPC, outcomeError = 0, 1, 2, 3
	outcomeFate, outcomeAttempt, outcomeColumns           = 4, 5, 6
	exchangeRoute, exchangeOutcome                        = 0, 1
	exchangeRequest, exchangeResponse, exchangeColumns    = 2, 3, 4
	eventEnd, eventExchange, eventConnection              = 0, 1, 2
	eventLatency, eventTail                               = 3, 4
	eventRequestBytes, eventResponseBytes                 = 5, 6
	eventStream, eventColumns                             = 7, 8
	fieldTraceRow                                         = 10
	fieldTraceID                                          = 11

	summarySecond, summaryExchange, summaryConnection, summaryEvents = 0, 1, 2, 3
	summaryRequest, summaryResponse, summaryLatency, summaryDuration = 4, 5, 6, 7
	summaryColumns                                                   = 8
	fieldHistograms                                                  = 10

	sumPart, sumExchangeNumber, sumConnection, sumRequest, sumResponse = 0, 1, 2, 3, 4
	sumLeast, sumSpread, sumRest                                       = 5, 6, 7
	sumTailLeast, sumTailSpread, sumTailRest, sumColumns               = 8, 9, 10, 11
	fieldSumEvents                                                     = 13
	fieldSumBuckets                                                    = 14
	partRoute, partPeer                                                = 1, 2

	maxColumns = sumColumns
	lastField  = fieldSumBuckets

	flagMeshed = 1
)
