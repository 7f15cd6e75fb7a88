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

func resource(s query.Selector) *weirpb.Resource { return fillResource(&weirpb.Resource{}, &s) }

func fillResource(out *weirpb.Resource, s *query.Selector) *weirpb.Resource {
	out.Cluster, out.Namespace, out.Kind, out.Name = s.Cluster, s.Namespace, s.Kind, s.Name
	if s.Kind == kindNamespace && s.Name == "" {
		out.Name = s.Namespace
	}
	return out
}

// statsRoom is all that the statistics of a row take.
type statsRoom struct {
	stats             weirpb.Stats
	latency, duration weirpb.Quantiles
}

// stats works out rates and quantiles over seconds.
func stats(s *query.Stats, seconds float64) *weirpb.Stats { return fillStats(&statsRoom{}, s, seconds) }

func fillStats(room *statsRoom, s *query.Stats, seconds float64) *weirpb.Stats {
	out := &room.stats
	out.Requests, out.Successes = s.Requests, s.Successes
	out.Failures = s.Requests - min(s.Requests, s.Successes)
	out.Success = ratio(s.Successes, s.Requests)
	out.Rps = float64(s.Requests) / seconds
	out.LatencyMs, out.DurationMs = quantiles(&room.latency, &s.Latency), quantiles(&room.duration, &s.Duration)
	out.RequestBytes, out.ResponseBytes = s.RequestBytes, s.ResponseBytes
	out.TcpConnections = s.Connections
	out.TcpReadBytesRate = float64(s.RequestBytes) / seconds
	out.TcpWriteBytesRate = float64(s.ResponseBytes) / seconds
	out.Errors = s.Errors
	out.Status = codeCounts(out.Status, s.Status, math.MaxUint16)
	out.GrpcStatus = codeCounts(out.GrpcStatus, s.GRPC, math.MaxInt16)
	return out
}

// codeCounts are counts by the code's name, in the memory of those of a row
// before, if any.
func codeCounts[K uint16 | int16](out map[string]uint64, counts map[K]uint64, other int) map[string]uint64 {
	clear(out)
	if out == nil && len(counts) > 0 {
		out = make(map[string]uint64, len(counts))
	}
	for code, n := range counts {
		out[codeName(int(code), other)] = n
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
func quantiles(out *weirpb.Quantiles, h *event.SparseHistogram) *weirpb.Quantiles {
	n := h.Count()
	if n == 0 {
		return nil
	}
	qs := query.Quantiles()
	var at [len(qs)]float64
	h.Quantiles(at[:], qs[:]...)
	out.P50, out.P75, out.P90, out.P95, out.P99, out.P999, out.P9999 = ms(at[0]), ms(at[1]), ms(at[2]), ms(at[3]), ms(at[4]), ms(at[5]), ms(at[6])
	out.Max, out.Mean = ms(float64(h.Max())), ms(float64(h.Sum())/float64(n))
	return out
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
