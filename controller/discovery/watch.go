package discovery

import (
	"context"
	"fmt"
	"net"
	"reflect"
	"strconv"
	"strings"

	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	discoveryapi "k8s.io/api/discovery/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/weirmesh/weir/deploy/inject"
)

// Indexes of the stores.
const (
	byIP       = "ip"       // services and pods, by their addresses
	byHostPort = "hostport" // pods, by node's address and port
	byHost     = "host"     // pods, by node's address
	byNodePort = "nodeport" // services
	byService  = "service"  // endpoint slices
	byPod      = "pod"      // endpoint slices
)

// The names that trim keeps, beside Kubernetes' own.
const (
	opaquePorts     = inject.Domain + "/opaque-ports"
	opaqueVariable  = "WEIR_PROXY_OPAQUE_PORTS"
	skippedArgument = "--skip-inbound-ports="
)

// stores are what the informers hold.
type stores struct {
	services, slices, pods, replicaSets, jobs, statefulSets cache.Indexer
	synced                                                  []cache.InformerSynced
}

// watch sets the informers up; the factory starts them.
func (d *Discovery) watch() error {
	services := d.factory.Core().V1().Services().Informer()
	slices := d.factory.Discovery().V1().EndpointSlices().Informer()
	pods := d.factory.Core().V1().Pods().Informer()
	replicaSets := d.factory.Apps().V1().ReplicaSets().Informer()
	jobs := d.factory.Batch().V1().Jobs().Informer()
	statefulSets := d.factory.Apps().V1().StatefulSets().Informer()
	d.stores = stores{
		services: services.GetIndexer(), slices: slices.GetIndexer(), pods: pods.GetIndexer(),
		replicaSets: replicaSets.GetIndexer(), jobs: jobs.GetIndexer(), statefulSets: statefulSets.GetIndexer(),
	}
	for _, s := range []struct {
		informer cache.SharedIndexInformer
		indexers cache.Indexers
		handler  cache.ResourceEventHandler
	}{
		{services, cache.Indexers{byIP: index(serviceIPs), byNodePort: index(nodePorts)}, handler(func(old, now *core.Service) {
			d.touchService(nameOf(either(old, now)))
		})},
		{slices, cache.Indexers{byService: index(serviceOfSlice), byPod: index(podsOfSlice)}, handler(func(old, now *discoveryapi.EndpointSlice) {
			for _, s := range serviceOfSlice(either(old, now)) {
				namespace, service, _ := strings.Cut(s, "/")
				d.touchService(name{namespace, service})
			}
		})},
		{pods, cache.Indexers{byIP: index(podIPs), byHostPort: index(hostPorts), byHost: index(hostIPs)}, handler(func(old, now *core.Pod) {
			switch {
			case old == nil:
				d.touchPod(now)
			case now == nil:
				d.touchPod(old)
			case !samePod(old, now):
				d.touchPod(old, now)
			}
		})},
		{replicaSets, nil, nil},
		{jobs, nil, nil},
		{statefulSets, nil, nil},
	} {
		if err := s.informer.AddIndexers(s.indexers); err != nil {
			return err
		}
		d.stores.synced = append(d.stores.synced, s.informer.HasSynced)
		if s.handler == nil {
			continue
		}
		r, err := s.informer.AddEventHandler(s.handler)
		if err != nil {
			return err
		}
		d.stores.synced = append(d.stores.synced, r.HasSynced)
	}
	return nil
}

// handler calls f with what was and what is; either is nil where there is none.
func handler[T any](f func(old, now *T)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) {
			if now, ok := o.(*T); ok {
				f(nil, now)
			}
		},
		UpdateFunc: func(a, b any) {
			old, ok := a.(*T)
			now, too := b.(*T)
			if ok && too {
				f(old, now)
			}
		},
		DeleteFunc: func(o any) {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			if old, ok := o.(*T); ok {
				f(old, nil)
			}
		},
	}
}

func either[T any](a, b *T) *T {
	if b != nil {
		return b
	}
	return a
}

func nameOf(o meta.Object) name { return name{o.GetNamespace(), o.GetName()} }

func (n name) String() string { return n.namespace + "/" + n.name }

// index is an index function of one type.
func index[T any](f func(*T) []string) cache.IndexFunc {
	return func(o any) ([]string, error) {
		t, ok := o.(*T)
		if !ok {
			return nil, fmt.Errorf("cannot index a %T", o)
		}
		return f(t), nil
	}
}

// serviceIPs are the addresses that a service has.
func serviceIPs(s *core.Service) []string {
	var out []string
	add := func(ip string) {
		if ip != "" && ip != core.ClusterIPNone {
			out = append(out, ip)
		}
	}
	for _, ip := range s.Spec.ClusterIPs {
		add(ip)
	}
	if len(s.Spec.ClusterIPs) == 0 {
		add(s.Spec.ClusterIP)
	}
	for _, ip := range s.Spec.ExternalIPs {
		add(ip)
	}
	for _, in := range s.Status.LoadBalancer.Ingress {
		add(in.IP)
	}
	return out
}

func nodePorts(s *core.Service) []string {
	var out []string
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 && isTCP(p.Protocol) {
			out = append(out, strconv.Itoa(int(p.NodePort)))
		}
	}
	return out
}

func serviceOfSlice(s *discoveryapi.EndpointSlice) []string {
	if n := s.Labels[discoveryapi.LabelServiceName]; n != "" {
		return []string{name{s.Namespace, n}.String()}
	}
	return nil
}

func podsOfSlice(s *discoveryapi.EndpointSlice) []string {
	var out []string
	for i := range s.Endpoints {
		if r := s.Endpoints[i].TargetRef; r != nil && r.Kind == "Pod" {
			out = append(out, name{r.Namespace, r.Name}.String())
		}
	}
	return out
}

// podIPs are the addresses that are a pod's alone: none where it shares its
// node's, or has ended.
func podIPs(p *core.Pod) []string {
	if p.Spec.HostNetwork || ended(p) {
		return nil
	}
	var out []string
	for _, ip := range p.Status.PodIPs {
		out = append(out, ip.IP)
	}
	if len(out) == 0 && p.Status.PodIP != "" {
		out = append(out, p.Status.PodIP)
	}
	return out
}

func ended(p *core.Pod) bool {
	return p.Status.Phase == core.PodSucceeded || p.Status.Phase == core.PodFailed
}

// hostIPs are the addresses of a pod's node.
func hostIPs(p *core.Pod) []string {
	var out []string
	for _, ip := range p.Status.HostIPs {
		out = append(out, ip.IP)
	}
	if len(out) == 0 && p.Status.HostIP != "" {
		out = append(out, p.Status.HostIP)
	}
	return out
}

// hostPorts are the addresses by which a pod's ports are reached at its node.
func hostPorts(p *core.Pod) []string {
	if ended(p) || p.Spec.HostNetwork {
		return nil
	}
	var out []string
	for _, c := range p.Spec.Containers {
		for _, port := range c.Ports {
			if port.HostPort == 0 || !isTCP(port.Protocol) {
				continue
			}
			ips := hostIPs(p)
			if port.HostIP != "" && port.HostIP != "0.0.0.0" && port.HostIP != "::" {
				ips = []string{port.HostIP}
			}
			for _, ip := range ips {
				out = append(out, net.JoinHostPort(ip, strconv.Itoa(int(port.HostPort))))
			}
		}
	}
	return out
}

func isTCP(p core.Protocol) bool { return p == "" || p == core.ProtocolTCP }

// servicesOf are the services that a pod is an endpoint of.
func (s *stores) servicesOf(p *core.Pod) []name {
	found, err := s.slices.ByIndex(byPod, nameOf(p).String())
	if err != nil {
		return nil // there is such an index
	}
	var out []name
	for _, o := range found {
		if slice, ok := o.(*discoveryapi.EndpointSlice); ok {
			out = append(out, name{slice.Namespace, slice.Labels[discoveryapi.LabelServiceName]})
		}
	}
	return out
}

// samePod tells whether nothing changed of what trim keeps.
func samePod(a, b *core.Pod) bool {
	return reflect.DeepEqual(a.Status, b.Status) && reflect.DeepEqual(a.Spec, b.Spec) && reflect.DeepEqual(a.Annotations, b.Annotations) &&
		(a.DeletionTimestamp == nil) == (b.DeletionTimestamp == nil) && a.UID == b.UID
}

// Owners of pods, from the stores: package workload asks.

// ReplicaSetOwner implements workload.Owners.
func (s *stores) ReplicaSetOwner(_ context.Context, namespace, of string) (*meta.OwnerReference, error) {
	return owner(s.replicaSets, name{namespace, of})
}

// JobOwner implements workload.Owners.
func (s *stores) JobOwner(_ context.Context, namespace, of string) (*meta.OwnerReference, error) {
	return owner(s.jobs, name{namespace, of})
}

func owner(in cache.Indexer, n name) (*meta.OwnerReference, error) {
	o, ok, err := in.GetByKey(n.String())
	if err != nil || !ok {
		return nil, err
	}
	switch o := o.(type) {
	case *apps.ReplicaSet:
		return meta.GetControllerOf(o), nil
	case *batch.Job:
		return meta.GetControllerOf(o), nil
	}
	return nil, nil
}
