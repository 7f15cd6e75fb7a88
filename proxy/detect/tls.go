package detect

// Numbers of TLS (RFC 8446).
const (
	recordHandshake = 22
	typeClientHello = 1
	extServerName   = 0
	extALPN         = 16
	nameHost        = 0
	tlsHeader       = 5 // of a record
	maxRecord       = 16 << 10
	maxServerName   = 255
)

// clientHello judges a record that begins as a TLS handshake. A ClientHello
// that is spread over several records is TLS without a name: none that a
// browser or library sends is.
func clientHello(b []byte) (Verdict, string) {
	if len(b) > 1 && b[1] != 3 || len(b) > 2 && b[2] > 4 {
		return TCP, ""
	}
	if len(b) < tlsHeader+1 {
		return NeedMore, ""
	}
	n := int(b[3])<<8 | int(b[4])
	if n < 4 || n > maxRecord || b[tlsHeader] != typeClientHello {
		return TCP, ""
	}
	if len(b) < tlsHeader+n {
		return NeedMore, ""
	}
	return TLS, serverName(b[tlsHeader : tlsHeader+n])
}

// cursor takes bytes off a message; after it ran short, ok is false and it
// yields nothing.
type cursor struct {
	b  []byte
	ok bool
}

// bytes takes n bytes.
func (c *cursor) bytes(n int) []byte {
	if !c.ok || n > len(c.b) {
		c.ok, c.b = false, nil
		return nil
	}
	v := c.b[:n]
	c.b = c.b[n:]
	return v
}

// number takes an unsigned big-endian number of size bytes.
func (c *cursor) number(size int) int {
	v := 0
	for _, x := range c.bytes(size) {
		v = v<<8 | int(x)
	}
	return v
}

// vector takes a vector whose length is written in size bytes before it.
func (c *cursor) vector(size int) cursor {
	return cursor{c.bytes(c.number(size)), c.ok}
}

// extension finds an extension of a ClientHello message; its ok is false where
// there is none, or where the message is not well-formed.
func extension(message []byte, wanted int) cursor {
	c := cursor{message, true}
	c.bytes(1) // type
	hello := c.vector(3)
	hello.bytes(2 + 32) // version, random
	hello.vector(1)     // session id
	hello.vector(2)     // cipher suites
	hello.vector(1)     // compression
	extensions := hello.vector(2)
	for extensions.ok && len(extensions.b) > 0 {
		kind := extensions.number(2)
		data := extensions.vector(2)
		if kind == wanted {
			return data
		}
	}
	return cursor{}
}

// serverName finds the name in a ClientHello message; "" where there is none.
func serverName(message []byte) string {
	data := extension(message, extServerName)
	names := data.vector(2)
	for names.ok && len(names.b) > 0 {
		kind := names.number(1)
		name := names.vector(2)
		if kind == nameHost && validName(name.b) {
			return string(name.b)
		}
	}
	return ""
}

// Offers tells whether b, which [Client] has found to be TLS, is a ClientHello
// that offers the application protocol (ALPN, RFC 7301) and no other.
func Offers(b []byte, protocol string) bool {
	if len(b) < tlsHeader {
		return false
	}
	n := int(b[3])<<8 | int(b[4])
	if len(b) < tlsHeader+n {
		return false
	}
	data := extension(b[tlsHeader:tlsHeader+n], extALPN)
	list := data.vector(2)
	name := list.vector(1)
	return name.ok && string(name.b) == protocol && len(list.b) == 0
}

// validName accepts host names: what may be shown and used as a label.
func validName(b []byte) bool {
	if len(b) == 0 || len(b) > maxServerName {
		return false
	}
	for _, c := range b {
		if !alphanumeric(c) && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return true
}
