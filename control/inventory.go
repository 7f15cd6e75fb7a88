package control

import (
	"fmt"
	"time"
)

// Service and methods by which the controller tells what Kubernetes knows of
// workloads and of Weir's own components. Any replica of it answers.
const (
	InventoryService = "inventory"
	// WorkloadsMethod takes an InventoryRequest and gives an InventoryReply.
	WorkloadsMethod = "workloads"
	// OverviewMethod takes nothing and gives an InventoryOverview.
	OverviewMethod = "overview"
)

// KindPod asks for pods instead of workloads; KindNamespace for their sums by
// namespace.
const (
	KindPod       = "pod"
	KindNamespace = "ns"
)

// InventoryPage is about how many bytes of rows one InventoryReply holds: far
// less than the bus carries.
const InventoryPage = 512 << 10

// InventoryRequest asks for workloads, pods or namespaces; an empty field
// matches any.
type InventoryRequest struct {
	Namespace string `json:"namespace,omitempty"`
	// Kind is kubectl's short form; "" stands for every kind of workload.
	Kind string `json:"kind,omitempty"`
	Name string `json:"name,omitempty"`
	// After is the last reply's Next; "" begins.
	After string `json:"after,omitempty"`
}

// Check bounds the fields.
func (r *InventoryRequest) Check() error {
	if len(r.Namespace) > 63 || len(r.Kind) > 63 || len(r.Name) > 253 || len(r.After) > 1024 {
		return fmt.Errorf("a request with a name that is too long")
	}
	return nil
}

// InventoryReply is one page of what was asked for, in order of namespace, kind
// and name.
type InventoryReply struct {
	// Cluster is the name under which the cluster's proxies report.
	Cluster string `json:"cluster"`
	// Rows are workloads or namespaces, Pods pods: what was asked for.
	Rows []WorkloadState `json:"rows,omitempty"`
	Pods []PodState      `json:"pods,omitempty"`
	// Next is where the next page begins; "" after the last.
	Next  string `json:"next,omitempty"`
	Error *Error `json:"error,omitempty"`
}

// Check bounds the fields.
func (r *InventoryReply) Check() error {
	const most = 100_000
	if len(r.Rows) > most || len(r.Pods) > most || len(r.Next) > 1024 {
		return fmt.Errorf("a page of %d rows and %d pods: at most %d", len(r.Rows), len(r.Pods), most)
	}
	return nil
}

// WorkloadState is what Kubernetes knows of the pods of a workload, or of a
// namespace (KindNamespace; its name is in Namespace).
type WorkloadState struct {
	Namespace string `json:"namespace"`
	Kind      string `json:"kind"`
	Name      string `json:"name"`
	PodCounts
	// ProxyVersions counts the meshed pods by the version of their proxy; those
	// beyond sixteen versions are under "(other)".
	ProxyVersions map[string]int `json:"proxy_versions,omitempty"`
}

// PodCounts are numbers of pods. Pods that have come to their end are only in
// Finished.
type PodCounts struct {
	// Total are those that exist and have not ended. Of them Meshed have a
	// proxy, and Ready are ready.
	Total  int `json:"total"`
	Meshed int `json:"meshed"`
	Ready  int `json:"ready"`
	// ProxyReady are those of Meshed whose proxy is ready.
	ProxyReady int `json:"proxy_ready"`
	// Pending, Running and Unknown are Total by phase.
	Pending int `json:"pending,omitempty"`
	Running int `json:"running,omitempty"`
	Unknown int `json:"unknown,omitempty"`
	// Finished have the phase Succeeded or Failed; Failed is of them.
	Finished int `json:"finished,omitempty"`
	Failed   int `json:"failed,omitempty"`
}

// PodState is what Kubernetes knows of a pod.
type PodState struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Kind and Workload name what the pod belongs to.
	Kind     string `json:"kind"`
	Workload string `json:"workload"`
	Node     string `json:"node,omitempty"`
	// Phase is Kubernetes' own; Status says as kubectl does what goes on:
	// "Running", "CrashLoopBackOff", "Terminating".
	Phase  string `json:"phase"`
	Status string `json:"status"`
	Ready  bool   `json:"ready,omitempty"`
	Meshed bool   `json:"meshed,omitempty"`
	// ProxyReady and ProxyVersion are about the proxy of a meshed pod.
	ProxyReady   bool   `json:"proxy_ready,omitempty"`
	ProxyVersion string `json:"proxy_version,omitempty"`
	// Restarts of all containers.
	Restarts int `json:"restarts,omitempty"`
	// Started is when the pod began to run.
	Started time.Time `json:"started,omitzero"`
}

// InventoryOverview is the whole cluster in one message.
type InventoryOverview struct {
	Cluster string `json:"cluster"`
	// Components are Weir's own.
	Components []Component `json:"components,omitempty"`
	// Kinds are sums over workloads by kind, in order of kind; Namespaces of
	// pods by namespace, those of most pods first where there are more than
	// MaxNamespaces, then in order of name.
	Kinds      []KindCount     `json:"kinds,omitempty"`
	Namespaces []WorkloadState `json:"namespaces,omitempty"`
	// NamespacesTotal tells how many namespaces have pods.
	NamespacesTotal int `json:"namespaces_total"`
	// Pods are all of the cluster.
	Pods          PodCounts      `json:"pods"`
	ProxyVersions map[string]int `json:"proxy_versions,omitempty"`
	Error         *Error         `json:"error,omitempty"`
}

// MaxNamespaces is the most namespaces of one InventoryOverview.
const MaxNamespaces = 500

// Check bounds the fields.
func (o *InventoryOverview) Check() error {
	if len(o.Namespaces) > MaxNamespaces || len(o.Components) > 1000 || len(o.Kinds) > 100 {
		return fmt.Errorf("an overview of %d namespaces, %d components and %d kinds", len(o.Namespaces), len(o.Components), len(o.Kinds))
	}
	return nil
}

// Component is a part of Weir's control plane.
type Component struct {
	// Name is the component's, as "aggregator"; Kind and Workload what runs it.
	Name     string `json:"name"`
	Kind     string `json:"kind"`
	Workload string `json:"workload"`
	// Version is that of its pods; several are separated by commas.
	Version string     `json:"version,omitempty"`
	Pods    []PodState `json:"pods,omitempty"`
}

// KindCount sums up the workloads of a kind: each is in one of Meshed (every pod
// has a proxy), Partly and Unmeshed. Workloads without a pod that has not ended
// are not counted.
type KindCount struct {
	Kind     string `json:"kind"`
	Meshed   int    `json:"meshed"`
	Partly   int    `json:"partly"`
	Unmeshed int    `json:"unmeshed"`
}
