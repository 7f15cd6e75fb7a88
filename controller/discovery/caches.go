package discovery

import (
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/weirmesh/weir/controller/workload"
)

// Pods is the cache of pods, for those that need no other one: of each there is
// what trim keeps. It is safe for concurrent use, and empty before Run.
func (d *Discovery) Pods() corelisters.PodLister { return corelisters.NewPodLister(d.stores.pods) }

// Owners looks up the owners of pods in the caches. It is safe for concurrent
// use.
func (d *Discovery) Owners() workload.Owners { return &d.stores }
