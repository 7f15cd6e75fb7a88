package balance

import (
	"context"
	"net"

	"github.com/weirmesh/weir/event"
)

// Connection is a connection to an endpoint, and what is known of its other
// end, as events state it.
type Connection struct {
	net.Conn
	// Peer, ID, Security and SecurityReason are as in relay.Conn.
	Peer           event.Peer
	ID             uint64
	Security       event.Security
	SecurityReason string
}

// Dial connects to an endpoint for a protocol, and introduces this proxy where
// the endpoint is meshed. Where it fails c.Conn is nil, c.Peer still says who
// was meant, and reason is an event.Err constant. It ends with ctx.
type Dial func(ctx context.Context, e Endpoint, p event.Protocol) (c Connection, reason string)
