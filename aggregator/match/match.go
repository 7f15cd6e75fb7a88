// Package match decides which events are asked for: a [Filter], as flags give
// it, and within it a boolean expression over the fields of an event, are
// compiled once into a [Matcher], which is then asked for each event.
//
// The syntax of expressions is that of github.com/expr-lang/expr, whose parser
// reads them; what they mean is here. There are no calls, loops or variables,
// and no pattern that could take long: what an expression costs is bounded by
// its length. Numbers may have units, as in latency > 250ms or bytes >= 1.5MB.
package match

import (
	"fmt"
	"strings"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/event"
)

// MaxText bounds each text of a filter, in bytes.
const MaxText = 2048

// Filter says which events are asked for. An empty field asks for all; an event
// must be what every other one says. Where a field takes a list, its words have
// commas between and an event must be as one of them says.
type Filter struct {
	// Method, a list, whatever the case.
	Method string
	// Path is how the path begins.
	Path string
	// Authority is the host asked for, whatever the case.
	Authority string
	// Status is a list of 404, 5xx, >=500; 0 is no response.
	Status string
	// GRPCStatus is a list of numbers, names (Unavailable), comparisons (>0)
	// and none.
	GRPCStatus string
	// Latency and Duration are comparisons with a time: >250ms, <=1s.
	Latency, Duration string
	// Bytes is a comparison of request and response bytes together: >1MB.
	Bytes string
	// Pod is the name of a pod on either side.
	Pod string
	// TLS is a list of mutual (or true), passthrough, none (or false), and of
	// reasons why there is none.
	TLS string
	// Fate is a list of fates, as retried, or any.
	Fate string
	// Protocol is a list of protocols: http/1 (or http1), http/2, grpc,
	// websocket, tcp, tls.
	Protocol string
	// Error is a list of reasons, as connect_refused, or any, or none.
	Error string
	// Direction is inbound or outbound.
	Direction string
	// To and From are the two sides.
	To, From *query.Selector
	// Where is an expression.
	Where string
	// Not asks for the events that all of the above does not ask for.
	Not bool
}

// Error says which field of a filter is not acceptable, and why.
type Error struct {
	// Field is the name of the filter's field, in snake case.
	Field string
	// Reason says what is wrong and what would be right.
	Reason string
}

// Error implements error.
func (e *Error) Error() string { return e.Field + ": " + e.Reason }

func fail(field, format string, args ...any) *Error {
	return &Error{Field: field, Reason: fmt.Sprintf(format, args...)}
}

// predicate tells whether one event is asked for.
type predicate func(h *event.Header, e *event.Event) bool

// Matcher is a compiled filter. It is safe for concurrent use.
type Matcher struct {
	all []predicate
	not bool
}

// Match tells whether an event of a batch with the header h is asked for. It
// allocates nothing.
func (m *Matcher) Match(h *event.Header, e *event.Event) bool {
	for _, p := range m.all {
		if !p(h, e) {
			return m.not
		}
	}
	return !m.not
}

// All returns what asks for the events that each of ms asks for.
func All(ms ...*Matcher) *Matcher {
	out := &Matcher{}
	for _, m := range ms {
		out.all = append(out.all, m.Match)
	}
	return out
}

// Compile checks a filter and prepares it. The error is an *Error.
func Compile(f *Filter) (*Matcher, error) {
	m := &Matcher{not: f.Not}
	for _, part := range []struct {
		field, value string
		compile      func(string) (predicate, *Error)
	}{
		{"direction", f.Direction, direction},
		{"method", f.Method, method},
		{"path", f.Path, path},
		{"authority", f.Authority, authority},
		{"status", f.Status, statusCode},
		{"grpc_status", f.GRPCStatus, grpcStatus},
		{"latency", f.Latency, comparisonOf("latency")},
		{"duration", f.Duration, comparisonOf("duration")},
		{"bytes", f.Bytes, comparisonOf("bytes")},
		{"pod", f.Pod, pod},
		{"tls", f.TLS, security},
		{"fate", f.Fate, fate},
		{"protocol", f.Protocol, protocol},
		{"error", f.Error, reason},
		{"where", f.Where, where},
	} {
		if part.value == "" {
			continue
		}
		if len(part.value) > MaxText {
			return nil, fail(part.field, "it has %d bytes; at most %d are allowed", len(part.value), MaxText)
		}
		if strings.Trim(part.value, ", \t") == "" {
			return nil, fail(part.field, "%q says nothing: leave it out, or say what is meant", part.value)
		}
		p, err := part.compile(part.value)
		if err != nil {
			return nil, err
		}
		m.all = append(m.all, p)
	}
	if to := f.To; to != nil {
		m.all = append(m.all, func(h *event.Header, e *event.Event) bool {
			w, pod := destination(h, e)
			return Selects(*to, w, pod)
		})
	}
	if from := f.From; from != nil {
		m.all = append(m.all, func(h *event.Header, e *event.Event) bool {
			w, pod := source(h, e)
			return Selects(*from, w, pod)
		})
	}
	if f.Not && len(m.all) == 0 {
		return nil, fail("not", "there is no other filter to be turned round")
	}
	return m, nil
}

// source is who asked, destination who was asked.
func source(h *event.Header, e *event.Event) (*event.Workload, string) {
	if e.Direction == event.Outbound {
		return &h.Source.Workload, h.Source.Pod
	}
	return &e.Peer.Workload, e.Peer.Pod
}

func destination(h *event.Header, e *event.Event) (*event.Workload, string) {
	if e.Direction == event.Outbound {
		return &e.Peer.Workload, e.Peer.Pod
	}
	return &h.Source.Workload, h.Source.Pod
}

// Selects tells whether a workload, or its pod, is what a selector names. A pod
// is named by a pod's name, or by a workload that is a bare pod.
func Selects(sel query.Selector, w *event.Workload, pod string) bool {
	if sel.Cluster != "" && sel.Cluster != w.Cluster || sel.Namespace != "" && sel.Namespace != w.Namespace {
		return false
	}
	switch sel.Kind {
	case query.KindNamespace:
		return sel.Name == "" || sel.Name == w.Namespace
	case query.KindPod:
		return sel.Name == "" || sel.Name == pod || w.Kind == query.KindPod && sel.Name == w.Name
	}
	return (sel.Kind == "" || sel.Kind == w.Kind) && (sel.Name == "" || sel.Name == w.Name)
}

// words splits a list.
func words(list string) []string {
	var out []string
	for one := range strings.SplitSeq(list, ",") {
		if one = strings.TrimSpace(one); one != "" {
			out = append(out, one)
		}
	}
	return out
}
