// Package relay is the contract between the proxy's listeners and its
// protocol relays (packages tcp, http1, http2): a [Conn] is one client's
// connection together with the server's, and a relay's Serve carries it to its
// end and records what it carried.
//
// # Ownership
//
// Serve(ctx, c) owns c.Client and c.Server: it closes both before it returns,
// and every goroutine it started has ended by then. Cancelling ctx ends it at
// once (hard stop). Closing of c.Drain asks it to end as its protocol allows:
// finish what is under way, take no more.
package relay

import (
	"net"
	"syscall"
	"time"

	"github.com/weirmesh/weir/event"
)

// Recorder takes events. Record never blocks, keeps nothing of e or of the
// memory that e's strings point to after it returned, and is safe for
// concurrent use.
type Recorder interface {
	Record(e *event.Event)
}

// Conn is what a relay is given: two connections and what is known of them.
type Conn struct {
	// Client is the accepted connection; Early are bytes that were already
	// read from it and not yet handled. The relay may keep Early while it
	// serves.
	Client net.Conn
	Early  []byte
	// Server is the dialled connection; ServerEarly as Early. Server is nil
	// where dialling failed: then DialError is an event.Err constant, and the
	// relay answers as its protocol can (HTTP: 502 and an event for each
	// request; TCP: close and one event).
	Server      net.Conn
	ServerEarly []byte
	DialError   string

	// Direction is Inbound or Outbound.
	Direction event.Direction
	// ID identifies the connection in events (Event.Connection).
	ID uint64
	// Accepted is when the client's connection was accepted.
	Accepted time.Time
	// FirstByte is when the client was first heard; zero where nobody waited
	// for that. The first exchange starts then, not when the relay reads it:
	// what dialling the server took is part of the client's latency.
	FirstByte time.Time
	// Peer is the client of an inbound, the server of an outbound connection.
	Peer event.Peer
	// Security and SecurityReason as in Event.
	Security       event.Security
	SecurityReason string
	// Detection and DetectionTime (µs) as in Event.
	Detection     event.Detection
	DetectionTime uint32
	// Check, where it is not nil, is shown the client's first bytes before they are
	// carried as TCP: where it returns a reason, an event.Error, the connection ends
	// by it, and none of them is carried. It keeps nothing of them.
	Check func(first []byte) (reason string)
	// ServerName is the SNI of a TLS passthrough connection, else "".
	ServerName string

	// Recorder takes the relay's events.
	Recorder Recorder
	// Drain is closed when the proxy is about to stop. Nil: never.
	Drain <-chan struct{}
	// OnDrain registers f to be called in a goroutine of its own when Drain is
	// closed, and returns what takes that back (as context.AfterFunc of a
	// context whose Done is Drain does). It is optional: where it is nil, a
	// relay that needs it pays a goroutine for each connection instead.
	OnDrain func(f func()) (stop func() bool)
	// OnReadable calls ready once, as soon as conn has bytes to read or ends (as
	// Watch of a socket.Poller does, which see; stop is nil where it cannot). It
	// is optional: where it is nil, a relay pays a goroutine for each connection
	// that it wants watched.
	OnReadable func(conn syscall.Conn, ready func()) (stop func() bool)
	// Progress is how often long-lived exchanges report; 0 means 10 s.
	Progress time.Duration
	// MaxHeadBytes bounds a request or response head; 0 means 64 KiB.
	MaxHeadBytes int
	// HeadTimeout bounds the time from the first byte of a request's head to
	// its last; 0 means 60 s. It keeps clients that send a head for ever from
	// holding connections that their servers believe idle.
	HeadTimeout time.Duration
}

// ReasonHeadTimeout is the Event.Error of a request whose head did not come
// within Conn.HeadTimeout.
const ReasonHeadTimeout = "head_timeout"

// Defaults for the zero values of Conn.
const (
	DefaultProgress     = 10 * time.Second
	DefaultMaxHeadBytes = 64 << 10
	DefaultHeadTimeout  = 60 * time.Second
)

// Fill sets the fields of e that are the same for every exchange on c. The
// strings are those of c, valid as long as c.
func (c *Conn) Fill(e *event.Event) {
	e.Direction = c.Direction
	e.Security = c.Security
	e.SecurityReason = c.SecurityReason
	e.Peer = c.Peer
	e.Connection = c.ID
	e.Detection = c.Detection
	e.DetectionTime = c.DetectionTime
	e.GRPCStatus = event.NoGRPCStatus
}

// AfterDrain calls f in a goroutine of its own once c.Drain is closed. The
// function that it returns takes that back; f may be running still.
func (c *Conn) AfterDrain(f func()) (stop func() bool) {
	switch {
	case c.OnDrain != nil:
		return c.OnDrain(f)
	case c.Drain == nil:
		return func() bool { return true }
	}
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-c.Drain:
			f()
		case <-done:
		}
	}()
	return func() bool {
		close(done)
		<-ended
		return true
	}
}
