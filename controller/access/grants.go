package access

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/control"
)

// ServiceAccounts of Weir's own components, in its namespace.
const (
	AggregatorAccount = "weir-aggregator"
	ControllerAccount = "weir-controller"
	APIAccount        = "weir-api"
)

// componentGrant is what a component may do. Aggregators and the API keep and
// read what is stored, through JetStream, whose subjects name no workload;
// they are Weir's own and see everything. The controller only answers and
// announces.
func componentGrant(account string) (Grant, bool) {
	switch account {
	case AggregatorAccount, APIAccount:
		return Grant{Name: account, All: true}, true
	case ControllerAccount:
		return Grant{
			Name:    account,
			Publish: []string{"_INBOX.>", bus.EndpointsFilter},
			Subscribe: []string{
				bus.RPCSubject(control.IdentityService, control.CertifyMethod),
				bus.RPCSubject(control.DiscoveryService, control.ResolveMethod),
				bus.RPCSubject(control.InventoryService, control.WorkloadsMethod),
				bus.RPCSubject(control.InventoryService, control.OverviewMethod),
			},
		}, true
	}
	return Grant{}, false
}

// owners asks the API server.
type owners struct{ kubernetes kubernetes.Interface }

func (o owners) ReplicaSetOwner(ctx context.Context, namespace, name string) (*meta.OwnerReference, error) {
	rs, err := o.kubernetes.AppsV1().ReplicaSets(namespace).Get(ctx, name, meta.GetOptions{})
	if err != nil {
		return nil, gone(err)
	}
	return meta.GetControllerOf(rs), nil
}

func (o owners) JobOwner(ctx context.Context, namespace, name string) (*meta.OwnerReference, error) {
	job, err := o.kubernetes.BatchV1().Jobs(namespace).Get(ctx, name, meta.GetOptions{})
	if err != nil {
		return nil, gone(err)
	}
	return meta.GetControllerOf(job), nil
}

// gone forgives that an object is no longer there.
func gone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
