package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	authorization "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"
)

// minKubernetes is the first version that runs native sidecars by default.
const minKubernetes = "1.29.0"

// annotationDefaultClass marks the StorageClass of claims that name none.
const annotationDefaultClass = "storageclass.kubernetes.io/is-default-class"

func (c *checkCommand) clusterChecks() []category {
	return []category{{"kubernetes-api", []check{{
		says: "can initialize the client", hint: "kubernetes-api", fatal: true,
		do: "set --kubeconfig or KUBECONFIG to the kubeconfig of the cluster, and --context to one of its contexts",
		run: func(context.Context) error {
			var err error
			c.k, err = c.kube()
			return err
		},
	}, {
		says: "can query the Kubernetes API", hint: "kubernetes-api", fatal: true,
		do: "see that `kubectl version` reaches the cluster with the same kubeconfig and context",
		run: func(context.Context) error {
			_, err := c.k.Discovery().ServerVersion()
			return err
		},
	}}}, {"kubernetes-version", []check{{
		says: "is running at least Kubernetes v1.29", hint: "kubernetes-version", fatal: c.pre,
		do:  "upgrade Kubernetes; or install with --set proxy.nativeSidecar=false, and Jobs with a proxy will not end by themselves",
		run: c.checkVersion,
	}}}}
}

func (c *checkCommand) checkVersion(context.Context) error {
	info, err := c.k.Discovery().ServerVersion()
	if err != nil {
		return err
	}
	have, err := version.ParseGeneric(info.GitVersion)
	if err != nil {
		return fmt.Errorf("cannot read the version %q: %w", info.GitVersion, err)
	}
	if have.LessThan(version.MustParseGeneric(minKubernetes)) {
		return fmt.Errorf("the cluster runs %s", info.GitVersion)
	}
	return nil
}

// preChecks are about a cluster without Weir.
func (c *checkCommand) preChecks() category {
	checks := []check{{
		says: fmt.Sprintf("the namespace %s does not hold Weir yet", c.cluster.namespace), hint: "already-installed",
		do:  "change an installation with `weir upgrade`, remove one with `weir uninstall`",
		run: c.checkAbsent,
	}, {
		says: "nodes run Linux and a kubelet of at least v1.29", hint: "nodes",
		do:  "upgrade these nodes, or keep injected pods off them",
		run: c.checkNodes,
	}, {
		says: "there is a default StorageClass", hint: "storage", warn: true,
		do:  "mark one as the default, name one with --set bus.storage.class=NAME, or keep no history over restarts with --set bus.storage.persistent=false",
		run: c.checkStorage,
	}}
	for _, r := range installed {
		checks = append(checks, check{
			says: "can create " + r.name, hint: "permissions",
			do:  "install as somebody who may: the cluster role cluster-admin can",
			run: func(ctx context.Context) error { return c.may(ctx, "create", r.group, r.resource, r.namespaced) },
		})
	}
	return category{"pre-install", checks}
}

// installed are what an installation creates.
var installed = [...]struct {
	name, group, resource string
	namespaced            bool
}{
	{"Namespaces", "", "namespaces", false},
	{"ClusterRoles", "rbac.authorization.k8s.io", "clusterroles", false},
	{"ClusterRoleBindings", "rbac.authorization.k8s.io", "clusterrolebindings", false},
	{"MutatingWebhookConfigurations", "admissionregistration.k8s.io", "mutatingwebhookconfigurations", false},
	{"PriorityClasses", "scheduling.k8s.io", "priorityclasses", false},
	{"Roles", "rbac.authorization.k8s.io", "roles", true},
	{"RoleBindings", "rbac.authorization.k8s.io", "rolebindings", true},
	{"ServiceAccounts", "", "serviceaccounts", true},
	{"ConfigMaps", "", "configmaps", true},
	{"Secrets", "", "secrets", true},
	{"Services", "", "services", true},
	{"Deployments", "apps", "deployments", true},
	{"StatefulSets", "apps", "statefulsets", true},
	{"PodDisruptionBudgets", "policy", "poddisruptionbudgets", true},
	{"NetworkPolicies", "networking.k8s.io", "networkpolicies", true},
}

// may tells whether the user may do something.
func (c *checkCommand) may(ctx context.Context, verb, group, resource string, namespaced bool) error {
	attributes := &authorization.ResourceAttributes{Verb: verb, Group: group, Resource: resource}
	if namespaced {
		attributes.Namespace = c.k.namespace
	}
	answer, err := c.k.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorization.SelfSubjectAccessReview{
		Spec: authorization.SelfSubjectAccessReviewSpec{ResourceAttributes: attributes},
	}, meta.CreateOptions{})
	if err != nil {
		return fmt.Errorf("cannot ask whether this user may %s %s: %w", verb, resource, err)
	}
	if answer.Status.Allowed {
		return nil
	}
	if answer.Status.Reason != "" {
		return fmt.Errorf("this user may not %s %s: %s", verb, resource, answer.Status.Reason)
	}
	return fmt.Errorf("this user may not %s %s", verb, resource)
}

func (c *checkCommand) checkAbsent(ctx context.Context) error {
	_, err := c.k.CoreV1().ConfigMaps(c.k.namespace).Get(ctx, configMapConfig, meta.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.New("there is an installation in it")
}

func (c *checkCommand) checkNodes(ctx context.Context) error {
	nodes, err := c.k.CoreV1().Nodes().List(ctx, meta.ListOptions{})
	if err != nil {
		return fmt.Errorf("cannot list the nodes: %w", err)
	}
	least := version.MustParseGeneric(minKubernetes)
	var wrong []string
	for i := range nodes.Items {
		info := &nodes.Items[i].Status.NodeInfo
		have, err := version.ParseGeneric(info.KubeletVersion)
		if info.OperatingSystem != "linux" || err != nil || have.LessThan(least) {
			wrong = append(wrong, fmt.Sprintf("%s (%s, kubelet %s)", nodes.Items[i].Name, info.OperatingSystem, info.KubeletVersion))
		}
	}
	if len(wrong) > 0 {
		return errors.New(some(wrong))
	}
	return nil
}

func (c *checkCommand) checkStorage(ctx context.Context) error {
	classes, err := c.k.StorageV1().StorageClasses().List(ctx, meta.ListOptions{})
	if err != nil {
		return fmt.Errorf("cannot list the StorageClasses: %w", err)
	}
	var names []string
	for i := range classes.Items {
		if classes.Items[i].Annotations[annotationDefaultClass] == "true" {
			return nil
		}
		names = append(names, classes.Items[i].Name)
	}
	if len(names) == 0 {
		return errors.New("there is no StorageClass at all: the bus's volume would wait for ever")
	}
	return fmt.Errorf("none of %s is the default", strings.Join(names, ", "))
}
