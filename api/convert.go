package api

import (
	"math"
	"strconv"
	"time"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/event"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// histogramError is the relative error bound of every quantile.
const histogramError = event.HistogramError

func resource(s query.Selector) *weirpb.Resource {
	if s.Kind == kindNamespace && s.Name == "" {
		s.Name = s.Namespace
	}
	return &weirpb.Resource{Cluster: s.Cluster, Namespace: s.Namespace, Kind: s.Kind, Name: s.Name}
}

// stats works out rates and quantiles over seconds.
func stats(s *query.Stats, seconds float64) *weirpb.Stats {
	out := &weirpb.Stats{
		Requests:          s.Requests,
		Successes:         s.Successes,
		Failures:          s.Requests - min(s.Requests, s.Successes),
		Success:           ratio(s.Successes, s.Requests),
		Rps:               float64(s.Requests) / seconds,
		LatencyMs:         quantiles(&s.Latency),
		DurationMs:        quantiles(&s.Duration),
		RequestBytes:      s.RequestBytes,
		ResponseBytes:     s.ResponseBytes,
		TcpConnections:    s.Connections,
		TcpReadBytesRate:  float64(s.RequestBytes) / seconds,
		TcpWriteBytesRate: float64(s.ResponseBytes) / seconds,
		Errors:            s.Errors,
	}
	if len(s.Status) > 0 {
		out.Status = make(map[string]uint64, len(s.Status))
		for code, n := range s.Status {
			out.Status[codeName(int(code), math.MaxUint16)] = n
		}
	}
	if len(s.GRPC) > 0 {
		out.GrpcStatus = make(map[string]uint64, len(s.GRPC))
		for code, n := range s.GRPC {
			out.GrpcStatus[codeName(int(code), math.MaxInt16)] = n
		}
	}
	return out
}

// codeName is a status code as a key; other stands for those beyond the bound
// on their number.
func codeName(code, other int) string {
	if code == other {
		return "(other)"
	}
	return strconv.Itoa(code)
}

// quantiles are nil where nothing was measured: zeros would look like very
// fast requests.
func quantiles(h *event.SparseHistogram) *weirpb.Quantiles {
	n := h.Count()
	if n == 0 {
		return nil
	}
	qs := query.Quantiles()
	var at [len(qs)]float64
	h.Quantiles(at[:], qs[:]...)
	return &weirpb.Quantiles{
		P50:   ms(at[0]),
		P75:   ms(at[1]),
		P90:   ms(at[2]),
		P95:   ms(at[3]),
		P99:   ms(at[4]),
		P999:  ms(at[5]),
		P9999: ms(at[6]),
		Max:   ms(float64(h.Max())),
		Mean:  ms(float64(h.Sum()) / float64(n)),
	}
}

// points turns a series into its points; steps that no aggregator reported
// are empty, none is left out.
func points(s *query.Series, w window, step int64) []*weirpb.Point {
	out := make([]*weirpb.Point, (w.until-w.since)/step)
	var none query.Stats
	for i := range out {
		p := &none
		if i < len(s.Points) {
			p = &s.Points[i]
		}
		out[i] = &weirpb.Point{
			Start:         timestamppb.New(time.Unix(w.since+int64(i)*step, 0)),
			Requests:      p.Requests,
			Failures:      p.Requests - min(p.Requests, p.Successes),
			Rps:           float64(p.Requests) / float64(step),
			Success:       ratio(p.Successes, p.Requests),
			RequestBytes:  p.RequestBytes,
			ResponseBytes: p.ResponseBytes,
		}
		if p.Latency.Count() > 0 {
			out[i].LatencyMsP50 = ms(p.Latency.Quantile(0.5))
			out[i].LatencyMsP95 = ms(p.Latency.Quantile(0.95))
			out[i].LatencyMsP99 = ms(p.Latency.Quantile(0.99))
			out[i].LatencyMsMax = ms(float64(p.Latency.Max()))
		}
	}
	return out
}

// ms turns microseconds into milliseconds.
func ms(us float64) float64 { return us / 1000 }

func ratio(part, whole uint64) float64 {
	if whole == 0 {
		return 0
	}
	return float64(part) / float64(whole)
}

func timestamp(unix int64) *timestamppb.Timestamp {
	if unix == 0 {
		return nil
	}
	return timestamppb.New(time.Unix(unix, 0))
}
