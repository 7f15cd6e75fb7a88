package inventory

import (
	"strings"

	core "k8s.io/api/core/v1"

	"github.com/weirmesh/weir/control"
)

// What tells an injected pod.
const (
	proxyContainer    = "weir-proxy"
	annotationVersion = "weir.dev/proxy-version"
)

// Labels of Weir's own pods.
const (
	labelPartOf    = "app.kubernetes.io/part-of"
	labelComponent = "app.kubernetes.io/component"
	labelVersion   = "app.kubernetes.io/version"
	partOfWeir     = "weir"
)

// proxyOf finds a pod's proxy: a container, or an init container where it is a
// native sidecar.
func proxyOf(pod *core.Pod) *core.Container {
	for _, containers := range [][]core.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			if containers[i].Name == proxyContainer {
				return &containers[i]
			}
		}
	}
	return nil
}

// imageTag is an image's tag, or "".
func imageTag(image string) string {
	image, _, _ = strings.Cut(image, "@")
	at := strings.LastIndexByte(image, ':')
	if at < 0 || strings.Contains(image[at:], "/") {
		return ""
	}
	return image[at+1:]
}

// stateOf reads a pod; its workload is set by the caller.
func stateOf(pod *core.Pod) control.PodState {
	s := control.PodState{
		Namespace: pod.Namespace, Name: pod.Name, Node: pod.Spec.NodeName,
		Phase: string(pod.Status.Phase), Status: status(pod),
	}
	if pod.Status.StartTime != nil {
		s.Started = pod.Status.StartTime.UTC()
	}
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == core.PodReady {
			s.Ready = c.Status == core.ConditionTrue
		}
	}
	proxy := proxyOf(pod)
	if proxy != nil {
		s.Meshed = true
		if s.ProxyVersion = pod.Annotations[annotationVersion]; s.ProxyVersion == "" {
			s.ProxyVersion = imageTag(proxy.Image)
		}
	}
	for _, statuses := range [][]core.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range statuses {
			s.Restarts += int(statuses[i].RestartCount)
			if proxy != nil && statuses[i].Name == proxyContainer {
				s.ProxyReady = statuses[i].Ready
			}
		}
	}
	return s
}

// status is what kubectl shows: why a container waits or failed, else the phase.
func status(pod *core.Pod) string {
	if pod.DeletionTimestamp != nil {
		return "Terminating"
	}
	for _, statuses := range [][]core.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range statuses {
			state := &statuses[i].State
			if w := state.Waiting; w != nil && w.Reason != "" && w.Reason != "PodInitializing" && w.Reason != "ContainerCreating" {
				return w.Reason
			}
			if t := state.Terminated; t != nil && t.ExitCode != 0 && t.Reason != "" {
				return t.Reason
			}
		}
	}
	switch {
	case pod.Status.Reason != "":
		return pod.Status.Reason
	case pod.Status.Phase == core.PodSucceeded:
		return "Completed"
	}
	return string(pod.Status.Phase)
}

// count adds a pod to c.
func count(c *control.PodCounts, s *control.PodState) {
	switch core.PodPhase(s.Phase) {
	case core.PodFailed:
		c.Failed++
		c.Finished++
		return
	case core.PodSucceeded:
		c.Finished++
		return
	case core.PodRunning:
		c.Running++
	case core.PodPending:
		c.Pending++
	default:
		c.Unknown++
	}
	c.Total++
	if s.Ready {
		c.Ready++
	}
	if s.Meshed {
		c.Meshed++
	}
	if s.Meshed && s.ProxyReady {
		c.ProxyReady++
	}
}

// maxVersions bounds the versions that are told apart.
const maxVersions = 16

// countVersion counts a meshed pod that has not ended.
func countVersion(versions map[string]int, s *control.PodState) map[string]int {
	if !s.Meshed || finished(s) {
		return versions
	}
	if versions == nil {
		versions = map[string]int{}
	}
	version := s.ProxyVersion
	if version == "" {
		version = "unknown"
	}
	if _, known := versions[version]; !known && len(versions) >= maxVersions {
		version = "(other)"
	}
	versions[version]++
	return versions
}

func finished(s *control.PodState) bool {
	return s.Phase == string(core.PodSucceeded) || s.Phase == string(core.PodFailed)
}
