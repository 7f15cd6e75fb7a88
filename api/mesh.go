package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/control"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// BusState is how the bus does.
type BusState struct {
	// Version is that of the server that the API is connected to.
	Version string
	Streams []StreamState
	// Behind is for each partition how long the oldest event waits that is not
	// counted yet; nil where that is not known.
	Behind []time.Duration
}

// StreamState is how one of the bus's streams does.
type StreamState struct {
	Name string
	// Exists is false where the stream should be there and is not; the rest is
	// zero then.
	Exists          bool
	Messages, Bytes uint64
	// Oldest and Newest are when the messages at its ends were stored.
	Oldest, Newest time.Time
	// Replicas that it should have, and those of them that are online and have
	// all its messages.
	Replicas, Current int
	// Leader is the server that leads it; "" where none does now, or the bus is
	// a single server.
	Leader string
}

// Mesh implements weirpb.WeirServer.
func (s *service) Mesh(ctx context.Context, _ *weirpb.MeshRequest) (*weirpb.MeshResponse, error) {
	out := &weirpb.MeshResponse{}
	out.Server, _ = s.Version(ctx, nil)
	s.meshCluster(ctx, out)
	s.meshAggregators(ctx, out)
	out.Bus = s.meshBus(ctx)
	return out, nil
}

// meshCluster adds what Kubernetes knows.
func (s *service) meshCluster(ctx context.Context, out *weirpb.MeshResponse) {
	var o control.InventoryOverview
	err := s.inventory.call(ctx, control.OverviewMethod, struct{}{}, &o)
	if errors.Is(err, ErrNoController) {
		return
	}
	out.Kubernetes = true
	if err == nil && o.Error != nil {
		err = o.Error
	}
	if err != nil {
		out.KubernetesError = err.Error()
		return
	}
	out.Cluster, out.NamespacesTotal, out.Pods = o.Cluster, uint32(max(o.NamespacesTotal, 0)), podCounts(&o.Pods)
	for i := range o.Components {
		out.Components = append(out.Components, component(o.Cluster, &o.Components[i]))
	}
	for _, k := range o.Kinds {
		out.Kinds = append(out.Kinds, &weirpb.KindCount{
			Kind: k.Kind, Meshed: uint32(max(k.Meshed, 0)), Partly: uint32(max(k.Partly, 0)), Unmeshed: uint32(max(k.Unmeshed, 0)),
		})
	}
	for i := range o.Namespaces {
		out.Namespaces = append(out.Namespaces, &weirpb.NamespaceCount{Namespace: o.Namespaces[i].Namespace, Pods: podCounts(&o.Namespaces[i].PodCounts)})
	}
	out.ProxyVersions = map[string]uint32{}
	for version, n := range o.ProxyVersions {
		out.ProxyVersions[version] = uint32(max(n, 0))
	}
}

func component(cluster string, c *control.Component) *weirpb.Component {
	out := &weirpb.Component{
		Name: c.Name, Version: c.Version,
		Resource: &weirpb.Resource{Cluster: cluster, Kind: c.Kind, Name: c.Workload},
	}
	for _, p := range c.Pods {
		out.Resource.Namespace = p.Namespace
		pod := &weirpb.PodState{Name: p.Name, Node: p.Node, Phase: p.Phase, Status: p.Status, Ready: p.Ready, Restarts: uint32(max(p.Restarts, 0))}
		if !p.Started.IsZero() {
			pod.Started = timestamppb.New(p.Started)
		}
		out.Pods = append(out.Pods, pod)
	}
	return out
}

// meshAggregators adds who answers, and which proxies report.
func (s *service) meshAggregators(ctx context.Context, out *weirpb.MeshResponse) {
	out.Aggregators = &weirpb.Aggregators{}
	reply, answered, err := s.gather(ctx, query.MethodWorkloads, &query.Request{})
	if err != nil {
		out.Aggregators.Error = status.Convert(err).Message()
		return
	}
	missing, _ := query.Missing(reply)
	out.Aggregators.Answered, out.Aggregators.Total = uint32(answered), uint32(max(reply.Members, answered))
	out.Aggregators.PartitionsMissing, out.Aggregators.PartitionsTotal = uint32(len(missing)), uint32(reply.Total)
	for _, w := range reply.Workloads {
		var live uint32
		for _, p := range w.Pods {
			if p.Live {
				live++
			}
		}
		out.ProxiesLive += live
		out.WorkloadsLive += min(live, 1)
	}
}

// meshBus is how the bus does; nil where nobody knows.
func (s *service) meshBus(ctx context.Context) *weirpb.Bus {
	if s.bus == nil {
		return nil
	}
	out := &weirpb.Bus{}
	state, err := s.bus(ctx)
	if err != nil {
		out.Error = err.Error()
	}
	if state == nil {
		return out
	}
	out.Version = state.Version
	for i := range state.Streams {
		st := &state.Streams[i]
		row := &weirpb.Stream{
			Name: st.Name, Exists: st.Exists, Messages: st.Messages, Bytes: st.Bytes,
			Replicas: uint32(max(st.Replicas, 0)), ReplicasCurrent: uint32(max(st.Current, 0)), Leader: st.Leader,
		}
		if st.Messages > 0 {
			row.Oldest, row.Newest = timestamppb.New(st.Oldest), timestamppb.New(st.Newest)
		}
		out.Streams = append(out.Streams, row)
	}
	for i, behind := range state.Behind {
		out.Lags = append(out.Lags, &weirpb.PartitionLag{Partition: uint32(i), Behind: durationpb.New(behind)})
	}
	return out
}

// Endpoints implements weirpb.WeirServer.
func (s *service) Endpoints(ctx context.Context, req *weirpb.EndpointsRequest) (*weirpb.EndpointsResponse, error) {
	addr, err := netip.ParseAddrPort(req.GetAddress())
	if err != nil || addr.Port() == 0 {
		return nil, invalid("address", "%q is not ip:port", clip(req.GetAddress()))
	}
	if err := checkName("namespace", req.GetNamespace()); err != nil {
		return nil, err
	}
	if s.inventory.ask == nil {
		return nil, noController(ErrNoController)
	}
	body, err := json.Marshal(&control.ResolveRequest{Addr: addr, Namespace: req.GetNamespace()})
	if err != nil {
		return nil, status.Errorf(codes.Internal, "cannot encode the question: %v", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*controllerTimeout)
	defer cancel()
	data, err := s.inventory.ask(ctx, control.DiscoveryService, control.ResolveMethod, body)
	if err != nil {
		return nil, noController(err)
	}
	var d control.Destination
	if err := control.Decode(data, &d); err != nil {
		return nil, status.Errorf(codes.Internal, "cannot read the controller's reply: %v", err)
	}
	if d.Error != nil {
		return nil, status.Errorf(codes.Unavailable, "the controller says: %v", d.Error)
	}
	out := &weirpb.EndpointsResponse{
		Known: d.Known, Namespace: d.Namespace, Service: d.Service, Port: uint32(d.Port), Protocol: d.Protocol, Opaque: d.Opaque,
	}
	for i := range d.Endpoints {
		e := &d.Endpoints[i]
		out.Endpoints = append(out.Endpoints, &weirpb.MeshEndpoint{
			Ip: e.Addr.Addr().String(), Port: uint32(e.Addr.Port()), Pod: e.Pod, Node: e.Node, Zone: e.Zone,
			Workload: &weirpb.Resource{Namespace: e.Namespace, Kind: e.Kind, Name: e.Name},
			Identity: e.Identity, Reason: e.Reason, Terminating: e.Terminating,
		})
	}
	slices.SortFunc(out.Endpoints, func(a, b *weirpb.MeshEndpoint) int {
		return strings.Compare(a.GetPod()+" "+a.GetIp(), b.GetPod()+" "+b.GetIp())
	})
	return out, nil
}

func noController(err error) error {
	if errors.Is(err, ErrNoController) {
		return status.Error(codes.Unavailable, "no controller answers on the bus; endpoints are known only in Kubernetes (`weir check` says what is wrong there)")
	}
	return status.Errorf(codes.Unavailable, "cannot ask the controller: %v", err)
}
