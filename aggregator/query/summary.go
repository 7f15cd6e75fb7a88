package query

// Summary is the message on a workload's stats subject: what was counted since
// the one before it, about a second ago. Adding up all of them gives exact
// totals.
type Summary struct {
	// Time it was sent, Unix seconds.
	Time     int64    `json:"time"`
	Resource Selector `json:"resource"`
	// Inbound are the requests that the workload got, Outbound those it sent.
	Inbound  SummaryStats `json:"inbound"`
	Outbound SummaryStats `json:"outbound"`
	// PodsLive report now, with OpenConnections.
	PodsLive        int    `json:"pods_live"`
	OpenConnections uint64 `json:"open_connections"`
}

// SummaryStats are sums as Stats has them, with the quantiles of the latency
// worked out: in milliseconds, 0 where there were no requests.
type SummaryStats struct {
	Requests      uint64            `json:"requests"`
	Successes     uint64            `json:"successes"`
	Status        map[uint16]uint64 `json:"status,omitempty"`
	GRPC          map[int16]uint64  `json:"grpc,omitempty"`
	Errors        map[string]uint64 `json:"errors,omitempty"`
	LatencyP50    float64           `json:"latency_ms_p50"`
	LatencyP95    float64           `json:"latency_ms_p95"`
	LatencyP99    float64           `json:"latency_ms_p99"`
	LatencyMax    float64           `json:"latency_ms_max"`
	RequestBytes  uint64            `json:"request_bytes"`
	ResponseBytes uint64            `json:"response_bytes"`
	Connections   uint64            `json:"connections"`
}

// Summarize works out the quantiles.
func (s *Stats) Summarize() SummaryStats {
	const ms = 1e-3
	return SummaryStats{
		Requests:      s.Requests,
		Successes:     s.Successes,
		Status:        s.Status,
		GRPC:          s.GRPC,
		Errors:        s.Errors,
		LatencyP50:    s.Latency.Quantile(0.50) * ms,
		LatencyP95:    s.Latency.Quantile(0.95) * ms,
		LatencyP99:    s.Latency.Quantile(0.99) * ms,
		LatencyMax:    float64(s.Latency.Max()) * ms,
		RequestBytes:  s.RequestBytes,
		ResponseBytes: s.ResponseBytes,
		Connections:   s.Connections,
	}
}
