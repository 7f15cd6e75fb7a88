package http1

import (
	"bytes"
	"encoding/hex"
)

// fault is what is wrong with a message: the text is for the one who sent it.
type fault struct {
	status uint16 // the answer to a request with this fault
	text   string
}

func (f *fault) Error() string { return f.text }

func malformed(text string) *fault { return &fault{400, text} }

// What can be wrong with a head.
var (
	faultTooLarge      = &fault{431, "the head is too large"}
	faultTooLate       = &fault{408, "the head did not come in time"}
	faultBareCR        = malformed("a CR without LF in the head")
	faultBareLF        = malformed("a line of the head ends in LF without CR")
	faultControl       = malformed("a control byte in the head")
	faultRequestLine   = malformed("the request line is not method, target and version")
	faultMethod        = malformed("the method holds a byte that no method can hold")
	faultTarget        = malformed("the request target is not valid")
	faultVersion       = malformed("the version is neither HTTP/1.0 nor HTTP/1.1")
	faultStatusLine    = malformed("the status line is not version and status")
	faultFold          = malformed("a header line begins with white space")
	faultName          = malformed("a header name is not valid")
	faultSpace         = malformed("white space between a header name and its colon")
	faultLength        = malformed("Content-Length is not a number")
	faultLengthTwice   = malformed("more than one Content-Length")
	faultLengthCoding  = malformed("both Content-Length and Transfer-Encoding")
	faultCoding        = &fault{501, "Transfer-Encoding is not chunked"}
	faultCodingTwice   = malformed("more than one Transfer-Encoding")
	faultCodingVersion = malformed("Transfer-Encoding in HTTP/1.0")
	faultHost          = malformed("Host is not valid")
	faultHostMissing   = malformed("no Host in HTTP/1.1")
	faultHostTwice     = malformed("more than one Host")
	faultHostDiffers   = malformed("Host differs from the request target")
	faultConnectBody   = malformed("CONNECT with a body")
)

// span is a part of a head, as offsets from its first byte. Offsets stay true
// when the buffer moves while the rest of the head is read.
type span struct{ from, to int }

func (s span) of(head []byte) []byte { return head[s.from:s.to] }

// head is what requests and responses have in common: the fields that say
// where the message ends and what becomes of the connection.
type head struct {
	size      int  // of the whole head, once it is parsed
	line      int  // where the line being read begins
	scanned   int  // up to where that line holds no line end
	started   bool // the start line is parsed
	minor     byte // of the version: 0 or 1
	length    int64
	hasLength bool
	chunked   bool
	close     bool // Connection: close
	keepAlive bool // Connection: keep-alive
	upgrade   bool // Connection: upgrade
	webSocket bool // Upgrade: websocket
	upgradeTo bool // Upgrade is there
	expect    bool // Expect: 100-continue
	hosts     int
	host      span
	traceID   [16]byte
}

// request is a parsed request head.
type request struct {
	head
	method, authority, path span
	connect, bodyless       bool // CONNECT; HEAD
}

// response is a parsed response head.
type response struct {
	head
	status uint16
}

// persistent tells whether the connection goes on after this message (RFC
// 9112, section 9.3).
func (h *head) persistent() bool { return !h.close && (h.minor == 1 || h.keepAlive) }

// next returns the next line of the head without its CR LF, or false where it
// is not whole yet.
func (h *head) next(p []byte) ([]byte, bool, *fault) {
	for {
		i := control(p, h.scanned)
		if i < 0 {
			h.scanned = len(p)
			return nil, false, nil
		}
		h.scanned = i
		switch p[i] {
		case '\t':
			h.scanned = i + 1
		case '\r':
			if i+1 == len(p) {
				return nil, false, nil
			}
			if p[i+1] != '\n' {
				return nil, false, faultBareCR
			}
			line := p[h.line:i]
			h.line, h.scanned = i+2, i+2
			return line, true, nil
		case '\n':
			return nil, false, faultBareLF
		default:
			return nil, false, faultControl
		}
	}
}

// parse goes on with the head at the beginning of p, of which it may have
// seen a part before, and tells whether it is whole.
func (q *request) parse(p []byte, limit int) (bool, *fault) {
	p = p[:min(len(p), limit)]
	for {
		at := q.line
		line, ok, f := q.next(p)
		if f != nil || !ok {
			return false, tooLarge(f, len(p), limit)
		}
		switch {
		case !q.started:
			q.started = true
			f = q.requestLine(line)
		case len(line) == 0:
			q.size = q.line
			return true, q.check(p)
		default:
			f = q.field(line, at)
		}
		if f != nil {
			return false, f
		}
	}
}

// parse is request.parse for responses.
func (s *response) parse(p []byte, limit int) (bool, *fault) {
	p = p[:min(len(p), limit)]
	for {
		at := s.line
		line, ok, f := s.next(p)
		if f != nil || !ok {
			return false, tooLarge(f, len(p), limit)
		}
		switch {
		case !s.started:
			s.started = true
			f = s.statusLine(line)
		case len(line) == 0:
			s.size = s.line
			return true, s.framing()
		default:
			f = s.field(line, at)
		}
		if f != nil {
			return false, f
		}
	}
}

// tooLarge is f, or faultTooLarge where a head that is not whole has reached
// the limit.
func tooLarge(f *fault, have, limit int) *fault {
	if f == nil && have >= limit {
		return faultTooLarge
	}
	return f
}

// requestLine parses "GET /path HTTP/1.1".
func (q *request) requestLine(line []byte) *fault {
	m := bytes.IndexByte(line, ' ')
	if m <= 0 {
		return faultRequestLine
	}
	rest := line[m+1:]
	n := bytes.IndexByte(rest, ' ')
	if n <= 0 {
		return faultRequestLine
	}
	method, target := line[:m], rest[:n]
	if !only(method, &token) {
		return faultMethod
	}
	var ok bool
	if q.minor, ok = version(rest[n+1:]); !ok {
		return faultVersion
	}
	q.method = span{0, m}
	q.connect = string(method) == "CONNECT"
	q.bodyless = string(method) == "HEAD"
	return q.target(method, target, m+1)
}

// target parses the request target, which begins at offset at of the head
// (RFC 9112, section 3.2). The path is without query.
func (q *request) target(method, target []byte, at int) *fault {
	end := len(target)
	for i, c := range target {
		switch {
		case c >= 0x80 || c == '#':
			return faultTarget
		case c == '?' && end == len(target):
			end = i
		}
	}
	switch {
	case q.connect:
		q.authority = span{at, at + len(target)}
		if !only(target, &hostByte) || bytes.IndexByte(target, ':') < 0 {
			return faultTarget
		}
		return nil
	case target[0] == '/':
		q.path = span{at, at + end}
		return nil
	case len(target) == 1 && target[0] == '*' && string(method) == "OPTIONS":
		q.path = span{at, at + 1}
		return nil
	}
	begin := schemeEnd(target)
	if begin == 0 {
		return faultTarget
	}
	slash := bytes.IndexByte(target[begin:end], '/')
	if slash < 0 {
		slash = end - begin
	}
	q.authority = span{at + begin, at + begin + slash}
	q.path = span{at + begin + slash, at + end}
	if slash == 0 || !only(target[begin:begin+slash], &hostByte) {
		return faultTarget
	}
	return nil
}

// schemeEnd returns how long the "http://" or "https://" of an absolute-form
// target is, or 0.
func schemeEnd(target []byte) int {
	for _, scheme := range [...]string{"http://", "https://"} {
		if len(target) > len(scheme) && equalFold(target[:len(scheme)], scheme) {
			return len(scheme)
		}
	}
	return 0
}

// version parses "HTTP/1.x".
func version(p []byte) (minor byte, ok bool) {
	switch string(p) {
	case "HTTP/1.1":
		return 1, true
	case "HTTP/1.0":
		return 0, true
	}
	return 0, false
}

// statusLine parses "HTTP/1.1 200 OK". The reason, and the space before it,
// may be missing, as servers do.
func (s *response) statusLine(line []byte) *fault {
	if len(line) < 12 || line[8] != ' ' || len(line) > 12 && line[12] != ' ' {
		return faultStatusLine
	}
	var ok bool
	if s.minor, ok = version(line[:8]); !ok {
		return faultVersion
	}
	for _, c := range line[9:12] {
		if c < '0' || c > '9' {
			return faultStatusLine
		}
		s.status = s.status*10 + uint16(c-'0')
	}
	if s.status < 100 {
		return faultStatusLine
	}
	return nil
}

// field parses a header line, which begins at offset at of the head. It looks
// closer only at the headers that matter here.
func (h *head) field(line []byte, at int) *fault {
	n := 0
	for n < len(line) && token[line[n]] {
		n++
	}
	if n == 0 || n == len(line) || line[n] != ':' {
		return badName(line, n)
	}
	name := line[:n]
	switch n {
	case 4:
		if equalFold(name, "host") {
			return h.hostField(line, n, at)
		}
	case 6:
		if equalFold(name, "expect") {
			h.expect = h.expect || equalFold(trim(line[n+1:]), "100-continue")
		}
	case 7:
		if equalFold(name, "upgrade") {
			h.upgradeTo = true
			h.webSocket = equalFold(trim(line[n+1:]), "websocket")
		}
	case 10:
		if equalFold(name, "connection") {
			h.connection(line[n+1:])
		}
	case 11:
		if equalFold(name, "traceparent") {
			h.traceparent(trim(line[n+1:]))
		}
	case 14:
		if equalFold(name, "content-length") {
			return h.contentLength(trim(line[n+1:]))
		}
	case 17:
		if equalFold(name, "transfer-encoding") {
			return h.transferEncoding(trim(line[n+1:]))
		}
	}
	return nil
}

// badName says what is wrong with a line whose first n bytes are a token and
// are not followed by a colon.
func badName(line []byte, n int) *fault {
	switch {
	case line[0] == ' ' || line[0] == '\t':
		return faultFold
	case n > 0 && n < len(line) && (line[n] == ' ' || line[n] == '\t'):
		return faultSpace
	}
	return faultName
}

func (h *head) hostField(line []byte, n, at int) *fault {
	value := trim(line[n+1:])
	if !only(value, &hostByte) {
		return faultHost
	}
	h.hosts++
	// The value is a slice of the line, so the distance of the capacities is
	// its offset.
	from := at + cap(line) - cap(value)
	h.host = span{from, from + len(value)}
	return nil
}

// connection takes the options of a Connection header.
func (h *head) connection(list []byte) {
	for len(list) > 0 {
		option := list
		if i := bytes.IndexByte(list, ','); i >= 0 {
			option, list = list[:i], list[i+1:]
		} else {
			list = nil
		}
		option = trim(option)
		switch len(option) {
		case 5:
			h.close = h.close || equalFold(option, "close")
		case 7:
			h.upgrade = h.upgrade || equalFold(option, "upgrade")
		case 10:
			h.keepAlive = h.keepAlive || equalFold(option, "keep-alive")
		}
	}
}

// traceparent takes the trace-id of "00-<32 digits>-<16 digits>-<2 digits>".
// What is not valid is passed by, as W3C Trace Context asks.
func (h *head) traceparent(v []byte) {
	if len(v) < 55 || v[2] != '-' || v[35] != '-' || v[52] != '-' || string(v[:2]) == "ff" {
		return
	}
	var id [16]byte
	if _, err := hex.Decode(id[:], v[3:35]); err == nil {
		h.traceID = id
	}
}

func (h *head) contentLength(v []byte) *fault {
	if h.hasLength {
		return faultLengthTwice
	}
	if len(v) == 0 || len(v) > 18 { // 18 digits always fit.
		return faultLength
	}
	for _, c := range v {
		if c < '0' || c > '9' {
			return faultLength
		}
		h.length = h.length*10 + int64(c-'0')
	}
	h.hasLength = true
	return nil
}

func (h *head) transferEncoding(v []byte) *fault {
	if h.chunked {
		return faultCodingTwice
	}
	if !equalFold(v, "chunked") {
		return faultCoding
	}
	h.chunked = true
	return nil
}

// framing checks that the end of the message is beyond doubt.
func (h *head) framing() *fault {
	switch {
	case h.chunked && h.hasLength:
		return faultLengthCoding
	case h.chunked && h.minor == 0:
		return faultCodingVersion
	}
	return nil
}

// check looks at the request as a whole.
func (q *request) check(p []byte) *fault {
	if f := q.framing(); f != nil {
		return f
	}
	switch {
	case q.hosts > 1:
		return faultHostTwice
	case q.hosts == 0 && q.minor == 1:
		return faultHostMissing
	case q.connect && (q.chunked || q.length > 0):
		return faultConnectBody
	case q.authority == span{}:
		q.authority = q.host
	case q.hosts == 1 && !q.connect && !sameFold(q.host.of(p), q.authority.of(p)):
		return faultHostDiffers
	}
	return nil
}
