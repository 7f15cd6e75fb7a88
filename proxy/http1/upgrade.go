package http1

import (
	"context"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/tcp"
)

// upgrade passes the response on that ends HTTP on this connection, and
// carries what comes after it to the end.
func (r *relayer) upgrade() bool {
	x := &r.x
	r.event.Status = x.response.status
	if x.request.webSocket {
		r.event.Protocol = event.WebSocket
	}
	if c := r.send(x.response.size); c != nil {
		return r.abort(c)
	}
	// The request's body comes before the new protocol.
	for r.pump.running {
		if c := r.awaitPump(); c != nil {
			return r.abort(c)
		}
	}
	r.endWatch()
	r.client.disarm()
	t := tcp.Tunnel{
		Client: r.client.conn, ClientEarly: r.client.buf.Bytes(),
		Server: r.server.conn, ServerEarly: r.server.buf.Bytes(),
		Progress: r.progress,
		OnProgress: func(t tcp.Traffic) {
			r.count(t)
			r.record(event.Progress, "")
		},
	}
	out := t.Run(context.Background()) // Serve's context closes both ends.
	r.count(out.Traffic)
	if r.stopped.Load() {
		out.Error = "" // As with TCP: such a connection has no better end.
		r.event.Fate |= event.Drained
	}
	r.record(event.End, out.Error)
	return false
}

// count adds what a tunnel carried.
func (r *relayer) count(t tcp.Traffic) {
	r.x.up.Add(t.FromClient)
	r.x.down.Add(t.FromServer)
}
