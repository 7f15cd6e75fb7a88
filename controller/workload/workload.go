// Package workload names the workload that a pod belongs to: the controller at
// the top of its owners, as kubectl's short kind and name.
package workload

import (
	"context"
	"fmt"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirmesh/weir/event"
)

// Owners looks up who owns the owners of pods. An object that is gone has no
// owner: the error is for what cannot be known now.
type Owners interface {
	// ReplicaSetOwner and JobOwner return the controlling owner of a ReplicaSet
	// or Job; nil where it has none.
	ReplicaSetOwner(ctx context.Context, namespace, name string) (*meta.OwnerReference, error)
	JobOwner(ctx context.Context, namespace, name string) (*meta.OwnerReference, error)
}

// Kinds of event.Workload, by Kubernetes kind.
var shortKinds = map[string]string{
	"Deployment": "deploy", "StatefulSet": "sts", "DaemonSet": "ds", "Job": "job", "CronJob": "cronjob",
	"ReplicationController": "rc", "ReplicaSet": "rs", "Pod": "pod",
}

// ShortKind is kubectl's short form of a Kubernetes kind; "" where Weir knows
// none, as for the kinds of operators.
func ShortKind(kind string) string { return shortKinds[kind] }

// Of names the workload of a pod in a cluster. A pod without a controller is its
// own workload; one whose controller Weir does not know, too.
func Of(ctx context.Context, owners Owners, cluster string, pod *meta.ObjectMeta) (event.Workload, error) {
	w := event.Workload{Cluster: cluster, Namespace: pod.Namespace, Kind: "pod", Name: pod.Name}
	owner := meta.GetControllerOfNoCopy(pod)
	for range 2 { // no chain of Kubernetes' own is longer
		if owner == nil || ShortKind(owner.Kind) == "" {
			return w, nil
		}
		w.Kind, w.Name = ShortKind(owner.Kind), owner.Name
		var err error
		switch owner.Kind {
		case "ReplicaSet":
			owner, err = owners.ReplicaSetOwner(ctx, pod.Namespace, owner.Name)
		case "Job":
			owner, err = owners.JobOwner(ctx, pod.Namespace, owner.Name)
		default:
			return w, nil
		}
		if err != nil {
			return event.Workload{}, fmt.Errorf("cannot tell the workload of pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
	}
	return w, nil
}
