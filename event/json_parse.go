package event

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Endpoint is one side of an exchange, as JSON tells it. What is not known is
// left out; of the proxy's own side, address and identity are.
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

// Workload is whom the endpoint belongs to.
func (e *Endpoint) Workload() Workload {
	return Workload{Cluster: e.Cluster, Namespace: e.Namespace, Kind: e.Kind, Name: e.Name}
}

// JSONEvent is one event as [AppendJSON] writes it. Times are in µs, sizes in
// bytes, and names as the String methods give them.
type JSONEvent struct {
	// Instance (16 hexadecimal digits), Sequence and Index are unique together.
	Instance string `json:"instance"`
	Sequence uint64 `json:"sequence"`
	Index    int    `json:"index"`
	// Event is "end" or "progress".
	Event string `json:"event"`
	// Direction is "inbound" or "outbound": whose proxy saw it.
	Direction string `json:"direction"`
	Protocol  string `json:"protocol"`
	// Start is since 1970.
	Start     int64  `json:"start_us"`
	Latency   uint64 `json:"latency_us"`
	Duration  uint64 `json:"duration_us"`
	Method    string `json:"method,omitempty"`
	Authority string `json:"authority,omitempty"`
	Path      string `json:"path,omitempty"`
	Status    uint16 `json:"status,omitempty"`
	// GRPCStatus is nil where there is none.
	GRPCStatus *int16 `json:"grpc_status,omitempty"`
	// Success is nil for progress events.
	Success       *bool    `json:"success,omitempty"`
	Error         string   `json:"error,omitempty"`
	Fate          []string `json:"fate,omitempty"`
	Attempt       uint8    `json:"attempt,omitempty"`
	RequestBytes  uint64   `json:"request_bytes"`
	ResponseBytes uint64   `json:"response_bytes"`
	// Source is the client, Destination the server.
	Source      Endpoint `json:"source"`
	Destination Endpoint `json:"destination"`
	// Meshed tells that the peer's proxy reports the exchange, too.
	Meshed         bool   `json:"meshed"`
	Security       string `json:"security"`
	SecurityReason string `json:"security_reason,omitempty"`
	// Connection is 16 hexadecimal digits.
	Connection    string `json:"connection"`
	Stream        uint32 `json:"stream"`
	Detection     string `json:"detection,omitempty"`
	DetectionTime uint32 `json:"detection_us,omitempty"`
	// TraceID is 32 hexadecimal digits, or empty.
	TraceID string `json:"trace_id,omitempty"`
}

// ParseJSON reads what [AppendJSON] wrote. Keys that it does not know are
// skipped, names that it does not know kept. The error says what is wrong. More
// than MaxBatchBytes are not accepted. It is safe for concurrent use.
func ParseJSON(data []byte) (JSONEvent, error) {
	var e JSONEvent
	if len(data) > MaxBatchBytes {
		return e, fmt.Errorf("cannot read event: it has %d bytes, and more than %d are not accepted", len(data), MaxBatchBytes)
	}
	if err := json.Unmarshal(data, &e); err != nil {
		return JSONEvent{}, fmt.Errorf("cannot read event: %w", err)
	}
	if err := e.check(); err != nil {
		return JSONEvent{}, fmt.Errorf("cannot read event: %w", err)
	}
	return e, nil
}

func (e *JSONEvent) check() error {
	switch {
	case !isHex(e.Instance, 16):
		return fmt.Errorf("instance %.40q is not 16 hexadecimal digits", e.Instance)
	case !isHex(e.Connection, 16):
		return fmt.Errorf("connection %.40q is not 16 hexadecimal digits", e.Connection)
	case e.TraceID != "" && !isHex(e.TraceID, 32):
		return fmt.Errorf("trace_id %.40q is not 32 hexadecimal digits", e.TraceID)
	case e.Event == "" || e.Direction == "" || e.Protocol == "" || e.Security == "":
		return errors.New("event, direction, protocol or security is missing")
	case e.Index < 0:
		return fmt.Errorf("index is %d", e.Index)
	}
	return nil
}

func isHex(s string, n int) bool {
	if len(s) != n {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
