package http2

import (
	"math"
	"sync"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/relay"
	"github.com/weirmesh/weir/proxy/socket"
)

// side is one of the two peers.
type side uint8

const (
	client side = 0
	server side = 1
)

func (s side) String() string {
	if s == client {
		return "client"
	}
	return "server"
}

// session is one client connection and one server connection.
type session struct {
	c        *relay.Conn
	period   time.Duration // of progress events
	patience time.Duration // for the rest of what the client began
	maxHead  int           // bytes of a decoded header list, and of a block
	toClient writer
	toServer socket.Writer // of the client's direction
	// answering: there is no server, and the relay answers.
	answering bool
	done      chan struct{} // closed by stop
	// ticker runs while there are streams and tells control to report.
	ticker *time.Timer

	mu      sync.Mutex
	dirs    [2]direction // by the side that they come from
	streams streamTable
	head    *head // what the last header block said
	event   event.Event
	cause   *cause // why the session ends; nil while it does not
	ticking bool
	// begun is when the client began a header block or control frame that is
	// not whole; zero where there is none.
	begun  time.Time
	owed   bool   // begun is not zero; of the client's direction, unguarded
	maxID  uint32 // the highest stream that the client opened
	goAway uint32 // the last stream that the server will answer
	// refuseAbove is the last stream that the relay forwards; those above are
	// refused for refuseReason.
	refuseAbove  uint32
	refuseReason string
	refuseFate   event.Fate
	// closing: the session ends as soon as no stream is left.
	closing  bool
	answered time.Time // when the last frame was answered, where answering

	// resets and scores measure abuse (see abuse.go).
	resets int
	scores [2]int
	leaked time.Time
}

func newSession(c *relay.Conn) *session {
	s := &session{
		c: c, period: c.Progress, patience: c.HeadTimeout, maxHead: c.MaxHeadBytes,
		answering: c.Server == nil,
		done:      make(chan struct{}),
		ticker:    time.NewTimer(math.MaxInt64),
		goAway:    maxStreamID, refuseAbove: maxStreamID,
		leaked: time.Now(), answered: time.Now(),
	}
	if s.period <= 0 {
		s.period = relay.DefaultProgress
	}
	if s.patience <= 0 {
		s.patience = relay.DefaultHeadTimeout
	}
	if s.maxHead <= 0 {
		s.maxHead = relay.DefaultMaxHeadBytes
	}
	c.Fill(&s.event)
	s.toClient.init(c.Client)
	if c.Server != nil {
		s.toServer.Init(c.Server)
	}
	// The longest unit that is judged as a whole is a header block; that of
	// SETTINGS is shorter than a read.
	limit := max(2*bufferSize, s.maxHead+headOverhead)
	for from := range s.dirs {
		d := &s.dirs[from]
		d.s, d.from, d.maxFrame = s, side(from), minFrameSize
		d.hpack.init()
	}
	s.dirs[client].preface = preface
	s.dirs[client].in.init(c.Client, c.Early, limit)
	s.dirs[client].in.first = c.FirstByte
	if c.Server != nil {
		s.dirs[server].in.init(c.Server, c.ServerEarly, limit)
	}
	return s
}

// open adds a stream.
func (s *session) open(id uint32, start time.Time) *stream {
	st := newStream(id, s.head, start)
	s.streams.put(st)
	s.tick()
	return st
}

// tick has the ticker run.
func (s *session) tick() {
	if !s.ticking {
		s.ticking = true
		s.ticker.Reset(s.interval())
	}
}

// interval is the ticker's.
func (s *session) interval() time.Duration { return min(s.period, s.patience) / 2 }

// ended notes that a side ended its half of a stream.
func (s *session) ended(from side, st *stream, now time.Time) {
	if from == client {
		st.clientDone = true
	} else {
		st.serverDone = true
	}
	if st.clientDone && st.serverDone {
		s.resets = max(0, s.resets-1)
		s.finish(st, "", 0, now)
	}
}

// reset notes that a side gave a stream up.
func (s *session) reset(from side, st *stream, code errorCode, now time.Time) {
	reason := ""
	switch {
	case from == client && !st.serverDone:
		reason = event.ErrClientReset
	case from == server && !(st.serverDone && code == codeNone):
		reason = event.ErrServerReset
	}
	s.finish(st, reason, 0, now)
}

// finish records a stream's end and forgets it.
func (s *session) finish(st *stream, reason string, fate event.Fate, now time.Time) {
	s.record(st, event.End, reason, fate, now)
	s.streams.remove(st.id)
	if cap(st.text) > maxScratch {
		st.text = nil
	}
	streamPool.Put(st)
}

func (s *session) record(st *stream, kind event.Kind, reason string, fate event.Fate, now time.Time) {
	e := &s.event
	st.fill(e, kind, now)
	e.Error, e.Fate = reason, fate
	s.c.Recorder.Record(e)
	e.Method, e.Authority, e.Path = "", "", ""
}

// goneAway takes the server's word that it will not answer streams above last.
func (s *session) goneAway(last uint32, now time.Time) {
	s.goAway = min(s.goAway, last)
	s.streams.each(func(st *stream) {
		if st.id > last {
			s.finish(st, event.ErrGoAway, 0, now)
		}
	})
}

// progress reports the streams that have been silent for a period.
func (s *session) progress(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams.count == 0 && s.begun.IsZero() {
		s.ticking = false
		return
	}
	s.streams.each(func(st *stream) {
		if now.Sub(st.reported) >= s.period {
			s.record(st, event.Progress, "", 0, now)
		}
	})
	s.ticker.Reset(s.interval())
}

// overdue is the violation of a client that does not go on with what it began;
// nil where there is none.
func (s *session) overdue(now time.Time) *cause {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun.IsZero() || now.Sub(s.begun) < s.patience {
		return nil
	}
	f := s.dirs[client].fail(codeCalm, 0, "the beginning of a frame or header block, and not its rest in time")
	f.reason, f.fate = relay.ReasonHeadTimeout, event.Refused|event.TimedOut
	return f.cause()
}

// refuse records a violation: the end of the stream that it came on, or an
// event of its own where the relay has no such stream.
func (s *session) refuse(f *failure, now time.Time) {
	if st := s.streams.get(f.stream); st != nil {
		s.finish(st, f.reason, f.fate, now)
		return
	}
	id := f.stream
	if id <= s.maxID || id&1 == 0 {
		id = 0 // its stream has had its event, or is none
	}
	st := newStream(id, &head{}, now)
	s.record(st, event.End, f.reason, f.fate, now)
	streamPool.Put(st)
}
