package match

import (
	"slices"
	"strconv"
	"strings"

	"github.com/weirmesh/weir/aggregator/route"
	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/suggest"
)

// Kind is what a field's values are.
type Kind uint8

// Kinds.
const (
	Text Kind = iota
	Number
	Bool
)

// String is "text", "number" or "true or false".
func (k Kind) String() string { return [...]string{"text", "number", "true or false"}[k] }

// Unit is what the values of a number count.
type Unit uint8

// Units.
const (
	// Plain numbers have no unit.
	Plain Unit = iota
	// Microseconds may be written 250us, 250ms, 2s, 1m, 1h.
	Microseconds
	// Bytes may be written 512B, 10kB, 10KiB, 1MB, 1MiB, 1GB, 1GiB.
	Bytes
)

// Field is something that an event is asked by, in an expression or as a
// dimension.
type Field struct {
	// Name as it is written, and Doc, what it is.
	Name, Doc string
	Kind      Kind
	Unit      Unit

	text   func(h *event.Header, e *event.Event) string
	number func(h *event.Header, e *event.Event) float64
	truth  predicate
}

// Append appends the field's value of an event as text: "" where there is none.
func (f *Field) Append(dst []byte, h *event.Header, e *event.Event) []byte {
	switch f.Kind {
	case Text:
		return append(dst, f.text(h, e)...)
	case Number:
		return strconv.AppendFloat(dst, f.number(h, e), 'f', -1, 64)
	}
	return strconv.AppendBool(dst, f.truth(h, e))
}

// Fields lists all fields in the order of the documentation. The slice is the
// caller's.
func Fields() []Field {
	return slices.Concat(requestFields(), outcomeFields(), sideFields("src", "client", source, peerOfInbound),
		sideFields("dst", "server", destination, peerOfOutbound), proxyFields())
}

// Lookup finds a field. The error is an *Error about the filter's field
// called by, and names the near ones.
func Lookup(by, name string) (*Field, error) {
	all := Fields()
	for i := range all {
		if all[i].Name == name {
			return &all[i], nil
		}
	}
	return nil, fail(by, "%s", unknownField(name, all))
}

func unknownField(name string, all []Field) string {
	var names []string
	for i := range all {
		names = append(names, all[i].Name)
	}
	out := "there is no field " + strconv.Quote(clip(name))
	if found := suggest.Near(name, names); len(found) > 0 {
		return out + "; did you mean " + strings.Join(found, " or ") + "?"
	}
	return out + "; there are " + strings.Join(names, ", ")
}

func text(name, doc string, get func(h *event.Header, e *event.Event) string) Field {
	return Field{Name: name, Doc: doc, Kind: Text, text: get}
}

func number(name, doc string, unit Unit, get func(h *event.Header, e *event.Event) float64) Field {
	return Field{Name: name, Doc: doc, Kind: Number, Unit: unit, number: get}
}

func truth(name, doc string, get predicate) Field {
	return Field{Name: name, Doc: doc, Kind: Bool, truth: get}
}

type (
	hdr = *event.Header
	evt = *event.Event
)

func requestFields() []Field {
	return []Field{
		text("method", "HTTP method", func(_ hdr, e evt) string { return e.Method }),
		text("path", "path without the query string", func(_ hdr, e evt) string { return e.Path }),
		text("route", "method and path, with {id}, {date} and {email} for what looks so; of gRPC the method", routeOf),
		text("authority", "host asked for; the SNI of passthrough TLS", func(_ hdr, e evt) string { return e.Authority }),
		text("protocol", "http/1, http/2, grpc, websocket, tcp, tls or unknown", func(_ hdr, e evt) string { return e.Protocol.String() }),
		text("direction", "inbound or outbound: whose proxy saw it", func(_ hdr, e evt) string { return e.Direction.String() }),
		text("kind", "end, or progress of what goes on", func(_ hdr, e evt) string { return e.Kind.String() }),
		number("request_bytes", "bytes of the request", Bytes, func(_ hdr, e evt) float64 { return float64(e.RequestBytes) }),
		number("response_bytes", "bytes of the response", Bytes, func(_ hdr, e evt) float64 { return float64(e.ResponseBytes) }),
		number("bytes", "both together", Bytes, bytesOf),
		number("latency", "time to the first byte of the response", Microseconds, func(_ hdr, e evt) float64 { return float64(e.Latency) }),
		number("duration", "time to the end", Microseconds, func(_ hdr, e evt) float64 { return float64(e.Duration) }),
		text("minute", "minute in which it ended, as 2026-03-14T12:05Z", minuteOf),
		text("second", "second in which it ended, as 2026-03-14T12:05:07Z", secondOf),
		text("trace_id", "trace id of a traceparent header, 32 hexadecimal digits", traceOf),
	}
}

// routeOf is what route.Shape makes of an event: the same whoever reads it. What
// aggregators learn beyond that, of a workload, is not known here.
func routeOf(_ *event.Header, e *event.Event) string {
	if e.Protocol == event.GRPC {
		return strings.TrimPrefix(e.Path, "/")
	}
	if e.Method == "" && e.Path == "" {
		return e.Protocol.String()
	}
	var buffer [2 * route.MaxTemplate]byte
	dst := append(buffer[:0], e.Method...)
	if len(dst) > 0 && e.Path != "" {
		dst = append(dst, ' ')
	}
	return string(route.Shape(dst, e.Path))
}

func bytesOf(_ *event.Header, e *event.Event) float64 {
	return float64(e.RequestBytes) + float64(e.ResponseBytes)
}

func outcomeFields() []Field {
	return []Field{
		number("status", "HTTP status; 0 where no response came", Plain, func(_ hdr, e evt) float64 { return float64(e.Status) }),
		text("status_class", "2xx, 4xx, …; none where no response came", classOf),
		number("grpc_status", "gRPC status; -1 where there is none", Plain, func(_ hdr, e evt) float64 { return float64(e.GRPCStatus) }),
		truth("success", "whether it succeeded", func(_ hdr, e evt) bool { return e.Success() }),
		truth("request", "whether it counts as a request: neither connection nor progress", func(_ hdr, e evt) bool { return e.IsRequest() }),
		text("error", "why it did not end well, as connect_refused", func(_ hdr, e evt) string { return e.Error }),
		text("fate", "what the proxy decided, as retried,timed_out", func(_ hdr, e evt) string { return e.Fate.String() }),
		number("attempt", "which try of one request, from 0", Plain, func(_ hdr, e evt) float64 { return float64(e.Attempt) }),
		text("tls", "mutual, passthrough or none", func(_ hdr, e evt) string { return e.Security.String() }),
		text("tls_reason", "why none", func(_ hdr, e evt) string { return e.SecurityReason }),
	}
}

func classOf(_ *event.Header, e *event.Event) string {
	const classes = "1xx2xx3xx4xx5xx6xx7xx8xx9xx"
	if i := int(e.Status)/100 - 1; i >= 0 && i < 9 {
		return classes[3*i : 3*i+3]
	}
	return "none"
}

// peerOfInbound is the peer where it is the source.
func peerOfInbound(e *event.Event) *event.Peer {
	if e.Direction == event.Outbound {
		return nil
	}
	return &e.Peer
}

func peerOfOutbound(e *event.Event) *event.Peer {
	if e.Direction == event.Outbound {
		return &e.Peer
	}
	return nil
}

type sideOf func(h *event.Header, e *event.Event) (*event.Workload, string)

// sideFields are the fields of one side. The addresses and identities that
// events have are those of the peer.
func sideFields(prefix, who string, side sideOf, peer func(*event.Event) *event.Peer) []Field {
	field := func(name, doc string, get func(w *event.Workload) string) Field {
		return text(prefix+"_"+name, doc+" of the "+who, func(h hdr, e evt) string {
			w, _ := side(h, e)
			return get(w)
		})
	}
	return []Field{
		text(prefix, "the "+who+", as deploy/web; its address where it is no known workload", func(h hdr, e evt) string {
			w, _ := side(h, e)
			if w.Name != "" {
				return w.Kind + "/" + w.Name
			}
			return ip(peer(e))
		}),
		field("cluster", "cluster", func(w *event.Workload) string { return w.Cluster }),
		field("namespace", "namespace", func(w *event.Workload) string { return w.Namespace }),
		field("kind", "kind of workload", func(w *event.Workload) string { return w.Kind }),
		field("name", "workload", func(w *event.Workload) string { return w.Name }),
		text(prefix+"_pod", "pod of the "+who, func(h hdr, e evt) string {
			_, pod := side(h, e)
			return pod
		}),
		text(prefix+"_ip", "address of the "+who+", where it is the proxy's peer", func(_ hdr, e evt) string { return ip(peer(e)) }),
		number(prefix+"_port", "port of the "+who+", where it is the proxy's peer, else 0", Plain, func(_ hdr, e evt) float64 {
			if p := peer(e); p != nil {
				return float64(p.Addr.Port())
			}
			return 0
		}),
		text(prefix+"_identity", "identity of the "+who+" under mutual TLS, where it is the proxy's peer", func(_ hdr, e evt) string {
			if p := peer(e); p != nil {
				return p.Identity
			}
			return ""
		}),
	}
}

func ip(p *event.Peer) string {
	if p == nil || !p.Addr.Addr().IsValid() {
		return ""
	}
	return p.Addr.Addr().String()
}

func proxyFields() []Field {
	return []Field{
		text("pod", "pod whose proxy saw it", func(h hdr, _ evt) string { return h.Source.Pod }),
		text("node", "node of that pod", func(h hdr, _ evt) string { return h.Source.Node }),
		text("namespace", "namespace of that pod", func(h hdr, _ evt) string { return h.Source.Workload.Namespace }),
		text("name", "workload of that pod", func(h hdr, _ evt) string { return h.Source.Workload.Name }),
		text("version", "build of that proxy", func(h hdr, _ evt) string { return h.Version }),
		truth("meshed", "whether the peer's proxy reports it, too", func(_ hdr, e evt) bool { return e.Peer.Meshed }),
		text("connection", "connection between the proxies, 16 hexadecimal digits", func(_ hdr, e evt) string { return hex(e.Connection) }),
		number("stream", "which exchange of its connection, from 1", Plain, func(_ hdr, e evt) float64 { return float64(e.Stream) }),
		text("detection", "how the protocol was found, as bytes", func(_ hdr, e evt) string { return e.Detection.String() }),
		number("detection_time", "how long that took", Microseconds, func(_ hdr, e evt) float64 { return float64(e.DetectionTime) }),
	}
}
