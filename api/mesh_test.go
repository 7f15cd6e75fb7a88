package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/api"
	"github.com/weirmesh/weir/api/apitest"
	"github.com/weirmesh/weir/api/client"
	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/control"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// startWith runs a server with a controller and a bus.
func startWith(t *testing.T, o api.Options) (*api.Server, *client.Client) {
	t.Helper()
	o.GRPCAddr, o.HTTPAddr = "127.0.0.1:0", "127.0.0.1:0"
	o.Build = api.Build{Version: "v1.2.3"}
	s, err := api.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.Dial(t.Context(), s.GRPCAddr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(c.Close(), s.Close()); err != nil {
			t.Error(err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return s, c
}

// answering is a controller that knows three workloads, each on a page of its
// own, and counts what it was asked.
func answering(asked *atomic.Int64) api.Controller {
	workloads := []control.WorkloadState{
		{Namespace: "emojivoto", Kind: "deploy", Name: "idle", PodCounts: control.PodCounts{Total: 2, Ready: 2, Running: 2}},
		{Namespace: "emojivoto", Kind: "deploy", Name: "scaled-down", PodCounts: control.PodCounts{Finished: 1}},
		{Namespace: "emojivoto", Kind: "deploy", Name: "web", PodCounts: control.PodCounts{Total: 3, Meshed: 2, Ready: 3, ProxyReady: 1, Running: 3}},
	}
	reply := func(m any) ([]byte, error) { return json.Marshal(m) }
	return func(_ context.Context, service, method string, request []byte) ([]byte, error) {
		asked.Add(1)
		switch service + "." + method {
		case "inventory.workloads":
			var r control.InventoryRequest
			if err := control.Decode(request, &r); err != nil {
				return nil, err
			}
			if r.Kind == "pod" {
				return reply(control.InventoryReply{Cluster: "c", Pods: []control.PodState{
					{Namespace: "emojivoto", Name: "web-1", Kind: "deploy", Workload: "web", Phase: "Running", Status: "CrashLoopBackOff", Meshed: true, ProxyVersion: "v1.2.0"},
					{Namespace: "emojivoto", Name: "done", Kind: "job", Workload: "j", Phase: "Succeeded", Status: "Completed"},
				}})
			}
			if r.Kind == "ns" {
				return reply(control.InventoryReply{Cluster: "c", Rows: []control.WorkloadState{
					{Namespace: "emojivoto", Kind: "ns", Name: "emojivoto", PodCounts: control.PodCounts{Total: 5, Meshed: 2}}}})
			}
			at := 0
			if r.After != "" {
				if _, err := fmt.Sscan(r.After, &at); err != nil {
					return nil, err
				}
			}
			page := control.InventoryReply{Cluster: "c", Rows: workloads[at : at+1]}
			if at+1 < len(workloads) {
				page.Next = fmt.Sprint(at + 1)
			}
			return reply(page)
		case "inventory.overview":
			return reply(control.InventoryOverview{
				Cluster: "c", NamespacesTotal: 2, Pods: control.PodCounts{Total: 9, Meshed: 4}, ProxyVersions: map[string]int{"v1.2.3": 4},
				Kinds:      []control.KindCount{{Kind: "deploy", Meshed: 1, Partly: 2, Unmeshed: 3}},
				Namespaces: []control.WorkloadState{{Namespace: "emojivoto", PodCounts: control.PodCounts{Total: 5, Meshed: 2}}},
				Components: []control.Component{{Name: "bus", Kind: "sts", Workload: "weir-bus", Version: "v1.2.3", Pods: []control.PodState{
					{Namespace: "weir", Name: "weir-bus-0", Node: "n", Phase: "Running", Status: "Running", Ready: true, Restarts: 3, Started: time.Unix(1000, 0)}}}},
			})
		case "discovery.resolve":
			return reply(control.Destination{Known: true, Namespace: "emojivoto", Service: "web", Port: 80, Endpoints: []control.Endpoint{
				{Addr: netip.MustParseAddrPort("10.0.0.2:8080"), Namespace: "emojivoto", Kind: "deploy", Name: "web", Pod: "web-2", Identity: "spiffe://x/ns/emojivoto/sa/web"},
				{Addr: netip.MustParseAddrPort("10.0.0.1:8080"), Namespace: "emojivoto", Kind: "deploy", Name: "web", Pod: "web-1", Reason: "unmeshed"},
			}})
		}
		return nil, errors.New("unknown method")
	}
}

func seenWeb() *apitest.Backend {
	b := &apitest.Backend{}
	b.AnswerFunc(query.MethodStat, func(q query.Request) query.Reply {
		r := query.Reply{Member: "a", Members: 1, Oldest: 1, Exact: 1}
		switch q.Resource.Kind {
		case "", "deploy":
			r.Rows = []query.Row{
				{Resource: web("emojivoto"), Direction: query.Inbound, Stats: stats(10, 10, 1000), PodsSeen: 2, PodsLive: 1},
				{Resource: query.Selector{Cluster: "other", Namespace: "emojivoto", Kind: "deploy", Name: "web"}, Direction: query.Inbound, PodsSeen: 1, PodsLive: 1},
			}
		}
		return r
	})
	b.Answer(query.MethodWorkloads, query.Reply{Member: "a", Members: 1, Workloads: []query.Workload{
		{Resource: web("emojivoto"), Pods: []query.Pod{{Name: "web-1", Live: true}, {Name: "web-2"}, {Name: "web-3", Live: true}}},
		{Resource: web("gone"), Pods: []query.Pod{{Name: "web-1"}}},
	}})
	return b
}

// describeRows are a stat's rows as text.
func describeRows(rows []*weirpb.StatRow) string {
	var out []string
	for _, r := range rows {
		line := fmt.Sprintf("%s/%s %d", r.GetResource().GetKind(), r.GetResource().GetName(), r.GetStats().GetRequests())
		if p := r.GetPods(); p != nil {
			line += fmt.Sprintf(" %d/%d", p.GetMeshed(), p.GetTotal())
		}
		if r.GetPodStatus() != "" {
			line += " " + r.GetPodStatus() + " " + r.GetProxyVersion() + " of " + r.GetOwner().GetName()
		}
		out = append(out, line)
	}
	return strings.Join(out, ", ")
}

func TestStatKnowsPods(t *testing.T) {
	var asked atomic.Int64
	_, c := startWith(t, api.Options{Backend: seenWeb(), Controller: answering(&asked)})
	f := func(want string, req *weirpb.StatRequest) {
		t.Helper()
		req.Window = window(60, 120)
		resp, err := c.Stat(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if got := describeRows(resp.GetRows()); got != want {
			t.Errorf("%v:\n%s\nwant\n%s", req.GetResource(), got, want)
		}
	}
	f("deploy/idle 0 0/2, deploy/scaled-down 0 0/0, deploy/web 10 2/3, deploy/web 0", &weirpb.StatRequest{Resource: &weirpb.Resource{Kind: "deploy"}})
	f("deploy/idle 0 0/2, deploy/scaled-down 0 0/0, deploy/web 10 2/3, deploy/web 0", &weirpb.StatRequest{})
	f("pod/web-1 0 1/1 CrashLoopBackOff v1.2.0 of web", &weirpb.StatRequest{Resource: &weirpb.Resource{Kind: "pod"}})
	f("ns/emojivoto 0 2/5", &weirpb.StatRequest{Resource: &weirpb.Resource{Kind: "ns"}})
	// Another cluster's controller knows nothing of this one.
	f("deploy/web 10, deploy/web 0", &weirpb.StatRequest{Resource: &weirpb.Resource{Kind: "deploy", Cluster: "other"}})
	// What goes to a peer is only what went there.
	f("deploy/web 10 2/3, deploy/web 0", &weirpb.StatRequest{Resource: &weirpb.Resource{Kind: "deploy"}, To: &weirpb.Resource{Kind: "deploy", Name: "x"}})
	before := asked.Load()
	f("", &weirpb.StatRequest{Resource: &weirpb.Resource{Kind: "ext"}})
	if asked.Load() != before {
		t.Error("the controller was asked for what is no workload")
	}
}

func TestStatWithoutController(t *testing.T) {
	f := func(what string, questions int64, err error) {
		t.Helper()
		var asked atomic.Int64
		_, c := startWith(t, api.Options{Backend: seenWeb(), Controller: func(context.Context, string, string, []byte) ([]byte, error) {
			asked.Add(1)
			return nil, err
		}})
		for i := range int64(3) { // nobody asks the same
			resp, err := c.Stat(t.Context(), &weirpb.StatRequest{Resource: &weirpb.Resource{Kind: "deploy"}, Window: window(60+i, 120+i)})
			if err != nil || len(resp.GetRows()) != 2 || resp.GetRows()[0].GetPods() != nil {
				t.Errorf("%s: %v, %v", what, resp.GetRows(), err)
			}
		}
		if asked.Load() != questions {
			t.Errorf("%s: it was asked %d times, want %d", what, asked.Load(), questions)
		}
	}
	f("nobody answers", 3, api.ErrNoController)
	// One that fails is left alone for a while.
	f("it fails", 1, errors.New("the bus is away"))
}

func TestMesh(t *testing.T) {
	var asked atomic.Int64
	s, _ := startWith(t, api.Options{Backend: seenWeb(), Controller: answering(&asked), BusState: func(context.Context) (*api.BusState, error) {
		return &api.BusState{
			Version: "2.15.2",
			Streams: []api.StreamState{
				{Name: "WEIR_EVENTS", Exists: true, Messages: 7, Bytes: 700, Oldest: time.Unix(50, 0), Newest: time.Unix(60, 0), Replicas: 3, Current: 2, Leader: "bus-0"},
				{Name: "WEIR_ROLLUPS"},
			},
			Behind: []time.Duration{0, 1500 * time.Millisecond},
		}, errors.New("it broke off")
	}})
	resp, err := http.Get("http://" + s.HTTPAddr() + "/api/v1/mesh")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.Body.Close() != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status, err)
	}
	for _, want := range []string{
		`"kubernetes":true`, `"cluster":"c"`, `"name":"weir-bus-0"`, `"restarts":3`, `"meshed":1,"partly":2,"unmeshed":3`, `"proxy_versions":{"v1.2.3":4}`,
		`"proxies_live":2`, `"workloads_live":1`, `"answered":1`, `"replicas_current":2`, `"behind":"1.500s"`, `"error":"it broke off"`, `"exists":false`,
	} {
		if !strings.Contains(strings.ReplaceAll(string(body), " ", ""), strings.ReplaceAll(want, " ", "")) {
			t.Errorf("%s is missing in %s", want, body)
		}
	}
	_, c := startWith(t, api.Options{Backend: &apitest.Backend{}})
	m, err := c.Mesh(t.Context(), &weirpb.MeshRequest{})
	if err != nil || m.GetKubernetes() || m.GetBus() != nil || m.GetAggregators().GetError() == "" || m.GetServer().GetVersion() != "v1.2.3" {
		t.Errorf("%v, %v", m, err)
	}
}

func TestEndpoints(t *testing.T) {
	var asked atomic.Int64
	_, c := startWith(t, api.Options{Backend: seenWeb(), Controller: answering(&asked)})
	resp, err := c.Endpoints(t.Context(), &weirpb.EndpointsRequest{Address: "10.96.0.1:80"})
	if err != nil || len(resp.GetEndpoints()) != 2 || resp.GetEndpoints()[0].GetPod() != "web-1" || resp.GetEndpoints()[1].GetIdentity() == "" || resp.GetService() != "web" {
		t.Errorf("%v, %v", resp, err)
	}
	if _, err := c.Endpoints(t.Context(), &weirpb.EndpointsRequest{Address: "web:80"}); status.Code(err) != codes.InvalidArgument {
		t.Error(err)
	}
	_, c = startWith(t, api.Options{Backend: seenWeb()})
	if _, err := c.Endpoints(t.Context(), &weirpb.EndpointsRequest{Address: "10.96.0.1:80"}); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "weir check") {
		t.Error(err)
	}
}
