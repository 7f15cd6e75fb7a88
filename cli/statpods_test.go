package cli

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/weirmesh/weir/api"
	"github.com/weirmesh/weir/control"
)

// knowing is a controller that knows some pods of the sample application.
func knowing(_ context.Context, service, _ string, request []byte) ([]byte, error) {
	if service != control.InventoryService {
		return nil, api.ErrNoController
	}
	var r control.InventoryRequest
	if err := control.Decode(request, &r); err != nil {
		return nil, err
	}
	reply := control.InventoryReply{Cluster: cluster}
	if r.Kind == control.KindPod {
		reply.Pods = []control.PodState{
			{Namespace: "emojivoto", Name: "web-1", Kind: "deploy", Workload: "web", Phase: "Running", Status: "Running", Ready: true, Meshed: true, ProxyReady: true, ProxyVersion: "v0.3.0"},
			{Namespace: "emojivoto", Name: "web-2", Kind: "deploy", Workload: "web", Phase: "Pending", Status: "ImagePullBackOff"},
		}
	} else {
		rows := []control.WorkloadState{
			{Namespace: "emojivoto", Kind: "deploy", Name: "web", PodCounts: control.PodCounts{Total: 2, Meshed: 1, Ready: 1, ProxyReady: 1, Running: 1, Pending: 1}},
			{Namespace: "emojivoto", Kind: "deploy", Name: "legacy", PodCounts: control.PodCounts{Total: 3, Ready: 3, Running: 3}},
			{Namespace: "emojivoto", Kind: "deploy", Name: "scaled-to-0"},
			{Namespace: "emojivoto", Kind: "job", Name: "over", PodCounts: control.PodCounts{Finished: 1}},
		}
		for _, row := range rows {
			if r.Name == "" || r.Name == row.Name {
				reply.Rows = append(reply.Rows, row)
			}
		}
	}
	return json.Marshal(&reply)
}

func TestStatInKubernetes(t *testing.T) {
	addr := startWith(t, api.Options{Backend: emojivoto(), Controller: knowing})
	f := func(name string, args ...string) {
		t.Helper()
		args = append(append([]string{"stat", "--api-addr", addr}, args...), lastMinute...)
		out, errOut, err := weir(t, args...)
		golden(t, name, out, errOut, err)
	}
	f("stat_kubernetes", "deploy", "-n", "emojivoto")
	f("stat_kubernetes_json", "deploy/legacy", "-n", "emojivoto", "-o", "json")
	f("stat_kubernetes_pods", "pod", "-n", "emojivoto")
}
