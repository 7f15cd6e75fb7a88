// Package event is what Weir's telemetry is made of: [Event], what a proxy
// observed of one exchange; batches, a proxy's numbered runs of events in a
// compact columnar encoding ([Encoder], [Decoder], event.proto); [Histogram], a
// mergeable distribution with a stated error; and an event as JSON
// ([AppendJSON], [ParseJSON]).
//
// It imports nothing of Weir's and is the only thing that proxies and
// aggregators have in common.
package event

import (
	"net/netip"
	"strings"
)

// Direction is the side of a workload that an exchange was seen on.
type Direction uint8

// Directions.
const (
	// Inbound: the workload was the server; its own proxy accepted.
	Inbound Direction = 1
	// Outbound: the workload was the client; its own proxy dialled.
	Outbound Direction = 2
)

// Protocol is what an exchange spoke.
type Protocol uint8

// Protocols. The numbers are part of the wire format.
const (
	ProtocolUnknown Protocol = 0
	HTTP1           Protocol = 1
	HTTP2           Protocol = 2
	GRPC            Protocol = 3
	WebSocket       Protocol = 4
	TCP             Protocol = 5
	// TLS is a TLS connection passed through unread but for its SNI.
	TLS Protocol = 6
)

// Kind says whether an exchange is over.
type Kind uint8

// Kinds of events.
const (
	// End: the exchange is over; each exchange has exactly one.
	End Kind = 0
	// Progress: a long-lived exchange goes on. Bytes are what came since its
	// previous event; it does not count as a request.
	Progress Kind = 1
)

// Security is how the connection between the two proxies, or between proxy
// and peer, was secured.
type Security uint8

// Securities.
const (
	// Plain: not secured; the event says why.
	Plain Security = 0
	// Mutual TLS, with the peer's identity.
	Mutual Security = 1
	// Passthrough: the application's own TLS, not ended here.
	Passthrough Security = 2
)

// Fate is a set of what the proxy decided about an exchange.
type Fate uint16

// Fates.
const (
	Retried Fate = 1 << iota
	TimedOut
	Shed
	Denied
	BreakerOpen
	// Refused: the bytes were not acceptable (malformed, oversized) and were
	// never forwarded.
	Refused
	// Drained: the proxy ended it because it was itself stopping.
	Drained
)

// Reasons for Event.Error. A proxy may report others; these are the usual.
const (
	ErrConnectRefused  = "connect_refused"
	ErrConnectTimeout  = "connect_timeout"
	ErrConnectFailed   = "connect_failed"
	ErrNoEndpoints     = "no_endpoints"  // the service has none, so nothing was connected to
	ErrClientClosed    = "client_closed" // the client went away first
	ErrServerClosed    = "server_closed" // the server went away before its answer was whole
	ErrClientReset     = "client_reset"  // TCP reset, or RST_STREAM of the client
	ErrServerReset     = "server_reset"  // TCP reset, or RST_STREAM of the server
	ErrMalformed       = "malformed"     // the client's bytes are no valid request
	ErrMalformedServer = "malformed_server"
	ErrHeadTooLarge    = "head_too_large"
	ErrIdleTimeout     = "idle_timeout"
	ErrGoAway          = "goaway"
	ErrLimit           = "limit" // a connection or stream limit was reached
	ErrLoop            = "loop"  // the destination was the proxy itself
	ErrProtocol        = "protocol_error"
)

// NoGRPCStatus is Event.GRPCStatus where the exchange was no gRPC call, or
// ended without a grpc-status.
const NoGRPCStatus int16 = -1

// Event is one exchange as one proxy saw it: an HTTP request, a gRPC call, a
// TCP connection. Times are in microseconds, sizes in bytes.
//
// The strings of an Event may point into buffers that are used again: they are
// valid only as long as whoever hands out the Event says. An Event is not safe
// for concurrent use.
type Event struct {
	Kind      Kind
	Direction Direction
	Protocol  Protocol
	Security  Security
	Fate      Fate
	// Attempt counts tries of one request, from 0.
	Attempt uint8
	// Status is the HTTP status code; 0 where no response came.
	Status uint16
	// GRPCStatus is the gRPC status code, or NoGRPCStatus.
	GRPCStatus int16
	// Method and Authority of an HTTP request. Path is without query string.
	// For TLS passthrough Authority is the SNI.
	Method, Authority, Path string
	// Error says why the exchange did not end as its protocol ends: one of the
	// Err constants, or "" where it did.
	Error string
	// SecurityReason says why Security is Plain ("" where it is not).
	SecurityReason string
	// Start is the wall clock at the first byte of the request, µs since 1970.
	Start int64
	// Latency is from Start to the first byte of the response; equal to
	// Duration where none came. Monotonic clock.
	Latency uint64
	// Duration is from Start to the end. Monotonic clock.
	Duration uint64
	// RequestBytes and ResponseBytes count what was carried on behalf of this
	// exchange, heads and framing included.
	RequestBytes, ResponseBytes uint64
	// Peer is the other side: the client of an inbound exchange, the server of
	// an outbound one.
	Peer Peer
	// Connection identifies the connection between two proxies: both sides'
	// events carry the same number where both are meshed. It never is 0.
	Connection uint64
	// Stream is the ordinal of the exchange on its connection, from 1.
	Stream uint32
	// Detection says how the protocol was found: one of the Detect constants.
	Detection Detection
	// DetectionTime is how long that took, µs.
	DetectionTime uint32
	// TraceID is the trace-id of a W3C traceparent header; zero where none.
	TraceID [16]byte
}

// Detection is how the protocol of a connection was found.
type Detection uint8

// Detections.
const (
	// DetectNone: not needed.
	DetectNone Detection = 0
	// DetectBytes: by the client's first bytes.
	DetectBytes Detection = 1
	// DetectServerFirst: the server spoke before the client.
	DetectServerFirst Detection = 2
	// DetectOpaque: the port or listener is declared opaque.
	DetectOpaque Detection = 3
	// DetectHello: the other proxy said it (see package proxy/hello).
	DetectHello Detection = 4
	// DetectRemembered: the destination's earlier verdict.
	DetectRemembered Detection = 5
	// DetectConfig: the listener's configuration fixes it.
	DetectConfig Detection = 6
)

// Peer is the other side of an exchange. Fields that are not known are empty.
type Peer struct {
	// Workload is known where the peer is meshed or discovered.
	Workload Workload
	Pod      string
	// Identity is the peer's verified SPIFFE id, under mutual TLS only.
	Identity string
	Addr     netip.AddrPort
	// Meshed tells that the peer's own proxy reports this exchange too.
	Meshed bool
}

// Workload names what a pod belongs to. It is comparable, and a map key.
type Workload struct {
	Cluster, Namespace string
	// Kind is kubectl's short form: deploy, sts, ds, job, cronjob, rs, rc,
	// pod; ext for what is no workload.
	Kind string
	Name string
}

// Source is who publishes a batch.
type Source struct {
	Workload Workload
	Pod      string
	Node     string
}

// IsZero tells whether nothing is known of the workload.
func (w Workload) IsZero() bool { return w == Workload{} }

// Clone is w in memory of its own: the strings of what a [Decoder] gives are valid
// only until it reads the next batch.
func (w Workload) Clone() Workload {
	return Workload{
		Cluster:   strings.Clone(w.Cluster),
		Namespace: strings.Clone(w.Namespace),
		Kind:      strings.Clone(w.Kind),
		Name:      strings.Clone(w.Name),
	}
}

// String formats a workload as cluster/namespace/kind/name.
func (w Workload) String() string {
	return w.Cluster + "/" + w.Namespace + "/" + w.Kind + "/" + w.Name
}

// IsRequest tells whether the event counts as one request in statistics: an
// HTTP request or gRPC call that is over. Connections (TCP, TLS passthrough)
// are counted apart, and progress events only add bytes.
func (e *Event) IsRequest() bool {
	return e.Kind == End && e.Protocol != TCP && e.Protocol != TLS
}

// Success classifies a finished exchange as Linkerd does: a gRPC call fails
// with Unknown, DeadlineExceeded, PermissionDenied, Internal, Unavailable or
// DataLoss, an HTTP request with a status of 500 or more, and anything fails
// that ended without a response or with an error.
func (e *Event) Success() bool {
	if e.Error != "" {
		return false
	}
	switch e.Protocol {
	case TCP, TLS:
		return true
	case GRPC:
		switch e.GRPCStatus {
		case NoGRPCStatus, 2, 4, 7, 13, 14, 15:
			return false
		}
	}
	return e.Status > 0 && e.Status < 500
}
