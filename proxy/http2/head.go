package http2

import (
	"bytes"
	"encoding/hex"

	"github.com/weirmesh/weir/event"
)

// Bounds on what an event says, in bytes: longer texts are cut.
const (
	maxMethod    = 32
	maxAuthority = 320
	maxPath      = 2048
)

// head is what one header block said, as far as an event tells it. It is used
// again for each block.
type head struct {
	method, authority, path []byte
	host                    []byte
	status                  uint16
	grpcStatus              int16
	grpc, webSocket         bool
	trace                   [16]byte
	size                    int // as SETTINGS_MAX_HEADER_LIST_SIZE counts

	// literal collects all fields as literals where keepAll is set.
	literal []byte
	keepAll bool

	// fields takes all fields where it is not nil. never: the field at hand
	// must not enter a table; known: it comes from one.
	fields       *fields
	never, known bool
}

func (h *head) reset() {
	*h = head{
		method: h.method[:0], authority: h.authority[:0], path: h.path[:0], host: h.host[:0],
		literal: h.literal[:0], grpcStatus: event.NoGRPCStatus, fields: h.fields, keepAll: h.keepAll,
	}
}

// field takes one field of the block. name and value are only valid meanwhile.
func (h *head) field(id fieldName, name, value []byte) {
	h.size += len(name) + len(value) + entryCost
	if h.keepAll {
		h.literal = appendField(h.literal, name, value)
	}
	if h.fields != nil {
		h.fields.add(id, name, value, h.never, h.known)
	}
	switch id {
	case fieldOther:
	case fieldMethod:
		h.method = appendCut(h.method[:0], value, maxMethod)
	case fieldAuthority:
		h.authority = appendCut(h.authority[:0], value, maxAuthority)
	case fieldHost:
		h.host = appendCut(h.host[:0], value, maxAuthority)
	case fieldPath:
		if i := bytes.IndexByte(value, '?'); i >= 0 {
			value = value[:i]
		}
		h.path = appendCut(h.path[:0], value, maxPath)
	case fieldProtocol:
		h.webSocket = string(value) == "websocket"
	case fieldStatus:
		h.status = uint16(max(0, number(value, 999)))
	case fieldContentType:
		h.grpc = isGRPC(value)
	case fieldTraceparent:
		h.trace = traceID(value)
	case fieldGRPCStatus:
		h.grpcStatus = int16(number(value, 1<<15-1))
	}
}

// protocol is what a request with this head speaks.
func (h *head) protocol() event.Protocol {
	switch {
	case h.webSocket && string(h.method) == "CONNECT":
		return event.WebSocket
	case h.grpc:
		return event.GRPC
	}
	return event.HTTP2
}

func appendCut(dst, text []byte, limit int) []byte {
	return append(dst, text[:min(len(text), limit)]...)
}

// isGRPC tells a gRPC content type. gRPC-Web, whose status is in the body, is
// plain HTTP to the relay.
func isGRPC(contentType []byte) bool {
	rest, ok := bytes.CutPrefix(contentType, bytesOf("application/grpc"))
	return ok && (len(rest) == 0 || rest[0] == '+' || rest[0] == ';')
}

// number reads a decimal number of up to limit, or returns -1.
func number(text []byte, limit int) int {
	n := 0
	for _, c := range text {
		if c < '0' || c > '9' {
			return -1
		}
		if n = 10*n + int(c-'0'); n > limit {
			return -1
		}
	}
	if len(text) == 0 {
		return -1
	}
	return n
}

// traceID reads the trace-id of a W3C traceparent; zero where it is not valid.
func traceID(text []byte) (id [16]byte) {
	if len(text) < 55 || text[2] != '-' || text[35] != '-' {
		return id
	}
	if _, err := hex.Decode(id[:], text[3:35]); err != nil {
		return [16]byte{}
	}
	return id
}
