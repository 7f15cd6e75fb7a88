package http2

import (
	"encoding/binary"

	"github.com/weirmesh/weir/event"
)

// fields holds a header block's fields in a form that belongs to no connection,
// checked as RFC 9113 section 8 asks.
type fields struct {
	buf []byte // see add
	// fault says why the message is malformed; "" where it is not.
	fault   string
	pseudo  uint16 // which pseudo-header fields came, by fieldName
	regular bool   // other fields came
	length  int64  // of Content-Length, or -1
}

// fieldHeader is how long what precedes a field's name in buf is: its
// fieldName, whether it must never enter a table, the lengths of both.
const fieldHeader = 10

func (f *fields) reset() { *f = fields{buf: f.buf[:0], length: -1} }

// add takes a field. One that is known was checked before it came into a table.
func (f *fields) add(id fieldName, name, value []byte, never, known bool) {
	f.buf = appendFieldParts(f.buf, id, name, value, never)
	if f.fault != "" {
		return
	}
	if !known {
		f.checkText(id, name, value)
	}
	f.check(id, name, value)
}

// appendFieldParts appends a field in the form of fields.buf.
func appendFieldParts(dst []byte, id fieldName, name, value []byte, never bool) []byte {
	var header [fieldHeader]byte
	header[0] = byte(id)
	if never {
		header[1] = 1
	}
	binary.LittleEndian.PutUint32(header[2:], uint32(len(name)))
	binary.LittleEndian.PutUint32(header[6:], uint32(len(value)))
	dst = append(dst, header[:]...)
	dst = append(dst, name...)
	return append(dst, value...)
}

// nextField is the first field of a list in that form: text is its name of n
// bytes and its value.
func nextField(list []byte) (id fieldName, never bool, text []byte, n int, rest []byte) {
	n = int(binary.LittleEndian.Uint32(list[2:]))
	end := fieldHeader + n + int(binary.LittleEndian.Uint32(list[6:]))
	return fieldName(list[0]), list[1] != 0, list[fieldHeader:end], n, list[end:]
}

// check judges a field by its meaning.
func (f *fields) check(id fieldName, name, value []byte) {
	switch id {
	case fieldMethod, fieldAuthority, fieldPath, fieldProtocol, fieldStatus, fieldScheme:
		bit := uint16(1) << id
		if f.regular || f.pseudo&bit != 0 {
			f.fault = "a pseudo-header field twice or after others"
		}
		if id == fieldPath && len(value) == 0 {
			f.fault = "an empty :path"
		}
		f.pseudo |= bit
		return
	case fieldHop:
		f.fault = "a field that is only for one connection"
	case fieldTE:
		if string(value) != "trailers" {
			f.fault = "a te that is not trailers"
		}
	case fieldLength:
		n := number(value, 1<<50)
		if n < 0 || f.length >= 0 && f.length != int64(n) {
			f.fault = "a content-length that is not one number"
		}
		f.length = int64(n)
	case fieldOther:
		if len(name) == 0 || name[0] == ':' {
			f.fault = "an unknown pseudo-header field"
		}
	}
	f.regular = true
}

// checkText judges the bytes of a name and a value.
func (f *fields) checkText(id fieldName, name, value []byte) {
	if id == fieldOther {
		for i, c := range name {
			if !nameByte[c] && (c != ':' || i > 0) {
				f.fault = "a field name that is not valid"
				return
			}
		}
	}
	for _, c := range value {
		if c < ' ' && (c == 0 || c == '\r' || c == '\n') {
			f.fault = "a field value that is not valid"
			return
		}
	}
}

// nameByte holds what may stand in a field name: a token in lower case.
var nameByte = func() (set [256]bool) {
	for _, c := range "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz" {
		set[c] = true
	}
	return set
}()

const (
	pseudoRequest = 1<<fieldMethod | 1<<fieldScheme | 1<<fieldPath
	pseudoConnect = 1<<fieldMethod | 1<<fieldAuthority
)

// requestFault says what is wrong with the fields as a request's head.
func (f *fields) requestFault(method []byte) string {
	switch {
	case f.fault != "":
		return f.fault
	case string(method) == "CONNECT":
		if f.pseudo != pseudoConnect {
			return "a CONNECT with other pseudo-header fields than its own"
		}
	case f.pseudo&^(1<<fieldAuthority) != pseudoRequest:
		return "a request without its pseudo-header fields, or with others"
	}
	return ""
}

// responseFault is requestFault for responses.
func (f *fields) responseFault(h *head) string {
	switch {
	case f.fault != "":
		return f.fault
	case f.pseudo != 1<<fieldStatus || h.status < 100:
		return "a response without its :status, or with other pseudo-header fields"
	}
	return ""
}

// trailersFault is requestFault for trailers.
func (f *fields) trailersFault() string {
	if f.fault == "" && f.pseudo != 0 {
		return "a pseudo-header field in trailers"
	}
	return f.fault
}

// appendFieldText appends a field as add does.
func appendFieldText(dst []byte, name, value string) []byte {
	f := fields{buf: dst}
	f.add(nameOf(bytesOf(name)), bytesOf(name), bytesOf(value), false, true)
	return f.buf
}

// unavailable is a whole response that says that there is none: trailers only
// for gRPC, where status 14 says so, else an empty 502. begun: its head was
// sent already, so that trailers are all that can be said.
func unavailable(dst []byte, protocol event.Protocol, status, text string, begun bool) []byte {
	if protocol != event.GRPC {
		dst = appendFieldText(dst, ":status", status)
		dst = appendFieldText(dst, "content-length", "0")
		return appendFieldText(dst, "weir-error", text)
	}
	if !begun {
		dst = appendFieldText(dst, ":status", "200")
		dst = appendFieldText(dst, "content-type", "application/grpc")
	}
	dst = appendFieldText(dst, "grpc-status", "14")
	return appendFieldText(dst, "grpc-message", text)
}
