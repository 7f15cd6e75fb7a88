package access

import (
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
