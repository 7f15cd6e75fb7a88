// Package hello is the preamble of a meshed hop: the first bytes that two
// proxies send each other on a connection, so that each can name the other's
// workload, both use one connection number in their events, and the server's
// proxy need not detect what the client's has detected already.
//
// A hello is the [Magic], a version byte, a big-endian uint16 length, and that
// many bytes of protobuf (see [Hello.Append]); at most [MaxSize] in all.
// Fields that a reader does not know are skipped.
//
// A hello is a claim. Whatever carries it decides whether it is to be believed:
// on a plain connection it is not authenticated (docs/decisions/0002-hello.md).
package hello

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/VictoriaMetrics/easyproto"

	"github.com/weirmesh/weir/event"
)

// Magic begins every hello. Its first byte begins no known protocol's first
// message: it is not ASCII, no TLS record type, and never valid in UTF-8.
const Magic = "\xf7WEIR"

const (
	// Version is the one that this package writes and reads.
	Version = 1
	// HeaderSize is the length of magic, version and length.
	HeaderSize = len(Magic) + 3
	// MaxSize bounds a hello, header included, in bytes.
	MaxSize = 1024
)

// Errors of Read and Parse, to be told apart with errors.Is.
var (
	// ErrNotHello: the first bytes are not the magic.
	ErrNotHello = errors.New("no hello: the peer is not a Weir proxy")
	// ErrVersion: a hello of a version that this proxy does not know.
	ErrVersion = errors.New("hello of an unknown version")
	// ErrMalformed: a hello that is too long or does not decode.
	ErrMalformed = errors.New("malformed hello")
)

// Hello is what a proxy says of itself and of the connection.
type Hello struct {
	// Workload and Pod are the sender's.
	Workload event.Workload
	Pod      string
	// Connection is the number both sides put in their events; the client's
	// proxy chooses it, the answer repeats it. Never 0 in a valid hello.
	Connection uint64
	// Protocol is what the client's proxy detected; ProtocolUnknown where it
	// has not yet. Ignored in answers.
	Protocol event.Protocol
	// Destination is where the client meant to go, host:port; "" if unknown.
	Destination string
}

// Field numbers of the protobuf message.
const (
	fieldCluster     = 1
	fieldNamespace   = 2
	fieldKind        = 3
	fieldName        = 4
	fieldPod         = 5
	fieldConnection  = 6 // fixed64
	fieldProtocol    = 7 // varint: event.Protocol
	fieldDestination = 8
)

// Append appends the encoded hello to dst. It fails where the hello would
// exceed MaxSize.
func (h *Hello) Append(dst []byte) ([]byte, error) {
	start := len(dst)
	dst = append(dst, Magic...)
	dst = append(dst, Version, 0, 0)
	dst = appendString(dst, fieldCluster, h.Workload.Cluster)
	dst = appendString(dst, fieldNamespace, h.Workload.Namespace)
	dst = appendString(dst, fieldKind, h.Workload.Kind)
	dst = appendString(dst, fieldName, h.Workload.Name)
	dst = appendString(dst, fieldPod, h.Pod)
	dst = append(dst, fieldConnection<<3|1)
	dst = binary.LittleEndian.AppendUint64(dst, h.Connection)
	if h.Protocol != event.ProtocolUnknown {
		dst = append(dst, fieldProtocol<<3, byte(h.Protocol))
	}
	dst = appendString(dst, fieldDestination, h.Destination)
	size := len(dst) - start
	if size > MaxSize {
		return dst[:start], fmt.Errorf("cannot encode the hello of %s: %d bytes, at most %d", h.Workload, size, MaxSize)
	}
	binary.BigEndian.PutUint16(dst[start+HeaderSize-2:], uint16(size-HeaderSize))
	return dst, nil
}

func appendString(dst []byte, field byte, s string) []byte {
	if s == "" {
		return dst
	}
	dst = append(dst, field<<3|2)
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

// Begins tells whether b can be the beginning of a hello: whether b and the
// magic agree as far as both go. It is false for an empty b.
func Begins(b []byte) bool {
	n := min(len(b), len(Magic))
	return n > 0 && string(b[:n]) == Magic[:n]
}

// Read reads one hello from r and not a byte more. Its errors wrap
// ErrNotHello, ErrVersion, ErrMalformed or r's.
func Read(r io.Reader) (Hello, error) {
	var buf [MaxSize]byte
	// The magic is read first: another protocol's first message may be shorter
	// than a hello's header, and must not be waited for.
	if _, err := io.ReadFull(r, buf[:1]); err != nil {
		return Hello{}, fmt.Errorf("cannot read the hello: %w", err)
	}
	if buf[0] != Magic[0] {
		return Hello{}, ErrNotHello
	}
	if _, err := io.ReadFull(r, buf[1:HeaderSize]); err != nil {
		return Hello{}, fmt.Errorf("cannot read the hello: %w", err)
	}
	if !bytes.HasPrefix(buf[:], []byte(Magic)) {
		return Hello{}, ErrNotHello
	}
	if v := buf[len(Magic)]; v != Version {
		return Hello{}, fmt.Errorf("%w: %d, this proxy speaks %d", ErrVersion, v, Version)
	}
	n := int(binary.BigEndian.Uint16(buf[HeaderSize-2:]))
	if HeaderSize+n > MaxSize {
		return Hello{}, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, HeaderSize+n, MaxSize)
	}
	body := buf[HeaderSize : HeaderSize+n]
	if _, err := io.ReadFull(r, body); err != nil {
		return Hello{}, fmt.Errorf("cannot read the hello: %w", err)
	}
	return Parse(body)
}

// Parse decodes the body of a hello: what follows its header. The strings of
// the result are copies. Errors wrap ErrMalformed.
func Parse(body []byte) (Hello, error) {
	var h Hello
	var fc easyproto.FieldContext
	for len(body) > 0 {
		var err error
		if body, err = fc.NextField(body); err != nil {
			return Hello{}, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		if !h.field(&fc) {
			return Hello{}, fmt.Errorf("%w: field %d has a wrong type or value", ErrMalformed, fc.FieldNum)
		}
	}
	if h.Connection == 0 {
		return Hello{}, fmt.Errorf("%w: no connection number", ErrMalformed)
	}
	return h, nil
}

// field takes one field and tells whether it is acceptable.
func (h *Hello) field(fc *easyproto.FieldContext) bool {
	switch fc.FieldNum {
	case fieldCluster:
		return text(fc, &h.Workload.Cluster)
	case fieldNamespace:
		return text(fc, &h.Workload.Namespace)
	case fieldKind:
		return text(fc, &h.Workload.Kind)
	case fieldName:
		return text(fc, &h.Workload.Name)
	case fieldPod:
		return text(fc, &h.Pod)
	case fieldDestination:
		return text(fc, &h.Destination)
	case fieldConnection:
		v, ok := fc.Fixed64()
		h.Connection = v
		return ok
	case fieldProtocol:
		v, ok := fc.Uint32()
		// A protocol of a later version is one this proxy has to detect itself.
		if v <= uint32(event.TLS) {
			h.Protocol = event.Protocol(v)
		}
		return ok
	}
	return true
}

// text takes a string that is safe to log and to use as a name: UTF-8 without
// control characters or spaces.
func text(fc *easyproto.FieldContext, dst *string) bool {
	s, ok := fc.String()
	if !ok || !utf8.ValidString(s) {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f {
			return false
		}
	}
	*dst = string(append([]byte(nil), s...))
	return true
}
