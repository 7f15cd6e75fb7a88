package match

import (
	"slices"
	"strconv"
	"strings"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/suggest"
)

func direction(s string) (predicate, *Error) {
	d, ok := event.ParseDirection(s)
	if !ok {
		return nil, fail("direction", "%q is neither inbound nor outbound", clip(s))
	}
	return func(_ *event.Header, e *event.Event) bool { return e.Direction == d }, nil
}

func method(s string) (predicate, *Error) {
	list := words(s)
	for _, m := range list {
		if strings.ContainsFunc(m, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r) }) {
			return nil, fail("method", "%q is no HTTP method such as GET", clip(m))
		}
	}
	return func(_ *event.Header, e *event.Event) bool {
		return slices.ContainsFunc(list, func(m string) bool { return strings.EqualFold(m, e.Method) })
	}, nil
}

func path(s string) (predicate, *Error) {
	if !strings.HasPrefix(s, "/") && !strings.HasPrefix(s, "*") {
		return nil, fail("path", "%q begins with neither / nor *, as every path does; for a part of one take where, as in path contains %q", clip(s), clip(s))
	}
	return func(_ *event.Header, e *event.Event) bool { return strings.HasPrefix(e.Path, s) }, nil
}

func authority(s string) (predicate, *Error) {
	return func(_ *event.Header, e *event.Event) bool { return strings.EqualFold(e.Authority, s) }, nil
}

// span is what one word of a list of codes allows.
type span struct {
	compare func(a, b float64) bool
	value   float64
	// class: value to value+99.
	class bool
}

func (s *span) has(v float64) bool {
	if s.class {
		return v >= s.value && v < s.value+100
	}
	return s.compare(v, s.value)
}

func statusCode(list string) (predicate, *Error) {
	var spans []span
	for _, word := range words(list) {
		if len(word) == 3 && strings.EqualFold(word[1:], "xx") && '1' <= word[0] && word[0] <= '5' {
			spans = append(spans, span{value: float64(word[0]-'0') * 100, class: true})
			continue
		}
		op, rest := splitOperator(word)
		if op == "" {
			op = "="
		}
		n, err := strconv.ParseUint(rest, 10, 16)
		compare := comparator(op)
		if err != nil || n > 999 || compare == nil || strings.HasPrefix(op, "=") && n != 0 && n < 100 {
			return nil, fail("status", "%q is neither a status such as 404 (0: no response came), a class such as 5xx nor a comparison such as >=500", clip(word))
		}
		spans = append(spans, span{compare: compare, value: float64(n)})
	}
	return func(_ *event.Header, e *event.Event) bool {
		return slices.ContainsFunc(spans, func(s span) bool { return s.has(float64(e.Status)) })
	}, nil
}

// grpcNames are those of gRPC's status codes.
var grpcNames = [...]string{
	"OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists", "PermissionDenied", "ResourceExhausted",
	"FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented", "Internal", "Unavailable", "DataLoss", "Unauthenticated",
}

func grpcCode(word string) (float64, bool) {
	if strings.EqualFold(word, "none") {
		return float64(event.NoGRPCStatus), true
	}
	plain := strings.ReplaceAll(word, "_", "")
	for code, name := range grpcNames {
		if strings.EqualFold(plain, name) {
			return float64(code), true
		}
	}
	n, err := strconv.ParseInt(word, 10, 16)
	return float64(n), err == nil && n >= int64(event.NoGRPCStatus)
}

func grpcStatus(list string) (predicate, *Error) {
	var spans []span
	for _, word := range words(list) {
		op, rest := splitOperator(word)
		if op == "" {
			op = "="
		}
		n, ok := grpcCode(rest)
		compare := comparator(op)
		if !ok || compare == nil {
			return nil, fail("grpc_status", "%q is neither a gRPC status such as 14 or Unavailable, none nor a comparison such as >0%s", clip(word), hint(rest, grpcNames[:]))
		}
		spans = append(spans, span{compare: compare, value: n})
	}
	return func(_ *event.Header, e *event.Event) bool {
		return e.Protocol == event.GRPC && slices.ContainsFunc(spans, func(s span) bool { return s.has(float64(e.GRPCStatus)) })
	}, nil
}

// comparisonOf compiles comparisons with a field that is a quantity.
func comparisonOf(name string) func(string) (predicate, *Error) {
	return func(s string) (predicate, *Error) {
		f, err := Lookup(name, name)
		if err != nil {
			return nil, fail(name, "%v", err)
		}
		op, rest := splitOperator(s)
		compare := comparator(op)
		v, unit, ok := quantity(rest)
		// Bytes are bytes; a time without a unit may be meant in any.
		bare := unit == Plain && v != 0 && f.Unit != Bytes
		if compare == nil || !ok || v < 0 || bare || !fits(unit, f.Unit) {
			return nil, fail(name, "%q is no comparison with an amount such as >%s; comparisons are >, >=, <, <=, = and !=", clip(s), example(f.Unit))
		}
		return func(h *event.Header, e *event.Event) bool { return compare(f.number(h, e), v) }, nil
	}
}

func pod(name string) (predicate, *Error) {
	return func(h *event.Header, e *event.Event) bool { return h.Source.Pod == name || e.Peer.Pod == name }, nil
}

func security(list string) (predicate, *Error) {
	type want struct {
		security event.Security
		reason   string
	}
	var wants []want
	for _, word := range words(list) {
		switch word {
		case "mutual", "true":
			wants = append(wants, want{security: event.Mutual})
		case "passthrough":
			wants = append(wants, want{security: event.Passthrough})
		case "none", "false":
			wants = append(wants, want{security: event.Plain})
		default:
			wants = append(wants, want{security: event.Plain, reason: word})
		}
	}
	return func(_ *event.Header, e *event.Event) bool {
		return slices.ContainsFunc(wants, func(w want) bool {
			return w.security == e.Security && (w.reason == "" || w.reason == e.SecurityReason)
		})
	}, nil
}

// fateNames are those of event.Fate.
var fateNames = [...]string{"retried", "timed_out", "shed", "denied", "breaker_open", "refused", "drained"}

func fate(list string) (predicate, *Error) {
	var set event.Fate
	for _, word := range words(list) {
		if word == "any" {
			set = ^event.Fate(0)
			continue
		}
		f, ok := event.ParseFate(word)
		if !ok {
			return nil, fail("fate", "%q is no fate; there are any, %s", clip(word), strings.Join(fateNames[:], ", "))
		}
		set |= f
	}
	return func(_ *event.Header, e *event.Event) bool { return e.Fate&set != 0 }, nil
}

func protocol(list string) (predicate, *Error) {
	var wants []event.Protocol
	for _, word := range words(list) {
		found := false
		for p := event.ProtocolUnknown; p <= event.TLS; p++ {
			if strings.EqualFold(word, p.String()) || strings.EqualFold(word, strings.ReplaceAll(p.String(), "/", "")) {
				wants, found = append(wants, p), true
			}
		}
		if !found {
			return nil, fail("protocol", "%q is no protocol; there are http/1, http/2, grpc, websocket, tcp, tls and unknown", clip(word))
		}
	}
	return func(_ *event.Header, e *event.Event) bool { return slices.Contains(wants, e.Protocol) }, nil
}

func reason(list string) (predicate, *Error) {
	wants := words(list)
	some, none := slices.Contains(wants, "any"), slices.Contains(wants, "none")
	return func(_ *event.Header, e *event.Event) bool {
		if e.Error == "" {
			return none
		}
		return some || slices.Contains(wants, e.Error)
	}, nil
}

// hint names what s may have been meant to be.
func hint(s string, known []string) string {
	if found := suggest.Near(s, known); len(found) > 0 {
		return "; did you mean " + strings.Join(found, " or ") + "?"
	}
	return ""
}
