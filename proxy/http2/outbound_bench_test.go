package http2_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"testing"

	xhttp2 "golang.org/x/net/http2"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/balance"
	"github.com/weirmesh/weir/proxy/http2"
	"github.com/weirmesh/weir/proxy/relay"
)

// echoHead is a server that answers each request with a head, 30 bytes and
// trailers, all requests of one read in one write.
func echoHead(conn net.Conn) {
	defer conn.Close()
	if _, err := io.ReadFull(conn, make([]byte, len(xhttp2.ClientPreface))); err != nil {
		return
	}
	_, _ = io.WriteString(conn, "\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	in, out := make([]byte, 64<<10), make([]byte, 0, 64<<10)
	n := 0
	for {
		m, err := conn.Read(in[n:])
		if err != nil {
			return
		}
		n += m
		b := in[:n]
		for len(b) >= 9 {
			size := 9 + int(b[0])<<16 + int(b[1])<<8 + int(b[2])
			if len(b) < size {
				break
			}
			if b[3] == 0 && b[4]&1 == 1 {
				id := b[5:9]
				out = append(append(out, 0, 0, 1, 1, 4), id...)
				out = append(out, 0x88)
				out = append(append(append(out, 0, 0, 30, 0, 0), id...), make([]byte, 30)...)
				out = append(append(out, 0, 0, 15, 1, 5), id...)
				out = append(out, "\x00\x0bgrpc-status\x010"...)
			} else if b[3] == 4 && b[4] == 0 {
				out = append(out, 0, 0, 0, 4, 1, 0, 0, 0, 0)
			}
			b = b[size:]
		}
		n = copy(in, b)
		// The connection's window is renewed generously.
		out = append(out, 0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 16, 0)
		if _, err := conn.Write(out); err != nil {
			return
		}
		out = out[:0]
	}
}

// BenchmarkOutbound carries bursts of unary gRPC calls of one client to three
// servers, raw at both ends. The CPU time includes that of the ends.
func BenchmarkOutbound(b *testing.B) {
	for _, streams := range []int{1, 8, 32, 128} {
		b.Run(fmt.Sprint(streams), func(b *testing.B) { benchmarkOutbound(b, streams, 3) })
	}
}

func benchmarkOutbound(b *testing.B, streams, servers int) {
	var endpoints []balance.Endpoint
	for i := range servers {
		endpoints = append(endpoints, balance.Endpoint{Addr: fmt.Sprint("server", i)})
	}
	o := http2.NewOutbound(http2.OutboundOptions{Set: balance.New(balance.Options{}, endpoints...),
		Dial: func(context.Context, balance.Endpoint, event.Protocol) (balance.Connection, string) {
			near, far := pair(b)
			go echoHead(far)
			return balance.Connection{Conn: near, ID: 1}, ""
		}})
	conn, inner := pair(b)
	served := make(chan struct{})
	go func() {
		o.Serve(context.Background(), &relay.Conn{Client: inner, ID: 1, Recorder: discard{}})
		close(served)
	}()
	_, _ = io.WriteString(conn, xhttp2.ClientPreface+"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	framer := xhttp2.NewFramer(conn, bufio.NewReaderSize(conn, 64<<10))
	framer.ReadMetaHeaders = nil
	framer.SetReuseFrames()
	first, rest := newExchange(streams, true), newExchange(streams, false)
	id, x := uint32(1), first
	burst := func() {
		number(x.requests, x.requestAt, 2, id)
		id += uint32(2 * streams)
		if _, err := conn.Write(x.requests); err != nil {
			b.Fatal(err)
		}
		x = rest
		for ended := 0; ended < streams; {
			f, err := framer.ReadFrame()
			if err != nil {
				b.Fatal(err)
			}
			h := f.Header()
			if h.Type == xhttp2.FrameRSTStream || h.Type == xhttp2.FrameGoAway {
				b.Fatal(f)
			}
			if h.StreamID != 0 && h.Flags.Has(xhttp2.FlagDataEndStream) {
				ended++
			}
		}
		_, _ = conn.Write([]byte{0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 16, 0})
	}
	for range 20 {
		burst()
	}
	runtime.GC()
	b.ReportAllocs()
	start := cpu()
	b.ResetTimer()
	for n := 0; n < b.N; n += streams {
		burst()
	}
	b.StopTimer()
	b.ReportMetric(float64((cpu()-start).Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
	_ = conn.Close()
	<-served
	o.Close()
}
