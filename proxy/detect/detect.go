// Package detect tells from the first bytes of a connection what it speaks.
//
// [Client] and [Server] are pure functions over a prefix that grows: they
// answer NeedMore while the bytes so far could still become a protocol they
// know, and never on more than MaxPrefix bytes. Waiting, and how long, is the
// caller's business (package proxy/listen).
package detect

import (
	"github.com/weirmesh/weir/proxy/hello"
)

// Verdict is what a prefix is.
type Verdict uint8

// Verdicts.
const (
	// NeedMore: undecided; a longer prefix will tell.
	NeedMore Verdict = iota
	// TCP: nothing that is known; to be carried unread.
	TCP
	// HTTP1: a request line (Client) or status line (Server) of HTTP/1.
	HTTP1
	// HTTP2: the client's preface, or the server's SETTINGS frame.
	HTTP2
	// TLS: a ClientHello.
	TLS
	// Hello: the preamble of another Weir proxy.
	Hello
)

// MaxPrefix bounds the bytes that any verdict needs: a ClientHello of the
// largest TLS record.
const MaxPrefix = tlsHeader + maxRecord

// PeekSize is enough for every verdict but a ClientHello's server name.
const PeekSize = 64

// String names the verdict.
func (v Verdict) String() string {
	switch v {
	case NeedMore:
		return "need more"
	case TCP:
		return "tcp"
	case HTTP1:
		return "http/1"
	case HTTP2:
		return "http/2"
	case TLS:
		return "tls"
	case Hello:
		return "hello"
	}
	return "invalid"
}

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// maxMethod is longer than any request method; first words of that many bytes
// are no HTTP.
const maxMethod = 24

// Client judges the first bytes that a client sent. The server name is that of
// a TLS ClientHello, where it has one. Nothing of b is kept.
func Client(b []byte) (v Verdict, serverName string) {
	switch {
	case len(b) == 0:
		return NeedMore, ""
	case b[0] == hello.Magic[0]:
		return helloVerdict(b), ""
	case b[0] == recordHandshake:
		return clientHello(b)
	}
	if n := min(len(b), len(preface)); string(b[:n]) == preface[:n] && n > len("P") {
		// "PR" may also begin PROPFIND, but then differs at its third byte.
		if n == len(preface) {
			return HTTP2, ""
		}
		return NeedMore, ""
	}
	return request(b), ""
}

func helloVerdict(b []byte) Verdict {
	switch {
	case !hello.Begins(b):
		return TCP
	case len(b) < len(hello.Magic):
		return NeedMore
	}
	return Hello
}

// request judges whether b begins an HTTP/1 request line. Many protocols begin
// with a word and a space (SMTP, FTP, NATS, memcached), so what follows must
// look like a request target too.
func request(b []byte) Verdict {
	i := 0
	for i < len(b) && i < maxMethod && methodChar(b[i]) {
		i++
	}
	switch {
	case i == len(b) && i < maxMethod:
		return NeedMore
	case i == 0 || i == maxMethod || b[i] != ' ':
		return TCP
	case i+1 == len(b):
		return NeedMore
	}
	return target(string(b[:i]), b[i+1])
}

// target judges by the method and the target's first byte.
func target(method string, first byte) Verdict {
	if first == '/' || first == '*' {
		return HTTP1
	}
	switch method {
	case "CONNECT":
		// authority-form; NATS clients send "CONNECT {".
		if alphanumeric(first) || first == '[' {
			return HTTP1
		}
	case "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH":
		// absolute-form, or a malformed request that deserves HTTP's answer.
		if first == 'h' || first == 'H' || first <= ' ' {
			return HTTP1
		}
	}
	return TCP
}

// methodChar accepts what registered methods are made of. Tokens may hold more,
// but lower case is the mark of other protocols ("get /key" of memcached).
func methodChar(c byte) bool {
	return 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

func alphanumeric(c byte) bool {
	return 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
}

// settingsHeader is the length of an HTTP/2 frame header.
const settingsHeader = 9

// Server judges the first bytes of a server that spoke before its client. An
// HTTP/2 server may well do so (its SETTINGS need not wait for the client's
// preface), and then the client's first bytes decide. HTTP1 is a response that
// nobody asked for, such as a timeout's 408. Anything else is TCP.
func Server(b []byte) Verdict {
	const status = "HTTP/"
	if n := min(len(b), len(status)); string(b[:n]) == status[:n] {
		if n == len(status) {
			return HTTP1
		}
		return NeedMore
	}
	// SETTINGS: length a multiple of 6 and small, type 4, no flags, stream 0.
	for i, c := range b[:min(len(b), settingsHeader)] {
		ok := c == 0
		switch i {
		case 1, 2:
			ok = true
		case 3:
			ok = c == 4
		}
		if !ok {
			return TCP
		}
	}
	if len(b) < settingsHeader {
		return NeedMore
	}
	if n := int(b[1])<<8 | int(b[2]); n%6 != 0 || n > 6*100 {
		return TCP
	}
	return HTTP2
}
