package discovery

import (
	"maps"
	"slices"

	apps "k8s.io/api/apps/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/weirmesh/weir/controller/workload"
	"github.com/weirmesh/weir/event"
)

// Pods is the cache of pods, for those that need no other one: of each there is
// what trim keeps. It is safe for concurrent use, and empty before Run.
func (d *Discovery) Pods() corelisters.PodLister { return corelisters.NewPodLister(d.stores.pods) }

// Owners looks up the owners of pods in the caches. It is safe for concurrent
// use.
func (d *Discovery) Owners() workload.Owners { return &d.stores }

// Scaled lists the workloads that the caches know apart from their pods, which they
// may lack, being scaled to 0: Deployments, of which each has a ReplicaSet, and
// StatefulSets. It is safe for concurrent use.
func (d *Discovery) Scaled() []event.Workload {
	seen := map[event.Workload]bool{}
	for _, o := range d.stores.replicaSets.List() {
		if rs, ok := o.(*apps.ReplicaSet); ok && rs.DeletionTimestamp == nil {
			if owner := meta.GetControllerOfNoCopy(rs); owner != nil && owner.Kind == "Deployment" {
				seen[event.Workload{Namespace: rs.Namespace, Kind: workload.ShortKind(owner.Kind), Name: owner.Name}] = true
			}
		}
	}
	for _, o := range d.stores.statefulSets.List() {
		if s, ok := o.(*apps.StatefulSet); ok && s.DeletionTimestamp == nil {
			seen[event.Workload{Namespace: s.Namespace, Kind: workload.ShortKind("StatefulSet"), Name: s.Name}] = true
		}
	}
	return slices.Collect(maps.Keys(seen))
}
