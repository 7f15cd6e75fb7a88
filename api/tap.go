package api

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/weirmesh/weir/aggregator/match"
	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/aggregator/scan"
	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/event"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	// tellEvery is how long a consumer may not know of what it did not get, and
	// how often proxies are told that they are tapped.
	tellEvery = time.Second
	// present: what was stored so long ago at most is news.
	present = 5 * time.Second
	// forgetTapped is how long a workload without events counts as tapped, and
	// maxTapped how many do. Each lookEvery it is asked anew which there are.
	forgetTapped = 30 * time.Second
	maxTapped    = 1024
	lookEvery    = 10 * time.Second

	gapMaxRPS = "max_rps"
)

// Causes of a tap's end.
var (
	errEnough   = errors.New("the consumer has what it asked for")
	errStopping = errors.New("the API server stops")
)

// Tap implements weirpb.WeirServer.
func (s *service) Tap(req *weirpb.TapRequest, stream grpc.ServerStreamingServer[weirpb.TapResponse]) error {
	began := s.now()
	question, err := s.tapQuestion(req)
	if err != nil {
		return err
	}
	select {
	case s.taps <- struct{}{}:
		defer func() { <-s.taps }()
	default:
		return status.Errorf(codes.ResourceExhausted, "%d taps run already, which is the limit of this API server", maxTaps)
	}
	// The consumer learns at once that it was understood, however long the first
	// event takes.
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	s.metrics.tapsOpen.Add(1)
	defer s.metrics.tapsOpen.Add(-1)
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	t := &tap{
		service: s,
		stream:  stream,
		limit:   uint64(req.GetLimit()),
		limiter: newLimiter(req.GetMaxRps(), s.now()),
		tapped:  map[event.Workload]time.Time{},
		told:    began,
		after:   question.After,
		finite:  !question.Until.IsZero(),
	}
	if since := question.Since; !since.IsZero() {
		t.toldBehind = began.Sub(since)
	}
	reading := make(chan struct{})
	opened := func(x event.Extent, at scan.Position) {
		t.opened(x, at)
		close(reading)
	}
	var wg sync.WaitGroup
	wg.Go(func() { t.tell(ctx, cancel) })
	if question.Until.IsZero() {
		wg.Go(func() { t.look(ctx, reading, question.Resource) })
	}
	err = scan.Follow(ctx, s.backend, question, &scan.Visitor{Opened: opened, Event: t.event, Gap: t.gap, Batch: t.batch})
	cause := context.Cause(ctx)
	cancel(nil)
	wg.Wait()
	switch {
	case errors.Is(err, errEnough), stream.Context().Err() != nil:
		return nil
	case err == nil:
		return t.close()
	case errors.Is(cause, errStopping):
		return status.Error(codes.Unavailable, "the tap ended because the API server stops")
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Errorf(codes.Unavailable, "the tap ended because the bus cannot be read: %v", err)
}

// tapQuestion checks a tap's request.
func (s *service) tapQuestion(req *weirpb.TapRequest) (*scan.Question, error) {
	sel, err := selector("resource", req.GetResource())
	if err != nil {
		return nil, err
	}
	m, err := tapFilter(req)
	if err != nil {
		return nil, err
	}
	if r := req.GetMaxRps(); r < 0 || r != r {
		return nil, invalid("max_rps", "%v is no rate", r)
	}
	q := &scan.Question{Resource: sel, Match: m}
	if q.After, err = tapAfter(req.GetAfter()); err != nil {
		return nil, err
	}
	since, until, now := req.GetSince(), req.GetUntil(), s.now()
	switch {
	case since == nil && until != nil:
		return nil, invalid("until", "is given without since: without it a tap begins now")
	case since == nil:
		return q, nil
	case until != nil && req.GetFollow():
		return nil, invalid("until", "cannot be given beside follow, which has no end")
	}
	if err := since.CheckValid(); err != nil {
		return nil, invalid("since", "%v", err)
	}
	if q.Since = since.AsTime(); q.Since.After(now) {
		return nil, invalid("since", "%s lies in the future", stamp(q.Since))
	}
	if req.GetFollow() {
		return q, nil
	}
	q.Until = now
	if until != nil {
		if err := until.CheckValid(); err != nil {
			return nil, invalid("until", "%v", err)
		}
		q.Until = until.AsTime()
	}
	if !q.Since.Before(q.Until) {
		return nil, invalid("until", "%s is not after since, %s", stamp(q.Until), stamp(q.Since))
	}
	return q, nil
}

// tap is one consumer. scan.Follow calls opened, event, gap and batch; tell runs
// beside it.
type tap struct {
	*service
	limit   uint64
	limiter *limiter

	mu sync.Mutex
	// All is guarded by mu, which also keeps sends apart.
	stream grpc.ServerStreamingServer[weirpb.TapResponse]
	sent   uint64
	// limited counts what max_rps kept back since the consumer last heard of it.
	limited uint64
	// oldest is where the stream begins.
	oldest time.Time
	// read is how far the reading is, at is its place in the stream, and behind,
	// how old what it read was.
	read   scan.Progress
	at     scan.Position
	behind time.Duration
	// told is when the consumer last heard of progress, toldOf of which, and
	// toldBehind how old that was.
	told       time.Time
	toldOf     scan.Progress
	toldBehind time.Duration
	// after is where an earlier tap came to; nil: there was none. finite taps are
	// of the past alone.
	after  *scan.Position
	finite bool
	// tapped has the workloads that events came from, with when.
	tapped map[event.Workload]time.Time
}

func (t *tap) opened(x event.Extent, at scan.Position) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.oldest, t.read.Total, t.at = x.Oldest, x.Waiting, at
	// Where the consumer has gone the reading's context has ended.
	if t.after != nil && t.after.Missed(&x) {
		_ = t.sendGap(discarded(t.after, &x, t.now()))
	}
	_ = t.sendProgress()
}

func (t *tap) event(sequence uint64, h *event.Header, index int, e *event.Event) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at.Sequence, t.at.Events = sequence, index+1
	t.read.Matched++
	// The others of its batch are counted when it has been read.
	t.read.Events = max(t.read.Events, t.read.Matched)
	if !t.limiter.allow(t.now()) {
		t.limited++
		return nil
	}
	if err := t.stream.Send(&weirpb.TapResponse{Item: &weirpb.TapResponse_Event{Event: tapEvent(sequence, h, index, e)}}); err != nil {
		return err
	}
	t.metrics.tapSent.Inc()
	if t.sent++; t.sent == t.limit {
		return errEnough
	}
	return nil
}

func (t *tap) gap(g scan.Gap) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if g.Reason == scan.Unreadable {
		t.metrics.tapMalformed.Inc()
	}
	return t.sendGap(tapGap(&g))
}

func (t *tap) sendGap(g *weirpb.TapGap) error {
	t.metrics.tapSkipped(g.GetReason()).Add(int(g.GetSkipped()))
	return t.stream.Send(&weirpb.TapResponse{Item: &weirpb.TapResponse_Gap{Gap: g}})
}

// batch notes progress, and tells proxies that are new here that they are
// tapped.
func (t *tap) batch(h *event.Header, p scan.Progress) error {
	now := t.now()
	t.mu.Lock()
	t.read = p
	t.at.Sequence, t.at.Events, t.at.Stored = p.Sequence, 0, p.Stored
	t.behind = max(0, now.Sub(p.Stored))
	announce := false
	if w := h.Source.Workload; t.behind < present {
		_, known := t.tapped[w]
		if announce = !known && len(t.tapped) < maxTapped; announce {
			w = clone(w)
		}
		if known || announce {
			t.tapped[w] = now
		}
	}
	t.mu.Unlock()
	if announce {
		// Where the bus is away there is nothing to be told, either.
		_ = t.backend.AnnounceTapped(h.Source.Workload)
	}
	return nil
}

// tell says now and then what there is to be said besides events.
func (t *tap) tell(ctx context.Context, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := t.tick(); err != nil {
				cancel(err)
			}
			for _, w := range t.due() {
				_ = t.backend.AnnounceTapped(w)
			}
		case <-t.stopping:
			cancel(errStopping)
			return
		case <-ctx.Done():
			return
		}
	}
}

func (t *tap) tick() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.sendLimited(); err != nil {
		return err
	}
	if t.read == t.toldOf {
		t.told = t.now()
		return nil
	}
	return t.sendProgress()
}

// look tells the proxies of all workloads that the tap is about, as far as any
// have been seen, that they are tapped: at once, so that the first events do not
// wait for a proxy's leisurely flush, and for as long as the tap runs. It begins
// when reading is closed, for what is flushed before is not read.
func (t *tap) look(ctx context.Context, reading <-chan struct{}, resource query.Selector) {
	select {
	case <-reading:
	case <-ctx.Done():
		return
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		for _, w := range t.seen(ctx, resource) {
			_ = t.backend.AnnounceTapped(w)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// seen notes and returns the workloads that the tap is about and that report.
// Where no aggregator answers, the events themselves tell, a second later.
func (t *tap) seen(ctx context.Context, resource query.Selector) (live []event.Workload) {
	body, err := json.Marshal(&query.Request{})
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, gatherTimeout)
	defer cancel()
	reply, _, err := t.ask(ctx, query.MethodWorkloads, body, query.Unpack)
	if err != nil {
		t.log.Debug("cannot ask which proxies to tell of a tap", "error", err)
		return nil
	}
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range reply.Workloads {
		r := reply.Workloads[i].Resource
		w := event.Workload{Cluster: r.Cluster, Namespace: r.Namespace, Kind: r.Kind, Name: r.Name}
		for _, pod := range reply.Workloads[i].Pods {
			if !pod.Live || !match.Selects(resource, &w, pod.Name) {
				continue
			}
			if _, known := t.tapped[w]; known || len(t.tapped) < maxTapped {
				t.tapped[w] = now
				live = append(live, w)
			}
			break
		}
	}
	return live
}

// due are the workloads whose proxies are to be told again.
func (t *tap) due() (due []event.Workload) {
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for w, last := range t.tapped {
		if now.Sub(last) > forgetTapped {
			delete(t.tapped, w)
			continue
		}
		due = append(due, w)
	}
	return due
}

// close says the last.
func (t *tap) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.sendLimited(); err != nil {
		return err
	}
	return t.sendProgress()
}

func (t *tap) sendLimited() error {
	n := t.limited
	t.limited = 0
	if n == 0 {
		return nil
	}
	return t.sendGap(&weirpb.TapGap{Skipped: n, Reason: gapMaxRPS})
}

func (t *tap) sendProgress() error {
	now := t.now()
	p := progress(&t.read, t.oldest)
	p.Position = position(&t.at)
	if passed := t.passed(now).Seconds(); passed > 0 {
		p.MatchedRps = float64(t.read.Matched-t.toldOf.Matched) / passed
	}
	if t.behind >= present {
		p.Behind = durationpb.New(t.behind.Round(time.Millisecond))
	}
	t.told, t.toldOf, t.toldBehind = now, t.read, t.behind
	return t.stream.Send(&weirpb.TapResponse{Item: &weirpb.TapResponse_Progress{Progress: p}})
}

// passed is the time in which what the consumer has not heard of came: in the
// present, since it heard something; in the past, by when the events ended, as
// these are read faster, or slower, than they came.
func (t *tap) passed(now time.Time) time.Duration {
	if !t.finite && max(t.behind, t.toldBehind) < present {
		return now.Sub(t.told)
	}
	from := t.toldOf.Last
	if t.toldOf.Events == 0 {
		from = t.read.First
	}
	return time.Duration(t.read.Last-from) * time.Microsecond
}

func progress(p *scan.Progress, oldest time.Time) *weirpb.TapProgress {
	out := &weirpb.TapProgress{Batches: p.Batches, BatchesTotal: p.Total, Events: p.Events, Matched: p.Matched}
	if !oldest.IsZero() {
		out.Oldest = timestamppb.New(oldest)
	}
	if !p.Stored.IsZero() {
		out.ReadTo = timestamppb.New(p.Stored)
	}
	return out
}
