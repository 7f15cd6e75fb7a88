package api

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// serverMetrics are one server's own metrics.
type serverMetrics struct {
	set          *metrics.Set
	tapsOpen     atomic.Int64
	tapSent      *metrics.Counter
	tapMalformed *metrics.Counter
}

func newMetrics() *serverMetrics {
	m := &serverMetrics{set: metrics.NewSet()}
	m.set.NewGauge("weir_api_taps", func() float64 { return float64(m.tapsOpen.Load()) })
	m.tapSent = m.set.NewCounter("weir_api_tap_events_total")
	m.tapMalformed = m.set.NewCounter("weir_api_tap_malformed_total")
	return m
}

func (m *serverMetrics) tapSkipped(reason string) *metrics.Counter {
	return m.set.GetOrCreateCounter(fmt.Sprintf("weir_api_tap_skipped_total{reason=%q}", reason))
}

// write renders the metrics in the text format of Prometheus.
func (m *serverMetrics) write(w io.Writer) {
	m.set.WritePrometheus(w)
	metrics.WriteProcessMetrics(w)
}

func (m *serverMetrics) observe(method string, start time.Time, err error) {
	m.set.GetOrCreateCounter(fmt.Sprintf("weir_api_requests_total{method=%q,code=%q}", method, status.Code(err))).Inc()
	m.set.GetOrCreateHistogram(fmt.Sprintf("weir_api_request_duration_seconds{method=%q}", method)).UpdateDuration(start)
}

// unary counts, times and bounds calls that have one answer.
func (m *serverMetrics) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	start := time.Now()
	resp, err := next(ctx, req)
	m.observe(info.FullMethod, start, err)
	return resp, err
}

// stream counts calls that stream.
func (m *serverMetrics) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	start := time.Now()
	err := next(srv, ss)
	m.observe(info.FullMethod, start, err)
	return err
}
