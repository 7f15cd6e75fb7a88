package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/weirmesh/weir/api/weirpb"
)

// none stands where there is no value.
const none = "-"

// percent formats a ratio as "98.73%", cut rather than rounded: what is not
// all must not read 100.00%.
func percent(ratio float64) string {
	// The small addend undoes what a ratio such as 0.9873 lost as a float.
	return fmt.Sprintf("%.2f%%", math.Floor(ratio*1e4+1e-9)/100)
}

// rate formats requests a second as "100.0rps".
func rate(rps float64) string { return fmt.Sprintf("%.1frps", rps) }

// millis formats milliseconds with two significant digits below 10 ms, where
// whole ones would say little: "0.42ms", "4.2ms", "42ms", "420ms".
func millis(ms float64) string {
	switch {
	case ms < 0.995:
		return fmt.Sprintf("%.2fms", ms)
	case ms < 9.95:
		return fmt.Sprintf("%.1fms", ms)
	}
	return fmt.Sprintf("%.0fms", ms)
}

// byteRate formats bytes a second as "1234.5B/s".
func byteRate(r float64) string { return fmt.Sprintf("%.1fB/s", r) }

// trafficCells are SUCCESS, RPS, LATENCY_P50, LATENCY_P95 and LATENCY_P99.
func trafficCells(s *weirpb.Stats) []string {
	if s.GetRequests() == 0 {
		return []string{none, none, none, none, none}
	}
	cells := []string{percent(s.GetSuccess()), rate(s.GetRps())}
	q := s.GetLatencyMs()
	if q == nil {
		return append(cells, none, none, none)
	}
	return append(cells, millis(q.GetP50()), millis(q.GetP95()), millis(q.GetP99()))
}

var trafficHeads = []string{"SUCCESS", "RPS", "LATENCY_P50", "LATENCY_P95", "LATENCY_P99"}

// wideHeads are what -o wide adds to trafficHeads.
var wideHeads = []string{"LATENCY_P99.9", "LATENCY_P99.99", "LATENCY_MAX"}

func wideCells(s *weirpb.Stats) []string {
	q := s.GetLatencyMs()
	if q == nil {
		return []string{none, none, none}
	}
	return []string{millis(q.GetP999()), millis(q.GetP9999()), millis(q.GetMax())}
}

// traffic is what all JSON rows have in common, under Linkerd's keys and ours.
// Latencies are null where there was no request, as is success.
type traffic struct {
	Success *float64 `json:"success"`
	RPS     float64  `json:"rps"`
	latencies
	DurationP50  *float64          `json:"duration_ms_p50"`
	DurationP95  *float64          `json:"duration_ms_p95"`
	DurationP99  *float64          `json:"duration_ms_p99"`
	DurationMax  *float64          `json:"duration_ms_max"`
	Requests     uint64            `json:"requests"`
	Successes    uint64            `json:"successes"`
	Failures     uint64            `json:"failures"`
	Status       map[string]uint64 `json:"status"`
	GRPCStatus   map[string]uint64 `json:"grpc_status"`
	Errors       map[string]uint64 `json:"errors"`
	RequestBytes uint64            `json:"request_bytes"`
	// ResponseBytes and RequestBytes include TCP connections.
	ResponseBytes uint64 `json:"response_bytes"`
}

// latencies are a row's, in milliseconds; null where there was no request.
type latencies struct {
	LatencyP50   *float64 `json:"latency_ms_p50"`
	LatencyP75   *float64 `json:"latency_ms_p75"`
	LatencyP90   *float64 `json:"latency_ms_p90"`
	LatencyP95   *float64 `json:"latency_ms_p95"`
	LatencyP99   *float64 `json:"latency_ms_p99"`
	LatencyP999  *float64 `json:"latency_ms_p999"`
	LatencyP9999 *float64 `json:"latency_ms_p9999"`
	LatencyMax   *float64 `json:"latency_ms_max"`
	LatencyMean  *float64 `json:"latency_ms_mean"`
}

func newTraffic(s *weirpb.Stats) traffic {
	t := traffic{
		RPS:           s.GetRps(),
		Requests:      s.GetRequests(),
		Successes:     s.GetSuccesses(),
		Failures:      s.GetFailures(),
		Status:        orEmpty(s.GetStatus()),
		GRPCStatus:    orEmpty(s.GetGrpcStatus()),
		Errors:        orEmpty(s.GetErrors()),
		RequestBytes:  s.GetRequestBytes(),
		ResponseBytes: s.GetResponseBytes(),
	}
	if s.GetRequests() > 0 {
		t.Success = &s.Success
	}
	if q := s.GetLatencyMs(); q != nil {
		t.LatencyP50, t.LatencyP75, t.LatencyP90, t.LatencyP95, t.LatencyP99 = &q.P50, &q.P75, &q.P90, &q.P95, &q.P99
		t.LatencyP999, t.LatencyP9999, t.LatencyMax, t.LatencyMean = &q.P999, &q.P9999, &q.Max, &q.Mean
	}
	if q := s.GetDurationMs(); q != nil {
		t.DurationP50, t.DurationP95, t.DurationP99, t.DurationMax = &q.P50, &q.P95, &q.P99, &q.Max
	}
	return t
}

// span is what a JSON row is about, and how exact its quantiles are.
type span struct {
	Since         time.Time `json:"since"`
	Until         time.Time `json:"until"`
	QuantileError float64   `json:"quantile_error"`
	// Oldest is how far back answers of this kind reach; null where there is
	// nothing yet.
	Oldest *time.Time `json:"oldest"`
}

func newSpan(c *weirpb.Coverage) span {
	s := span{Since: c.GetSince().AsTime(), Until: c.GetUntil().AsTime(), QuantileError: c.GetQuantileError()}
	if c.GetOldest() != nil {
		oldest := c.GetOldest().AsTime()
		s.Oldest = &oldest
	}
	return s
}

func orEmpty(m map[string]uint64) map[string]uint64 {
	if m == nil {
		return map[string]uint64{}
	}
	return m
}

// renderJSON gives an indented array; one without elements is [].
func renderJSON[T any](rows []T) ([]byte, error) {
	if rows == nil {
		rows = []T{}
	}
	return renderOne(rows)
}

// renderOne writes one value as JSON for people.
func renderOne(value any) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(value); err != nil {
		return nil, fmt.Errorf("cannot encode the output: %w", err)
	}
	return out.Bytes(), nil
}

// printable makes what strangers sent (paths, hosts) fit to be shown: what
// could steer a terminal or break a column is quoted.
func printable(s string) string {
	bad := func(r rune) bool { return !unicode.IsPrint(r) || unicode.IsSpace(r) || r == unicode.ReplacementChar }
	if strings.ContainsFunc(s, bad) {
		return strconv.Quote(s)
	}
	return s
}

// quantileNote tells how exact the numbers are.
func quantileNote(c *weirpb.Coverage) string {
	note := fmt.Sprintf("Window %s to %s. Counts are exact; latency (time to the first byte) quantiles within ±%.2g%%.",
		c.GetSince().AsTime().Format(time.RFC3339), c.GetUntil().AsTime().Format(time.RFC3339), 100*c.GetQuantileError())
	if c.GetOldest() != nil {
		note += fmt.Sprintf(" What is kept reaches back to %s.", c.GetOldest().AsTime().Format(time.RFC3339))
	}
	if c.GetExact().AsTime().After(c.GetSince().AsTime()) {
		note += fmt.Sprintf(" What is older than %s is kept in steps of 10s and more, so the window's begin is rounded to one.",
			c.GetExact().AsTime().Format(time.RFC3339))
	}
	return note
}

// printableRoute is printable for a method and a path with a space between.
func printableRoute(s string) string {
	if method, path, ok := strings.Cut(s, " "); ok {
		return printable(method) + " " + printable(path)
	}
	return printable(s)
}
