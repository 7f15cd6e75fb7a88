package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirmesh/weir/api/client"
	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/deploy/inject"
)

const (
	labelVersion = "app.kubernetes.io/version"
	// lagging is from when on aggregators do not keep up.
	lagging = 30 * time.Second
)

func (c *checkCommand) versionChecks() category {
	return category{"weir-version", []check{{
		says: "the control plane's pods are of one version", hint: "versions", warn: true, retry: true,
		do:  "wait until the upgrade is through; if it stays so: `weir upgrade | kubectl apply -f -`",
		run: c.checkOneVersion,
	}, {
		says: "this program and the control plane are of one version", hint: "versions", warn: true,
		do: "take the CLI of the control plane's version, or upgrade that: `weir upgrade | kubectl apply -f -`",
		run: func(context.Context) error {
			if have := c.controlPlaneVersions(); len(have) > 0 && !slices.Contains(have, c.Build.Version) {
				return fmt.Errorf("this program is %s, the control plane %s", c.Build.Version, strings.Join(have, ", "))
			}
			return nil
		},
	}}}
}

// controlPlaneVersions are those of the control plane's pods.
func (c *checkCommand) controlPlaneVersions() []string {
	var have []string
	for i := range c.pods {
		if v := c.pods[i].Labels[labelVersion]; v != "" {
			have = append(have, v)
		}
	}
	return distinct(have)
}

func (c *checkCommand) checkOneVersion(ctx context.Context) error {
	if err := c.checkComponents(ctx); err != nil {
		return err
	}
	if have := c.controlPlaneVersions(); len(have) > 1 {
		return errors.New(strings.Join(have, ", "))
	}
	return nil
}

// meshChecks ask the API.
func (c *checkCommand) meshChecks() []category {
	var mesh *weirpb.MeshResponse
	ask := func(ctx context.Context) error {
		var err error
		if mesh, err = c.client.Mesh(ctx, &weirpb.MeshRequest{}); err != nil {
			return callError("ask the API about the mesh", err)
		}
		return nil
	}
	// asking asks anew, as the check may be tried again.
	asking := func(about func(m *weirpb.MeshResponse) error) func(context.Context) error {
		return func(ctx context.Context) error {
			if err := ask(ctx); err != nil {
				return err
			}
			return about(mesh)
		}
	}
	logs := func(component string) string {
		return fmt.Sprintf("see the log of weir-%s: `kubectl -n %s logs -l app.kubernetes.io/component=%s`", component, c.cluster.namespace, component)
	}
	return []category{{"weir-api", []check{{
		says: "the API answers", hint: "api", retry: true, fatal: true, do: logs("api"),
		run: c.dialForCheck,
	}, {
		says: "the controller answers on the bus", hint: "controller", retry: true, do: logs("controller"),
		run: asking(controllerAnswers),
	}}}, {"weir-bus", []check{{
		says: "all streams exist", hint: "bus", retry: true, do: logs("bus"),
		run: asking(streamsExist),
	}, {
		says: "all replicas of the streams are up to date", hint: "bus", retry: true, do: logs("bus"),
		run: asking(streamsCurrent),
	}}}, {"weir-aggregators", []check{{
		says: "each part of the events has an aggregator", hint: "aggregators", retry: true, do: logs("aggregator"),
		run: asking(partitionsOwned),
	}, {
		says: fmt.Sprintf("the aggregators are at most %s behind", lagging), hint: "aggregators", retry: true, warn: true,
		do:  "give them more CPU, or run more of them: `weir upgrade --set aggregator.replicas=N | kubectl apply -f -`",
		run: asking(keepingUp),
	}}}}
}

func (c *checkCommand) dialForCheck(ctx context.Context) error {
	var err error
	if c.apiAddr != "" {
		c.client, err = client.Dial(ctx, c.apiAddr)
	} else if _, err = c.k.readyPod(ctx, componentAPI); err == nil {
		c.client, err = c.k.dialAPI(ctx)
	}
	return err
}

func controllerAnswers(m *weirpb.MeshResponse) error {
	switch {
	case !m.GetKubernetes():
		return errors.New("no controller answers the API's questions")
	case m.GetKubernetesError() != "":
		return errors.New(m.GetKubernetesError())
	}
	return nil
}

func streamsExist(m *weirpb.MeshResponse) error {
	var missing []string
	for _, s := range m.GetBus().GetStreams() {
		if !s.GetExists() {
			missing = append(missing, s.GetName())
		}
	}
	switch {
	case len(missing) > 0:
		return fmt.Errorf("the bus lacks %s", strings.Join(missing, ", "))
	case m.GetBus().GetError() != "":
		return errors.New(m.GetBus().GetError())
	case len(m.GetBus().GetStreams()) == 0:
		return errors.New("the API does not say how the bus does")
	}
	return nil
}

func streamsCurrent(m *weirpb.MeshResponse) error {
	var behind []string
	for _, s := range m.GetBus().GetStreams() {
		if s.GetExists() && s.GetReplicasCurrent() < s.GetReplicas() {
			behind = append(behind, fmt.Sprintf("%s (%d of %d)", s.GetName(), s.GetReplicasCurrent(), s.GetReplicas()))
		}
	}
	if len(behind) > 0 {
		return errors.New(strings.Join(behind, ", "))
	}
	return nil
}

func partitionsOwned(m *weirpb.MeshResponse) error {
	switch a := m.GetAggregators(); {
	case a.GetError() != "":
		return errors.New(a.GetError())
	case a.GetPartitionsMissing() > 0:
		return fmt.Errorf("nobody answers for %d of %d parts of the events", a.GetPartitionsMissing(), a.GetPartitionsTotal())
	case a.GetAnswered() < a.GetTotal():
		return fmt.Errorf("%d of %d aggregators answer", a.GetAnswered(), a.GetTotal())
	}
	return nil
}

func keepingUp(m *weirpb.MeshResponse) error {
	var worst time.Duration
	for _, lag := range m.GetBus().GetLags() {
		worst = max(worst, lag.GetBehind().AsDuration())
	}
	if worst > lagging {
		return fmt.Errorf("an event waits since %s to be counted", worst.Round(time.Second))
	}
	return nil
}

// dataPlane is what Kubernetes knows of injected pods.
type dataPlane struct{ pods []core.Pod }

// find lists the injected pods that have not ended.
func (d *dataPlane) find(ctx context.Context, k *kubeCluster, namespace string) error {
	d.pods = nil
	for from := ""; ; {
		page, err := k.CoreV1().Pods(namespace).List(ctx, meta.ListOptions{Limit: 500, Continue: from})
		if err != nil {
			return fmt.Errorf("cannot list pods: %w", err)
		}
		for i := range page.Items {
			pod := &page.Items[i]
			if proxyOf(pod) != nil && pod.Status.Phase != core.PodSucceeded && pod.Status.Phase != core.PodFailed && pod.DeletionTimestamp == nil {
				d.pods = append(d.pods, *pod)
			}
		}
		if from = page.Continue; from == "" {
			break
		}
	}
	slices.SortFunc(d.pods, func(a, b core.Pod) int { return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name) })
	return nil
}

// which names the pods of which wrong says something.
func (d *dataPlane) which(wrong func(pod *core.Pod) string) error {
	var names []string
	for i := range d.pods {
		if why := wrong(&d.pods[i]); why != "" {
			names = append(names, fmt.Sprintf("%s/%s (%s)", d.pods[i].Namespace, d.pods[i].Name, why))
		}
	}
	if len(names) > 0 {
		return errors.New(some(names))
	}
	return nil
}

// proxyOf is a pod's proxy.
func proxyOf(pod *core.Pod) *core.Container {
	for _, containers := range [][]core.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			if containers[i].Name == inject.ProxyContainer {
				return &containers[i]
			}
		}
	}
	return nil
}

// proxyVersion is that of an injected pod's proxy.
func proxyVersion(pod *core.Pod) string {
	if v := pod.Annotations[inject.AnnotationProxyVersion]; v != "" {
		return v
	}
	_, tag, _ := strings.Cut(proxyOf(pod).Image[strings.LastIndexByte(proxyOf(pod).Image, '/')+1:], ":")
	return tag
}

func proxyNotReady(pod *core.Pod) string {
	for _, statuses := range [][]core.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range statuses {
			if statuses[i].Name == inject.ProxyContainer && statuses[i].Ready {
				return ""
			}
		}
	}
	return podStatus(pod)
}

func withoutIdentity(pod *core.Pod) string {
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].Name == inject.IdentityVolume {
			return ""
		}
	}
	return "its proxy has no token to prove itself with"
}

func (c *checkCommand) dataPlaneChecks() category {
	var d dataPlane
	where := "in any namespace"
	if c.namespace != "" {
		where = "in namespace " + c.namespace
	}
	return category{"weir-data-plane", []check{{
		says: "there are proxies " + where, hint: "data-plane-missing", fatal: true,
		do: "inject a workload: `kubectl get deploy -o yaml | weir inject - | kubectl apply -f -`",
		run: func(ctx context.Context) error {
			if err := d.find(ctx, c.k, c.namespace); err != nil {
				return err
			}
			if len(d.pods) == 0 {
				return errors.New("no pod has a proxy")
			}
			return nil
		},
	}, {
		says: "all proxies are ready", hint: "data-plane-ready", retry: true,
		do: "see what the proxy says: `kubectl -n NAMESPACE logs POD -c weir-proxy`",
		run: func(ctx context.Context) error {
			if err := d.find(ctx, c.k, c.namespace); err != nil {
				return err
			}
			return d.which(proxyNotReady)
		},
	}, {
		says: "all proxies can prove who they are", hint: "data-plane-identity",
		do:  "inject their workloads again, with this installation: `kubectl -n NAMESPACE get deploy -o yaml | weir inject - | kubectl apply -f -`",
		run: func(context.Context) error { return d.which(withoutIdentity) },
	}, {
		says: "all proxies are of the control plane's version", hint: "versions", warn: true,
		do: "restart their workloads after `weir inject`, or where the webhook injects: `kubectl -n NAMESPACE rollout restart deploy`",
		run: func(context.Context) error {
			have := c.controlPlaneVersions()
			return d.which(func(pod *core.Pod) string {
				if v := proxyVersion(pod); len(have) > 0 && !slices.Contains(have, v) {
					return v
				}
				return ""
			})
		},
	}, {
		says: "all proxies report", hint: "data-plane-report", retry: true, warn: true,
		do:  "see whether the proxy reaches the bus: `kubectl -n NAMESPACE logs POD -c weir-proxy`",
		run: func(ctx context.Context) error { return c.checkReporting(ctx, &d) },
	}}}
}

// checkReporting compares the injected pods with those that the aggregators know.
func (c *checkCommand) checkReporting(ctx context.Context, d *dataPlane) error {
	known, err := c.client.Workloads(ctx, &weirpb.WorkloadsRequest{Resource: &weirpb.Resource{Namespace: c.namespace}})
	if err != nil {
		return callError("ask which proxies report", err)
	}
	live := map[string]bool{}
	for _, w := range known.GetRows() {
		for _, p := range w.GetPods() {
			if p.GetLive() {
				live[w.GetResource().GetNamespace()+"/"+p.GetName()] = true
			}
		}
	}
	return d.which(func(pod *core.Pod) string {
		if proxyNotReady(pod) != "" || live[pod.Namespace+"/"+pod.Name] {
			return ""
		}
		return "nothing was heard of it"
	})
}
