package http1

import (
	"fmt"
	"net/http"
	"time"

	"github.com/weirmesh/weir/event"
)

const (
	// lingerTime and lingerBytes bound how long what a client still sends is
	// thrown away after the last answer. Closing at once would reset the
	// connection, and the client might never see the answer.
	lingerTime  = 2 * time.Second
	lingerBytes = 16 << 20
)

// unconnected is the answer where there is no server to connect to, for a reason
// that is an event.Err constant.
func unconnected(reason string) *fault {
	if reason == event.ErrNoEndpoints {
		return &fault{http.StatusServiceUnavailable, "the service has no endpoints: " + reason}
	}
	return &fault{http.StatusBadGateway, "no connection to the server: " + reason}
}

// answer writes a response of the relay's own, the last on the connection.
func (r *relayer) answer(f *fault) {
	text := "weir: " + f.text + "\n"
	if r.x.request.bodyless {
		text = ""
	}
	n, _ := fmt.Fprintf(r.client.conn, "HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\n"+
		"Content-Length: %d\r\nConnection: close\r\n\r\n%s", f.status, http.StatusText(int(f.status)), len(text), text)
	r.x.down.Add(uint64(n)) // An error means that the client is gone, and wants no answer.
	r.event.Status = f.status
}

// refuse answers a request that is not forwarded, records it, and ends the
// connection.
func (r *relayer) refuse(f *fault, reason string, fate event.Fate) bool {
	x := &r.x
	if x.up.Load() == 0 {
		x.up.Store(uint64(r.client.buf.Len()))
		if n := x.request.size; n > 0 {
			x.up.Store(uint64(n))
		}
	}
	x.first = time.Since(x.start)
	r.event.Fate |= fate
	if r.server.conn != nil {
		_ = r.server.conn.Close()
	}
	r.answer(f)
	r.record(event.End, reason)
	r.linger()
	return false
}

// linger ends the client's connection so that it can read what it was sent.
func (r *relayer) linger() {
	r.client.buf.Release()
	h, ok := r.client.conn.(interface{ CloseWrite() error })
	if !ok || h.CloseWrite() != nil {
		return
	}
	r.client.arm(lingerTime)
	for thrown := 0; thrown < lingerBytes; {
		n, err := r.client.reader.Fill(&r.client.buf)
		if err != nil {
			return
		}
		thrown += n
		r.client.buf.Release()
	}
}

// badRequestBody ends an exchange whose request went wrong after a part of it
// was forwarded.
func (r *relayer) badRequestBody(f *fault) *cut {
	if r.x.first >= 0 {
		return &cut{event.ErrMalformed, true}
	}
	r.joinPump()
	r.refuse(f, event.ErrMalformed, 0)
	return &cut{}
}

// badResponse ends an exchange whose response is not valid and not yet passed
// on.
func (r *relayer) badResponse(f *fault) *cut {
	r.stopPump()
	r.endWatch()
	if r.server.conn != nil {
		_ = r.server.conn.Close()
	}
	r.x.first = time.Since(r.x.start)
	r.answer(&fault{http.StatusBadGateway, "the server's response is malformed: " + f.text})
	r.record(event.End, event.ErrMalformedServer)
	r.linger()
	return &cut{}
}

// abort ends an exchange before its end. A cut without a reason was recorded
// already.
func (r *relayer) abort(c *cut) bool {
	if c.reason == "" {
		return false
	}
	r.blame(c)
	if c.reset {
		r.resetBoth()
	} else {
		r.closeBoth()
	}
	r.stopPump()
	r.endWatch()
	r.record(event.End, c.reason)
	return false
}
