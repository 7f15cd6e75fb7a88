package listen

import (
	"errors"
	"net"
	"os"
	"time"

	"github.com/weirmesh/weir/event"
)

// Delays after a failed accept, such as one for too many open files.
const (
	minAcceptDelay = 5 * time.Millisecond
	maxAcceptDelay = time.Second
)

// acceptLoop accepts until the listener is closed or drained.
func (g *Group) acceptLoop(l *listener) {
	delay := time.Duration(0)
	for {
		client, err := l.net.AcceptTCP()
		if err == nil {
			if delay > 0 {
				g.log.Info("connections are accepted again", "listen", l.addr)
				delay = 0
			}
			g.admit(l, client)
			continue
		}
		if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		g.acceptErrors.Add(1)
		if delay == 0 {
			g.log.Error("cannot accept connections; trying on", "listen", l.addr, "error", err)
			delay = minAcceptDelay
		}
		select {
		case <-time.After(delay):
		case <-g.hard.Done():
			return
		}
		delay = min(2*delay, maxAcceptDelay)
	}
}

// admit serves a client's connection, or closes it where there are too many.
func (g *Group) admit(l *listener, client *net.TCPConn) {
	d := l.Direction
	g.accepted[d].Add(1)
	if g.Open() >= uint64(g.o.MaxConnections) {
		g.limited[d].Add(1)
		g.recordLimit(l, client)
		_ = client.Close()
		return
	}
	g.open[d].Add(1)
	c := newConn(g, l, client)
	g.conns.Go(func() {
		defer g.open[d].Add(-1)
		c.serve()
	})
}

// recordLimit reports a connection that was refused for its number.
func (g *Group) recordLimit(l *listener, client *net.TCPConn) {
	e := event.Event{
		Direction:      l.Direction,
		Protocol:       event.TCP,
		Fate:           event.Refused,
		GRPCStatus:     event.NoGRPCStatus,
		Error:          event.ErrLimit,
		SecurityReason: ReasonUnmeshed,
		Start:          time.Now().UnixMicro(),
		Peer:           event.Peer{Workload: l.Peer},
		Connection:     g.newID(),
		Stream:         1,
	}
	if l.Direction == event.Inbound {
		e.Peer.Addr = addrOf(client.RemoteAddr())
	}
	g.o.Recorder.Record(&e)
}

// newID chooses a connection number: never 0. Numbers count up from a random
// start, so that no two proxies choose the same and a batch tells one's relative
// to another's.
func (g *Group) newID() uint64 {
	for {
		if id := g.lastID.Add(1); id != 0 {
			return id
		}
	}
}
