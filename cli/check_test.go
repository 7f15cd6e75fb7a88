package cli

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/api"
	"github.com/weirmesh/weir/api/apitest"
	"github.com/weirmesh/weir/control"
)

// mesh is an API with a controller and a bus that are well, but for what change
// does to them.
func mesh(t *testing.T, change func(*api.BusState)) string {
	t.Helper()
	state := api.BusState{Version: "2.15.2", Behind: make([]time.Duration, 2)}
	for _, name := range []string{"WEIR_EVENTS", "WEIR_ROLLUPS"} {
		state.Streams = append(state.Streams, api.StreamState{Name: name, Exists: true, Messages: 7, Bytes: 700, Oldest: now.Add(-time.Hour), Newest: now, Replicas: 3, Current: 3, Leader: "weir-bus-0"})
	}
	if change != nil {
		change(&state)
	}
	b := &apitest.Backend{}
	b.Answer(query.MethodWorkloads, query.Reply{Member: "a", Members: 1, Total: 2, Partitions: []int{0, 1}, Workloads: []query.Workload{
		{Resource: selector("emojivoto", "deploy", "web"), Pods: []query.Pod{{Name: "web-1", Live: true}}},
	}})
	return startWith(t, api.Options{
		Backend: b, BusState: func(context.Context) (*api.BusState, error) { return &state, nil },
		Controller: func(_ context.Context, _, method string, _ []byte) ([]byte, error) {
			if method != control.OverviewMethod {
				return nil, api.ErrNoController
			}
			return json.Marshal(control.InventoryOverview{Cluster: cluster, ProxyVersions: map[string]int{"v0.1.0": 11, "v0.0.9": 1}})
		},
	})
}

func TestCheck(t *testing.T) {
	// What a golden file must not hold: certificates' serial numbers and times
	// are fixed, and nothing else differs.
	f := func(name string, breakIt func(i *installation), args ...string) {
		t.Helper()
		i := healthy(t, mesh(t, nil))
		if breakIt != nil {
			breakIt(i)
		}
		out, errOut, err := weirIn(t, i.cluster(t), append([]string{"check", "--wait", "0s"}, args...)...)
		golden(t, "check_"+name, out, errOut, err)
	}
	f("ok", nil)
	f("ok_short", nil, "-o", "short")
	f("ok_json", nil, "-o", "json")
	f("unreachable", func(i *installation) { i.unreachable = errors.New("connection refused") })
	f("old_kubernetes", func(i *installation) { i.version = "v1.28.4" }, "-o", "short")
	f("not_installed", func(i *installation) { i.namespace = nil })
	f("config", func(i *installation) { i.config.Data["values.yaml"] = "clusterNam: east\n" }, "-o", "short")
	f("accounts", func(i *installation) { i.others = i.others[1:] }, "-o", "short")
	f("anchors", func(i *installation) { i.anchors.Data["ca.crt"] = "nonsense" }, "-o", "short")
	f("anchors_missing", func(i *installation) { i.anchors = nil }, "-o", "short")
	f("issuer_foreign", func(i *installation) {
		i.anchors.Data["ca.crt"] = string(certify(t, "other.weir", year, nil).pem)
	}, "-o", "short")
	f("issuer_key", func(i *installation) { i.issuerSecret.Data["tls.key"] = i.anchor.keyPEM }, "-o", "short")
	f("issuer_expired", func(i *installation) {
		old := certify(t, "identity.weir", -time.Minute, i.anchor)
		i.issuerSecret.Data["tls.crt"], i.issuerSecret.Data["tls.key"] = old.pem, old.keyPEM
	}, "-o", "short")
	f("issuer_soon", func(i *installation) {
		soon := certify(t, "identity.weir", 59*24*time.Hour, i.anchor)
		i.issuerSecret.Data["tls.crt"], i.issuerSecret.Data["tls.key"] = soon.pem, soon.keyPEM
	}, "-o", "short")
	f("bus_certificate", func(i *installation) {
		i.busSecret.Data["tls.crt"] = certify(t, "weir-bus", 24*time.Hour, i.issuer, "elsewhere.svc").pem
	}, "-o", "short")
	f("webhook_bundle", func(i *installation) { i.webhook.Webhooks[0].ClientConfig.CABundle = nil }, "-o", "short")
	f("webhook_certificate", func(i *installation) {
		i.webhook.Webhooks[0].ClientConfig.CABundle = certify(t, "other.weir", year, nil).pem
	}, "-o", "short")
	f("webhook_off", func(i *installation) {
		i.webhook, i.config.Data["values.yaml"] = nil, "injector: {enabled: false}\n"
	}, "-o", "short")
	f("pod_missing", func(i *installation) { i.pods = i.pods[1:] }, "-o", "short")
	f("pod_waiting", func(i *installation) {
		s := &i.pods[1].Status
		s.Conditions, s.ContainerStatuses[0].State.Waiting = nil, &core.ContainerStateWaiting{Reason: "CrashLoopBackOff"}
	}, "-o", "short")
	f("restarts", func(i *installation) {
		s := &i.pods[1].Status.ContainerStatuses[0]
		s.RestartCount = 4
		s.LastTerminationState.Terminated = &core.ContainerStateTerminated{Reason: "OOMKilled", ExitCode: 137, FinishedAt: meta.NewTime(now.Add(-time.Minute))}
	}, "-o", "short")
	f("versions", func(i *installation) { i.pods[1].Labels["app.kubernetes.io/version"] = "v0.2.0" }, "-o", "short")
	f("json_failed", func(i *installation) { i.issuerSecret = nil }, "-o", "json")
}

func TestCheckMesh(t *testing.T) {
	f := func(name string, change func(*api.BusState)) {
		t.Helper()
		out, errOut, err := weirIn(t, healthy(t, mesh(t, change)).cluster(t), "check", "--wait", "0s", "-o", "short")
		golden(t, "check_"+name, out, errOut, err)
	}
	f("stream_missing", func(s *api.BusState) { s.Streams[1] = api.StreamState{Name: "WEIR_ROLLUPS"} })
	f("replica_behind", func(s *api.BusState) { s.Streams[0].Current = 2 })
	f("lag", func(s *api.BusState) { s.Behind[1] = 95 * time.Second })

	// An API that sees nobody else.
	alone := startWith(t, api.Options{Backend: &apitest.Backend{}})
	out, errOut, err := weirIn(t, healthy(t, alone).cluster(t), "check", "--wait", "0s", "-o", "short")
	golden(t, "check_nobody", out, errOut, err)
	out, errOut, err = weirIn(t, healthy(t, "127.0.0.1:1").cluster(t), "check", "--wait", "0s", "-o", "short")
	golden(t, "check_api_away", out, errOut, err)
}

func TestCheckPre(t *testing.T) {
	f := func(name string, breakIt func(i *installation)) {
		t.Helper()
		i := healthy(t, "")
		i.config = nil
		if breakIt != nil {
			breakIt(i)
		}
		out, errOut, err := weirIn(t, i.cluster(t), "check", "--pre", "--wait", "0s")
		golden(t, "check_"+name, out, errOut, err)
	}
	f("pre", nil)
	f("pre_failed", func(i *installation) {
		i.denied["clusterroles"] = true
		i.class = nil
		i.node.Status.NodeInfo.KubeletVersion = "v1.27.1"
		i.config = &core.ConfigMap{ObjectMeta: named("weir", "weir-config")}
	})
}

func TestCheckProxy(t *testing.T) {
	f := func(name string, pods ...*core.Pod) {
		t.Helper()
		i := healthy(t, mesh(t, nil))
		i.pods = append(i.pods, pods...)
		out, errOut, err := weirIn(t, i.cluster(t), "check", "--proxy", "-n", "emojivoto", "--wait", "0s", "-o", "short")
		golden(t, "check_"+name, out, errOut, err)
	}
	f("proxy", injectedPod("web-1"))
	f("proxy_none")
	old, dead, silent := injectedPod("web-1"), injectedPod("web-2"), injectedPod("web-3")
	old.Annotations["weir.dev/proxy-version"] = "v0.0.9"
	dead.Status.InitContainerStatuses[0] = core.ContainerStatus{Name: "weir-proxy", State: core.ContainerState{Waiting: &core.ContainerStateWaiting{Reason: "ImagePullBackOff"}}}
	dead.Spec.Volumes = nil
	f("proxy_failed", old, dead, silent)
}

func TestCheckUsage(t *testing.T) {
	for _, args := range [][]string{{"--pre", "--proxy"}, {"-n", "x"}, {"--wait", "-1s"}, {"x"}} {
		_, _, err := weir(t, append([]string{"check"}, args...)...)
		var usage *UsageError
		if !errors.As(err, &usage) {
			t.Errorf("weir check %v: %v", args, err)
		}
	}
	out, errOut, err := weirIn(t, nil, "check", "--wait", "0s")
	golden(t, "check_no_kubeconfig", out, errOut, err)
}

// TestCheckWaits: what comes right meanwhile is no failure.
func TestCheckWaits(t *testing.T) {
	i := healthy(t, mesh(t, nil))
	conditions := i.pods[2].Status.Conditions
	i.pods[2].Status.Conditions = nil
	k := i.cluster(t)
	done := make(chan error, 1)
	go func() {
		time.Sleep(500 * time.Millisecond)
		pod := i.pods[2].DeepCopy()
		pod.Status.Conditions = conditions
		_, err := k.CoreV1().Pods("weir").Update(context.Background(), pod, meta.UpdateOptions{})
		done <- err
	}()
	out, errOut, err := weirIn(t, k, "check", "--wait", "1m", "-o", "short")
	if updateErr := <-done; err != nil || updateErr != nil || !strings.Contains(out, "√") || !strings.Contains(errOut, "weir-controller-0 (Running, not ready)") {
		t.Errorf("%q, %q, %v, %v", out, errOut, err, updateErr)
	}
}

// TestHintsExist holds each hint to be an anchor of the page.
func TestHintsExist(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "docs", "troubleshooting.md"))
	if err != nil {
		t.Fatal(err)
	}
	anchors := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(page), -1) {
		anchor := regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(m[1]), "")
		anchors[strings.ReplaceAll(anchor, " ", "-")] = true
	}
	seen := 0
	for _, pre := range []bool{false, true} {
		c := &checkCommand{app: newCommand().app, pre: pre, proxy: !pre}
		for _, category := range c.categories() {
			for _, check := range category.checks {
				seen++
				if !anchors[check.hint] {
					t.Errorf("%s: docs/troubleshooting.md has no heading %q", check.says, check.hint)
				}
				if check.do == "" {
					t.Errorf("%s: it does not say what to do", check.says)
				}
			}
		}
	}
	if seen < 30 {
		t.Errorf("only %d checks", seen)
	}
}
