package http1

import (
	"errors"
	"io"

	"github.com/weirmesh/weir/proxy/tcp"
)

const (
	// spliceAbove is how many bytes must be left of a body before it is worth
	// to move them inside the kernel.
	spliceAbove = 16 << 10
	// spliceChunk is how many bytes are spliced before they are counted.
	spliceChunk = 256 << 10
	// headRead is how many bytes are read at first where a large response is
	// expected: most heads, and little of the body, which is not to be copied.
	headRead = 2 << 10
	// roomyBelow is up to how many bytes a response is better copied at once than
	// moved inside the kernel.
	roomyBelow = 40 << 10
)

// foresee remembers how long a response is, head and body, in bytes: the next
// one on the connection is likely to be like it.
func (r *relayer) foresee(size uint64) {
	r.large, r.medium = size > roomyBelow, size > tcp.BufferSize && size <= roomyBelow
	if r.x.responseBody.framing != framedLength {
		r.large, r.medium = false, false
	}
}

// prepare sets how the beginning of a response is read.
func (r *relayer) prepare() {
	if r.server.buf.Len() > 0 {
		return
	}
	r.server.buf.Roomy = r.medium
	if r.large {
		r.server.reader.Limit = headRead
	}
}

// sendBegin is send of the first n bytes, together with what there is already of
// a large body after them.
func (r *relayer) sendBegin(n int, b *body) *cut {
	p := r.server.buf.Bytes()
	if len(p) > n || !b.large() || !joined(&r.splicer, &r.server, &r.client) {
		return r.send(n)
	}
	sent, moved, err := r.splicer.MoveAfter(&r.client.writer, p, int64(min(b.left, spliceChunk)))
	b.left -= uint64(moved)
	r.x.down.Add(uint64(sent) + uint64(moved))
	r.server.buf.Advance(n)
	if err != nil {
		return clientGone(err)
	}
	return nil
}

// spliceBody passes a large body on inside the kernel, but for its last bytes.
// Not ok: the kernel has nothing to do it with.
func (r *relayer) spliceBody(b *body) (c *cut, ok bool) {
	for b.large() || b.framing == framedClose {
		limit := uint64(spliceChunk)
		if b.framing == framedLength {
			limit = min(limit, b.left)
		}
		n, srcErr, dstErr := r.splicer.Move(int64(limit))
		if b.framing == framedLength {
			b.left -= uint64(n)
		}
		r.x.down.Add(uint64(n))
		switch {
		case b.framing == framedClose && errors.Is(srcErr, io.EOF):
			*b = body{} // The end of the stream is the end of the body.
		case dstErr != nil:
			return clientGone(dstErr), true
		case errors.Is(srcErr, tcp.ErrNoPipe):
			return nil, false
		case woken(srcErr):
			if c := r.lookAfter(); c != nil {
				return c, true
			}
		case srcErr != nil:
			return &cut{tcp.ServerError(srcErr), tcp.IsReset(srcErr)}, true
		}
	}
	return nil, true
}

// joined readies a splicer for what from receives and to is sent, and tells
// whether it can be used.
func joined(s **tcp.Splicer, from, to *side) bool {
	if from.tcp == nil || to.tcp == nil {
		return false
	}
	if *s == nil {
		*s = new(tcp.Splicer)
	}
	(*s).Join(from.tcp, to.tcp)
	return (*s).Ready()
}
