package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirmesh/weir/api/weirpb"
	"google.golang.org/grpc/codes"
)

// tapLine formats an exchange as `linkerd viz tap` does, with what that spreads
// over three lines (req, rsp, end) in one.
func tapLine(e *weirpb.TapEvent, wide bool) []byte {
	out := make([]byte, 0, 256)
	put := func(key, value string) {
		out = append(out, ' ')
		out = append(out, key...)
		out = append(out, '=')
		out = append(out, printable(value)...)
	}
	out = append(out, orNone(e.GetKind())...)
	put("id", e.GetId())
	put("proxy", proxySide(e))
	put("src", address(e.GetSource()))
	put("dst", address(e.GetDestination()))
	put("tls", tapTLS(e))
	if e.GetMethod() != "" || e.GetPath() != "" {
		put(":method", e.GetMethod())
		put(":authority", e.GetAuthority())
		put(":path", e.GetPath())
	} else {
		put("protocol", e.GetProtocol())
		if e.GetAuthority() != "" {
			put("sni", e.GetAuthority())
		}
	}
	if e.GetStatus() != 0 {
		put(":status", strconv.FormatUint(uint64(e.GetStatus()), 10))
	}
	put("latency", micros(e.GetLatencyUs()))
	put("duration", micros(e.GetDurationUs()))
	put("response-length", strconv.FormatUint(e.GetResponseBytes(), 10)+"B")
	if e.GrpcStatus != nil {
		put("grpc-status", grpcStatus(e.GetGrpcStatus()))
	}
	if e.GetError() != "" {
		put("error", e.GetError())
	}
	if len(e.GetFate()) > 0 {
		put("fate", strings.Join(e.GetFate(), ","))
	}
	if e.GetAttempt() > 0 {
		put("attempt", strconv.FormatUint(uint64(e.GetAttempt()), 10))
	}
	if wide {
		for _, kv := range wideKeys(e) {
			put(kv[0], kv[1])
		}
	}
	return out
}

// wideKeys are what -o wide adds: what is known of both sides, sorted, then the
// rest of the exchange.
func wideKeys(e *weirpb.TapEvent) [][2]string {
	var sides [][2]string
	for _, side := range []struct {
		prefix string
		end    *weirpb.Endpoint
	}{{"src_", e.GetSource()}, {"dst_", e.GetDestination()}} {
		for key, value := range metadata(side.end) {
			sides = append(sides, [2]string{side.prefix + key, value})
		}
	}
	slices.SortFunc(sides, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
	rest := [][2]string{
		{"start", e.GetStart().AsTime().Format(time.RFC3339Nano)},
		{"request-length", strconv.FormatUint(e.GetRequestBytes(), 10) + "B"},
		{"connection", e.GetConnection()},
		{"stream", strconv.FormatUint(uint64(e.GetStream()), 10)},
		{"detection", e.GetDetection()},
		{"trace-id", e.GetTraceId()},
	}
	if e.GetMethod() != "" || e.GetPath() != "" {
		rest = append(rest, [2]string{"protocol", e.GetProtocol()})
	}
	return append(sides, slices.DeleteFunc(rest, func(kv [2]string) bool { return kv[1] == "" })...)
}

// metadata is what is known of one side, under short keys: "deploy", "ns", …
func metadata(e *weirpb.Endpoint) map[string]string {
	m := map[string]string{}
	set := func(key, value string) {
		if value != "" {
			m[key] = value
		}
	}
	w := e.GetWorkload()
	set("cluster", w.GetCluster())
	set("ns", w.GetNamespace())
	if w.GetKind() != "" {
		set(w.GetKind(), w.GetName())
	}
	set("pod", e.GetPod())
	set("identity", e.GetIdentity())
	return m
}

func proxySide(e *weirpb.TapEvent) string {
	if e.GetProxyDirection() == outbound {
		return "out"
	}
	return "in"
}

// tapTLS is "true" for mutual TLS, else the reason why not.
func tapTLS(e *weirpb.TapEvent) string {
	switch {
	case e.GetTls() == "mutual":
		return "true"
	case e.GetTls() == "passthrough":
		return "passthrough"
	case e.GetTlsReason() != "":
		return e.GetTlsReason()
	}
	return "none"
}

// address is ip:port, else the best name known: a proxy's own side has no
// address in its events.
func address(e *weirpb.Endpoint) string {
	if e.GetIp() == "" {
		return cmp.Or(e.GetPod(), e.GetWorkload().GetName(), none)
	}
	return net.JoinHostPort(e.GetIp(), strconv.FormatUint(uint64(e.GetPort()), 10))
}

func micros(us uint64) string { return strconv.FormatUint(us, 10) + "µs" }

// grpcStatus is the name of a gRPC status code ("OK"), its number where it has
// none, "none" where the call ended without.
func grpcStatus(code int32) string {
	switch {
	case code < 0:
		return "none"
	case code > int32(codes.Unauthenticated):
		return strconv.Itoa(int(code))
	}
	return codes.Code(code).String()
}

// The JSON output has Linkerd's keys; what Linkerd spreads over three objects is
// in one, and ours are added after them.
type (
	tapObject struct {
		Source            tapEndpoint       `json:"source"`
		Destination       tapEndpoint       `json:"destination"`
		RouteMeta         map[string]string `json:"routeMeta"`
		ProxyDirection    string            `json:"proxyDirection"`
		RequestInitEvent  *tapRequestInit   `json:"requestInitEvent,omitempty"`
		ResponseInitEvent *tapResponseInit  `json:"responseInitEvent,omitempty"`
		ResponseEndEvent  *tapResponseEnd   `json:"responseEndEvent,omitempty"`

		ID            string   `json:"id"`
		Kind          string   `json:"kind"`
		Protocol      string   `json:"protocol"`
		Start         string   `json:"start"`
		LatencyUS     uint64   `json:"latency_us"`
		DurationUS    uint64   `json:"duration_us"`
		RequestBytes  uint64   `json:"request_bytes"`
		ResponseBytes uint64   `json:"response_bytes"`
		Status        uint32   `json:"status"`
		GRPCStatus    *int32   `json:"grpc_status"`
		Error         string   `json:"error"`
		Fate          []string `json:"fate"`
		Attempt       uint32   `json:"attempt"`
		TLS           string   `json:"tls"`
		TLSReason     string   `json:"tls_reason"`
		Connection    string   `json:"connection"`
		Stream        uint32   `json:"stream"`
		TraceID       string   `json:"trace_id"`
		Detection     string   `json:"detection"`
		DetectionUS   uint64   `json:"detection_us"`
	}
	tapEndpoint struct {
		IP       string            `json:"ip"`
		Port     uint32            `json:"port"`
		Metadata map[string]string `json:"metadata"`
	}
	tapID struct {
		Base   string `json:"base"`
		Stream uint32 `json:"stream"`
	}
	tapDuration struct {
		Seconds uint64 `json:"seconds"`
		Nanos   uint64 `json:"nanos"`
	}
	tapRequestInit struct {
		ID        tapID  `json:"id"`
		Method    string `json:"method"`
		Authority string `json:"authority"`
		Path      string `json:"path"`
	}
	tapResponseInit struct {
		ID               tapID       `json:"id"`
		SinceRequestInit tapDuration `json:"sinceRequestInit"`
		HTTPStatus       uint32      `json:"httpStatus"`
	}
	tapResponseEnd struct {
		ID                tapID       `json:"id"`
		SinceRequestInit  tapDuration `json:"sinceRequestInit"`
		SinceResponseInit tapDuration `json:"sinceResponseInit"`
		ResponseBytes     uint64      `json:"responseBytes"`
		GRPCStatusCode    *int32      `json:"grpcStatusCode,omitempty"`
		ResetError        string      `json:"resetError,omitempty"`
	}
)

func tapJSON(e *weirpb.TapEvent) ([]byte, error) {
	id := tapID{Base: e.GetConnection(), Stream: e.GetStream()}
	o := tapObject{
		Source:         tapEndpoint{e.GetSource().GetIp(), e.GetSource().GetPort(), metadata(e.GetSource())},
		Destination:    tapEndpoint{e.GetDestination().GetIp(), e.GetDestination().GetPort(), metadata(e.GetDestination())},
		RouteMeta:      map[string]string{},
		ProxyDirection: strings.ToUpper(e.GetProxyDirection()),
		ID:             e.GetId(),
		Kind:           e.GetKind(),
		Protocol:       e.GetProtocol(),
		Start:          e.GetStart().AsTime().Format(time.RFC3339Nano),
		LatencyUS:      e.GetLatencyUs(),
		DurationUS:     e.GetDurationUs(),
		RequestBytes:   e.GetRequestBytes(),
		ResponseBytes:  e.GetResponseBytes(),
		Status:         e.GetStatus(),
		GRPCStatus:     e.GrpcStatus,
		Error:          e.GetError(),
		Fate:           append([]string{}, e.GetFate()...),
		Attempt:        e.GetAttempt(),
		TLS:            e.GetTls(),
		TLSReason:      e.GetTlsReason(),
		Connection:     e.GetConnection(),
		Stream:         e.GetStream(),
		TraceID:        e.GetTraceId(),
		Detection:      e.GetDetection(),
		DetectionUS:    e.GetDetectionUs(),
	}
	if e.GetMethod() != "" || e.GetPath() != "" {
		o.RouteMeta["path"] = e.GetPath()
		o.RequestInitEvent = &tapRequestInit{id, e.GetMethod(), e.GetAuthority(), e.GetPath()}
	}
	if e.GetStatus() != 0 {
		o.ResponseInitEvent = &tapResponseInit{id, newTapDuration(e.GetLatencyUs()), e.GetStatus()}
	}
	if e.GetKind() != "progress" {
		o.ResponseEndEvent = &tapResponseEnd{
			ID:                id,
			SinceRequestInit:  newTapDuration(e.GetDurationUs()),
			SinceResponseInit: newTapDuration(e.GetDurationUs() - min(e.GetDurationUs(), e.GetLatencyUs())),
			ResponseBytes:     e.GetResponseBytes(),
			GRPCStatusCode:    e.GrpcStatus,
			ResetError:        e.GetError(),
		}
	}
	line, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the output: %w", err)
	}
	return line, nil
}

func newTapDuration(us uint64) tapDuration {
	return tapDuration{Seconds: us / 1e6, Nanos: us % 1e6 * 1e3}
}
