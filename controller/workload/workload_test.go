package workload_test

import (
	"context"
	"errors"
	"testing"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirmesh/weir/controller/workload"
)

type owners struct{ err error }

func (o owners) ReplicaSetOwner(_ context.Context, _, name string) (*meta.OwnerReference, error) {
	switch name {
	case "web-5d8":
		return ref("Deployment", "web"), o.err
	case "rollout-1":
		return ref("Rollout", "canary"), o.err
	}
	return nil, o.err
}

func (o owners) JobOwner(_ context.Context, _, name string) (*meta.OwnerReference, error) {
	if name == "tick-1" {
		return ref("CronJob", "tick"), o.err
	}
	return nil, o.err
}

func ref(kind, name string) *meta.OwnerReference {
	yes := true
	return &meta.OwnerReference{Kind: kind, Name: name, Controller: &yes}
}

func TestOf(t *testing.T) {
	for _, tt := range []struct {
		owner *meta.OwnerReference
		want  string
	}{
		{nil, "pod/p"},
		{ref("ReplicaSet", "web-5d8"), "deploy/web"},
		{ref("ReplicaSet", "alone"), "rs/alone"},
		{ref("ReplicaSet", "rollout-1"), "rs/rollout-1"},
		{ref("StatefulSet", "db"), "sts/db"},
		{ref("DaemonSet", "log"), "ds/log"},
		{ref("Job", "once"), "job/once"},
		{ref("Job", "tick-1"), "cronjob/tick"},
		{ref("ReplicationController", "old"), "rc/old"},
		{ref("Workspace", "w"), "pod/p"},
		{&meta.OwnerReference{Kind: "Deployment", Name: "x"}, "pod/p"}, // owns, but does not control
	} {
		pod := &meta.ObjectMeta{Namespace: "shop", Name: "p"}
		if tt.owner != nil {
			pod.OwnerReferences = []meta.OwnerReference{*tt.owner}
		}
		w, err := workload.Of(t.Context(), owners{}, "local", pod)
		if got := w.Kind + "/" + w.Name; err != nil || got != tt.want || w.Namespace != "shop" || w.Cluster != "local" {
			t.Errorf("owner %v: %s (%v), want %s", tt.owner, got, err, tt.want)
		}
	}
	pod := &meta.ObjectMeta{Namespace: "shop", Name: "p", OwnerReferences: []meta.OwnerReference{*ref("ReplicaSet", "web-5d8")}}
	if _, err := workload.Of(t.Context(), owners{errors.New("away")}, "local", pod); err == nil {
		t.Error("an owner that cannot be asked for is guessed")
	}
}
