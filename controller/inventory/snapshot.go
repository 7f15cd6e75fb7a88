package inventory

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/controller/workload"
)

// snapshot is a summary of the caches. It does not change.
type snapshot struct {
	made    time.Time
	cluster string
	// All are in order of namespace, kind and name.
	workloads  []control.WorkloadState
	namespaces []control.WorkloadState
	pods       []control.PodState
	components []control.Component
}

func compareWorkloads(a, b *control.WorkloadState) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Kind, b.Kind), strings.Compare(a.Name, b.Name))
}

// summarize reads the caches.
func (v *Inventory) summarize(ctx context.Context) (*snapshot, error) {
	pods, err := v.o.Pods.List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("cannot list pods: %w", err)
	}
	type key struct{ namespace, kind, name string }
	workloads := map[key]*control.WorkloadState{}
	sum := func(k key, s *control.PodState) {
		w := workloads[k]
		if w == nil {
			w = &control.WorkloadState{Namespace: k.namespace, Kind: k.kind, Name: k.name}
			workloads[k] = w
		}
		count(&w.PodCounts, s)
		w.ProxyVersions = countVersion(w.ProxyVersions, s)
	}
	out := &snapshot{made: v.now(), cluster: v.o.Cluster, pods: make([]control.PodState, 0, len(pods))}
	components := map[key]*control.Component{}
	for _, pod := range pods {
		s := stateOf(pod)
		w, err := workload.Of(ctx, v.o.Owners, v.o.Cluster, &pod.ObjectMeta)
		if err != nil {
			return nil, err
		}
		s.Kind, s.Workload = w.Kind, w.Name
		out.pods = append(out.pods, s)
		k := key{w.Namespace, w.Kind, w.Name}
		sum(k, &s)
		sum(key{w.Namespace, control.KindNamespace, w.Namespace}, &s)
		if pod.Namespace == v.o.Namespace && pod.Labels[labelPartOf] == partOfWeir && !finished(&s) {
			c := components[k]
			if c == nil {
				c = &control.Component{Name: componentName(pod.Labels[labelComponent], w.Name), Kind: w.Kind, Workload: w.Name}
				components[k] = c
			}
			c.Pods = append(c.Pods, s)
			c.Version = addVersion(c.Version, versionOf(pod))
		}
	}
	if v.o.Scaled != nil {
		for _, w := range v.o.Scaled() {
			if k := (key{w.Namespace, w.Kind, w.Name}); workloads[k] == nil {
				workloads[k] = &control.WorkloadState{Namespace: k.namespace, Kind: k.kind, Name: k.name}
			}
		}
	}
	for _, w := range workloads {
		if w.Kind == control.KindNamespace {
			out.namespaces = append(out.namespaces, *w)
		} else {
			out.workloads = append(out.workloads, *w)
		}
	}
	for _, c := range components {
		slices.SortFunc(c.Pods, func(a, b control.PodState) int { return strings.Compare(a.Name, b.Name) })
		out.components = append(out.components, *c)
	}
	out.sort()
	return out, nil
}

func (s *snapshot) sort() {
	byName := func(a, b control.WorkloadState) int { return compareWorkloads(&a, &b) }
	slices.SortFunc(s.workloads, byName)
	slices.SortFunc(s.namespaces, byName)
	slices.SortFunc(s.pods, func(a, b control.PodState) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	slices.SortFunc(s.components, func(a, b control.Component) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Workload, b.Workload))
	})
}

func componentName(label, workloadName string) string {
	if label != "" {
		return label
	}
	return strings.TrimPrefix(workloadName, "weir-")
}

// versionOf is the version of one of Weir's own pods.
func versionOf(pod *core.Pod) string {
	if version := pod.Labels[labelVersion]; version != "" || len(pod.Spec.Containers) == 0 {
		return version
	}
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Name != proxyContainer {
			return imageTag(pod.Spec.Containers[i].Image)
		}
	}
	return ""
}

func addVersion(all, version string) string {
	switch {
	case version == "" || slices.Contains(strings.Split(all, ","), version):
		return all
	case all == "":
		return version
	}
	return all + "," + version
}

// page answers a request with as many rows as fit.
func (s *snapshot) page(r *control.InventoryRequest) (*control.InventoryReply, error) {
	reply := &control.InventoryReply{Cluster: s.cluster}
	var err error
	if r.Kind == control.KindPod {
		reply.Pods, reply.Next, err = fill(s.pods, r.After, func(p *control.PodState) (key string, matches bool) {
			return p.Namespace + "/" + p.Name, matchesName(r.Namespace, p.Namespace) && matchesName(r.Name, p.Name)
		})
		return reply, err
	}
	all := s.workloads
	if r.Kind == control.KindNamespace {
		all = s.namespaces
	}
	reply.Rows, reply.Next, err = fill(all, r.After, func(w *control.WorkloadState) (key string, matches bool) {
		return w.Namespace + "/" + w.Kind + "/" + w.Name,
			matchesName(r.Namespace, w.Namespace) && matchesName(r.Kind, w.Kind) && matchesName(r.Name, w.Name)
	})
	return reply, err
}

func matchesName(asked, name string) bool { return asked == "" || asked == name }

// fill takes the rows that match and come after a key, until they are a page;
// next is then the last one's key. Keys are in order: '/' sorts before all that
// a name may hold but '-' and '.', so they are compared by their parts.
func fill[T any](all []T, after string, of func(*T) (key string, matches bool)) (out []T, next string, err error) {
	from := 0
	if after != "" {
		parts := strings.Split(after, "/")
		from, _ = slices.BinarySearchFunc(all, parts, func(row T, parts []string) int {
			key, _ := of(&row)
			if c := slices.Compare(strings.Split(key, "/"), parts); c != 0 {
				return c
			}
			return -1 // what comes after it
		})
	}
	size := 0
	for i := from; i < len(all); i++ {
		key, matches := of(&all[i])
		if !matches {
			continue
		}
		data, err := json.Marshal(&all[i])
		if err != nil {
			return nil, "", errors.Join(errors.New("cannot write a row"), err)
		}
		if size += len(data) + 1; size > control.InventoryPage {
			return out, next, nil
		}
		out, next = append(out, all[i]), key
	}
	return out, "", nil
}

// overview sums up the cluster.
func (s *snapshot) overview() *control.InventoryOverview {
	o := &control.InventoryOverview{Cluster: s.cluster, Components: s.components, NamespacesTotal: len(s.namespaces)}
	kinds := map[string]*control.KindCount{}
	for i := range s.workloads {
		w := &s.workloads[i]
		if w.Total == 0 {
			continue
		}
		k := kinds[w.Kind]
		if k == nil {
			k = &control.KindCount{Kind: w.Kind}
			kinds[w.Kind] = k
		}
		switch w.Meshed {
		case 0:
			k.Unmeshed++
		case w.Total:
			k.Meshed++
		default:
			k.Partly++
		}
	}
	for _, k := range kinds {
		o.Kinds = append(o.Kinds, *k)
	}
	slices.SortFunc(o.Kinds, func(a, b control.KindCount) int { return strings.Compare(a.Kind, b.Kind) })
	for i := range s.pods {
		count(&o.Pods, &s.pods[i])
		o.ProxyVersions = countVersion(o.ProxyVersions, &s.pods[i])
	}
	o.Namespaces = s.namespaces
	if len(o.Namespaces) > control.MaxNamespaces {
		o.Namespaces = slices.Clone(o.Namespaces)
		slices.SortFunc(o.Namespaces, func(a, b control.WorkloadState) int {
			return cmp.Or(cmp.Compare(b.Total, a.Total), strings.Compare(a.Namespace, b.Namespace))
		})
		o.Namespaces = o.Namespaces[:control.MaxNamespaces]
		slices.SortFunc(o.Namespaces, func(a, b control.WorkloadState) int { return compareWorkloads(&a, &b) })
	}
	o.Components = boundComponents(o.Components)
	return o
}

// maxComponentPods is how many pods of a component an overview names.
const maxComponentPods = 50

// boundComponents keeps an overview small whatever carries Weir's labels.
func boundComponents(all []control.Component) []control.Component {
	all = slices.Clone(all[:min(len(all), 50)])
	for i := range all {
		all[i].Pods = all[i].Pods[:min(len(all[i].Pods), maxComponentPods)]
	}
	return all
}
