package api

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/weirmesh/weir/aggregator/match"
	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/aggregator/scan"
	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/event"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// defaultTop is how many rows a scan gives.
const defaultTop = 20

// Scan implements weirpb.WeirServer.
func (s *service) Scan(req *weirpb.ScanRequest, stream grpc.ServerStreamingServer[weirpb.ScanResponse]) error {
	q, g, w, err := s.scanQuestion(req)
	if err != nil {
		return err
	}
	select {
	case s.scans <- struct{}{}:
		defer func() { <-s.scans }()
	default:
		return status.Errorf(codes.ResourceExhausted, "%d scans run already, which is the limit of this API server; ask again in a moment", maxScans)
	}
	ctx, cancel := context.WithTimeout(stream.Context(), scanTimeout)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		select {
		case <-s.stopping:
			cancel()
		case <-ctx.Done():
		}
	})
	g.Progress = func(p scan.Progress) {
		// Where the consumer has gone, ctx has ended.
		_ = stream.Send(&weirpb.ScanResponse{Item: &weirpb.ScanResponse_Progress{Progress: progress(&p, time.Time{})}})
	}
	r, err := scan.Group(ctx, s.backend, q, g)
	switch {
	case stream.Context().Err() != nil:
		return status.FromContextError(stream.Context().Err()).Err()
	case errors.Is(err, context.DeadlineExceeded):
		return status.Errorf(codes.DeadlineExceeded, "the events could not be read within %s; ask for a shorter window", scanTimeout)
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Unavailable, "the scan ended because the API server stops")
	case err != nil:
		return status.Errorf(codes.Unavailable, "the events cannot be read: %v", err)
	}
	return stream.Send(&weirpb.ScanResponse{Item: &weirpb.ScanResponse_Result{Result: scanResult(req, r, w)}})
}

// scanQuestion checks a scan's request.
func (s *service) scanQuestion(req *weirpb.ScanRequest) (*scan.Question, *scan.Grouping, window, error) {
	sel, err := selector("resource", req.GetResource())
	if err != nil {
		return nil, nil, window{}, err
	}
	m, err := matcher("filter.", req.GetFilter())
	if err != nil {
		return nil, nil, window{}, err
	}
	w, err := s.resolveWindow(req.GetWindow())
	if err != nil {
		return nil, nil, window{}, err
	}
	g := &scan.Grouping{Top: int(req.GetTop())}
	if len(req.GetBy()) > scan.MaxBy {
		return nil, nil, w, invalid("by", "%d fields are given; at most %d are allowed", len(req.GetBy()), scan.MaxBy)
	}
	for i, name := range req.GetBy() {
		if slices.Contains(req.GetBy()[:i], name) {
			return nil, nil, w, invalid("by", "%q is given twice", name)
		}
		f, err := match.Lookup("by", name)
		var bad *match.Error
		if errors.As(err, &bad) {
			return nil, nil, w, invalid(bad.Field, "%s", bad.Reason)
		}
		g.By = append(g.By, f)
	}
	if g.Top == 0 {
		g.Top = defaultTop
	}
	if g.Top > scan.MaxTop {
		return nil, nil, w, invalid("top", "%d rows are asked for; at most %d are possible", g.Top, scan.MaxTop)
	}
	switch f := req.GetFilter(); {
	case f.GetDirection() != "":
		// The filter has accepted it.
		g.Direction, _ = event.ParseDirection(f.GetDirection())
	case f.GetTo() != nil:
		g.Direction = event.Outbound
	}
	return &scan.Question{Resource: sel, Match: m, Since: time.Unix(w.since, 0), Until: time.Unix(w.until, 0)}, g, w, nil
}

func scanResult(req *weirpb.ScanRequest, r *scan.Result, w window) *weirpb.ScanResult {
	reply := &query.Reply{}
	if !r.Oldest.IsZero() {
		// What was stored first may have ended a second before: the first whole
		// second counts.
		reply.Oldest = r.Oldest.Unix() + 1
		reply.Exact = reply.Oldest
	}
	out := &weirpb.ScanResult{
		By:             req.GetBy(),
		Others:         uint64(r.Others),
		Progress:       progress(&r.Progress, r.Oldest),
		Direction:      r.Direction.String(),
		Missing:        r.Missing,
		MissingBatches: r.MissingBatches,
	}
	out.Coverage, w = coverage(w, reply, 0)
	seconds := w.seconds()
	for i := range r.Rows {
		row := &r.Rows[i]
		out.Rows = append(out.Rows, &weirpb.ScanRow{Values: row.Values, Stats: stats(&row.Stats, seconds), Missing: row.Missing})
	}
	if o := &r.Other; o.Requests > 0 || o.Connections > 0 || o.RequestBytes > 0 || o.ResponseBytes > 0 {
		out.Other = &weirpb.ScanRow{Stats: stats(o, seconds)}
	}
	out.Total = stats(&r.Total, seconds)
	for i := range r.Gaps {
		out.Gaps = append(out.Gaps, tapGap(&r.Gaps[i]))
	}
	return out
}
