package aggregator

import (
	"errors"
	"strings"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/event"
)

// edgeID is what tells two edges apart.
type edgeID struct {
	client, server event.Workload
	// identity is the peer's, seen from the side that counts.
	identity string
	security event.Security
	reason   string
	// byServer: the client is not meshed, so the server's side counts.
	byServer bool
}

// edges lists who talked to whom, where either is selected. With a To it lists
// the resource's edges to it, with a From those from it.
func (q *question) edges() error {
	if q.Resource.Kind == query.KindPod {
		return errors.New("traffic between pods is summed up by workload: ask for their workloads, or tap them")
	}
	found := map[edgeID]*rollup.Cell{}
	// A side reports the other's identity, which it has verified, and the client's
	// side counts: of the server's it takes who the client was.
	witnesses := map[edgeID]struct{}{}
	err := q.scan(func(k rollup.Key) adder {
		if k.Dimension != rollup.ByPeer {
			return nil
		}
		client, server, counts := sides(&k)
		if !q.wantsEdge(client, server) {
			return nil
		}
		if !counts {
			if k.Peer.Identity != "" {
				witnesses[edgeID{client: client, server: server, identity: k.Peer.Identity, security: k.Peer.Security}] = struct{}{}
			}
			return nil
		}
		id := edgeID{client, server, k.Peer.Identity, k.Peer.Security, k.Peer.Reason, k.Direction == event.Inbound}
		if found[id] == nil {
			found[id] = &rollup.Cell{}
		}
		return in(found[id])
	})
	if err != nil {
		return err
	}
	for id, c := range found {
		e := query.Edge{
			Source:      selector(id.client),
			Destination: selector(id.server),
			DestID:      id.identity,
			Security:    id.security.String(),
			Reason:      id.reason,
			SeenBy:      "client",
			Stats:       statsOf(c),
		}
		if id.byServer {
			e.SourceID, e.DestID, e.SeenBy = id.identity, "", "server"
		}
		q.reply.Edges = append(q.reply.Edges, e)
	}
	for id := range witnesses {
		q.reply.Edges = append(q.reply.Edges, query.Edge{
			Source: selector(id.client), Destination: selector(id.server), SourceID: id.identity, Security: id.security.String(), SeenBy: query.Witness,
		})
	}
	return q.sorted()
}

func (q *question) wantsEdge(client, server event.Workload) bool {
	switch {
	case q.To != nil:
		return matches(&q.Resource, &client) && matches(q.To, &server)
	case q.From != nil:
		return matches(&q.Resource, &server) && matches(q.From, &client)
	default:
		return matches(&q.Resource, &client) || matches(&q.Resource, &server)
	}
}

// routeID is what tells two routes apart.
type routeID struct {
	resource  query.Selector
	direction event.Direction
	route     rollup.Route
}

// routes sums up each resource by route: what it was asked for, or, with a To,
// what it asked that peer for. A resource that only sends is answered with what
// it sent.
func (q *question) routes() error {
	if q.From != nil {
		return errors.New("routes are not kept by client: ask the client for its routes to this resource (resource: the client, to: this)")
	}
	if q.Resource.Kind == query.KindPod {
		return errors.New("routes are summed up by workload: ask for the pod's workload, or tap the pod")
	}
	found := map[routeID]*rollup.Cell{}
	got := map[query.Selector]bool{}
	err := q.scan(func(k rollup.Key) adder {
		if !matches(&q.Resource, &k.Workload) {
			return nil
		}
		if q.To == nil && k.Dimension != rollup.ByRoute ||
			q.To != nil && (k.Dimension != rollup.ByPeerRoute || !matches(q.To, &k.Peer.Workload)) {
			return nil
		}
		id := routeID{q.resource(k.Workload), k.Direction, q.folder.Canonical(&k)}
		if k.Direction == event.Inbound {
			got[id.resource] = true
		}
		if found[id] == nil {
			found[id] = &rollup.Cell{}
		}
		return in(found[id])
	})
	if err != nil {
		return err
	}
	for id, c := range found {
		if q.To == nil && id.direction == event.Outbound && got[id.resource] {
			continue
		}
		q.reply.Routes = append(q.reply.Routes, query.Route{
			Resource:  id.resource,
			Direction: id.direction.String(),
			Route:     routeName(&id.route),
			Authority: id.route.Authority,
			Protocol:  id.route.Protocol.String(),
			Stats:     statsOf(c),
		})
	}
	return q.sorted()
}

// routeName is a route as people write it: method and path, a gRPC method, or
// the protocol where there is neither.
func routeName(r *rollup.Route) string {
	switch {
	case r.Path == rollup.OtherName:
		return rollup.OtherName
	case r.Protocol == event.GRPC:
		return strings.TrimPrefix(r.Path, "/")
	case r.Method == "" && r.Path == "":
		return r.Protocol.String()
	default:
		return strings.TrimSpace(r.Method + " " + r.Path)
	}
}
