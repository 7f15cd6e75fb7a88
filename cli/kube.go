package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// weirNamespace is where Weir is installed unless told otherwise.
const weirNamespace = "weir"

// Labels of Weir's own pods.
const (
	labelPartOf    = "app.kubernetes.io/part-of"
	labelComponent = "app.kubernetes.io/component"
	partOfWeir     = "weir"
)

// kubeFlags say which cluster is meant, as kubectl's flags of these names do.
type kubeFlags struct {
	kubeconfig, context string
	// namespace is where Weir is installed.
	namespace string
	as        string
	asGroups  []string
}

func (f *kubeFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.kubeconfig, "kubeconfig", "", "path of the kubeconfig file (default $KUBECONFIG, then ~/.kube/config)")
	flags.StringVar(&f.context, "context", "", "name of the kubeconfig context to use")
	flags.StringVarP(&f.namespace, "weir-namespace", "L", weirNamespace, "namespace in which Weir is installed")
	flags.StringVar(&f.as, "as", "", "user to impersonate towards Kubernetes")
	flags.StringArrayVar(&f.asGroups, "as-group", nil, "group to impersonate towards Kubernetes; may be repeated")
}

// given tells whether the user named a cluster.
func (f *kubeFlags) given() bool { return f.kubeconfig != "" || f.context != "" }

// errNoCluster says that there is no kubeconfig.
var errNoCluster = errors.New("there is no kubeconfig: set --kubeconfig or KUBECONFIG to that of the cluster")

// kubeCluster is the Kubernetes cluster that commands speak to.
type kubeCluster struct {
	kubernetes.Interface
	// config is nil in tests.
	config *rest.Config
	// context is the kubeconfig's context, or "".
	context string
	// namespace is Weir's.
	namespace string
	// dial connects to a port of a pod.
	dial func(ctx context.Context, namespace, pod string, port int) (net.Conn, error)
}

// kube gives the cluster of the kubeconfig, without asking it anything. The
// error wraps errNoCluster where there is no kubeconfig.
func (a *app) kube() (*kubeCluster, error) {
	if a.newCluster != nil {
		return a.newCluster(&a.cluster)
	}
	return connectCluster(&a.cluster)
}

func connectCluster(f *kubeFlags) (*kubeCluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = f.kubeconfig
	overrides := &clientcmd.ConfigOverrides{CurrentContext: f.context}
	overrides.AuthInfo.Impersonate = f.as
	overrides.AuthInfo.ImpersonateGroups = f.asGroups
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)
	raw, err := loader.RawConfig()
	if err != nil {
		return nil, fmt.Errorf("cannot read the kubeconfig: %w", err)
	}
	if len(raw.Contexts) == 0 && len(raw.Clusters) == 0 && !inCluster() {
		return nil, errNoCluster
	}
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("cannot use the kubeconfig: %w", err)
	}
	config.UserAgent = "weir"
	// A person's commands come in bursts.
	config.QPS, config.Burst = 50, 100
	k, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("cannot use the kubeconfig: %w", err)
	}
	name := f.context
	if name == "" {
		name = raw.CurrentContext
	}
	return &kubeCluster{Interface: k, config: config, context: name, namespace: f.namespace, dial: dialThrough(config)}, nil
}

// inCluster tells whether this runs in a pod with a ServiceAccount.
func inCluster() bool {
	_, err := rest.InClusterConfig()
	return err == nil
}

// String names the cluster for people.
func (c *kubeCluster) String() string {
	if c.context != "" {
		return "the cluster of context " + c.context
	}
	return "the cluster"
}

// componentPods are the pods of a component of Weir ("": of all), by name.
func (c *kubeCluster) componentPods(ctx context.Context, component string) ([]core.Pod, error) {
	selector := labelPartOf + "=" + partOfWeir
	if component != "" {
		selector += "," + labelComponent + "=" + component
	}
	list, err := c.CoreV1().Pods(c.namespace).List(ctx, meta.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, fmt.Errorf("cannot list the pods of Weir in namespace %s: %w", c.namespace, err)
	}
	slices.SortFunc(list.Items, func(a, b core.Pod) int { return strings.Compare(a.Name, b.Name) })
	return list.Items, nil
}

// errNotInstalled says that a component has no pod.
type errNotInstalled struct{ component, namespace, cluster string }

func (e *errNotInstalled) Error() string {
	return fmt.Sprintf("there is no pod of weir-%s in namespace %s of %s; `weir check` says what is wrong, `weir install | kubectl apply -f -` installs it",
		e.component, e.namespace, e.cluster)
}

// readyPod is a pod of a component that is ready.
func (c *kubeCluster) readyPod(ctx context.Context, component string) (*core.Pod, error) {
	pods, err := c.componentPods(ctx, component)
	if err != nil {
		return nil, err
	}
	if len(pods) == 0 {
		return nil, &errNotInstalled{component, c.namespace, c.String()}
	}
	for i := range pods {
		if podReady(&pods[i]) && pods[i].DeletionTimestamp == nil {
			return &pods[i], nil
		}
	}
	return nil, fmt.Errorf("no pod of weir-%s in namespace %s is ready (%s); `weir check` says what is wrong", component, c.namespace, podStatus(&pods[0]))
}

// namedPort is the number of a pod's container port, or otherwise where it
// names none.
func namedPort(pod *core.Pod, name string, otherwise int) int {
	for _, containers := range [][]core.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range containers {
			for _, p := range containers[i].Ports {
				if p.Name == name {
					return int(p.ContainerPort)
				}
			}
		}
	}
	return otherwise
}

// podReady tells whether a pod's condition Ready holds.
func podReady(pod *core.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == core.PodReady {
			return c.Status == core.ConditionTrue
		}
	}
	return false
}

// podStatus is a pod's state as kubectl shows it: why a container waits or
// ended, else the phase.
func podStatus(pod *core.Pod) string {
	if pod.DeletionTimestamp != nil {
		return "Terminating"
	}
	statuses := slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses)
	for i := range statuses {
		s := &statuses[i]
		switch {
		case s.State.Waiting != nil && s.State.Waiting.Reason != "" && s.State.Waiting.Reason != "PodInitializing":
			return s.State.Waiting.Reason
		case s.State.Terminated != nil && s.State.Terminated.ExitCode != 0 && s.State.Terminated.Reason != "":
			return s.State.Terminated.Reason
		}
	}
	if pod.Status.Reason != "" {
		return pod.Status.Reason
	}
	return string(pod.Status.Phase)
}
