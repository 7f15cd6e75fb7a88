package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/weirmesh/weir/api/client"
	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/suggest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// callError turns the API's error into one line.
func callError(what string, err error) error {
	if s, ok := status.FromError(err); ok {
		if s.Code() == codes.Canceled {
			return fmt.Errorf("cannot %s: %w", what, context.Canceled)
		}
		failed := fmt.Errorf("cannot %s: %w", what, errors.New(asFlags(s.Message())))
		if s.Code() == codes.InvalidArgument {
			// As if this command had known it was wrong.
			return &UsageError{Err: failed}
		}
		return failed
	}
	return fmt.Errorf("cannot %s: %w", what, err)
}

// question is whose traffic was asked for; to and from are nil where any is.
type question struct{ resource, to, from *weirpb.Resource }

// describe names it as a user would, beginning with a space.
func (q *question) describe() string {
	out := ""
	for _, part := range []struct {
		word string
		r    *weirpb.Resource
	}{{"for", q.resource}, {"to", q.to}, {"from", q.from}} {
		if part.r == nil {
			continue
		}
		out += " " + part.word + " " + describe(part.r)
		if part.r.GetNamespace() != "" && part.r.GetKind() != kindNamespace {
			out += " in namespace " + part.r.GetNamespace()
		}
	}
	return out
}

// explainMissing says that there is no traffic of what was asked for, and why as
// far as can be told.
func (a *app) explainMissing(ctx context.Context, c *client.Client, q *question, s *scope, covered *weirpb.Coverage) {
	known, err := seen(ctx, c)
	if err != nil {
		slog.Debug("cannot ask what has been seen", "error", err)
		a.notef("No traffic found.")
		return
	}
	a.notef("No traffic found%s", known.explain(q, s, a.now(), covered))
}

// workloads is what has been seen so far.
type workloads []*weirpb.WorkloadRow

func seen(ctx context.Context, c *client.Client) (workloads, error) {
	resp, err := c.Workloads(ctx, &weirpb.WorkloadsRequest{})
	if err != nil {
		return nil, err
	}
	return resp.GetRows(), nil
}

// explain continues the sentence "No traffic found".
func (known workloads) explain(q *question, s *scope, now time.Time, covered *weirpb.Coverage) string {
	r := q.resource
	if len(known) == 0 {
		return ": no proxy has reported yet."
	}
	if r.GetKind() == kindNamespace {
		return known.explainNamespace(r)
	}
	what := q.describe()
	if last, ok := known.lastSeen(r); ok {
		if gone(covered) {
			// Said already, and there is no more to it.
			return what + "."
		}
		for _, other := range []*weirpb.Resource{q.to, q.from} {
			if _, ok := known.lastSeen(other); other != nil && !ok {
				if hint := known.hint(other, s); hint != "" {
					return what + ". " + hint
				}
			}
		}
		return fmt.Sprintf("%s between %s and %s; its proxies last reported at %s.", what,
			clock(covered.GetSince().AsTime(), now), clock(covered.GetUntil().AsTime(), now), clock(last, now))
	}
	if hint := known.hint(r, s); hint != "" {
		return what + ". " + hint
	}
	return what + "."
}

// hint says what may have been meant instead of r, of which nothing was seen.
func (known workloads) hint(r *weirpb.Resource, s *scope) string {
	var elsewhere, namespaces, names []string
	for _, w := range known {
		have := w.GetResource()
		namespaces = append(namespaces, have.GetNamespace())
		if have.GetNamespace() != r.GetNamespace() && r.GetNamespace() != "" {
			if matches(r, w, have.GetNamespace()) {
				elsewhere = append(elsewhere, have.GetNamespace())
			}
			continue
		}
		if r.GetKind() == kindPod {
			for _, p := range w.GetPods() {
				names = append(names, p.GetName())
			}
		} else if r.GetKind() == have.GetKind() || r.GetKind() == "" {
			names = append(names, have.GetName())
		}
	}
	elsewhere, namespaces = distinct(elsewhere), distinct(namespaces)
	if r.GetName() != "" {
		if found := suggest.Near(r.GetName(), distinct(names)); len(found) > 0 {
			for i := range found {
				found[i] = r.GetKind() + "/" + found[i]
			}
			return "Did you mean " + orList(found) + "?"
		}
	}
	if r.GetNamespace() != "" && !slices.Contains(namespaces, r.GetNamespace()) && s.given {
		if found := suggest.Near(r.GetNamespace(), namespaces); len(found) > 0 {
			return "Did you mean namespace " + orList(found) + "?"
		}
	}
	if len(elsewhere) > 0 {
		return fmt.Sprintf("%s %s %s some: use -n %s, or -A for all.", plural(len(elsewhere), "Namespace", "Namespaces"),
			andList(elsewhere), plural(len(elsewhere), "has", "have"), elsewhere[0])
	}
	if !slices.Contains(namespaces, r.GetNamespace()) && r.GetNamespace() != "" {
		return fmt.Sprintf("Proxies have reported from namespace %s only.", andList(namespaces))
	}
	return ""
}

func (known workloads) explainNamespace(r *weirpb.Resource) string {
	if r.GetName() == "" {
		return "."
	}
	var namespaces []string
	for _, w := range known {
		namespaces = append(namespaces, w.GetResource().GetNamespace())
	}
	namespaces = distinct(namespaces)
	out := " for " + describe(r) + "."
	if slices.Contains(namespaces, r.GetName()) {
		return out
	}
	if found := suggest.Near(r.GetName(), namespaces); len(found) > 0 {
		return out + " Did you mean " + orList(found) + "?"
	}
	return out + " Proxies have reported from namespace " + andList(namespaces) + " only."
}

// lastSeen is when anything that r names last reported.
func (known workloads) lastSeen(r *weirpb.Resource) (time.Time, bool) {
	var last time.Time
	for _, w := range known {
		if matches(r, w, r.GetNamespace()) && w.GetLastSeen().AsTime().After(last) {
			last = w.GetLastSeen().AsTime()
		}
	}
	return last, !last.IsZero()
}

// matches tells whether w is, or has a pod, as r names, in namespace ("": any).
func matches(r *weirpb.Resource, w *weirpb.WorkloadRow, namespace string) bool {
	have := w.GetResource()
	if namespace != "" && have.GetNamespace() != namespace {
		return false
	}
	switch r.GetKind() {
	case kindNamespace:
		return r.GetName() == "" || r.GetName() == have.GetNamespace()
	case kindPod:
		return r.GetName() == "" || slices.ContainsFunc(w.GetPods(), func(p *weirpb.PodRow) bool { return p.GetName() == r.GetName() })
	}
	return (r.GetKind() == "" || r.GetKind() == have.GetKind()) && (r.GetName() == "" || r.GetName() == have.GetName())
}

func distinct(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}
