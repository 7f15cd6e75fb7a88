package rollup

import (
	"encoding/binary"
	"strings"

	"github.com/weirmesh/weir/event"
)

// Dimension is what a cell is grouped by, besides the workload. Dimensions are
// marginals: none is crossed with another, but for ByPeerRoute.
type Dimension uint8

// Dimensions. The numbers are part of the wire format.
const (
	// Total has one cell a workload and direction.
	Total Dimension = 1
	// ByPod has one a pod and direction.
	ByPod Dimension = 2
	// ByPeer has one a peer and direction: the edges.
	ByPeer Dimension = 3
	// ByRoute has one a route and direction.
	ByRoute Dimension = 4
	// ByPeerRoute has one a peer's workload and route, outbound only.
	ByPeerRoute Dimension = 5
	// Ledger has one a pod, without direction: batches, events, shed and lost.
	Ledger Dimension = 6
)

// OtherName stands for all that a cap left without a row of its own.
const OtherName = "(other)"

// External is the kind of a peer or workload that is none that we know.
const External = "ext"

// Bounds of the strings of a key, in bytes: what is longer is cut, and ends in
// an ellipsis.
const (
	maxPath = 256
	maxName = 253
)

// Key names a cell. It is comparable, and a map key. Fields that its dimension
// does not group by are zero.
type Key struct {
	Dimension Dimension
	Direction event.Direction
	Workload  event.Workload
	Pod       string
	Peer      Peer
	Route     Route
}

// Peer is the other side of an edge.
type Peer struct {
	// Workload is of kind External and named by its address where it is not
	// known: the ip of a client, ip:port of a server.
	Workload event.Workload
	Identity string
	Security event.Security
	Reason   string
	// Meshed peers report the same exchanges themselves.
	Meshed bool
}

// Route is what was asked for: Path is a template, as package route makes them,
// or a gRPC method as it is.
type Route struct {
	Protocol                event.Protocol
	Method, Authority, Path string
}

// Other is the key that takes what a cap leaves without a cell of its own; it
// is k itself where no cap applies.
func (k Key) Other() Key {
	o := Key{Dimension: k.Dimension, Direction: k.Direction, Workload: k.Workload}
	switch k.Dimension {
	case ByPod, Ledger:
		o.Pod = OtherName
	case ByPeer:
		// Whether the peers are meshed decides whose side counts.
		o.Peer = Peer{Workload: event.Workload{Kind: External, Name: OtherName}, Meshed: k.Peer.Meshed}
	case ByRoute:
		o.Route.Path = OtherName
	case ByPeerRoute:
		o.Peer.Workload = event.Workload{Kind: External, Name: OtherName}
		o.Route.Path = OtherName
	}
	return o
}

// Detail tells that k is of a peer or a route, of which there are many; what
// workloads and pods had in all is not.
func (k Key) Detail() bool {
	return k.Dimension == ByPeer || k.Dimension == ByRoute || k.Dimension == ByPeerRoute
}

// IsOther tells whether k is what Other returns for others.
func (k *Key) IsOther() bool { return k.Dimension != Total && *k == k.Other() }

// appendID appends a form of the key that equals another's only if the keys are
// equal. As a map key it is hashed in one go, where a Key has 14 strings.
func (k *Key) appendID(dst []byte) []byte {
	meshed := byte(0)
	if k.Peer.Meshed {
		meshed = 1
	}
	dst = append(dst, byte(k.Dimension), byte(k.Direction), byte(k.Peer.Security), meshed, byte(k.Route.Protocol))
	for _, s := range k.strings() {
		dst = binary.AppendUvarint(dst, uint64(len(*s)))
		dst = append(dst, *s...)
	}
	return dst
}

// adopt lets the strings of a key, which may point into a batch, point into its
// id instead.
func (k *Key) adopt(id string) {
	at := 5
	for _, s := range k.strings() {
		n := len(*s)
		for at++; id[at-1] >= 0x80; at++ {
			// The length's next byte.
		}
		*s = id[at : at+n]
		at += n
	}
}

// strings lists all strings of a key, in the order of the wire format.
func (k *Key) strings() [14]*string {
	return [14]*string{
		&k.Workload.Cluster, &k.Workload.Namespace, &k.Workload.Kind, &k.Workload.Name,
		&k.Pod,
		&k.Peer.Workload.Cluster, &k.Peer.Workload.Namespace, &k.Peer.Workload.Kind, &k.Peer.Workload.Name,
		&k.Peer.Identity, &k.Peer.Reason,
		&k.Route.Method, &k.Route.Authority, &k.Route.Path,
	}
}

// cut bounds a string; cutting two alike makes them one row, and their sums
// stay exact.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit-3], "") + "…"
}

// peerOf is the peer of an event.
func peerOf(e *event.Event) Peer {
	p := Peer{
		Workload: event.Workload{
			Cluster:   cut(e.Peer.Workload.Cluster, maxName),
			Namespace: cut(e.Peer.Workload.Namespace, maxName),
			Kind:      cut(e.Peer.Workload.Kind, maxName),
			Name:      cut(e.Peer.Workload.Name, maxName),
		},
		Identity: cut(e.Peer.Identity, maxPath),
		Security: e.Security,
		Reason:   cut(e.SecurityReason, maxName),
		Meshed:   e.Peer.Meshed,
	}
	if p.Workload.IsZero() {
		p.Workload.Kind = External
		switch {
		case !e.Peer.Addr.IsValid():
			p.Workload.Name = "unknown"
		case e.Direction == event.Outbound:
			p.Workload.Name = e.Peer.Addr.String()
		default:
			// A client's port is new with each connection.
			p.Workload.Name = e.Peer.Addr.Addr().String()
		}
	}
	return p
}
