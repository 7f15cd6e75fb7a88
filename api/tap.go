package api

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/event"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	// tapQueue is how many events wait for one consumer (about 1 KB each)
	// before they are counted as skipped instead.
	tapQueue = 16384
	// gapInterval is how long a consumer may not know of what it did not get.
	gapInterval = time.Second
	// maxFilter bounds a filter's text.
	maxFilter = 4096

	gapMaxRPS       = "max_rps"
	gapSlowConsumer = "slow_consumer"
)

// Tap implements weirpb.WeirServer.
func (s *service) Tap(req *weirpb.TapRequest, stream grpc.ServerStreamingServer[weirpb.TapResponse]) error {
	match, subject, err := newTapFilter(req)
	if err != nil {
		return err
	}
	select {
	case s.taps <- struct{}{}:
		defer func() { <-s.taps }()
	default:
		return status.Errorf(codes.ResourceExhausted, "%d taps run already, which is the limit of this API server", maxTaps)
	}
	// The consumer learns at once that the tap is on, however long the first
	// event takes.
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	s.metrics.tapsOpen.Add(1)
	defer s.metrics.tapsOpen.Add(-1)

	ctx, cancel := context.WithCancel(stream.Context())
	t := &tap{
		match:   match,
		queue:   make(chan *weirpb.TapEvent, tapQueue),
		ended:   make(chan error, 1),
		limit:   uint64(req.GetLimit()),
		limiter: newLimiter(req.GetMaxRps(), s.now()),
		metrics: s.metrics,
		now:     s.now,
	}
	go func() {
		t.ended <- s.backend.TapDropped(ctx, subject, t.receive, t.dropped)
		close(t.ended)
	}()
	err = t.forward(stream, s.stopping)
	cancel()
	for range t.ended { // until the reader has gone
	}
	return err
}

// tap is one consumer. Its reader calls receive and dropped, its owner forward.
type tap struct {
	match   func(*event.JSONEvent) bool
	queue   chan *weirpb.TapEvent
	ended   chan error
	limit   uint64
	limiter *limiter
	metrics *serverMetrics
	now     func() time.Time

	// slow counts what the consumer was too slow for since it last heard of it.
	slow atomic.Uint64
	// droppedSoFar is the reader's own.
	droppedSoFar uint64
	// limited counts what max_rps kept back since then; forward's own.
	limited uint64
}

// receive takes one live event; it never blocks.
func (t *tap) receive(data []byte) {
	e, err := event.ParseJSON(data)
	if err != nil {
		t.metrics.tapMalformed.Inc()
		return
	}
	if !t.match(&e) {
		return
	}
	select {
	case t.queue <- tapEvent(&e):
	default:
		t.slow.Add(1)
	}
}

// dropped counts events that never reached receive.
func (t *tap) dropped(total uint64) {
	t.slow.Add(total - t.droppedSoFar)
	t.droppedSoFar = total
}

// forward sends until the consumer has enough, goes, or the source ends.
func (t *tap) forward(stream grpc.ServerStreamingServer[weirpb.TapResponse], stopping <-chan struct{}) error {
	gaps := time.NewTicker(gapInterval)
	defer gaps.Stop()
	var sent uint64
	for {
		select {
		case e := <-t.queue:
			if !t.limiter.allow(t.now()) {
				t.limited++
				continue
			}
			// What was lost was lost before what is sent now.
			if err := t.sendGap(stream, t.slow.Swap(0), gapSlowConsumer); err != nil {
				return err
			}
			if err := stream.Send(&weirpb.TapResponse{Item: &weirpb.TapResponse_Event{Event: e}}); err != nil {
				return err
			}
			t.metrics.tapSent.Inc()
			if sent++; sent == t.limit {
				return nil
			}
		case <-gaps.C:
			if err := t.sendGaps(stream); err != nil {
				return err
			}
		case err := <-t.ended:
			if stream.Context().Err() != nil {
				return nil
			}
			return status.Errorf(codes.Unavailable, "the tap ended because the bus cannot be read: %v", orUnknown(err))
		case <-stopping:
			return status.Error(codes.Unavailable, "the tap ended because the API server stops")
		case <-stream.Context().Done():
			return nil
		}
	}
}

func (t *tap) sendGaps(stream grpc.ServerStreamingServer[weirpb.TapResponse]) error {
	if err := t.sendGap(stream, t.slow.Swap(0), gapSlowConsumer); err != nil {
		return err
	}
	n := t.limited
	t.limited = 0
	return t.sendGap(stream, n, gapMaxRPS)
}

func (t *tap) sendGap(stream grpc.ServerStreamingServer[weirpb.TapResponse], n uint64, reason string) error {
	if n == 0 {
		return nil
	}
	t.metrics.tapSkipped(reason).Add(int(n))
	return stream.Send(&weirpb.TapResponse{Item: &weirpb.TapResponse_Gap{Gap: &weirpb.TapGap{Skipped: n, Reason: reason}}})
}

func orUnknown(err error) error {
	if err == nil {
		return errors.New("the subscription was closed")
	}
	return err
}

// newTapFilter checks a tap's request and returns what tells whether an event
// is asked for, and whose events to read.
func newTapFilter(req *weirpb.TapRequest) (func(*event.JSONEvent) bool, event.Workload, error) {
	none := event.Workload{}
	sel, err := selector("resource", req.GetResource())
	if err != nil {
		return nil, none, err
	}
	to, err := peer("to", req.GetTo())
	if err != nil {
		return nil, none, err
	}
	from, err := peer("from", req.GetFrom())
	if err != nil {
		return nil, none, err
	}
	statusMin, statusMax, err := parseStatus(req.GetStatus())
	if err != nil {
		return nil, none, err
	}
	switch req.GetDirection() {
	case "", "inbound", "outbound":
	default:
		return nil, none, invalid("direction", "%q is neither inbound nor outbound", clip(req.GetDirection()))
	}
	for _, f := range []struct{ name, value string }{
		{"method", req.GetMethod()}, {"authority", req.GetAuthority()}, {"path", req.GetPath()},
	} {
		if len(f.value) > maxFilter {
			return nil, none, invalid(f.name, "is %d bytes long; at most %d are allowed", len(f.value), maxFilter)
		}
	}
	if r := req.GetMaxRps(); r < 0 || r != r {
		return nil, none, invalid("max_rps", "%v is no rate", r)
	}
	match := func(e *event.JSONEvent) bool {
		own := &e.Source
		if e.Direction == "inbound" {
			own = &e.Destination
		}
		return matches(sel, own) &&
			(to == nil || matches(*to, &e.Destination)) &&
			(from == nil || matches(*from, &e.Source)) &&
			(req.GetDirection() == "" || req.GetDirection() == e.Direction) &&
			(req.GetMethod() == "" || strings.EqualFold(req.GetMethod(), e.Method)) &&
			(req.GetAuthority() == "" || strings.EqualFold(req.GetAuthority(), e.Authority)) &&
			strings.HasPrefix(e.Path, req.GetPath()) &&
			(req.GetStatus() == "" || statusMin <= e.Status && e.Status <= statusMax)
	}
	return match, tapSubject(sel), nil
}

// tapSubject is whose events to read; what it cannot say, the filter does.
func tapSubject(sel query.Selector) event.Workload {
	w := event.Workload{Cluster: sel.Cluster, Namespace: sel.Namespace}
	if sel.Kind != kindPod && sel.Kind != kindNamespace {
		w.Kind, w.Name = sel.Kind, sel.Name
	}
	return w
}

// matches tells whether an endpoint is what a selector names. A pod is named
// by a pod's name, or by a workload that is a bare pod.
func matches(sel query.Selector, e *event.Endpoint) bool {
	if sel.Cluster != "" && sel.Cluster != e.Cluster || sel.Namespace != "" && sel.Namespace != e.Namespace {
		return false
	}
	switch sel.Kind {
	case kindNamespace:
		return true
	case kindPod:
		return sel.Name == "" || sel.Name == e.Pod || e.Kind == kindPod && sel.Name == e.Name
	}
	return (sel.Kind == "" || sel.Kind == e.Kind) && (sel.Name == "" || sel.Name == e.Name)
}

// parseStatus reads "404" or a class, "4xx".
func parseStatus(s string) (least, most uint16, err error) {
	if s == "" {
		return 0, 0, nil
	}
	if len(s) == 3 && strings.EqualFold(s[1:], "xx") && '1' <= s[0] && s[0] <= '9' {
		least = uint16(s[0]-'0') * 100
		return least, least + 99, nil
	}
	n, perr := strconv.ParseUint(s, 10, 16)
	if perr != nil || n > 999 {
		return 0, 0, invalid("status", "%q is neither a status such as 404 (0: no response came) nor a class such as 5xx", clip(s))
	}
	return uint16(n), uint16(n), nil
}

// limiter lets a rate through, with bursts of a second's worth. It is not safe
// for concurrent use.
type limiter struct {
	rate, tokens, burst float64
	last                time.Time
}

// newLimiter has no limit where rate is 0.
func newLimiter(rate float64, now time.Time) *limiter {
	burst := max(1, rate)
	return &limiter{rate: rate, tokens: burst, burst: burst, last: now}
}

func (l *limiter) allow(now time.Time) bool {
	if l.rate == 0 {
		return true
	}
	l.tokens = min(l.burst, l.tokens+l.rate*now.Sub(l.last).Seconds())
	l.last = now
	if l.tokens < 1 {
		return false
	}
	l.tokens--
	return true
}

// tapEvent turns an event of the bus into one of the API.
func tapEvent(e *event.JSONEvent) *weirpb.TapEvent {
	out := &weirpb.TapEvent{
		Id:             fmt.Sprintf("%s-%d-%d", e.Instance, e.Sequence, e.Index),
		Kind:           e.Event,
		Source:         endpoint(&e.Source),
		Destination:    endpoint(&e.Destination),
		ProxyDirection: e.Direction,
		Protocol:       e.Protocol,
		Method:         e.Method,
		Authority:      e.Authority,
		Path:           e.Path,
		Status:         uint32(e.Status),
		Error:          e.Error,
		Start:          timestamppb.New(time.UnixMicro(e.Start)),
		LatencyUs:      e.Latency,
		DurationUs:     e.Duration,
		RequestBytes:   e.RequestBytes,
		ResponseBytes:  e.ResponseBytes,
		Tls:            e.Security,
		TlsReason:      e.SecurityReason,
		Fate:           e.Fate,
		Attempt:        uint32(e.Attempt),
		Connection:     e.Connection,
		Stream:         e.Stream,
		TraceId:        e.TraceID,
		Detection:      e.Detection,
		DetectionUs:    uint64(e.DetectionTime),
	}
	if e.GRPCStatus != nil {
		code := int32(*e.GRPCStatus)
		out.GrpcStatus = &code
	}
	return out
}

func endpoint(e *event.Endpoint) *weirpb.Endpoint {
	out := &weirpb.Endpoint{Ip: e.IP, Port: uint32(e.Port), Pod: e.Pod, Identity: e.Identity}
	if e.Name != "" || e.Namespace != "" || e.Kind != "" || e.Cluster != "" {
		out.Workload = &weirpb.Resource{Cluster: e.Cluster, Namespace: e.Namespace, Kind: e.Kind, Name: e.Name}
	}
	return out
}
