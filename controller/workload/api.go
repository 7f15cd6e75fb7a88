package workload

import (
	"context"

	"k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// API is Owners that asks the API server each time: for who asks seldom, or of what
// was made just now. It is safe for concurrent use.
type API struct {
	// Kubernetes is asked; it is required.
	Kubernetes kubernetes.Interface
}

// ReplicaSetOwner returns the controlling owner of a ReplicaSet; nil where it has
// none, or is gone.
func (a API) ReplicaSetOwner(ctx context.Context, namespace, name string) (*meta.OwnerReference, error) {
	rs, err := a.Kubernetes.AppsV1().ReplicaSets(namespace).Get(ctx, name, meta.GetOptions{})
	if err != nil {
		return nil, gone(err)
	}
	return meta.GetControllerOf(rs), nil
}

// JobOwner returns the controlling owner of a Job; nil where it has none, or is gone.
func (a API) JobOwner(ctx context.Context, namespace, name string) (*meta.OwnerReference, error) {
	job, err := a.Kubernetes.BatchV1().Jobs(namespace).Get(ctx, name, meta.GetOptions{})
	if err != nil {
		return nil, gone(err)
	}
	return meta.GetControllerOf(job), nil
}

// gone forgives that an object is no longer there.
func gone(err error) error {
	if errors.IsNotFound(err) {
		return nil
	}
	return err
}
