package discovery

import (
	"context"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	core "k8s.io/api/core/v1"
	discoveryapi "k8s.io/api/discovery/v1"

	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/controller/workload"
	"github.com/weirmesh/weir/deploy/inject"
)

// Reasons why an endpoint proves no identity, as events state them.
const (
	// ReasonUnmeshed: the pod has no proxy, or it is no pod.
	ReasonUnmeshed = "peer_not_meshed"
	// ReasonNoIdentity: its proxy is set up without one.
	ReasonNoIdentity = "no_identity"
	// ReasonNotReady: its proxy has not started yet, or not again.
	ReasonNotReady = "identity_not_ready"
	// ReasonSkipped: the port is reached without the proxy.
	ReasonSkipped = "port_skipped"
)

// key is a destination of a service.
type key struct {
	port   int32
	family discoveryapi.AddressType
}

// said is what was announced of a destination.
type said struct {
	hash  uint64
	addrs []netip.AddrPort
}

// families are the versions of IP.
var families = [...]discoveryapi.AddressType{discoveryapi.AddressTypeIPv4, discoveryapi.AddressTypeIPv6}

func familyOf(a netip.Addr) discoveryapi.AddressType {
	if a.Unmap().Is4() {
		return discoveryapi.AddressTypeIPv4
	}
	return discoveryapi.AddressTypeIPv6
}

// address is an address that Kubernetes wrote.
func address(ip string, port int32) (netip.AddrPort, error) {
	a, err := netip.ParseAddr(ip)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("cannot read the address %q: %w", ip, err)
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(port)), nil
}

// destination is what is behind an address.
func (d *Discovery) destination(at netip.AddrPort) *control.Destination {
	ip, port := at.Addr().Unmap().WithZone(""), int32(at.Port())
	at = netip.AddrPortFrom(ip, at.Port())
	if s := first[core.Service](d.stores.services.ByIndex(byIP, ip.String())); s != nil {
		for i := range s.Spec.Ports {
			if p := &s.Spec.Ports[i]; p.Port == port && isTCP(p.Protocol) {
				return d.service(s, p, familyOf(ip))
			}
		}
	}
	if p := first[core.Pod](d.stores.pods.ByIndex(byIP, ip.String())); p != nil {
		return d.pod(p, at, at)
	}
	if p := first[core.Pod](d.stores.pods.ByIndex(byHostPort, at.String())); p != nil {
		if behind, ok := hostPort(p, at); ok {
			return d.pod(p, at, behind)
		}
	}
	if first[core.Pod](d.stores.pods.ByIndex(byHost, ip.String())) != nil {
		if s := first[core.Service](d.stores.services.ByIndex(byNodePort, strconv.Itoa(int(port)))); s != nil {
			for i := range s.Spec.Ports {
				if p := &s.Spec.Ports[i]; p.NodePort == port && isTCP(p.Protocol) {
					to := d.service(s, p, familyOf(ip))
					to.Addrs = append(to.Addrs, at)
					return to
				}
			}
		}
	}
	return &control.Destination{Addrs: []netip.AddrPort{at}}
}

// first is the first object that an index has; of pods one that does not end, if
// there is one: addresses are given again.
func first[T any](found []any, err error) *T {
	if err != nil {
		return nil
	}
	var out *T
	for _, o := range found {
		t, ok := o.(*T)
		if !ok {
			continue
		}
		if p, isPod := o.(*core.Pod); out == nil || isPod && p.DeletionTimestamp == nil {
			out = t
		}
	}
	return out
}

// pod is a single pod as a destination: at is what was asked for, behind the
// pod's own port.
func (d *Discovery) pod(p *core.Pod, at, behind netip.AddrPort) *control.Destination {
	e := d.endpoint(behind, p)
	return &control.Destination{Namespace: p.Namespace, Port: at.Port(), Addrs: []netip.AddrPort{at}, Known: true,
		Opaque: isOpaque(p, behind.Port()), Endpoints: []control.Endpoint{e}}
}

// hostPort is the pod's own address behind one of its node.
func hostPort(p *core.Pod, at netip.AddrPort) (netip.AddrPort, bool) {
	for _, c := range p.Spec.Containers {
		for _, port := range c.Ports {
			if port.HostPort != int32(at.Port()) {
				continue
			}
			for _, ip := range podIPs(p) {
				if a, err := address(ip, port.ContainerPort); err == nil && familyOf(a.Addr()) == familyOf(at.Addr()) {
					return a, true
				}
			}
		}
	}
	return netip.AddrPort{}, false
}

// service is a service's port as a destination.
func (d *Discovery) service(s *core.Service, p *core.ServicePort, family discoveryapi.AddressType) *control.Destination {
	to := &control.Destination{Namespace: s.Namespace, Service: s.Name, Port: uint16(p.Port), Known: true,
		Protocol: protocol(p.AppProtocol), Opaque: contains(s.Annotations[opaquePorts], uint16(p.Port))}
	for _, ip := range serviceIPs(s) {
		if a, err := address(ip, p.Port); err == nil && familyOf(a.Addr()) == family {
			to.Addrs = append(to.Addrs, a)
		}
	}
	found, err := d.stores.slices.ByIndex(byService, nameOf(s).String())
	if err != nil {
		return to // there is such an index
	}
	seen := make(map[netip.AddrPort]bool)
	for _, o := range found {
		slice, ok := o.(*discoveryapi.EndpointSlice)
		if !ok || slice.AddressType != family {
			continue
		}
		for _, sp := range slice.Ports {
			if sp.Port == nil || value(sp.Name) != p.Name || !isTCP(value(sp.Protocol)) {
				continue
			}
			for i := range slice.Endpoints {
				e, opaque, ok := d.sliceEndpoint(&slice.Endpoints[i], *sp.Port)
				if ok && !seen[e.Addr] {
					seen[e.Addr] = true
					to.Opaque = to.Opaque || opaque
					to.Endpoints = append(to.Endpoints, e)
				}
			}
		}
	}
	to.Endpoints = bounded(to.Endpoints)
	return to
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// sliceEndpoint is one that takes connections: it is ready, or ends and serves
// still.
func (d *Discovery) sliceEndpoint(se *discoveryapi.Endpoint, port int32) (e control.Endpoint, opaque, ok bool) {
	ready := se.Conditions.Ready == nil || *se.Conditions.Ready
	terminating := value(se.Conditions.Terminating)
	serving := se.Conditions.Serving == nil && ready || value(se.Conditions.Serving)
	if !ready && !(terminating && serving) || len(se.Addresses) == 0 {
		return e, false, false
	}
	addr, err := address(se.Addresses[0], port)
	if err != nil {
		return e, false, false
	}
	e = control.Endpoint{Addr: addr, Reason: ReasonUnmeshed}
	if r := se.TargetRef; r != nil && r.Kind == "Pod" {
		if o, found, err := d.stores.pods.GetByKey(name{r.Namespace, r.Name}.String()); err == nil && found {
			if p, isPod := o.(*core.Pod); isPod {
				e, opaque = d.endpoint(addr, p), isOpaque(p, addr.Port())
			}
		}
	}
	e.Terminating = e.Terminating || terminating
	e.Node, e.Zone = value(se.NodeName), value(se.Zone)
	return e, opaque, true
}

// endpoint is a pod's port.
func (d *Discovery) endpoint(addr netip.AddrPort, p *core.Pod) control.Endpoint {
	e := control.Endpoint{Addr: addr, Namespace: p.Namespace, Pod: p.Name, Node: p.Spec.NodeName, Terminating: p.DeletionTimestamp != nil}
	// The stores never fail.
	w, _ := workload.Of(context.Background(), &d.stores, d.o.Cluster, &p.ObjectMeta)
	e.Kind, e.Name = w.Kind, w.Name
	if e.Reason = plain(p, addr.Port()); e.Reason == "" {
		account := p.Spec.ServiceAccountName
		if account == "" {
			account = "default"
		}
		e.Identity = control.SPIFFE(d.o.TrustDomain, p.Namespace, account)
	}
	return e
}

// plain says why a pod's port proves no identity; "": it does. A proxy that has
// started has its certificate, and keeps it while the pod ends.
func plain(p *core.Pod, port uint16) (reason string) {
	proxy, _ := container(p, inject.ProxyContainer)
	if proxy == nil || p.Spec.HostNetwork {
		return ReasonUnmeshed
	}
	if init, _ := container(p, inject.InitContainer); init != nil {
		for _, a := range init.Args {
			if contains(strings.TrimPrefix(a, skippedArgument), port) {
				return ReasonSkipped
			}
		}
	}
	if len(p.Spec.Volumes) == 0 { // trim keeps no other than the identity's
		return ReasonNoIdentity
	}
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if s.Name == inject.ProxyContainer && s.State.Running != nil && value(s.Started) {
			return ""
		}
	}
	return ReasonNotReady
}

// container finds a container of a pod.
func container(p *core.Pod, named string) (c *core.Container, ok bool) {
	for _, list := range [][]core.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if list[i].Name == named {
				return &list[i], true
			}
		}
	}
	return nil, false
}

// isOpaque tells whether a pod's port is declared opaque: to its proxy, or, where
// it has none, by its annotation.
func isOpaque(p *core.Pod, port uint16) bool {
	if proxy, ok := container(p, inject.ProxyContainer); ok {
		for _, e := range proxy.Env {
			return contains(e.Value, port)
		}
	}
	return contains(p.Annotations[opaquePorts], port)
}

// contains tells whether a list of ports and ranges, "25,8000-8010", holds one.
// What is no number holds none.
func contains(list string, port uint16) bool {
	for one := range strings.SplitSeq(list, ",") {
		from, to, ranged := strings.Cut(strings.TrimSpace(one), "-")
		a, err := strconv.ParseUint(from, 10, 16)
		if err != nil {
			continue
		}
		b := a
		if ranged {
			if b, err = strconv.ParseUint(to, 10, 16); err != nil {
				continue
			}
		}
		if uint64(port) >= a && uint64(port) <= b {
			return true
		}
	}
	return false
}

// protocol is what a port's appProtocol means to a proxy; "" is for it to find
// out. What is named http may be HTTP/1 or HTTP/2.
func protocol(app *string) string {
	switch strings.ToLower(value(app)) {
	case "grpc":
		return "grpc"
	case "kubernetes.io/h2c", "h2c", "http2":
		return "http/2"
	case "tcp", "redis", "mysql", "postgresql", "postgres", "mongo", "mongodb", "amqp", "smtp", "kafka", "nats":
		return "tcp"
	}
	return ""
}

// bounded sorts endpoints, so that the same are the same message, and chooses
// some where they are too many: the same ones for all.
func bounded(all []control.Endpoint) []control.Endpoint {
	if len(all) > maxEndpoints {
		rank := func(e *control.Endpoint) uint64 {
			h := fnv.New64a()
			_, _ = h.Write([]byte(e.Addr.String()))
			return h.Sum64()
		}
		slices.SortFunc(all, func(a, b control.Endpoint) int {
			if rank(&a) < rank(&b) {
				return -1
			}
			return 1
		})
		all = all[:maxEndpoints]
	}
	slices.SortFunc(all, func(a, b control.Endpoint) int { return a.Addr.Compare(b.Addr) })
	return all
}

// announceService tells of what changed of a service's destinations.
func (d *Discovery) announceService(n name) {
	now := make(map[key]*control.Destination)
	if o, found, err := d.stores.services.GetByKey(n.String()); err == nil && found {
		if s, ok := o.(*core.Service); ok {
			for i := range s.Spec.Ports {
				for _, family := range families {
					p := &s.Spec.Ports[i]
					if to := d.service(s, p, family); isTCP(p.Protocol) && len(to.Addrs) > 0 {
						now[key{p.Port, family}] = to
					}
				}
			}
		}
	}
	before := d.announced[n]
	for k, was := range before {
		var gone []netip.AddrPort
		for _, a := range was.addrs {
			if now[k] == nil || !slices.Contains(now[k].Addrs, a) {
				gone = append(gone, a)
			}
		}
		if len(gone) > 0 {
			d.announce(&control.Destination{Namespace: n.namespace, Service: n.name, Port: uint16(k.port), Addrs: gone})
		}
	}
	after := make(map[key]said, len(now))
	for k, to := range now {
		h := fnv.New64a()
		_, _ = h.Write(d.encode(to))
		after[k] = said{h.Sum64(), to.Addrs}
		if was, ok := before[k]; !ok || was.hash != after[k].hash {
			d.announce(to)
		}
	}
	if len(after) > 0 {
		d.announced[n] = after
	} else {
		delete(d.announced, n)
	}
}
