package proxy

import (
	"log/slog"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/listen"
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
	Telemetry Telemetry
	Admin     Admin
	Log       Log
}

// Traffic is what the proxy carries and how.
type Traffic struct {
	// Listeners are the inbound ones, then the outbound ones.
	Listeners []listen.Spec
	// ConnectTimeout bounds dialling a server.
	ConnectTimeout time.Duration
	// MaxConnections bounds the clients' connections.
	MaxConnections int
	// MaxHeadBytes bounds an HTTP head.
	MaxHeadBytes int
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
	// RetainBytes bounds what awaits the bus.
	RetainBytes int
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

// DefaultConfig is a Config without listeners.
func DefaultConfig() Config {
	return Config{
		Self: event.Source{Workload: event.Workload{Cluster: "local"}},
		Traffic: Traffic{
			ConnectTimeout: listen.DefaultConnectTimeout,
			MaxConnections: listen.DefaultMaxConnections,
			MaxHeadBytes:   relay.DefaultMaxHeadBytes,
			DrainDelay:     time.Second,
			DrainTimeout:   30 * time.Second,
		},
		Telemetry: Telemetry{RetainBytes: telemetry.DefaultRetainBytes},
		Admin:     Admin{Listen: "127.0.0.1:4191"},
		Log:       Log{Level: slog.LevelInfo},
	}
}
