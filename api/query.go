package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/api/weirpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Stat implements weirpb.WeirServer.
func (s *service) Stat(ctx context.Context, req *weirpb.StatRequest) (*weirpb.StatResponse, error) {
	q, _, err := s.question(req.GetResource(), req.GetTo(), req.GetFrom(), req.GetWindow())
	if err != nil {
		return nil, err
	}
	got, err := s.answer(ctx, query.MethodStat, q)
	if err != nil {
		return nil, err
	}
	out := &weirpb.StatResponse{Offenders: offenders(got.Offenders)}
	about := got.window
	out.Coverage, about = coverage(about, got.Reply, got.answered)
	got.giveRows(out, about.seconds())
	return out, nil
}

// Series implements weirpb.WeirServer.
func (s *service) Series(ctx context.Context, req *weirpb.SeriesRequest) (*weirpb.SeriesResponse, error) {
	q, w, err := s.question(req.GetResource(), req.GetTo(), req.GetFrom(), req.GetWindow())
	if err != nil {
		return nil, err
	}
	w, step, err := resolveStep(req, w)
	if err != nil {
		return nil, err
	}
	q.Since, q.Until, q.Step = w.since, w.until, step
	reply, answered, err := s.gather(ctx, query.MethodSeries, q)
	if err != nil {
		return nil, err
	}
	out := &weirpb.SeriesResponse{Step: durationpb.New(time.Duration(step) * time.Second)}
	out.Coverage, _ = coverage(w, reply, answered)
	for i := range reply.Series {
		r := &reply.Series[i]
		out.Rows = append(out.Rows, &weirpb.SeriesRow{Resource: resource(r.Resource), Direction: r.Direction, Points: points(r, w, step)})
	}
	return out, nil
}

// Edges implements weirpb.WeirServer.
func (s *service) Edges(ctx context.Context, req *weirpb.EdgesRequest) (*weirpb.EdgesResponse, error) {
	q, w, err := s.question(req.GetResource(), nil, nil, req.GetWindow())
	if err != nil {
		return nil, err
	}
	reply, answered, err := s.gather(ctx, query.MethodEdges, q)
	if err != nil {
		return nil, err
	}
	out := &weirpb.EdgesResponse{}
	out.Coverage, w = coverage(w, reply, answered)
	for i := range reply.Edges {
		e := &reply.Edges[i]
		out.Rows = append(out.Rows, &weirpb.EdgeRow{
			Source:              resource(e.Source),
			Destination:         resource(e.Destination),
			SourceIdentity:      e.SourceID,
			DestinationIdentity: e.DestID,
			Tls:                 e.Security,
			TlsReason:           e.Reason,
			SeenBy:              e.SeenBy,
			Stats:               stats(&e.Stats, w.seconds()),
		})
	}
	return out, nil
}

// Routes implements weirpb.WeirServer.
func (s *service) Routes(ctx context.Context, req *weirpb.RoutesRequest) (*weirpb.RoutesResponse, error) {
	q, w, err := s.question(req.GetResource(), req.GetTo(), nil, req.GetWindow())
	if err != nil {
		return nil, err
	}
	reply, answered, err := s.gather(ctx, query.MethodRoutes, q)
	if err != nil {
		return nil, err
	}
	out := &weirpb.RoutesResponse{}
	out.Coverage, w = coverage(w, reply, answered)
	for i := range reply.Routes {
		r := &reply.Routes[i]
		out.Rows = append(out.Rows, &weirpb.RouteRow{
			Resource:  resource(r.Resource),
			Route:     r.Route,
			Authority: r.Authority,
			Protocol:  r.Protocol,
			Direction: r.Direction,
			Stats:     stats(&r.Stats, w.seconds()),
		})
	}
	return out, nil
}

// Workloads implements weirpb.WeirServer.
func (s *service) Workloads(ctx context.Context, req *weirpb.WorkloadsRequest) (*weirpb.WorkloadsResponse, error) {
	q, _, err := s.question(req.GetResource(), nil, nil, nil)
	if err != nil {
		return nil, err
	}
	reply, _, err := s.gather(ctx, query.MethodWorkloads, q)
	if err != nil {
		return nil, err
	}
	out := &weirpb.WorkloadsResponse{}
	for _, w := range reply.Workloads {
		row := &weirpb.WorkloadRow{
			Resource:  resource(w.Resource),
			FirstSeen: timestamp(w.FirstSeen),
			LastSeen:  timestamp(w.LastSeen),
		}
		for _, p := range w.Pods {
			row.Pods = append(row.Pods, &weirpb.PodRow{
				Name:            p.Name,
				Node:            p.Node,
				Live:            p.Live,
				LastSeen:        timestamp(p.LastSeen),
				OpenConnections: p.OpenConnections,
			})
		}
		out.Rows = append(out.Rows, row)
	}
	return out, nil
}

// question checks what all requests have in common.
func (s *service) question(res, to, from *weirpb.Resource, win *weirpb.Window) (*query.Request, window, error) {
	sel, err := selector("resource", res)
	if err != nil {
		return nil, window{}, err
	}
	q := &query.Request{Resource: sel}
	if q.To, err = peer("to", to); err != nil {
		return nil, window{}, err
	}
	if q.From, err = peer("from", from); err != nil {
		return nil, window{}, err
	}
	if q.To != nil && q.From != nil {
		return nil, window{}, invalid("from", "cannot be given beside to: traffic is either what the resource sends or what it gets")
	}
	w, err := s.resolveWindow(win)
	if err != nil {
		return nil, window{}, err
	}
	q.Since, q.Until = w.since, w.until
	return q, w, nil
}

// gather gives the sum of what all aggregators answer to q, and how many they
// are: see answer.
func (s *service) gather(ctx context.Context, method string, q *query.Request) (*query.Reply, int, error) {
	got, err := s.answer(ctx, method, q)
	if err != nil {
		return nil, 0, err
	}
	return got.Reply, got.answered, nil
}

// answer gives the sum of what all aggregators answer to q, sorted. It is not
// the caller's to change: others who ask the same may have it, too, where the
// window's end is settled.
func (s *service) answer(ctx context.Context, method string, q *query.Request) (*answer, error) {
	q.Packed, q.Brief = true, true
	body, err := json.Marshal(q)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the question: %w", err)
	}
	put := func() (*answer, error) { return s.fetch(ctx, method, q, body) }
	if method == query.MethodWorkloads || s.now().Add(-settle).Before(time.Unix(q.Until, 0)) {
		return put()
	}
	return s.shared.do(ctx, method+string(body), put)
}

// fetch has all aggregators answer q, which body says, and the controller
// meanwhile.
func (s *service) fetch(ctx context.Context, method string, q *query.Request, body []byte) (*answer, error) {
	var known *known
	var group sync.WaitGroup
	if method == query.MethodStat {
		group.Go(func() { known = s.known(ctx, q.Resource) })
	}
	reply, answered, err := s.put(ctx, method, q, body, query.UnpackRaw)
	if group.Wait(); err == nil && ctx.Err() != nil {
		err = status.FromContextError(ctx.Err()).Err() // the controller may not have answered
	}
	if err != nil {
		return nil, err
	}
	got := &answer{Reply: reply, answered: answered, window: window{q.Since, q.Until}}
	if method != query.MethodStat {
		arrange(method, reply)
		return got, nil
	}
	if s.recall(got, q, known) {
		return got, nil
	}
	if err := reply.ReadRaw(); err != nil {
		// Two members tell of the same row, or a reply is none: see merge.
		if got.Reply, got.answered, err = s.put(ctx, method, q, body, query.Unpack); err != nil {
			return nil, err
		}
	}
	arrange(method, got.Reply)
	got.shown = show(got.Rows, known, q.To == nil && q.From == nil)
	got.write()
	return got, nil
}

// recall writes the rows of an answer with the help of what was written before,
// and tells whether it did: else the answer is as it was.
func (s *service) recall(a *answer, q *query.Request, known *known) bool {
	if n := a.RawRows(); n < portion || n > maxWrittenRows || q.Resource.Kind == kindNamespace {
		return false
	}
	about := *q
	about.Since, about.Until = 0, q.Until-q.Since
	question, err := json.Marshal(&about)
	if err != nil {
		return false
	}
	g := s.writings.take(string(question))
	if g == nil {
		return false
	}
	_, w := coverage(a.window, a.Reply, a.answered)
	a.written, err = g.write(a.Reply, known, q.To == nil && q.From == nil, w.seconds())
	s.writings.give(string(question), g, err == nil)
	if err != nil {
		return false
	}
	a.Rows = nil
	a.DropRaw()
	return true
}

// arrange sorts a reply as the API shows it.
func arrange(method string, reply *query.Reply) {
	switch method {
	case query.MethodStat:
		if !slices.IsSortedFunc(reply.Rows, compareRows) {
			slices.SortFunc(reply.Rows, compareRows)
		}
	case query.MethodSeries:
		slices.SortFunc(reply.Series, func(a, b query.Series) int { return compareSelectors(a.Resource, b.Resource) })
	case query.MethodEdges:
		reply.Edges = query.Introduce(reply.Edges)
		slices.SortFunc(reply.Edges, func(a, b query.Edge) int {
			return cmp.Or(compareSelectors(a.Source, b.Source), compareSelectors(a.Destination, b.Destination),
				strings.Compare(a.SeenBy, b.SeenBy), strings.Compare(a.Security+a.Reason, b.Security+b.Reason))
		})
	case query.MethodRoutes:
		slices.SortFunc(reply.Routes, func(a, b query.Route) int {
			return cmp.Or(compareSelectors(a.Resource, b.Resource), strings.Compare(a.Route, b.Route),
				strings.Compare(a.Authority, b.Authority), strings.Compare(a.Protocol, b.Protocol))
		})
	case query.MethodWorkloads:
		slices.SortFunc(reply.Workloads, func(a, b query.Workload) int { return compareSelectors(a.Resource, b.Resource) })
		for _, w := range reply.Workloads {
			slices.SortFunc(w.Pods, func(a, b query.Pod) int { return strings.Compare(a.Name, b.Name) })
		}
	}
}

// unpacker reads a member's reply: [query.Unpack] or [query.UnpackRaw].
type unpacker func(data []byte) (query.Reply, error)

// put puts q to all aggregators and adds up what they answer.
func (s *service) put(ctx context.Context, method string, q *query.Request, body []byte, unpack unpacker) (*query.Reply, int, error) {
	select {
	case s.queries <- struct{}{}:
		defer func() { <-s.queries }()
	case <-ctx.Done():
		return nil, 0, status.Errorf(codes.ResourceExhausted, "all %d places for questions were taken until this one timed out; ask less often", maxQueries)
	}
	actx, cancel := context.WithTimeout(ctx, gatherTimeout)
	defer cancel()
	for pause := askAgain; ; {
		reply, answered, err := s.agree(actx, method, q, body, unpack)
		if err != nil {
			if ctx.Err() != nil {
				err = status.FromContextError(ctx.Err()).Err()
			}
			return nil, 0, err
		}
		missing, duplicate := query.Missing(reply)
		whole := len(missing) == 0 && len(duplicate) == 0
		if whole && !(reply.Loading && reply.Reaches > q.Since) {
			return reply, answered, nil
		}
		// Partitions are changing hands, or what they had before is being loaded.
		select {
		case <-time.After(pause):
			if whole {
				pause *= 2 // which may take long, and each answer takes time off it
			}
			continue
		case <-actx.Done():
		}
		switch {
		case ctx.Err() != nil:
			return nil, 0, status.FromContextError(ctx.Err()).Err()
		case whole:
			return reply, answered, nil
		case len(duplicate) > 0:
			return nil, 0, status.Errorf(codes.Unavailable, "%d of %d partitions are answered for by more than one aggregator; ask again in a moment", len(duplicate), reply.Total)
		}
		s.log.Warn("partitions without an aggregator", "method", method, "missing", len(missing), "of", reply.Total)
		return reply, answered, nil
	}
}

// agree puts the question, and again where the aggregators can answer only about
// different windows: then about one that all can answer about. Where history was
// loaded meanwhile, the answer about that would be about less than is known by now,
// so it is asked for all again; and where there is no end of that, the reply's Reaches
// tells what its window was cut for.
func (s *service) agree(ctx context.Context, method string, q *query.Request, body []byte, unpack unpacker) (*query.Reply, int, error) {
	asked, reaches := *q, int64(0)
	for tries := 0; ; tries++ {
		reply, answered, err := s.ask(ctx, method, body, unpack)
		if err != nil && !errors.Is(err, query.ErrBrief) {
			return nil, 0, err
		}
		next := asked
		if err != nil {
			// A workload has moved between partitions, or one is being handed
			// over.
			asked.Brief = false
			next, reaches = asked, 0
		} else {
			var again bool
			if next, again = query.Again(asked, reply); again {
				reaches = reply.Reaches
			} else if reaches <= max(reply.Reaches, asked.Since) || tries >= maxAgree {
				reply.Reaches = max(reply.Reaches, reaches)
				return reply, answered, nil
			} else {
				reaches = 0
			}
		}
		if tries >= maxAgree {
			return nil, 0, status.Error(codes.Unavailable, "the aggregators are loading their history and reach back differently far; ask again in a moment")
		}
		if body, err = json.Marshal(&next); err != nil {
			return nil, 0, fmt.Errorf("cannot encode the question: %w", err)
		}
	}
}

// maxAgree is how often the question is put again to agree on a window.
const maxAgree = 3

// ask puts the question once.
func (s *service) ask(ctx context.Context, method string, body []byte, unpack unpacker) (*query.Reply, int, error) {
	raw, err := s.backend.Ask(ctx, query.Service, method, body)
	if len(raw) == 0 {
		return nil, 0, noAggregator(err)
	}
	if err != nil {
		s.log.Warn("not all aggregators answered", "method", method, "answered", len(raw), "error", err)
	}
	return s.merge(method, raw, unpack)
}

// merge adds up replies. A member that cannot be read is left out, which
// coverage shows; a member's refusal is the answer, as all would refuse.
func (s *service) merge(method string, raw [][]byte, unpack unpacker) (*query.Reply, int, error) {
	read, failed := make([]query.Reply, len(raw)), make([]error, len(raw))
	var group sync.WaitGroup
	for i, data := range raw {
		group.Go(func() { read[i], failed[i] = unpack(data) })
	}
	group.Wait()
	replies := make([]query.Reply, 0, len(raw))
	var bad error
	for i := range raw {
		r := read[i]
		if err := failed[i]; err != nil {
			bad = fmt.Errorf("cannot read an aggregator's reply: %w", err)
			s.log.Warn("an aggregator's reply was left out", "method", method, "error", err)
			continue
		}
		if r.Error != "" {
			return nil, 0, status.Errorf(codes.InvalidArgument, "the aggregator %s refused the question: %s", r.Member, r.Error)
		}
		replies = append(replies, r)
	}
	if len(replies) == 0 {
		return nil, 0, status.Error(codes.Internal, bad.Error())
	}
	merged, err := query.Merge(replies)
	if errors.Is(err, query.ErrBrief) {
		return nil, 0, err
	}
	if err != nil {
		return nil, 0, status.Errorf(codes.Internal, "cannot add up the aggregators' replies: %v", err)
	}
	return merged, len(replies), nil
}

// noAggregator is the answer where nobody answers.
func noAggregator(err error) error {
	const what = "no aggregator answers, so there are no statistics: is one running (`weir aggregator`), on the same bus as this API?"
	if err == nil {
		return status.Error(codes.Unavailable, what)
	}
	return status.Errorf(codes.Unavailable, "%s (%v)", what, err)
}

// compareSelectors orders by namespace, name, then what is left.
func compareSelectors(a, b query.Selector) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name),
		strings.Compare(a.Kind, b.Kind), strings.Compare(a.Cluster, b.Cluster))
}
