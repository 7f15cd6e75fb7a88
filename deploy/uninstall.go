package deploy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"

	"github.com/weirmesh/weir/deploy/chart"
)

// kinds are those of what belongs to an installation, those that act on others
// first and the namespace last.
var kinds = []struct {
	resource   schema.GroupVersionResource
	kind       string
	namespaced bool
}{
	{schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "mutatingwebhookconfigurations"}, "MutatingWebhookConfiguration", false},
	{schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "statefulsets"}, "StatefulSet", true},
	{schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}, "Deployment", true},
	{schema.GroupVersionResource{Version: "v1", Resource: "services"}, "Service", true},
	{schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumeclaims"}, "PersistentVolumeClaim", true},
	{schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, "ConfigMap", true},
	{schema.GroupVersionResource{Version: "v1", Resource: "secrets"}, "Secret", true},
	{schema.GroupVersionResource{Group: "policy", Version: "v1", Resource: "poddisruptionbudgets"}, "PodDisruptionBudget", true},
	{schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "networkpolicies"}, "NetworkPolicy", true},
	{schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "rolebindings"}, "RoleBinding", true},
	{schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "roles"}, "Role", true},
	{schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterrolebindings"}, "ClusterRoleBinding", false},
	{schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"}, "ClusterRole", false},
	{schema.GroupVersionResource{Version: "v1", Resource: "serviceaccounts"}, "ServiceAccount", true},
	{schema.GroupVersionResource{Group: "scheduling.k8s.io", Version: "v1", Resource: "priorityclasses"}, "PriorityClass", false},
	{schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}, "Namespace", false},
}

// partOf is the label of all that the chart and the controller make.
const partOf = "app.kubernetes.io/part-of=weir"

// Uninstall lists all that a cluster has of the installation in a namespace, in
// the order in which it should be deleted. Each object is only its name: what
// kubectl delete needs. meshed is how many pods have a proxy still.
func Uninstall(ctx context.Context, client metadata.Interface, namespace string) (objects []chart.Object, meshed int, err error) {
	for _, k := range kinds {
		all := client.Resource(k.resource)
		var from metadata.ResourceInterface = all
		if k.namespaced {
			from = all.Namespace(namespace)
		}
		list, err := from.List(ctx, meta.ListOptions{LabelSelector: partOf})
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, 0, fmt.Errorf("cannot list the %s of Weir: %w", k.resource.Resource, err)
		}
		var names []string
		if err == nil {
			for i := range list.Items {
				names = append(names, list.Items[i].Name)
			}
		}
		slices.Sort(names)
		for _, name := range names {
			if k.kind == "Namespace" && name != namespace {
				continue
			}
			objects = append(objects, object(k.resource.GroupVersion().String(), k.kind, k.namespaced, namespace, name))
		}
	}
	pods, err := client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "pods"}).List(ctx, meta.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, 0, fmt.Errorf("cannot tell which pods have a proxy: %w", err)
	}
	for i := range pods.Items {
		if pods.Items[i].Annotations["weir.dev/proxy-version"] != "" {
			meshed++
		}
	}
	return objects, meshed, nil
}

func object(apiVersion, kind string, namespaced bool, namespace, name string) chart.Object {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: %s\nkind: %s\nmetadata:\n  name: %q\n", apiVersion, kind, name)
	o := chart.Object{APIVersion: apiVersion, Kind: kind, Name: name}
	if namespaced {
		o.Namespace = namespace
		fmt.Fprintf(&b, "  namespace: %q\n", namespace)
	}
	o.YAML = b.String()
	return o
}
