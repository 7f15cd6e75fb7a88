package clustertest

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Metric is a counter, or a gauge of whole numbers, that a pod gives at /metrics of a
// port; name has the labels with it.
func (sp *Space) Metric(namespace, pod string, port int, name string) (uint64, error) {
	text, err := sp.Try("get", "--raw", fmt.Sprintf("/api/v1/namespaces/%s/pods/%s:%d/proxy/metrics", namespace, pod, port))
	if err != nil {
		return 0, err
	}
	for line := range strings.SplitSeq(text, "\n") {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseUint(rest, 10, 64)
		}
	}
	return 0, fmt.Errorf("pod %s/%s gives no %s:\n%s", namespace, pod, name, text)
}

// Memory is what a process takes, bytes: VmRSS, and of it RssAnon, which is not shared
// pages of its program.
type Memory struct{ Resident, Anonymous uint64 }

// Resident is the memory of a process with /metrics.
func (sp *Space) Resident(namespace, pod string, port int) (m Memory, err error) {
	if m.Resident, err = sp.Metric(namespace, pod, port, "process_resident_memory_bytes"); err == nil {
		m.Anonymous, err = sp.Metric(namespace, pod, port, "process_resident_memory_anon_bytes")
	}
	return m, err
}

// ControlPlane is the memory of each of Weir's components, by its pod's name. It errs
// where one of the four is missing.
func (sp *Space) ControlPlane() (map[string]Memory, error) {
	out, err := sp.Try("-n", "weir", "get", "pods", "-l", "app.kubernetes.io/part-of=weir", "-o", "json")
	if err != nil {
		return nil, err
	}
	var list struct {
		Items []struct {
			Metadata struct {
				Name, DeletionTimestamp string
				Labels                  map[string]string
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, err
	}
	taken, kinds := map[string]Memory{}, map[string]bool{}
	for _, pod := range list.Items {
		m := &pod.Metadata
		if m.DeletionTimestamp != "" {
			continue
		}
		port, component := 9990, m.Labels["app.kubernetes.io/component"]
		if component == "api" {
			port = 8086
		}
		if taken[m.Name], err = sp.Resident("weir", m.Name, port); err != nil {
			return nil, err
		}
		kinds[component] = true
	}
	for _, component := range []string{"bus", "controller", "aggregator", "api"} {
		if !kinds[component] {
			return nil, fmt.Errorf("there is no %s among the pods of Weir: %v", component, taken)
		}
	}
	return taken, nil
}
