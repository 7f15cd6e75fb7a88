package api

import (
	"fmt"
	"strings"
	"time"

	"github.com/weirmesh/weir/aggregator/scan"
	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/event"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// tapEvent turns an event of a batch into one of the API. Its strings are the
// batch's.
func tapEvent(sequence uint64, h *event.Header, index int, e *event.Event) *weirpb.TapEvent {
	own := &weirpb.Endpoint{Pod: h.Source.Pod, Workload: workload(&h.Source.Workload)}
	other := &weirpb.Endpoint{Pod: e.Peer.Pod, Identity: e.Peer.Identity, Workload: workload(&e.Peer.Workload), Port: uint32(e.Peer.Addr.Port())}
	if addr := e.Peer.Addr.Addr(); addr.IsValid() {
		other.Ip = addr.WithZone("").String()
	}
	source, destination := other, own
	if e.Direction == event.Outbound {
		source, destination = own, other
	}
	out := &weirpb.TapEvent{
		Id:             fmt.Sprintf("%016x-%d-%d", h.Instance, h.Sequence, index),
		Kind:           e.Kind.String(),
		Source:         source,
		Destination:    destination,
		ProxyDirection: e.Direction.String(),
		Protocol:       e.Protocol.String(),
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
		Tls:            e.Security.String(),
		TlsReason:      e.SecurityReason,
		Attempt:        uint32(e.Attempt),
		Connection:     fmt.Sprintf("%016x", e.Connection),
		Stream:         e.Stream,
		Meshed:         e.Peer.Meshed,
		Sequence:       sequence,
	}
	if e.Fate != 0 {
		out.Fate = strings.Split(e.Fate.String(), ",")
	}
	if e.Detection != event.DetectNone {
		out.Detection, out.DetectionUs = e.Detection.String(), uint64(e.DetectionTime)
	}
	if e.TraceID != ([16]byte{}) {
		out.TraceId = fmt.Sprintf("%x", e.TraceID)
	}
	if e.GRPCStatus != event.NoGRPCStatus {
		code := int32(e.GRPCStatus)
		out.GrpcStatus = &code
	}
	return out
}

func workload(w *event.Workload) *weirpb.Resource {
	if w.IsZero() {
		return nil
	}
	return &weirpb.Resource{Cluster: w.Cluster, Namespace: w.Namespace, Kind: w.Kind, Name: w.Name}
}

func clone(w event.Workload) event.Workload {
	return event.Workload{
		Cluster:   strings.Clone(w.Cluster),
		Namespace: strings.Clone(w.Namespace),
		Kind:      strings.Clone(w.Kind),
		Name:      strings.Clone(w.Name),
	}
}

func tapGap(g *scan.Gap) *weirpb.TapGap {
	out := &weirpb.TapGap{Skipped: g.Events, Reason: g.Reason, Source: workload(&g.Source.Workload), Pod: g.Source.Pod, From: g.From, To: g.To}
	if g.Instance != 0 {
		out.Instance = fmt.Sprintf("%016x", g.Instance)
	}
	return out
}
