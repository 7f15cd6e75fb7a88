package injector

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	admission "k8s.io/api/admission/v1"
	registration "k8s.io/api/admissionregistration/v1"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/weirmesh/weir/controller/identity"
	"github.com/weirmesh/weir/deploy/authority"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"))
}

// world is a webhook over a Kubernetes that is only objects.
type world struct {
	t          *testing.T
	kubernetes *fake.Clientset
	server     *Server
	issuer     atomic.Pointer[identity.Issuer]
	dir        string
}

// replicaSets are owned by deployments.
type replicaSets struct{}

func (replicaSets) ReplicaSetOwner(context.Context, string, string) (*meta.OwnerReference, error) {
	controller := true
	return &meta.OwnerReference{Kind: "Deployment", Name: "web", Controller: &controller}, nil
}

func (replicaSets) JobOwner(context.Context, string, string) (*meta.OwnerReference, error) {
	return nil, fmt.Errorf("the API server is away")
}

func (w *world) newIssuer() []byte {
	w.t.Helper()
	ca, err := authority.Generate("cluster.local")
	if err != nil {
		w.t.Fatal(err)
	}
	i, err := identity.ParseIssuer(ca.Certificate, ca.Key, ca.Anchors)
	if err != nil {
		w.t.Fatal(err)
	}
	w.issuer.Store(i)
	return ca.Anchors
}

func start(t *testing.T, objects ...runtime.Object) *world {
	t.Helper()
	hook := registration.MutatingWebhook{Name: "pod.injector.weir.dev"}
	configuration := &registration.MutatingWebhookConfiguration{
		ObjectMeta: meta.ObjectMeta{Name: "weir-injector", ResourceVersion: "1"}, Webhooks: []registration.MutatingWebhook{hook, hook},
	}
	w := &world{t: t, kubernetes: fake.NewClientset(append(objects, configuration)...), dir: t.TempDir()}
	anchors := w.newIssuer()
	for name, text := range map[string]string{"values": "clusterName: east", "version": "v1\n", "anchors": string(anchors)} {
		if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	w.server, err = New(Options{
		Listen: "127.0.0.1:0", Namespace: "weir", Service: "weir-controller", Webhook: "weir-injector", Cluster: "east",
		Files: Files{Values: filepath.Join(w.dir, "values"), Version: filepath.Join(w.dir, "version"), Anchors: filepath.Join(w.dir, "anchors")},
		By:    "weir/injector v1",
		Sign: func(public any, names []string, lifetime time.Duration) ([]byte, []byte, error) {
			i := w.issuer.Load()
			chain, err := i.Sign(public, identity.Leaf{Lifetime: lifetime, DNSNames: names})
			return chain, i.Anchors, err
		},
		Kubernetes: w.kubernetes, Owners: replicaSets{}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return w
}

// bundles are the caBundles once they are all the same and the server is ready.
func (w *world) bundle(not []byte) []byte {
	w.t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for time.Now().Before(deadline) {
		c, err := w.kubernetes.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(w.t.Context(), "weir-injector", getOptions)
		if err != nil {
			w.t.Fatal(err)
		}
		first := c.Webhooks[0].ClientConfig.CABundle
		if w.server.Ready() == nil && len(first) > 0 && !bytes.Equal(first, not) && bytes.Equal(first, c.Webhooks[1].ClientConfig.CABundle) {
			return first
		}
		time.Sleep(5 * time.Millisecond)
	}
	w.t.Fatalf("the caBundles are not set: %v", w.server.Ready())
	return nil
}

// post sends a body as the API server would, and gives the status and the answer.
func (w *world) post(bundle, body []byte) (int, []byte) {
	w.t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "weir-controller.weir.svc"}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport, Timeout: 30 * time.Second}).Post("https://"+w.server.Addr()+"/inject", "application/json", bytes.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.StatusCode, text
}

func review(t *testing.T, namespace string, pod core.Pod) []byte {
	t.Helper()
	raw, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(admission.AdmissionReview{
		TypeMeta: meta.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
		Request: &admission.AdmissionRequest{
			UID: "u1", Kind: meta.GroupVersionKind{Version: "v1", Kind: "Pod"}, Namespace: namespace,
			Operation: admission.Create, Object: runtime.RawExtension{Raw: raw},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func namespace(name string, labels, annotations map[string]string) *core.Namespace {
	return &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: name, Labels: labels, Annotations: annotations}}
}

// TestAdmissions: who is injected, who is left alone and told why, who is refused.
func TestAdmissions(t *testing.T) {
	enabled := map[string]string{"weir.dev/inject": "enabled"}
	w := start(t,
		namespace("shop", enabled, map[string]string{"weir.dev/skip-outbound-ports": "3306"}),
		namespace("other", nil, nil),
		namespace("locked", map[string]string{"weir.dev/inject": "enabled", "pod-security.kubernetes.io/enforce": "restricted"}, nil),
		namespace("typo", enabled, map[string]string{"weir.dev/skip-ports": "1"}),
	)
	bundle := w.bundle(nil)
	controller := true
	pod := func(change func(*core.Pod)) core.Pod {
		p := core.Pod{
			ObjectMeta: meta.ObjectMeta{GenerateName: "web-", OwnerReferences: []meta.OwnerReference{{Kind: "ReplicaSet", Name: "web-1", Controller: &controller}}},
			Spec:       core.PodSpec{Containers: []core.Container{{Name: "web", Image: "web"}}},
		}
		if change != nil {
			change(&p)
		}
		return p
	}
	f := func(namespace string, change func(*core.Pod), allowed bool, want string) {
		t.Helper()
		code, text := w.post(bundle, review(t, namespace, pod(change)))
		var answer admission.AdmissionReview
		if err := json.Unmarshal(text, &answer); err != nil || code != http.StatusOK {
			t.Fatalf("%d %v: %s", code, err, text)
		}
		r := answer.Response
		if r.UID != "u1" || r.Allowed != allowed {
			t.Errorf("in %s: %+v", namespace, r)
		}
		said := string(r.Patch) + strings.Join(r.Warnings, "\n")
		if r.Result != nil {
			said += r.Result.Message
		}
		if want == "" && said != "" || !strings.Contains(said, want) {
			t.Errorf("in %s: %s, want %q", namespace, said, want)
		}
	}
	f("shop", nil, true, `"value":"$(WEIR_NAMESPACE)/deploy/web"`)
	f("shop", nil, true, `--skip-outbound-ports=3306`)
	f("shop", func(p *core.Pod) { p.Annotations = map[string]string{"weir.dev/inject": "disabled"} }, true, "")
	f("shop", func(p *core.Pod) { p.Spec.HostNetwork = true }, true, "weir does not inject the pod: hostNetwork is true")
	f("shop", func(p *core.Pod) { p.Annotations = map[string]string{"weir.dev/skip-inbound-port": "1"} }, false,
		"there is no annotation weir.dev/skip-inbound-port; did you mean weir.dev/skip-inbound-ports")
	f("other", nil, true, "")
	f("other", func(p *core.Pod) { p.Labels = enabled }, true, "weir-proxy")
	f("other", func(p *core.Pod) { p.Annotations = map[string]string{"weir.dev/unknown": "x"} }, true, "")
	f("locked", nil, true, "enforces Pod Security restricted")
	f("typo", nil, false, "namespace typo: there is no annotation weir.dev/skip-ports")
	f("kube-system", func(p *core.Pod) { p.Labels = enabled }, true, "")
	f("weir", func(p *core.Pod) { p.Labels = enabled }, true, "")

	// What cannot be decided is left to the failure policy.
	for _, body := range [][]byte{
		review(t, "none", pod(nil)),
		review(t, "shop", pod(func(p *core.Pod) { p.OwnerReferences[0].Kind = "Job" })),
		[]byte("{}"), []byte("no JSON"), bytes.Repeat([]byte(" "), reviewBytes+1),
	} {
		if code, text := w.post(bundle, body); code == http.StatusOK {
			t.Errorf("%.40s: %s", body, text)
		}
	}
	var metrics bytes.Buffer
	w.server.WriteMetrics(&metrics)
	for outcome, n := range map[string]int{"injected": 3, "unasked": 5, "skipped": 2, "refused": 2, "failed": 5} {
		if want := fmt.Sprintf("weir_injector_admissions_total{outcome=%q} %d\n", outcome, n); !strings.Contains(metrics.String(), want) {
			t.Errorf("there is no %s in\n%s", want, metrics.String())
		}
	}
}

// TestIssuerChanges: the server's certificate and the caBundles follow.
func TestIssuerChanges(t *testing.T) {
	w := start(t, namespace("other", nil, nil), &apps.ReplicaSet{})
	before := w.bundle(nil)
	w.newIssuer()
	after := w.bundle(before)
	if code, text := w.post(after, review(t, "other", core.Pod{})); code != http.StatusOK {
		t.Errorf("%d: %s", code, text)
	}
}

// TestBadSettings: a server without valid settings does not start.
func TestBadSettings(t *testing.T) {
	dir := t.TempDir()
	f := Files{Values: filepath.Join(dir, "v"), Version: filepath.Join(dir, "v"), Anchors: filepath.Join(dir, "v")}
	if _, err := New(Options{Files: f}); err == nil || !strings.Contains(err.Error(), "cannot read the settings") {
		t.Errorf("without files: %v", err)
	}
	if err := os.WriteFile(f.Values, []byte("proxy: {logLevel: loud}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Options{Files: f}); err == nil || !strings.Contains(err.Error(), "proxy.logLevel") {
		t.Errorf("with a wrong value: %v", err)
	}
}
