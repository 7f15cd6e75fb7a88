package discovery_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	discoveryapi "k8s.io/api/discovery/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/bus/bustest"
	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/controller/discovery"
	"github.com/weirmesh/weir/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ptr[T any](v T) *T { return &v }

// world is a cluster, a Discovery that watches it, and what it announced.
type world struct {
	t *testing.T
	*discovery.Discovery
	k *fake.Clientset

	mu   sync.Mutex
	said []announced
}

type announced struct {
	subject string
	to      control.Destination
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, k: fake.NewClientset()}
	var err error
	w.Discovery, err = discovery.New(discovery.Options{Kubernetes: w.k, Announce: w.announce, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = w.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return w
}

func (w *world) announce(subject string, data []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := announced{subject: subject}
	if err := control.Decode(data, &a.to); err != nil {
		w.t.Error(err)
	}
	w.said = append(w.said, a)
	return nil
}

func (w *world) announcements() []announced {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]announced(nil), w.said...)
}

func (w *world) synced() {
	w.t.Helper()
	eventually(w.t, "the caches", func() bool { return w.Ready() == nil })
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func (w *world) resolve(addr string) control.Destination {
	w.t.Helper()
	request, err := json.Marshal(&control.ResolveRequest{Addr: netip.MustParseAddrPort(addr), Namespace: "shop"})
	if err != nil {
		w.t.Fatal(err)
	}
	var d control.Destination
	if err := control.Decode(w.Resolve(w.t.Context(), request), &d); err != nil {
		w.t.Fatal(err)
	}
	return d
}

// shown is a destination in a line.
func shown(d control.Destination) string {
	if d.Error != nil {
		return d.Error.Code
	}
	if !d.Known {
		return "unknown"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s/%s:%d", d.Namespace, d.Service, d.Port)
	if d.Protocol != "" {
		b.WriteString(" " + d.Protocol)
	}
	if d.Opaque {
		b.WriteString(" opaque")
	}
	for _, e := range d.Endpoints {
		fmt.Fprintf(&b, " %s=%s/%s/%s(%s)", e.Addr, e.Kind, e.Name, e.Pod, strings.TrimPrefix(e.Identity, "spiffe://cluster.local/ns/")+e.Reason)
		if e.Terminating {
			b.WriteString("ending")
		}
	}
	return b.String()
}

// until waits until an address is what is wanted.
func (w *world) until(addr, want string) {
	w.t.Helper()
	var got string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if got = shown(w.resolve(addr)); got == want {
			return
		}
	}
	w.t.Errorf("%s is\n%s, want\n%s", addr, got, want)
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// pod is a pod of the Deployment cart; change makes it another one.
func pod(name, ip string, change ...func(*core.Pod)) *core.Pod {
	p := &core.Pod{
		ObjectMeta: meta.ObjectMeta{Namespace: "shop", Name: name, OwnerReferences: []meta.OwnerReference{{Kind: "ReplicaSet", Name: "cart-5d", Controller: ptr(true)}}},
		Spec:       core.PodSpec{ServiceAccountName: "cart", NodeName: "n1", Containers: []core.Container{{Name: "app"}}},
		Status:     core.PodStatus{Phase: core.PodRunning, PodIP: ip, PodIPs: []core.PodIP{{IP: ip}}, HostIP: "192.168.0.1", HostIPs: []core.HostIP{{IP: "192.168.0.1"}}},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

// meshed has the sidecar, as injection adds it.
func meshed(p *core.Pod) {
	p.Annotations = map[string]string{"weir.dev/proxy-version": "v1", "other": "x"}
	p.Spec.InitContainers = []core.Container{
		{Name: "weir-init", Args: []string{"init", "--skip-inbound-ports=9000,9100-9200"}},
		{Name: "weir-proxy", Env: []core.EnvVar{{Name: "WEIR_PROXY_OPAQUE_PORTS", Value: "3306"}}},
	}
	p.Spec.Volumes = []core.Volume{{Name: "weir-identity"}, {Name: "other"}}
	p.Status.InitContainerStatuses = []core.ContainerStatus{{Name: "weir-proxy", Ready: true, Started: ptr(true), State: core.ContainerState{Running: &core.ContainerStateRunning{}}}}
}

func starting(p *core.Pod) {
	meshed(p)
	p.Status.InitContainerStatuses[0].Started = ptr(false)
}

func service(ports ...core.ServicePort) *core.Service {
	return &core.Service{ObjectMeta: meta.ObjectMeta{Namespace: "shop", Name: "cart"},
		Spec: core.ServiceSpec{Type: core.ServiceTypeClusterIP, ClusterIP: "10.96.0.7", ClusterIPs: []string{"10.96.0.7"}, Ports: ports}}
}

func slice(name string, family discoveryapi.AddressType, ports []discoveryapi.EndpointPort, endpoints ...discoveryapi.Endpoint) *discoveryapi.EndpointSlice {
	return &discoveryapi.EndpointSlice{ObjectMeta: meta.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{"kubernetes.io/service-name": "cart"}},
		AddressType: family, Ports: ports, Endpoints: endpoints}
}

func end(ip, pod string, ready, serving, terminating bool) discoveryapi.Endpoint {
	return discoveryapi.Endpoint{Addresses: []string{ip}, TargetRef: &core.ObjectReference{Kind: "Pod", Namespace: "shop", Name: pod},
		Conditions: discoveryapi.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating}}
}

var http = []discoveryapi.EndpointPort{{Name: ptr("http"), Port: ptr[int32](8080), Protocol: ptr(core.ProtocolTCP)}}

// fill makes the cluster of most tests.
func (w *world) fill() {
	w.t.Helper()
	ctx := w.t.Context()
	must[*apps.ReplicaSet](w.t)(w.k.AppsV1().ReplicaSets("shop").Create(ctx, &apps.ReplicaSet{ObjectMeta: meta.ObjectMeta{Namespace: "shop", Name: "cart-5d",
		OwnerReferences: []meta.OwnerReference{{Kind: "Deployment", Name: "cart", Controller: ptr(true)}}}}, meta.CreateOptions{}))
	for _, p := range []*core.Pod{
		pod("cart-a", "10.244.0.1", meshed), pod("cart-b", "10.244.0.2"), pod("cart-c", "10.244.0.3", starting),
		pod("cart-d", "10.244.0.4", meshed, func(p *core.Pod) { p.Spec.Volumes = nil }),
	} {
		must[*core.Pod](w.t)(w.k.CoreV1().Pods("shop").Create(ctx, p, meta.CreateOptions{}))
	}
	must[*core.Service](w.t)(w.k.CoreV1().Services("shop").Create(ctx, service(core.ServicePort{Name: "http", Port: 80, AppProtocol: ptr("grpc")}), meta.CreateOptions{}))
	must[*discoveryapi.EndpointSlice](w.t)(w.k.DiscoveryV1().EndpointSlices("shop").Create(ctx, slice("cart-1", discoveryapi.AddressTypeIPv4, http,
		end("10.244.0.1", "cart-a", true, true, false), end("10.244.0.2", "cart-b", false, true, true), end("10.244.0.3", "cart-c", true, true, false),
		end("10.244.0.4", "cart-d", true, true, false), end("10.244.0.9", "cart-z", false, false, false)), meta.CreateOptions{}))
}

const whole = "shop/cart:80 grpc 10.244.0.1:8080=deploy/cart/cart-a(shop/sa/cart) 10.244.0.2:8080=deploy/cart/cart-b(peer_not_meshed)ending " +
	"10.244.0.3:8080=deploy/cart/cart-c(identity_not_ready) 10.244.0.4:8080=deploy/cart/cart-d(no_identity)"

// TestScaled holds that Deployments and StatefulSets are known without their pods.
func TestScaled(t *testing.T) {
	w := newWorld(t)
	w.synced()
	ctx := t.Context()
	for name, owner := range map[string]meta.OwnerReference{
		"cart-1": {Kind: "Deployment", Name: "cart", Controller: ptr(true)},
		"cart-2": {Kind: "Deployment", Name: "cart", Controller: ptr(true)},
		"canary": {Kind: "Rollout", Name: "canary", Controller: ptr(true)},
	} {
		must[*apps.ReplicaSet](t)(w.k.AppsV1().ReplicaSets("shop").Create(ctx, &apps.ReplicaSet{
			ObjectMeta: meta.ObjectMeta{Namespace: "shop", Name: name, OwnerReferences: []meta.OwnerReference{owner}}}, meta.CreateOptions{}))
	}
	must[*apps.StatefulSet](t)(w.k.AppsV1().StatefulSets("shop").Create(ctx, &apps.StatefulSet{ObjectMeta: meta.ObjectMeta{Namespace: "shop", Name: "db"}}, meta.CreateOptions{}))
	want := []event.Workload{{Namespace: "shop", Kind: "deploy", Name: "cart"}, {Namespace: "shop", Kind: "sts", Name: "db"}}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		got := w.Scaled()
		slices.SortFunc(got, func(a, b event.Workload) int { return strings.Compare(a.Name, b.Name) })
		if slices.Equal(got, want) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("scaled: %v, want %v", got, want)
		}
	}
}

func TestResolve(t *testing.T) {
	w := newWorld(t)
	w.synced()
	w.fill()
	w.until("10.96.0.7:80", whole)
	w.until("10.96.0.7:81", "unknown")
	w.until("8.8.8.8:80", "unknown")
	w.until("[::ffff:10.96.0.7]:80", whole)
	w.until("10.244.0.1:8080", "shop/:8080 10.244.0.1:8080=deploy/cart/cart-a(shop/sa/cart)")
	w.until("10.244.0.1:9000", "shop/:9000 10.244.0.1:9000=deploy/cart/cart-a(port_skipped)")
	w.until("10.244.0.1:9150", "shop/:9150 10.244.0.1:9150=deploy/cart/cart-a(port_skipped)")
	w.until("10.244.0.1:3306", "shop/:3306 opaque 10.244.0.1:3306=deploy/cart/cart-a(shop/sa/cart)")
	w.until("192.168.0.1:22", "unknown")
	var d control.Destination
	if err := control.Decode(w.Resolve(t.Context(), []byte("{}")), &d); err != nil || shown(d) != control.CodeInvalid {
		t.Errorf("%s, %v", shown(d), err)
	}
}

// The shapes that services come in.
func TestShapes(t *testing.T) {
	w := newWorld(t)
	w.fill()
	ctx := t.Context()
	create := func(s *core.Service) {
		t.Helper()
		s.Namespace = "shop"
		must[*core.Service](t)(w.k.CoreV1().Services("shop").Create(ctx, s, meta.CreateOptions{}))
	}
	both := discoveryapi.EndpointSlice{ObjectMeta: meta.ObjectMeta{Namespace: "shop", Labels: map[string]string{"kubernetes.io/service-name": "dual"}}}
	for i, family := range []discoveryapi.AddressType{discoveryapi.AddressTypeIPv4, discoveryapi.AddressTypeIPv6} {
		s := both.DeepCopy()
		s.Name, s.AddressType, s.Ports = "dual-"+strings.ToLower(string(family)), family, []discoveryapi.EndpointPort{{Port: ptr[int32](8080)}}
		s.Endpoints = []discoveryapi.Endpoint{{Addresses: []string{[]string{"10.244.0.8", "fd00::8"}[i]}}}
		must[*discoveryapi.EndpointSlice](t)(w.k.DiscoveryV1().EndpointSlices("shop").Create(ctx, s, meta.CreateOptions{}))
	}
	create(&core.Service{ObjectMeta: meta.ObjectMeta{Name: "dual", Annotations: map[string]string{"weir.dev/opaque-ports": "443,1000-2000"}},
		Spec: core.ServiceSpec{Type: core.ServiceTypeNodePort, ClusterIPs: []string{"10.96.0.8", "fd00:96::8"}, ExternalIPs: []string{"203.0.113.5"},
			Ports: []core.ServicePort{{Port: 80, NodePort: 30080, AppProtocol: ptr("http")}, {Port: 53, Protocol: core.ProtocolUDP}, {Name: "db", Port: 1500, AppProtocol: ptr("mysql")}}}})
	create(&core.Service{ObjectMeta: meta.ObjectMeta{Name: "headless"}, Spec: core.ServiceSpec{ClusterIP: core.ClusterIPNone, ClusterIPs: []string{core.ClusterIPNone}, Ports: []core.ServicePort{{Port: 80}}}})
	create(&core.Service{ObjectMeta: meta.ObjectMeta{Name: "outside"}, Spec: core.ServiceSpec{Type: core.ServiceTypeExternalName, ExternalName: "example.com"}})
	must[*core.Pod](t)(w.k.CoreV1().Pods("shop").Create(ctx, pod("node-agent", "10.244.0.6", func(p *core.Pod) {
		p.OwnerReferences = []meta.OwnerReference{{Kind: "DaemonSet", Name: "agent", Controller: ptr(true)}}
		p.Spec.Containers = []core.Container{{Name: "app", Ports: []core.ContainerPort{{ContainerPort: 7000, HostPort: 7777}}}}
	}), meta.CreateOptions{}))
	must[*core.Pod](t)(w.k.CoreV1().Pods("shop").Create(ctx, pod("on-host", "192.168.0.1", meshed, func(p *core.Pod) { p.Spec.HostNetwork = true }), meta.CreateOptions{}))
	must[*core.Pod](t)(w.k.CoreV1().Pods("shop").Create(ctx, pod("done", "10.244.0.7", func(p *core.Pod) { p.Status.Phase = core.PodSucceeded }), meta.CreateOptions{}))
	w.synced()
	w.until("10.96.0.8:80", "shop/dual:80 10.244.0.8:8080=//(peer_not_meshed)")
	w.until("[fd00:96::8]:80", "shop/dual:80 [fd00::8]:8080=//(peer_not_meshed)")
	w.until("203.0.113.5:80", "shop/dual:80 10.244.0.8:8080=//(peer_not_meshed)")
	w.until("192.168.0.1:30080", "shop/dual:80 10.244.0.8:8080=//(peer_not_meshed)")
	w.until("10.96.0.8:53", "unknown")
	w.until("10.96.0.8:1500", "shop/dual:1500 tcp opaque")
	w.until("192.168.0.1:7777", "shop/:7777 10.244.0.6:7000=ds/agent/node-agent(peer_not_meshed)")
	w.until("192.168.0.1:8080", "unknown")
	w.until("10.244.0.7:80", "unknown")
}

// What changes is announced, gathered, and nothing else.
func TestAnnounces(t *testing.T) {
	w := newWorld(t)
	w.synced()
	w.fill()
	last := func(subject string) (to control.Destination, n int) {
		for _, a := range w.announcements() {
			if a.subject == subject {
				to = a.to
				n++
			}
		}
		return to, n
	}
	subject := bus.EndpointsSubject("shop", "cart")
	until := func(want string) control.Destination {
		t.Helper()
		eventually(t, want, func() bool { to, _ := last(subject); return shown(to) == want })
		to, _ := last(subject)
		return to
	}
	before := until(whole)
	if len(before.Addrs) != 1 || before.Addrs[0].String() != "10.96.0.7:80" || before.Epoch == 0 {
		t.Errorf("%+v", before)
	}
	ctx := t.Context()
	// The proxy of one has started.
	must[*core.Pod](t)(w.k.CoreV1().Pods("shop").Update(ctx, pod("cart-c", "10.244.0.3", meshed), meta.UpdateOptions{}))
	now := until(strings.Replace(whole, "identity_not_ready", "shop/sa/cart", 1))
	if !now.Newer(&before) {
		t.Errorf("versions %d, %d", before.Version, now.Version)
	}
	eventually(t, "the pod's own", func() bool {
		to, _ := last(bus.EndpointsSubject("shop", ""))
		return len(to.Addrs) > 0 && to.Addrs[len(to.Addrs)-1].String() == "10.244.0.3:0"
	})
	_, n := last(subject)
	// What changes nothing for proxies is not told.
	must[*core.Pod](t)(w.k.CoreV1().Pods("shop").Update(ctx, pod("cart-c", "10.244.0.3", meshed, func(p *core.Pod) { p.Labels = map[string]string{"x": "y"} }), meta.UpdateOptions{}))
	// Many changes are few messages.
	for i := range 50 {
		must[*discoveryapi.EndpointSlice](t)(w.k.DiscoveryV1().EndpointSlices("shop").Update(ctx, slice("cart-1", discoveryapi.AddressTypeIPv4, http,
			end(fmt.Sprintf("10.244.1.%d", i), "cart-x", true, true, false)), meta.UpdateOptions{}))
	}
	until("shop/cart:80 grpc 10.244.1.49:8080=//(peer_not_meshed)")
	if _, m := last(subject); m-n > 25 {
		t.Errorf("%d messages for 50 changes", m-n)
	}
	if err := w.k.CoreV1().Services("shop").Delete(ctx, "cart", meta.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the service's end", func() bool {
		to, _ := last(subject)
		return !to.Known && len(to.Addrs) == 1 && to.Addrs[0].String() == "10.96.0.7:80"
	})
	w.until("10.96.0.7:80", "unknown")
}

// TestOverBus has a proxy ask and be told over a real bus.
func TestOverBus(t *testing.T) {
	b := bustest.Run(t)
	server, client := bustest.Connect(t, b), bustest.Connect(t, b)
	k := fake.NewClientset()
	d, err := discovery.New(discovery.Options{Kubernetes: k, Announce: server.Announce, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { _ = d.Run(ctx) })
	wg.Go(func() { _ = server.Answer(ctx, control.DiscoveryService, control.ResolveMethod, d.Resolve) })
	heard := make(chan control.Destination, 10)
	watching := make(chan struct{}, 10)
	wg.Go(func() {
		_ = client.Watch(ctx, bus.EndpointsFilter, func(data []byte) {
			var to control.Destination
			if err := control.Decode(data, &to); err != nil {
				t.Error(err)
			}
			if to.Service != "" {
				heard <- to
			}
		}, func() { watching <- struct{}{} })
	})
	<-watching
	w := &world{t: t, Discovery: d, k: k}
	w.synced()
	w.fill()
	request, _ := json.Marshal(&control.ResolveRequest{Addr: netip.MustParseAddrPort("10.96.0.7:80")})
	eventually(t, "an answer", func() bool {
		var to control.Destination
		reply, err := client.Request(ctx, control.DiscoveryService, control.ResolveMethod, request)
		return err == nil && control.Decode(reply, &to) == nil && shown(to) == whole
	})
	select {
	case to := <-heard:
		if to.Service != "cart" {
			t.Errorf("%+v", to)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("nothing was announced")
	}
	var text strings.Builder
	d.WriteMetrics(&text)
	if !strings.Contains(text.String(), "weir_discovery_services 1\n") {
		t.Error(text.String())
	}
}
