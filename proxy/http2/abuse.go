package http2

import (
	"time"

	"github.com/weirmesh/weir/event"
)

// Bounds on what a peer may do. Work that costs the peer next to nothing is
// scored; exchanges that go on, and time, pay the score off.
const (
	// maxStreams is how many streams of a connection the relay keeps state
	// of. Servers usually announce 100 to 250.
	maxStreams = 8192
	// maxContinuations is how many CONTINUATION frames a header block may
	// have.
	maxContinuations = 64
	// maxSettings is how long a SETTINGS frame may be, in bytes.
	maxSettings = 6 << 9
	// headOverhead is what frames add to a header block: headers, padding,
	// priority.
	headOverhead = (maxContinuations+1)*headerLen + 256 + 5

	// maxScore is how many control frames (PING, SETTINGS, PRIORITY,
	// WINDOW_UPDATE, unknown types) and empty DATA frames may come in
	// surplus.
	maxScore = 4000
	// dataCredit is how many of those a HEADERS or DATA frame of either side
	// pays for.
	dataCredit = 10
	// maxResets is how many streams the client may give up, or have reset for
	// its errors, in surplus of those that completed.
	maxResets = 1000
	// leakRate is by how much both fall in a second.
	leakRate = 200
)

// failure is a violation that ends the connection.
type failure struct {
	code   errorCode
	text   string // what was wrong, for the client to read
	reason string // Event.Error
	fate   event.Fate
	stream uint32 // that it came on, or 0
}

// fail makes a violation of the direction's sender. What a server does wrong
// is an internal error to the client.
func (d *direction) fail(code errorCode, stream uint32, text string) *failure {
	f := &failure{code: code, stream: stream, reason: event.ErrMalformed, fate: event.Refused,
		text: "the " + d.from.String() + " sent " + text}
	if d.from == server {
		f.code, f.reason, f.fate = codeInternal, event.ErrMalformedServer, 0
	}
	return f
}

func (f *failure) cause() *cause {
	return &cause{reason: f.reason, failure: f, goAway: true, code: f.code, text: f.text, linger: true}
}

// leak lets time pay scores off.
func (s *session) leak(now time.Time) {
	paid := int(now.Sub(s.leaked) * leakRate / time.Second)
	if paid <= 0 {
		return
	}
	s.leaked = now
	s.resets = max(0, s.resets-paid)
	s.credit(paid)
}

// credit pays both sides' scores off.
func (s *session) credit(n int) {
	s.scores[client] = max(0, s.scores[client]-n)
	s.scores[server] = max(0, s.scores[server]-n)
}

// charge scores a frame that costs its sender nothing.
func (d *direction) charge(f frame) *failure {
	s := d.s
	if s.scores[d.from]++; s.scores[d.from] <= maxScore {
		return nil
	}
	return d.fail(codeCalm, f.stream, "too many control or empty frames for the data that goes on")
}

// chargeReset scores a stream that came to nothing: given up by the client,
// or by the server for what the client did wrong on it.
func (d *direction) chargeReset(f frame, code errorCode) *failure {
	switch {
	case d.from == client:
	case code == codeProtocol, code == codeFlow, code == codeClosed, code == codeFrameSize:
	default:
		return nil
	}
	s := d.s
	if s.resets++; s.resets <= maxResets {
		return nil
	}
	return s.dirs[client].fail(codeCalm, f.stream, "too many streams that were reset")
}
