// Package control is what flows down to the proxies: the messages by which they
// ask the controller for a certificate and for the endpoints of an address, and
// those by which it tells them of changes. They travel as JSON over the bus
// (bus.RPCSubject, bus.EndpointsSubject); this package is data and its checks,
// and knows neither the bus nor Kubernetes.
//
// Whoever reads a message calls its Check, which bounds every field: the other
// side may be newer, older or hostile. Fields that a reader does not know are
// ignored; none changes its meaning.
package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
)

// Services and methods of the controller on the bus (bus.RPCSubject).
const (
	IdentityService  = "identity"
	CertifyMethod    = "certify"
	DiscoveryService = "discovery"
	ResolveMethod    = "resolve"
)

// Audience is what a ServiceAccount's token must be meant for to be taken by
// any part of Weir.
const Audience = "weir"

// ALPN is the protocol that the proxies of a meshed hop agree on in TLS. A
// ClientHello that offers it is meant for the proxy; any other belongs to the
// application and passes through.
const ALPN = "weir/1"

// Bounds of what a message may hold.
const (
	// MaxMessage is the most bytes of one message.
	MaxMessage = 1 << 20
	// MaxEndpoints is the most endpoints of one destination.
	MaxEndpoints = 10_000
	maxToken     = 16 << 10
	maxCSR       = 8 << 10
	maxPEM       = 64 << 10
)

// Error is how a request was refused. It is an error.
type Error struct {
	// Code is one of the Code constants; readers take one that they do not know
	// for CodeInternal.
	Code string `json:"code"`
	// Message says what was wrong and what to do.
	Message string `json:"message"`
}

// Codes of an Error.
const (
	// CodeInvalid: the request is wrong, and will be wrong again.
	CodeInvalid = "invalid"
	// CodeDenied: the caller is not who it claims to be, or may not have this.
	CodeDenied = "denied"
	// CodeUnavailable: try again later.
	CodeUnavailable = "unavailable"
	// CodeInternal: a fault of the controller.
	CodeInternal = "internal"
)

// Error returns the message and the code.
func (e *Error) Error() string { return e.Message + " (" + e.Code + ")" }

// Checker is a message that can tell whether it is well-formed.
type Checker interface{ Check() error }

// Decode reads a message and checks it.
func Decode(data []byte, m Checker) error {
	if len(data) > MaxMessage {
		return fmt.Errorf("cannot read the message: %d bytes, at most %d", len(data), MaxMessage)
	}
	if err := json.Unmarshal(data, m); err != nil {
		return fmt.Errorf("cannot read the message: %w", err)
	}
	return m.Check()
}

// CertifyRequest asks for a certificate.
type CertifyRequest struct {
	// Token is the pod's ServiceAccount token, meant for Audience.
	Token string `json:"token"`
	// CSR is a certificate request in DER. Only its public key and its
	// signature count: the identity is the token's.
	CSR []byte `json:"csr"`
}

// Check bounds the fields.
func (r *CertifyRequest) Check() error {
	switch {
	case r.Token == "" || len(r.Token) > maxToken:
		return fmt.Errorf("a token of %d bytes: want 1 to %d", len(r.Token), maxToken)
	case len(r.CSR) == 0 || len(r.CSR) > maxCSR:
		return fmt.Errorf("a certificate request of %d bytes: want 1 to %d", len(r.CSR), maxCSR)
	}
	return nil
}

// CertifyReply is a certificate, or why there is none.
type CertifyReply struct {
	// Chain is the certificate and the intermediate ones, PEM, leaf first.
	Chain string `json:"chain,omitempty"`
	// Anchors are the trust anchors of the moment, PEM; during a change there
	// is more than one.
	Anchors string `json:"anchors,omitempty"`
	Error   *Error `json:"error,omitempty"`
}

// Check bounds the fields.
func (r *CertifyReply) Check() error {
	switch {
	case r.Error != nil:
		return nil
	case r.Chain == "" || len(r.Chain) > maxPEM:
		return fmt.Errorf("a certificate chain of %d bytes: want 1 to %d", len(r.Chain), maxPEM)
	case r.Anchors == "" || len(r.Anchors) > maxPEM:
		return fmt.Errorf("trust anchors of %d bytes: want 1 to %d", len(r.Anchors), maxPEM)
	}
	return nil
}

// ResolveRequest asks what is behind an address that an application connects
// to.
type ResolveRequest struct {
	// Addr is the original destination: a service's ClusterIP, a pod's address,
	// a node's, anything else.
	Addr netip.AddrPort `json:"addr"`
	// Namespace and Zone are the asking pod's; Zone may be "".
	Namespace string `json:"namespace,omitempty"`
	Zone      string `json:"zone,omitempty"`
}

// Check bounds the fields.
func (r *ResolveRequest) Check() error {
	if !r.Addr.IsValid() || r.Addr.Port() == 0 {
		return errors.New("a request without an address")
	}
	if len(r.Namespace) > 63 || len(r.Zone) > 253 {
		return errors.New("a namespace or zone that is too long")
	}
	return nil
}

// Destination is what is behind an address. It is the reply to a
// ResolveRequest, and what is published on bus.EndpointsSubject whenever it
// changes (then Addrs says which addresses it is the answer to).
type Destination struct {
	// Namespace and Service name the Kubernetes service; both "" where the
	// address is a single pod's or nobody's. Port is the service's port.
	Namespace string `json:"namespace,omitempty"`
	Service   string `json:"service,omitempty"`
	Port      uint16 `json:"port,omitempty"`
	// Addrs are the addresses that this answers for. One with port 0 is no answer:
	// something changed of whoever has the IP address, and who is interested asks
	// again.
	Addrs []netip.AddrPort `json:"addrs,omitempty"`
	// Version grows with every change of this destination while one controller
	// lives; Epoch is that controller's, in order of their starts (Unix
	// microseconds). A message with a lesser (Epoch, Version) is late.
	Epoch   int64  `json:"epoch"`
	Version uint64 `json:"version"`
	// Known is false where nobody in the cluster has the address: the proxy
	// connects to it as it is.
	Known bool `json:"known"`
	// Protocol is what the service's appProtocol or the pod's annotation says:
	// "http/1", "http/2", "grpc", "tcp" or "" (detect it). Opaque says that the
	// connection is carried undetected.
	Protocol string `json:"protocol,omitempty"`
	Opaque   bool   `json:"opaque,omitempty"`
	// Endpoints are the pods that take connections. None, where Known, means
	// that the service has no endpoint now.
	Endpoints []Endpoint `json:"endpoints,omitempty"`

	Error *Error `json:"error,omitempty"`
}

// Endpoint is one pod's port.
type Endpoint struct {
	Addr netip.AddrPort `json:"addr"`
	// Namespace, Kind, Name and Pod name the workload, as in events; Kind is
	// kubectl's short form.
	Namespace string `json:"namespace,omitempty"`
	Kind      string `json:"kind,omitempty"`
	Name      string `json:"name,omitempty"`
	Pod       string `json:"pod,omitempty"`
	Node      string `json:"node,omitempty"`
	Zone      string `json:"zone,omitempty"`
	// Identity is what the pod's proxy must prove, a SPIFFE ID; "" where the pod
	// is not meshed or speaks no mutual TLS. Reason then says why, as an event's
	// security reason.
	Identity string `json:"identity,omitempty"`
	Reason   string `json:"reason,omitempty"`
	// Terminating: the pod ends; take it for no new request while there is
	// another.
	Terminating bool `json:"terminating,omitempty"`
}

// Check bounds the fields.
func (d *Destination) Check() error {
	if d.Error != nil {
		return nil
	}
	if len(d.Endpoints) > MaxEndpoints || len(d.Addrs) > MaxEndpoints {
		return fmt.Errorf("a destination of %d endpoints and %d addresses: at most %d", len(d.Endpoints), len(d.Addrs), MaxEndpoints)
	}
	for i := range d.Endpoints {
		e := &d.Endpoints[i]
		if !e.Addr.IsValid() || e.Addr.Port() == 0 {
			return fmt.Errorf("endpoint %d of %s/%s has no address", i, d.Namespace, d.Service)
		}
		if len(e.Namespace) > 63 || len(e.Kind) > 63 || len(e.Name) > 253 || len(e.Pod) > 253 || len(e.Identity) > 2048 || len(e.Reason) > 64 {
			return fmt.Errorf("endpoint %s of %s/%s has a name that is too long", e.Addr, d.Namespace, d.Service)
		}
	}
	return nil
}

// Newer tells whether d came after o.
func (d *Destination) Newer(o *Destination) bool {
	if d.Epoch != o.Epoch {
		return d.Epoch > o.Epoch
	}
	return d.Version > o.Version
}

// SPIFFE is the identity of a ServiceAccount in a trust domain:
// spiffe://<trust domain>/ns/<namespace>/sa/<name> (the SPIFFE ID standard).
func SPIFFE(trustDomain, namespace, serviceAccount string) string {
	return "spiffe://" + trustDomain + "/ns/" + namespace + "/sa/" + serviceAccount
}
