package proxy

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/intercept"
	"github.com/weirmesh/weir/proxy/listen"
	"github.com/weirmesh/weir/proxy/ports"
	"github.com/weirmesh/weir/proxy/relay"
	"github.com/weirmesh/weir/proxy/telemetry"
)

// Config is all that a proxy is told. Parse makes one from flags and
// environment; its defaults are those of DefaultConfig.
type Config struct {
	// Self names the workload, pod and node that the proxy stands beside.
	Self event.Source
	// Version is the build, as telemetry states it.
	Version   string
	Traffic   Traffic
	Identity  Identity
	Telemetry Telemetry
	Admin     Admin
	Log       Log
	// Control reaches the control plane, for certificates and discovery; nil:
	// there is none. Parse leaves it to whoever connects.
	Control Control
}

// Control asks the control plane, over the bus. Its methods are safe for
// concurrent use.
type Control interface {
	// Request sends a request to whoever answers the method, and returns the
	// reply.
	Request(ctx context.Context, service, method string, request []byte) ([]byte, error)
	// WatchEndpoints calls fn, one call at a time, with each change of a
	// destination, until ctx ends; missed is called, in between, when changes may
	// have been missed.
	WatchEndpoints(ctx context.Context, fn func(change []byte), missed func()) error
}

// Identity is how the proxy proves who it is, and whom it believes. Certificates
// come from the control plane for the token in Token, or else from the files
// Certificate and Key; without either there is no mutual TLS.
type Identity struct {
	// Token is the file that holds the ServiceAccount's token.
	Token string
	// Certificate and Key are PEM files.
	Certificate, Key string
	// Anchors are the trust anchors: a PEM file or PEM itself.
	Anchors string
	// TrustDomain is that of all identities.
	TrustDomain string
	// RequireMutual refuses clients that do not prove an identity, but for those
	// at the addresses ProbesFrom, on the ports ProbePorts (all where there are
	// none).
	RequireMutual bool
	ProbesFrom    []netip.Prefix
	ProbePorts    []ports.Range
}

// Enabled tells whether the proxy is to have an identity.
func (i *Identity) Enabled() bool { return i.Token != "" || i.Certificate != "" }

// Traffic is what the proxy carries and how.
type Traffic struct {
	// Listeners are the inbound ones, then the outbound ones, then those of
	// Transparent.
	Listeners []listen.Spec
	// Transparent takes what `weir-proxy init` redirects to InboundPort and
	// OutboundPort. Connections to OpaquePorts are carried as TCP, undetected.
	Transparent               bool
	InboundPort, OutboundPort uint16
	OpaquePorts               []ports.Range
	// Discovery asks the control plane what is behind the addresses that the
	// transparent outbound listeners carry to.
	Discovery bool
	// ConnectTimeout bounds dialling a server.
	ConnectTimeout time.Duration
	// MaxConnections bounds the clients' connections.
	MaxConnections int
	// MaxHeadBytes bounds an HTTP head.
	MaxHeadBytes int
	// HeadTimeout bounds how long a client may take to send one.
	HeadTimeout time.Duration
	// DrainDelay is how long connections are still accepted after SIGTERM,
	// DrainTimeout how long open ones may then go on.
	DrainDelay, DrainTimeout time.Duration
}

// Telemetry is where events go.
type Telemetry struct {
	// Off records nothing at all.
	Off bool
	// Bus holds the addresses of the bus, comma-separated; "" is no telemetry.
	Bus string
	// BusToken is a file with the token to show there; "" is the identity's.
	// BusAnchors, a PEM file or PEM itself, are whom the bus must lead to; "" is
	// those of the identity where an address of the bus begins with tls://.
	BusToken, BusAnchors string
	// RetainBytes bounds what awaits the bus.
	RetainBytes int
	// Spool is a directory in which it survives a kill; "" for none.
	Spool string
}

// Admin is the port for those who look after the proxy.
type Admin struct {
	// Listen is its address; "" is no admin port.
	Listen string
}

// Log is what is written to stderr.
type Log struct {
	Level slog.Level
	// JSON instead of text.
	JSON bool
}

// DefaultTrustDomain is that of a Kubernetes cluster that was given no other.
const DefaultTrustDomain = "cluster.local"

// DefaultConfig is a Config without listeners.
func DefaultConfig() Config {
	return Config{
		Self: event.Source{Workload: event.Workload{Cluster: "local"}},
		Traffic: Traffic{
			InboundPort:    intercept.DefaultInboundPort,
			OutboundPort:   intercept.DefaultOutboundPort,
			OpaquePorts:    defaultOpaquePorts(),
			ConnectTimeout: listen.DefaultConnectTimeout,
			MaxConnections: listen.DefaultMaxConnections,
			MaxHeadBytes:   relay.DefaultMaxHeadBytes,
			HeadTimeout:    relay.DefaultHeadTimeout,
			DrainDelay:     time.Second,
			DrainTimeout:   30 * time.Second,
		},
		Identity:  Identity{TrustDomain: DefaultTrustDomain},
		Telemetry: Telemetry{RetainBytes: telemetry.DefaultRetainBytes},
		Admin:     Admin{Listen: "127.0.0.1:4191"},
		Log:       Log{Level: slog.LevelInfo},
	}
}

// defaultOpaquePorts are those of protocols in which the server speaks first,
// or of which detection could make nothing: SMTP (25, 587), MySQL (3306), NATS
// with its routes and leaf nodes (4222, 6222, 7422), Galera (4444), PostgreSQL
// (5432), Redis (6379), Elasticsearch's transport (9300), Memcached (11211).
func defaultOpaquePorts() []ports.Range {
	var out []ports.Range
	for _, port := range []uint16{25, 587, 3306, 4222, 4444, 5432, 6222, 6379, 7422, 9300, 11211} {
		out = append(out, ports.Range{From: port, To: port})
	}
	return out
}

// transparentListeners are two for inbound and two for outbound connections,
// one of each for IPv4 and for IPv6. The kernel redirects the workload's own
// connections to loopback, so that is where those are accepted: other hosts
// cannot use the proxy as a way out.
func (t *Traffic) transparentListeners() []listen.Spec {
	var out []listen.Spec
	for _, l := range []struct {
		direction event.Direction
		host      string
		port      uint16
	}{
		{event.Inbound, "0.0.0.0", t.InboundPort}, {event.Inbound, "::", t.InboundPort},
		{event.Outbound, "127.0.0.1", t.OutboundPort}, {event.Outbound, "::1", t.OutboundPort},
	} {
		out = append(out, listen.Spec{
			Direction: l.direction, Listen: net.JoinHostPort(l.host, strconv.Itoa(int(l.port))),
			Transparent: true, OpaquePorts: t.OpaquePorts, Discover: t.Discovery && l.direction == event.Outbound,
		})
	}
	return out
}
