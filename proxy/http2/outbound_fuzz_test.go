package http2_test

import (
	"bytes"
	"context"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/balance"
	"github.com/weirmesh/weir/proxy/http2"
	"github.com/weirmesh/weir/proxy/relay"
)

// FuzzOutboundFrames has a client and a server say arbitrary bytes to the side
// that ends HTTP/2: no panic, no hang, one end of each stream, and no more
// output than what came can be the cause of.
func FuzzOutboundFrames(f *testing.F) {
	var c, s bytes.Buffer
	c.WriteString(xhttp2.ClientPreface)
	cf, sf := xhttp2.NewFramer(&c, nil), xhttp2.NewFramer(&s, nil)
	_ = cf.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 20})
	_ = sf.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingMaxConcurrentStreams, Val: 3},
		xhttp2.Setting{ID: xhttp2.SettingHeaderTableSize, Val: 50})
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for id := uint32(1); id < 11; id += 2 {
		block.Reset()
		for _, field := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", "/x?y"}, {":authority", "h"},
			{"content-type", "application/grpc"}} {
			_ = enc.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
		}
		_ = cf.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes()[:1], PadLength: 3})
		_ = cf.WriteContinuation(id, true, block.Bytes()[1:])
		_ = cf.WriteDataPadded(id, id != 5, make([]byte, 100), make([]byte, 9))
		_ = sf.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: []byte{0x88}, EndHeaders: true})
		_ = sf.WriteData(id, id == 7, make([]byte, 50))
		_ = sf.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: []byte{0, 1, 'a', 1, 'b'}, EndHeaders: true, EndStream: true})
		_ = cf.WriteWindowUpdate(id, 500)
	}
	_ = cf.WriteRSTStream(9, xhttp2.ErrCodeCancel)
	_ = sf.WriteRSTStream(3, xhttp2.ErrCodeRefusedStream)
	_ = sf.WriteGoAway(3, xhttp2.ErrCodeNo, []byte("x"))
	_ = cf.WritePing(false, [8]byte{})
	f.Add(c.Bytes(), s.Bytes(), uint16(7), false)
	f.Add(c.Bytes(), s.Bytes(), uint16(40000), true)
	f.Add(c.Bytes(), s.Bytes()[:30], uint16(1), false)
	f.Add(c.Bytes()[:60], []byte("HTTP/1.1 400"), uint16(100), false)
	f.Fuzz(func(t *testing.T, fromClient, fromServer []byte, piece uint16, draining bool) {
		cc, sc := newScripted(fromClient, int(piece)), newScripted(fromServer, int(piece))
		var dials atomic.Int32
		set := balance.New(balance.Options{}, balance.Endpoint{Addr: "192.0.2.1:80"})
		o := http2.NewOutbound(http2.OutboundOptions{Set: set, MaxHeadBytes: 4096,
			Dial: func(context.Context, balance.Endpoint, event.Protocol) (balance.Connection, string) {
				if dials.Add(1) == 1 {
					return balance.Connection{Conn: sc, ID: 2}, ""
				}
				return balance.Connection{}, event.ErrConnectRefused
			}})
		rec := &counter{t: t, ends: map[ending]int{}}
		drain := make(chan struct{})
		if draining {
			close(drain)
		}
		rc := &relay.Conn{Client: cc, Recorder: rec, Drain: drain, ID: 1, MaxHeadBytes: 4096}
		done := make(chan struct{})
		go func() { o.Serve(context.Background(), rc); close(done) }()
		for range 100000 { // until both have said all, or one was refused
			select {
			case <-done:
			default:
				if !cc.empty() || dials.Load() > 0 && !sc.empty() {
					runtime.Gosched()
					continue
				}
			}
			break
		}
		sc.let()
		cc.let()
		select {
		case <-done:
		case <-time.After(patience):
			t.Fatal("the connection does not end")
		}
		o.Close()
		for _, m := range set.Members() {
			if n := m.Stats().Outstanding; n != 0 {
				t.Errorf("%d requests are still counted as under way", n)
			}
		}
		if n := cc.out.Len() + sc.out.Len(); n > 64*(len(fromServer)+len(fromClient))+4096 {
			t.Errorf("%d bytes written for %d and %d", n, len(fromServer), len(fromClient))
		}
	})
}
