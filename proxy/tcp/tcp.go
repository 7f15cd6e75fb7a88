// Package tcp carries connections whose protocol is none of the proxy's
// business: plain TCP, TLS passed through, and what HTTP/1 connections turn
// into after an upgrade ([Tunnel]).
//
// Bytes are carried both ways as they come, so a server that speaks first is
// no special case. Little data goes through a pooled buffer that is borrowed
// only while there is data; a source that fills it is spliced in the kernel
// until it pauses. An end of stream is passed on as a half-close, a reset as a
// reset.
//
// Such a connection has no boundary at which it could be asked to end, so
// closing of [relay.Conn].Drain does nothing to it: it goes on until its ends
// close it or the hard stop (the context) ends it, which its event tells by
// the fate event.Drained.
package tcp

import (
	"context"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/relay"
)

// Serve carries c to its end and records it: one End event, and before it a
// Progress event every c.Progress while the connection is open. Bytes of each
// event are those since the one before. Latency is until the server's first
// byte. Where c.Server is nil the client is closed and the event's Error is
// c.DialError.
func Serve(ctx context.Context, c *relay.Conn) {
	start := c.Accepted
	if start.IsZero() {
		start = time.Now()
	}
	var e event.Event
	c.Fill(&e)
	e.Protocol = event.TCP
	if c.Security == event.Passthrough || c.ServerName != "" {
		e.Protocol = event.TLS
		e.Authority = c.ServerName
	}
	e.Start = start.UnixMicro()
	e.Stream = 1
	if c.Server == nil {
		_ = c.Client.Close()
		e.Error = c.DialError
		e.Duration = micros(time.Since(start))
		e.Latency = e.Duration
		c.Recorder.Record(&e)
		return
	}

	begun := time.Now()
	record := func(kind event.Kind, t Traffic) {
		e.Kind = kind
		e.RequestBytes, e.ResponseBytes = t.FromClient, t.FromServer
		e.Duration = micros(time.Since(start))
		e.Latency = e.Duration
		if t.FirstByte >= 0 {
			e.Latency = micros(begun.Sub(start) + t.FirstByte)
		}
		c.Recorder.Record(&e)
	}
	tunnel := Tunnel{
		Client: c.Client, ClientEarly: c.Early,
		Server: c.Server, ServerEarly: c.ServerEarly,
		Check:      c.Check,
		Progress:   c.Progress,
		OnProgress: func(t Traffic) { record(event.Progress, t) },
	}
	out := tunnel.Run(ctx)
	e.Error = out.Error
	if out.Stopped {
		e.Fate |= event.Drained
	}
	record(event.End, out.Traffic)
}

// micros is d in µs, never negative.
func micros(d time.Duration) uint64 { return uint64(max(d, 0) / time.Microsecond) }
