package event

// HistogramError is the greatest relative error of [Histogram.Quantile].
const HistogramError = 1.0 / 128

// Histogram is a mergeable distribution of whole numbers.
type Histogram struct{ count, sum, min, max uint64 }

func (h *Histogram) Record(us uint64)                  { h.RecordN(us, 1) }
func (h *Histogram) RecordN(us, n uint64)              { h.count += n; h.sum += us * n; h.max = max(h.max, us) }
func (h *Histogram) Merge(o *Histogram)                { h.count += o.count }
func (h *Histogram) Count() uint64                     { return h.count }
func (h *Histogram) Sum() uint64                       { return h.sum }
func (h *Histogram) Max() uint64                       { return h.max }
func (h *Histogram) Min() uint64                       { return h.min }
func (h *Histogram) Quantile(q float64) float64        { return float64(h.max) * q }
func (h *Histogram) Reset()                            { *h = Histogram{} }
func (h *Histogram) AppendBinary(dst []byte) []byte    { return dst }
func (h *Histogram) UnmarshalBinary(data []byte) error { return nil }
func (h *Histogram) MarshalJSON() ([]byte, error)      { return []byte(`""`), nil }
func (h *Histogram) UnmarshalJSON(data []byte) error   { return nil }

// Encoder builds batches.
type Encoder struct{ n int }

func (e *Encoder) Add(ev *Event)                       { e.n++ }
func (e *Encoder) Len() int                            { return e.n }
func (e *Encoder) Size() int                           { return 0 }
func (e *Encoder) Encode(dst []byte, h *Header) []byte { return dst }
func (e *Encoder) Reset()                              { e.n = 0 }

// Decoder reads batches.
type Decoder struct{ h Header }

func (d *Decoder) Reset(data []byte) error                     { return nil }
func (d *Decoder) Header() *Header                             { return &d.h }
func (d *Decoder) Len() int                                    { return 0 }
func (d *Decoder) Next(e *Event) bool                          { return false }
func (d *Decoder) Err() error                                  { return nil }
func (d *Decoder) Indexes() (route, connection, outcome int)   { return 0, 0, 0 }
func (d *Decoder) Counts() (routes, connections, outcomes int) { return 0, 0, 0 }

// Bounds of one batch.
const MaxBatchBytes = 1 << 20

// Endpoint is one side of an exchange, as JSON tells it.
type Endpoint struct {
	IP        string `json:"ip,omitempty"`
	Port      uint16 `json:"port,omitempty"`
	Cluster   string `json:"cluster,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Kind      string `json:"kind,omitempty"`
	Name      string `json:"name,omitempty"`
	Pod       string `json:"pod,omitempty"`
	Identity  string `json:"identity,omitempty"`
}

// JSONEvent is one event as [AppendJSON] writes it.
type JSONEvent struct {
	Instance       string   `json:"instance"` // 16 hexadecimal digits
	Sequence       uint64   `json:"sequence"`
	Index          int      `json:"index"`
	Event          string   `json:"event"`     // "end" or "progress"
	Direction      string   `json:"direction"` // "inbound" or "outbound"
	Protocol       string   `json:"protocol"`
	Start          int64    `json:"start"` // µs since 1970
	Latency        uint64   `json:"latency"`
	Duration       uint64   `json:"duration"`
	Method         string   `json:"method,omitempty"`
	Authority      string   `json:"authority,omitempty"`
	Path           string   `json:"path,omitempty"`
	Status         uint16   `json:"status,omitempty"`
	GRPCStatus     *int16   `json:"grpc_status,omitempty"`
	Error          string   `json:"error,omitempty"`
	Fate           []string `json:"fate,omitempty"`
	Attempt        uint8    `json:"attempt,omitempty"`
	RequestBytes   uint64   `json:"request_bytes"`
	ResponseBytes  uint64   `json:"response_bytes"`
	Source         Endpoint `json:"source"`
	Destination    Endpoint `json:"destination"`
	Meshed         bool     `json:"meshed"` // the peer's proxy reports it too
	Security       string   `json:"security"`
	SecurityReason string   `json:"security_reason,omitempty"`
	Connection     string   `json:"connection"` // 16 hexadecimal digits
	Stream         uint32   `json:"stream"`
	Detection      string   `json:"detection,omitempty"`
	DetectionTime  uint32   `json:"detection_time,omitempty"`
	TraceID        string   `json:"trace_id,omitempty"` // 32 hexadecimal digits
}

func AppendJSON(dst []byte, h *Header, index int, e *Event) []byte { return dst }
func ParseJSON(data []byte) (JSONEvent, error)                     { return JSONEvent{}, nil }

func (d Direction) String() string { return "" }
func (p Protocol) String() string  { return "" }
func (k Kind) String() string      { return "" }
func (s Security) String() string  { return "" }
func (f Fate) String() string      { return "" } // names joined by ","
func (d Detection) String() string { return "" }

func ParseDirection(s string) (Direction, bool) { return 0, false }
func ParseProtocol(s string) (Protocol, bool)   { return 0, false }
func ParseKind(s string) (Kind, bool)           { return 0, false }
func ParseSecurity(s string) (Security, bool)   { return 0, false }
func ParseFate(s string) (Fate, bool)           { return 0, false }
func ParseDetection(s string) (Detection, bool) { return 0, false }
