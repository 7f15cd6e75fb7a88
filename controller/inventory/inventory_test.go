package inventory_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"go.uber.org/goleak"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/bus/bustest"
	"github.com/weirmesh/weir/bus/client"
	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/controller/inventory"
	"github.com/weirmesh/weir/event"
)

func TestMain(m *testing.M) {
	// client-go's klog flushes for ever.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"))
}

var quiet = slog.New(slog.DiscardHandler)

// owned are the owners of ReplicaSets and Jobs by name.
type owned map[string]string

func (o owned) ReplicaSetOwner(_ context.Context, _, name string) (*meta.OwnerReference, error) {
	if o[name] == "" {
		return nil, nil
	}
	return owner("Deployment", o[name]), nil
}

func (o owned) JobOwner(_ context.Context, _, name string) (*meta.OwnerReference, error) {
	if o[name] == "" {
		return nil, nil
	}
	return owner("CronJob", o[name]), nil
}

func owner(kind, name string) *meta.OwnerReference {
	yes := true
	return &meta.OwnerReference{Kind: kind, Name: name, Controller: &yes}
}

type podOption func(*core.Pod)

func of(kind, name string) podOption {
	return func(p *core.Pod) { p.OwnerReferences = []meta.OwnerReference{*owner(kind, name)} }
}

func phase(phase core.PodPhase) podOption {
	return func(p *core.Pod) {
		p.Status.Phase = phase
		p.Status.Conditions = nil
	}
}

func meshed(version string, native bool) podOption {
	return func(p *core.Pod) {
		c := core.Container{Name: "weir-proxy", Image: "registry.example:5000/weir-proxy:" + version}
		s := core.ContainerStatus{Name: "weir-proxy", Ready: true, RestartCount: 1}
		if native {
			p.Annotations = map[string]string{"weir.dev/proxy-version": version}
			p.Spec.InitContainers = append(p.Spec.InitContainers, c)
			p.Status.InitContainerStatuses = append(p.Status.InitContainerStatuses, s)
			return
		}
		p.Spec.Containers = append(p.Spec.Containers, c)
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, s)
	}
}

func waiting(reason string) podOption {
	return func(p *core.Pod) {
		p.Status.Conditions = nil
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, core.ContainerStatus{
			Name: "main", RestartCount: 4, State: core.ContainerState{Waiting: &core.ContainerStateWaiting{Reason: reason}},
		})
	}
}

func component(name string) podOption {
	return func(p *core.Pod) {
		p.Labels = map[string]string{"app.kubernetes.io/part-of": "weir", "app.kubernetes.io/component": name}
	}
}

func pod(namespace, name string, options ...podOption) *core.Pod {
	p := &core.Pod{
		ObjectMeta: meta.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       core.PodSpec{NodeName: "node-1", Containers: []core.Container{{Name: "main", Image: "weir:v0.3.0"}}},
		Status: core.PodStatus{
			Phase: core.PodRunning, StartTime: &meta.Time{Time: time.Date(2026, 3, 14, 12, 0, 0, 0, time.UTC)},
			Conditions: []core.PodCondition{{Type: core.PodReady, Status: core.ConditionTrue}},
		},
	}
	for _, o := range options {
		o(p)
	}
	return p
}

// somePods are an application, a Job and Weir's own.
func somePods() []runtime.Object {
	return []runtime.Object{
		pod("shop", "web-5d-1", of("ReplicaSet", "web-5d"), meshed("v0.3.0", true)),
		pod("shop", "web-5d-2", of("ReplicaSet", "web-5d"), meshed("v0.2.0", false)),
		pod("shop", "web-5d-3", of("ReplicaSet", "web-5d"), waiting("CrashLoopBackOff")),
		pod("shop", "nightly-1-x", of("Job", "nightly-1"), phase(core.PodSucceeded)),
		pod("shop", "nightly-2-x", of("Job", "nightly-2"), phase(core.PodFailed)),
		pod("shop", "db-0", of("StatefulSet", "db")),
		pod("shop", "alone", phase(core.PodPending)),
		pod("weir", "weir-bus-0", of("StatefulSet", "weir-bus"), component("bus")),
		pod("weir", "weir-api-1-a", of("ReplicaSet", "weir-api-1"), component("api")),
		pod("weir", "other"),
	}
}

var owners = owned{"web-5d": "web", "nightly-1": "nightly", "nightly-2": "nightly", "weir-api-1": "weir-api"}

// scaled are the workloads that may have no pods; one of them has.
func scaled() []event.Workload {
	return []event.Workload{{Namespace: "shop", Kind: "deploy", Name: "web"}, {Namespace: "shop", Kind: "deploy", Name: "asleep"}}
}

// start runs an inventory over an informer and a bus, and gives a client of it.
func start(t *testing.T, objects ...runtime.Object) *client.Client {
	t.Helper()
	kubernetes := fake.NewClientset(objects...)
	factory := informers.NewSharedInformerFactory(kubernetes, 0)
	pods := factory.Core().V1().Pods()
	synced := pods.Informer().HasSynced
	ctx, cancel := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), synced) {
		t.Fatal("the caches were not filled")
	}
	v, err := inventory.New(inventory.Options{Pods: pods.Lister(), Owners: owners, Scaled: scaled, Synced: synced, Cluster: "east", Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	b := bustest.Run(t)
	answering := bustest.Connect(t, b)
	ended := make(chan error, 1)
	go func() { ended <- v.Run(ctx, answering) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
		factory.Shutdown()
	})
	return bustest.Connect(t, b)
}

// ask waits for the inventory to answer.
func ask(t *testing.T, c *client.Client, method string, request any, reply control.Checker) {
	t.Helper()
	body, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		data, err := c.Request(ctx, control.InventoryService, method, body)
		if errors.Is(err, bus.ErrNoResponders) {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if err == nil {
			err = control.Decode(data, reply)
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
}

// compare compares what has a JSON form.
func compare(t *testing.T, what string, got, want any) {
	t.Helper()
	g, err := json.MarshalIndent(got, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	w, err := json.MarshalIndent(want, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(g, w) {
		t.Errorf("%s:\n%s\nwant\n%s", what, g, w)
	}
}

func TestWorkloads(t *testing.T) {
	c := start(t, somePods()...)
	f := func(request control.InventoryRequest, want ...control.WorkloadState) {
		t.Helper()
		var reply control.InventoryReply
		ask(t, c, control.WorkloadsMethod, request, &reply)
		if reply.Error != nil || reply.Cluster != "east" || reply.Next != "" {
			t.Errorf("%+v: %+v", request, reply)
		}
		compare(t, fmt.Sprint(request), reply.Rows, want)
	}
	web := control.WorkloadState{Namespace: "shop", Kind: "deploy", Name: "web",
		PodCounts:     control.PodCounts{Total: 3, Meshed: 2, Ready: 2, ProxyReady: 2, Running: 3},
		ProxyVersions: map[string]int{"v0.2.0": 1, "v0.3.0": 1}}
	f(control.InventoryRequest{Kind: "deploy", Namespace: "shop"}, control.WorkloadState{Namespace: "shop", Kind: "deploy", Name: "asleep"}, web)
	f(control.InventoryRequest{Name: "web"}, web)
	f(control.InventoryRequest{Namespace: "nowhere"})
	f(control.InventoryRequest{Kind: "cronjob"},
		control.WorkloadState{Namespace: "shop", Kind: "cronjob", Name: "nightly", PodCounts: control.PodCounts{Finished: 2, Failed: 1}})
	f(control.InventoryRequest{Namespace: "shop", Kind: "ns"},
		control.WorkloadState{Namespace: "shop", Kind: "ns", Name: "shop",
			PodCounts:     control.PodCounts{Total: 5, Meshed: 2, Ready: 3, ProxyReady: 2, Running: 4, Pending: 1, Finished: 2, Failed: 1},
			ProxyVersions: web.ProxyVersions})

	var pods control.InventoryReply
	ask(t, c, control.WorkloadsMethod, control.InventoryRequest{Kind: control.KindPod, Namespace: "shop", Name: "web-5d-3"}, &pods)
	compare(t, "a pod", pods.Pods, []control.PodState{{
		Namespace: "shop", Name: "web-5d-3", Kind: "deploy", Workload: "web", Node: "node-1", Phase: "Running", Status: "CrashLoopBackOff",
		Restarts: 4, Started: time.Date(2026, 3, 14, 12, 0, 0, 0, time.UTC),
	}})
	pods = control.InventoryReply{}
	ask(t, c, control.WorkloadsMethod, control.InventoryRequest{Kind: control.KindPod, Name: "web-5d-1"}, &pods)
	if len(pods.Pods) != 1 || !pods.Pods[0].Meshed || !pods.Pods[0].ProxyReady || pods.Pods[0].ProxyVersion != "v0.3.0" || pods.Pods[0].Restarts != 1 {
		t.Errorf("a meshed pod: %+v", pods.Pods)
	}
}

func TestOverview(t *testing.T) {
	c := start(t, somePods()...)
	var o control.InventoryOverview
	ask(t, c, control.OverviewMethod, struct{}{}, &o)
	var names []string
	for _, component := range o.Components {
		names = append(names, fmt.Sprintf("%s %s/%s %s %d", component.Name, component.Kind, component.Workload, component.Version, len(component.Pods)))
	}
	compare(t, "components", names, []string{"api deploy/weir-api v0.3.0 1", "bus sts/weir-bus v0.3.0 1"})
	compare(t, "kinds", o.Kinds, []control.KindCount{
		{Kind: "deploy", Partly: 1, Unmeshed: 1}, {Kind: "pod", Unmeshed: 2}, {Kind: "sts", Unmeshed: 2},
	})
	compare(t, "pods", o.Pods, control.PodCounts{Total: 8, Meshed: 2, Ready: 6, ProxyReady: 2, Running: 7, Pending: 1, Finished: 2, Failed: 1})
	if len(o.Namespaces) != 2 || o.NamespacesTotal != 2 || o.Cluster != "east" {
		t.Errorf("%+v", o)
	}
}

// TestPages asks for 10,000 workloads with the longest names.
func TestPages(t *testing.T) {
	long := func(letter byte, n int) string { return string(bytes.Repeat([]byte{letter}, n)) }
	store := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	const workloads = 10_000
	for i := range workloads {
		// Names that sort differently with and without what stands between them.
		namespace := fmt.Sprintf("%s%d", long('n', 50), i%7)
		if err := store.Add(pod(namespace, fmt.Sprintf("%s-%d.x", long('p', 200), i), of("StatefulSet", fmt.Sprintf("%s-%d", long('s', 200), i)), meshed("v0.3.0", true))); err != nil {
			t.Fatal(err)
		}
	}
	v, err := inventory.New(inventory.Options{Pods: corelisters.NewPodLister(store), Owners: owners, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	f := func(kind string, row func(*control.InventoryReply) []string) {
		t.Helper()
		seen := map[string]bool{}
		request, pages := control.InventoryRequest{Kind: kind}, 0
		for {
			body, err := json.Marshal(&request)
			if err != nil {
				t.Fatal(err)
			}
			data := v.Workloads(t.Context(), body)
			if len(data) > control.MaxMessage || len(data) > bus.MaxPayload {
				t.Fatalf("a page of %d bytes", len(data))
			}
			var reply control.InventoryReply
			if err := control.Decode(data, &reply); err != nil || reply.Error != nil {
				t.Fatal(err, reply.Error)
			}
			for _, name := range row(&reply) {
				if seen[name] {
					t.Fatalf("%s came twice", name)
				}
				seen[name] = true
			}
			if pages++; pages > workloads {
				t.Fatal("the pages have no end")
			}
			if request.After = reply.Next; request.After == "" {
				break
			}
		}
		if len(seen) != workloads || pages < 2 {
			t.Errorf("%d rows on %d pages", len(seen), pages)
		}
	}
	f("sts", func(r *control.InventoryReply) (names []string) {
		for _, w := range r.Rows {
			names = append(names, w.Name)
		}
		return names
	})
	f("pod", func(r *control.InventoryReply) (names []string) {
		for _, p := range r.Pods {
			names = append(names, p.Name)
		}
		return names
	})
}

func TestRefusals(t *testing.T) {
	synced := false
	v, err := inventory.New(inventory.Options{
		Pods:   corelisters.NewPodLister(cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})),
		Owners: owners, Synced: func() bool { return synced }, Logger: quiet,
	})
	if err != nil {
		t.Fatal(err)
	}
	f := func(code, request string) {
		t.Helper()
		var reply control.InventoryReply
		if err := control.Decode(v.Workloads(t.Context(), []byte(request)), &reply); err != nil {
			t.Fatal(err)
		}
		got := ""
		if reply.Error != nil {
			got = reply.Error.Code
		}
		if got != code {
			t.Errorf("%.40s: %q, want %q", request, got, code)
		}
	}
	f(control.CodeUnavailable, `{}`)
	synced = true
	f("", `{}`)
	f(control.CodeInvalid, `{`)
	f(control.CodeInvalid, `{"namespace":"`+string(bytes.Repeat([]byte("x"), 64))+`"}`)
	if answered, refused := v.Counts(); answered != 1 || refused != 3 {
		t.Errorf("%d answered, %d refused", answered, refused)
	}
	if _, err := inventory.New(inventory.Options{}); err == nil {
		t.Error("an inventory of nothing")
	}
}

// BenchmarkSummary is what a question costs at most once a second: 10,000 pods of
// 1,000 workloads.
func BenchmarkSummary(b *testing.B) {
	store := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	for i := range 10_000 {
		if err := store.Add(pod(fmt.Sprintf("ns-%d", i%50), fmt.Sprintf("web-%d", i), of("StatefulSet", fmt.Sprintf("web-%d", i%1000)), meshed("v0.3.0", true))); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		v, err := inventory.New(inventory.Options{Pods: corelisters.NewPodLister(store), Owners: owners, Logger: quiet})
		if err != nil {
			b.Fatal(err)
		}
		if v.Overview(b.Context(), nil) == nil {
			b.Fatal("no answer")
		}
	}
}
