// Package query is what may be asked of the aggregators and what they answer:
// plain values, encoded as JSON on the bus, or packed (see [Encode]) for who
// asks for that. An answer of several aggregators
// is the sum of theirs; adding in any order gives the same.
package query

import "github.com/weirmesh/weir/event"

// Methods of the service "aggregator" on the bus
// (weir.v1.rpc.aggregator.<method>). Every live member answers each request
// with its own part.
const (
	Service         = "aggregator"
	MethodStat      = "stat"
	MethodSeries    = "series"
	MethodEdges     = "edges"
	MethodRoutes    = "routes"
	MethodWorkloads = "workloads"
)

// Kinds that Selector knows beside those of workloads.
const (
	KindPod       = "pod"
	KindNamespace = "ns"
	// KindExternal is the kind of a peer that is no known workload.
	KindExternal = "ext"
)

// Directions of a Row, a Series or a Route.
const (
	Inbound  = "inbound"
	Outbound = "outbound"
)

// Selector names resources; empty fields match all. Kind may also be "pod"
// (group by pod) or "ns" (group by namespace).
type Selector struct {
	Cluster   string `json:"cluster,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Kind      string `json:"kind,omitempty"`
	Name      string `json:"name,omitempty"`
}

// Request asks for statistics. Since and Until are Unix seconds, the window is
// [Since, Until). Step (seconds) matters to MethodSeries alone.
type Request struct {
	Resource Selector  `json:"resource"`
	To       *Selector `json:"to,omitempty"`
	From     *Selector `json:"from,omitempty"`
	Since    int64     `json:"since"`
	Until    int64     `json:"until"`
	Step     int64     `json:"step,omitempty"`
	// Packed lets the answer come as Encode writes it, and not all as JSON.
	Packed bool `json:"packed,omitempty"`
	// Brief lets rows of MethodStat come as Row.Brief says, where Packed is set:
	// it takes a tenth of the bytes.
	Brief bool `json:"brief,omitempty"`
}

// Quantiles are those that a [Row] that is Brief has, ascending.
func Quantiles() [7]float64 { return [...]float64{0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999} }

// Window is [Since, Until), Unix seconds.
type Window struct {
	Since int64 `json:"since"`
	Until int64 `json:"until"`
}

// Reply is one member's part of an answer. Only the rows of the method asked
// for are set.
type Reply struct {
	// Member is who answers, Members how many there are, as it believes.
	Member  string `json:"member"`
	Members int    `json:"members"`
	// Error is set where the request was not acceptable; nothing else is then.
	Error string `json:"error,omitempty"`
	// Oldest is when this member's oldest statistics begin, Unix seconds; 0
	// where it has none.
	Oldest int64 `json:"oldest"`
	// Exact is since when windows are cut to the second, Unix seconds. What is
	// older is summed up in steps of 10 s and more.
	Exact int64 `json:"exact"`
	// Windows is the window that the answer is about. Its edges are those of
	// the request, but the old edge is never before Reaches, and where only
	// coarser steps are known both lie at the last multiple of Resolution. Of
	// several members there may be several, where their memory differs: see
	// Again. A series is about the request's window, whatever is known of it.
	Windows []Window `json:"windows,omitempty"`
	// Resolution is the step of the statistics at the window's old edge,
	// seconds.
	Resolution int64 `json:"resolution,omitempty"`
	// Reaches is since when this member has everything, Unix seconds; 0 where
	// it has all there ever was.
	Reaches int64 `json:"reaches,omitempty"`
	// Loading: some of what was before Reaches is being read, and will be known
	// in a moment.
	Loading bool `json:"loading,omitempty"`
	// Behind are partitions that answer though what their predecessor may have
	// counted has not all been read again, for it took too long.
	Behind []int `json:"behind,omitempty"`
	// Partitions that this member answers for, of Total. See Missing.
	Partitions []int `json:"partitions"`
	Total      int   `json:"total"`

	Rows      []Row      `json:"rows,omitempty"`
	Series    []Series   `json:"series,omitempty"`
	Edges     []Edge     `json:"edges,omitempty"`
	Routes    []Route    `json:"routes,omitempty"`
	Workloads []Workload `json:"workloads,omitempty"`
	// Offenders are told beside Rows: the worst [MaxOffenders] of each member
	// that the request selects, the worst first.
	Offenders []Offender `json:"offenders,omitempty"`

	// packed are more rows, which Pack writes as they are.
	packed []Packed
	// raw are rows that UnpackRaw left as they were packed.
	raw []Raw
}

// Stats are exact sums over finished exchanges, mergeable by addition.
type Stats struct {
	Requests  uint64 `json:"requests,omitempty"`
	Successes uint64 `json:"successes,omitempty"`
	// Status counts requests by HTTP status, GRPC calls by gRPC status, Errors
	// requests and connections by Event.Error ("" is left out). Beyond bounds
	// on their number they are summed up as status 65535, gRPC status 32767
	// and the error "(other)".
	Status map[uint16]uint64 `json:"status,omitempty"`
	GRPC   map[int16]uint64  `json:"grpc,omitempty"`
	Errors map[string]uint64 `json:"errors,omitempty"`
	// Latency and Duration of requests, µs.
	Latency  event.SparseHistogram `json:"latency,omitzero"`
	Duration event.SparseHistogram `json:"duration,omitzero"`
	// Bytes of requests, connections and progress alike.
	RequestBytes  uint64 `json:"request_bytes,omitempty"`
	ResponseBytes uint64 `json:"response_bytes,omitempty"`
	// Connections that ended (TCP and TLS passthrough).
	Connections uint64 `json:"connections,omitempty"`
}

// Row is the sum for one resource.
type Row struct {
	Resource Selector `json:"resource"`
	// Owner is a pod's workload; nil for the row of the pods beyond the bounds,
	// which may be of several.
	Owner *Selector `json:"owner,omitempty"`
	// Direction says whose requests Stats counts: Inbound, those that the
	// resource got; or Outbound, those that it sent, where the request had a
	// To, or where it got none within the window.
	Direction string `json:"direction"`
	Stats     Stats  `json:"stats"`
	// PodsSeen reported within the window; PodsLive report now.
	PodsSeen        int    `json:"pods_seen"`
	PodsLive        int    `json:"pods_live"`
	OpenConnections uint64 `json:"open_connections"`
	// Shed counts events whose detail proxies shed within the window: Stats has
	// their sums, and nothing else does. LostBatches counts those that are
	// missing in their numbering, and in no Stats.
	Shed        uint64 `json:"shed"`
	LostBatches uint64 `json:"lost_batches"`
	// Brief: of the histograms of Stats count, sum, least, greatest and the
	// [Quantiles] are right, and nothing else. Such a row cannot be added to
	// another; a member gives it only of what no other should know of.
	Brief bool `json:"brief,omitempty"`
}

// MaxOffenders is how many offenders a member names.
const MaxOffenders = 10

// Offender is a source whose batches could not be counted, or not as they were.
type Offender struct {
	// Source is whose batches they are, as the subject says that they were
	// published on; where that names none, it is the name of the kind
	// KindExternal.
	Source Selector `json:"source"`
	// Reason is what was wrong: malformed, oversized, wrong_source (they say that
	// they are another's), wrong_sequence, wrong_subject: those were refused; or
	// clock: they were counted with other times.
	Reason string `json:"reason"`
	// Count is how many batches since the member started, Last when the last one
	// came, Unix seconds: within the request's window or later.
	Count uint64 `json:"count"`
	Last  int64  `json:"last"`
}

// Series is a resource's row of steps: Points[i] covers
// [Since+i*Step, Since+(i+1)*Step).
type Series struct {
	Resource Selector `json:"resource"`
	// Direction is as Row's.
	Direction string  `json:"direction"`
	Points    []Stats `json:"points"`
}

// Witness is an [Edge]'s SeenBy where it has no more than the client's identity,
// as the server's side has verified it. [Introduce] joins it with what the
// client's side counted.
const Witness = "witness"

// Edge is what one workload sent to another.
type Edge struct {
	Source      Selector `json:"source"`
	Destination Selector `json:"destination"`
	SourceID    string   `json:"source_id,omitempty"`
	DestID      string   `json:"dest_id,omitempty"`
	// Security is mutual, passthrough or none; Reason says why none.
	Security string `json:"security"`
	Reason   string `json:"reason,omitempty"`
	// SeenBy is client or server: whose side was counted. [Witness] is a server's
	// that tells the client's identity and was not counted.
	SeenBy string `json:"seen_by"`
	Stats  Stats  `json:"stats"`
}

// Route is the sum for one route of a resource.
type Route struct {
	Resource Selector `json:"resource"`
	// Direction is as Row's.
	Direction string `json:"direction"`
	Route     string `json:"route"`
	Authority string `json:"authority"`
	Protocol  string `json:"protocol"`
	Stats     Stats  `json:"stats"`
}

// Workload is what is known of one workload. Times are Unix seconds.
type Workload struct {
	Resource  Selector `json:"resource"`
	FirstSeen int64    `json:"first_seen"`
	LastSeen  int64    `json:"last_seen"`
	Pods      []Pod    `json:"pods"`
}

// Pod is one of a workload's pods.
type Pod struct {
	Name            string `json:"name"`
	Node            string `json:"node,omitempty"`
	LastSeen        int64  `json:"last_seen"`
	Live            bool   `json:"live"`
	OpenConnections uint64 `json:"open_connections"`
}
