package discovery

import (
	"strings"

	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	discoveryapi "k8s.io/api/discovery/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirmesh/weir/deploy/inject"
)

// trim keeps of an object what discovery needs, and of a pod what the inventory
// reads beside (Pods): a cluster has many pods, and they are large.
func trim(o any) (any, error) {
	switch o := o.(type) {
	case *core.Pod:
		return trimPod(o), nil
	case *core.Service:
		return &core.Service{ObjectMeta: trimMeta(&o.ObjectMeta), Spec: core.ServiceSpec{
			Ports: o.Spec.Ports, ClusterIP: o.Spec.ClusterIP, ClusterIPs: o.Spec.ClusterIPs, Type: o.Spec.Type, ExternalIPs: o.Spec.ExternalIPs,
		}, Status: core.ServiceStatus{LoadBalancer: o.Status.LoadBalancer}}, nil
	case *discoveryapi.EndpointSlice:
		return trimSlice(o), nil
	case *apps.ReplicaSet:
		return &apps.ReplicaSet{ObjectMeta: trimMeta(&o.ObjectMeta)}, nil
	case *apps.StatefulSet:
		return &apps.StatefulSet{ObjectMeta: trimMeta(&o.ObjectMeta)}, nil
	case *batch.Job:
		return &batch.Job{ObjectMeta: trimMeta(&o.ObjectMeta)}, nil
	}
	return o, nil
}

func trimMeta(m *meta.ObjectMeta) meta.ObjectMeta {
	out := meta.ObjectMeta{
		Namespace: m.Namespace, Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion,
		DeletionTimestamp: m.DeletionTimestamp, OwnerReferences: m.OwnerReferences,
	}
	for k, v := range m.Annotations {
		if strings.HasPrefix(k, inject.Domain+"/") {
			if out.Annotations == nil {
				out.Annotations = make(map[string]string)
			}
			out.Annotations[k] = v
		}
	}
	return out
}

func trimSlice(s *discoveryapi.EndpointSlice) *discoveryapi.EndpointSlice {
	out := &discoveryapi.EndpointSlice{ObjectMeta: trimMeta(&s.ObjectMeta), AddressType: s.AddressType, Ports: s.Ports}
	if n, ok := s.Labels[discoveryapi.LabelServiceName]; ok {
		out.Labels = map[string]string{discoveryapi.LabelServiceName: n}
	}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		kept := discoveryapi.Endpoint{Addresses: e.Addresses, Conditions: e.Conditions, NodeName: e.NodeName, Zone: e.Zone}
		if e.TargetRef != nil {
			kept.TargetRef = &core.ObjectReference{Kind: e.TargetRef.Kind, Namespace: e.TargetRef.Namespace, Name: e.TargetRef.Name}
		}
		out.Endpoints = append(out.Endpoints, kept)
	}
	return out
}

func trimPod(p *core.Pod) *core.Pod {
	out := &core.Pod{ObjectMeta: trimMeta(&p.ObjectMeta)}
	if p.Labels[labelPartOf] == partOfWeir {
		out.Labels = map[string]string{labelPartOf: partOfWeir, labelComponent: p.Labels[labelComponent], labelVersion: p.Labels[labelVersion]}
	}
	out.Spec = core.PodSpec{NodeName: p.Spec.NodeName, ServiceAccountName: p.Spec.ServiceAccountName, HostNetwork: p.Spec.HostNetwork,
		InitContainers: trimContainers(p.Spec.InitContainers), Containers: trimContainers(p.Spec.Containers)}
	for _, v := range p.Spec.Volumes {
		if v.Name == inject.IdentityVolume {
			out.Spec.Volumes = []core.Volume{{Name: v.Name}}
		}
	}
	out.Status = core.PodStatus{Phase: p.Status.Phase, Reason: p.Status.Reason, StartTime: p.Status.StartTime, PodIP: p.Status.PodIP, PodIPs: p.Status.PodIPs, HostIP: p.Status.HostIP, HostIPs: p.Status.HostIPs,
		InitContainerStatuses: trimStatuses(p.Status.InitContainerStatuses), ContainerStatuses: trimStatuses(p.Status.ContainerStatuses)}
	for i := range p.Status.Conditions {
		if c := &p.Status.Conditions[i]; c.Type == core.PodReady {
			out.Status.Conditions = []core.PodCondition{{Type: c.Type, Status: c.Status}}
		}
	}
	return out
}

// Labels of Weir's own pods.
const (
	labelPartOf    = "app.kubernetes.io/part-of"
	labelComponent = "app.kubernetes.io/component"
	labelVersion   = "app.kubernetes.io/version"
	partOfWeir     = "weir"
)

// trimContainers keeps Weir's containers, and those with ports of the host.
func trimContainers(all []core.Container) []core.Container {
	var out []core.Container
	for i := range all {
		c := &all[i]
		kept := core.Container{Name: c.Name}
		for _, p := range c.Ports {
			if p.HostPort != 0 {
				kept.Ports = append(kept.Ports, p)
			}
		}
		switch c.Name {
		case inject.InitContainer:
			for _, a := range c.Args {
				if strings.HasPrefix(a, skippedArgument) {
					kept.Args = append(kept.Args, a)
				}
			}
		case inject.ProxyContainer:
			kept.Image = c.Image
			for _, e := range c.Env {
				if e.Name == opaqueVariable {
					kept.Env = append(kept.Env, core.EnvVar{Name: e.Name, Value: e.Value})
				}
			}
		default:
			if len(kept.Ports) == 0 {
				continue
			}
		}
		out = append(out, kept)
	}
	return out
}

// trimStatuses keeps how the proxy does, and which containers do not run or did
// not always: most do.
func trimStatuses(all []core.ContainerStatus) []core.ContainerStatus {
	var out []core.ContainerStatus
	for i := range all {
		s := &all[i]
		proxy := s.Name == inject.ProxyContainer
		w, t := s.State.Waiting, s.State.Terminated
		if !proxy && s.RestartCount == 0 && w == nil && (t == nil || t.ExitCode == 0) {
			continue
		}
		kept := core.ContainerStatus{Name: s.Name, Ready: s.Ready, RestartCount: s.RestartCount}
		if proxy {
			kept.Started = s.Started
		}
		switch {
		case s.State.Running != nil:
			kept.State.Running = &core.ContainerStateRunning{}
		case w != nil:
			kept.State.Waiting = &core.ContainerStateWaiting{Reason: w.Reason}
		case t != nil:
			kept.State.Terminated = &core.ContainerStateTerminated{Reason: t.Reason, ExitCode: t.ExitCode}
		}
		out = append(out, kept)
	}
	return out
}
