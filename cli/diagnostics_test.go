package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/weirmesh/weir/api"
	"github.com/weirmesh/weir/api/apitest"
	"github.com/weirmesh/weir/control"
)

// resolving is a controller that knows two services.
func resolving(_ context.Context, _, method string, request []byte) ([]byte, error) {
	if method != control.ResolveMethod {
		return nil, api.ErrNoController
	}
	var r control.ResolveRequest
	if err := control.Decode(request, &r); err != nil {
		return nil, err
	}
	d := control.Destination{Known: true, Namespace: "emojivoto"}
	web := func(ip, pod, identity, reason string) control.Endpoint {
		return control.Endpoint{Addr: netip.AddrPortFrom(netip.MustParseAddr(ip), 8080), Namespace: "emojivoto", Kind: "deploy", Name: "web", Pod: pod,
			Node: "node-1", Identity: identity, Reason: reason, Terminating: pod == "web-2"}
	}
	switch r.Addr.String() {
	case "10.96.0.1:80":
		d.Service, d.Port, d.Protocol = "web", 80, "http/1"
		d.Endpoints = []control.Endpoint{web("10.0.0.1", "web-1", "spiffe://cluster.local/ns/emojivoto/sa/web", ""), web("10.0.0.2", "web-2", "", "unmeshed")}
	case "10.0.0.7:8080":
		d.Endpoints = []control.Endpoint{web("10.0.0.7", "db-0", "", "unmeshed")}
	default:
		d = control.Destination{}
	}
	return json.Marshal(&d)
}

func TestEndpoints(t *testing.T) {
	addr := startWith(t, api.Options{Backend: &apitest.Backend{}, Controller: resolving})
	port := int32(8080)
	name := "sql"
	i := healthy(t, addr)
	i.others = append(i.others,
		&core.Service{ObjectMeta: named("emojivoto", "web"), Spec: core.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []core.ServicePort{{Port: 80}, {Port: 443}}}},
		&core.Service{ObjectMeta: named("emojivoto", "db"), Spec: core.ServiceSpec{ClusterIP: core.ClusterIPNone, Ports: []core.ServicePort{{Name: "sql", Port: 5432}}}},
		&core.Service{ObjectMeta: named("emojivoto", "away"), Spec: core.ServiceSpec{Type: core.ServiceTypeExternalName, ExternalName: "example.org"}},
		&discovery.EndpointSlice{ObjectMeta: meta.ObjectMeta{Namespace: "emojivoto", Name: "db-x", Labels: map[string]string{discovery.LabelServiceName: "db"}},
			Ports: []discovery.EndpointPort{{Name: &name, Port: &port}}, Endpoints: []discovery.Endpoint{{Addresses: []string{"10.0.0.7"}}}},
	)
	f := func(name string, args ...string) {
		t.Helper()
		out, errOut, err := weirIn(t, i.cluster(t), append([]string{"diagnostics", "endpoints"}, args...)...)
		golden(t, "endpoints_"+name, out, errOut, err)
	}
	f("service", "web:80", "-n", "emojivoto")
	f("json", "web.emojivoto.svc.cluster.local:80", "-o", "json")
	f("headless", "db.emojivoto:5432")
	f("address", "10.96.0.1:80", "192.0.2.1:443")
	f("unknown", "192.0.2.1:443")
	f("port", "web.emojivoto:81")
	f("external", "away.emojivoto:80")
	f("missing", "nothing:80")
	f("usage", "web")
}

func TestProxyMetrics(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/metrics" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = fmt.Fprintln(w, "weir_proxy_events_total 7")
	}))
	defer server.Close()
	i := healthy(t, "")
	i.pods = append(i.pods, injectedPod("web-1"), injectedPod("web-2"))
	labels := map[string]string{"app": "web"}
	plain := injectedPod("web-3")
	plain.Spec.InitContainers, plain.Labels = nil, nil
	i.pods = append(i.pods, plain)
	i.others = append(i.others, []runtime.Object{
		&apps.Deployment{ObjectMeta: named("emojivoto", "web"), Spec: apps.DeploymentSpec{Selector: &meta.LabelSelector{MatchLabels: labels}}},
	}...)
	k := i.cluster(t)
	k.dial = func(ctx context.Context, namespace, pod string, port int) (net.Conn, error) {
		if namespace != "emojivoto" || port != 4191 {
			return nil, errors.New("nobody listens there")
		}
		var d net.Dialer
		return d.DialContext(ctx, "tcp", server.Listener.Addr().String())
	}
	f := func(name string, args ...string) {
		t.Helper()
		out, errOut, err := weirIn(t, k, append([]string{"diagnostics", "proxy-metrics", "-n", "emojivoto"}, args...)...)
		golden(t, "proxy_metrics_"+name, out, errOut, err)
	}
	f("pod", "web-1")
	f("workload", "deploy/web")
	f("unmeshed", "web-3")
	f("missing", "deploy/wbe")
	f("kind", "ns/emojivoto")
}

func TestBusDiagnostics(t *testing.T) {
	f := func(name string, change func(*api.BusState), args ...string) {
		t.Helper()
		out, errOut, err := weirIn(t, nil, append([]string{"diagnostics", "bus", "--api-addr", mesh(t, change)}, args...)...)
		golden(t, "bus_"+name, out, errOut, err)
	}
	f("ok", nil)
	f("json", nil, "-o", "json")
	f("missing", func(s *api.BusState) {
		s.Streams[1] = api.StreamState{Name: "WEIR_ROLLUPS"}
		s.Behind[0] = 1500 * time.Millisecond
	})
	out, errOut, err := weir(t, "diagnostics", "bus", "--api-addr", start(t, &apitest.Backend{}))
	golden(t, "bus_unwatched", out, errOut, err)
}

func TestVersionOfProxies(t *testing.T) {
	f := func(name string, args ...string) {
		t.Helper()
		out, errOut, err := weirIn(t, healthy(t, mesh(t, nil)).cluster(t), append([]string{"version"}, args...)...)
		golden(t, "version_"+name, out, errOut, err)
	}
	f("proxies")
	f("proxies_short", "--short")
	f("proxies_json", "-o", "json")
}

// TestFindsTheAPI holds the order in which the API is looked for.
func TestFindsTheAPI(t *testing.T) {
	f := func(want string, i *installation, args ...string) {
		t.Helper()
		out, errOut, err := weirIn(t, i.cluster(t), append([]string{"version", "--verbose"}, args...)...)
		if text := fmt.Sprint(out, errOut, err); !strings.Contains(text, want) {
			t.Errorf("%v: %s\nlacks %q", args, text, want)
		}
	}
	inside, given := mesh(t, nil), mesh(t, nil)
	f(`addr="weir-api of the cluster of context test"`, healthy(t, inside))
	f("addr="+given, healthy(t, inside), "--api-addr", given)
	// Where it is not installed, this machine's is next; and a cluster that was
	// asked for by name is not passed over.
	absent := healthy(t, inside)
	absent.pods = nil
	f("in Kubernetes: there is no pod of weir-api in namespace weir of the cluster of context test", absent)
	f("there is no pod of weir-api in namespace weir", absent, "--context", "test")
	waiting := healthy(t, inside)
	waiting.pods[3].Status.Conditions = nil
	f("no pod of weir-api in namespace weir is ready (Running)", waiting)
	f("weir check` says what is wrong there", healthy(t, "127.0.0.1:1"))
}

func TestDashboardIsForwarded(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "the dashboard") }))
	defer server.Close()
	k := healthy(t, "").cluster(t)
	k.dial = func(ctx context.Context, _, pod string, port int) (net.Conn, error) {
		if pod != "weir-api-0" || port != 8084 {
			return nil, errors.New("nobody listens there")
		}
		var d net.Dialer
		return d.DialContext(ctx, "tcp", server.Listener.Addr().String())
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := newCommand("dashboard", "--port", "0")
	c.app.newCluster = func(*kubeFlags) (*kubeCluster, error) { return k, nil }
	var opened string
	c.app.open = func(_ context.Context, at string) error {
		opened = at
		defer cancel()
		return probe(ctx, at)
	}
	if err := c.root.ExecuteContext(ctx); !errors.Is(err, context.Canceled) || opened == "" || strings.TrimSpace(c.out.String()) != opened {
		t.Errorf("opened %q, wrote %q, %v", opened, c.out.String(), err)
	}
}
