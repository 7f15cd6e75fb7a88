package http2

import (
	"math/bits"
	"sync"
	"time"
	"unsafe"

	"github.com/weirmesh/weir/event"
)

// stream is what is known of one exchange under way.
type stream struct {
	id         uint32
	protocol   event.Protocol
	grpcStatus int16
	status     uint16
	trace      [16]byte
	start      time.Time
	latency    time.Duration // until the response's head; 0 while there is none
	// sent and received count the bytes of the request and of the response
	// since the stream's last event, which was at reported.
	sent, received uint64
	reported       time.Time
	// clientDone and serverDone tell that the side ended the stream.
	clientDone, serverDone bool

	text                 []byte // method, authority and path
	methodLen, pathStart int
}

var streamPool = sync.Pool{New: func() any { return new(stream) }}

// newStream returns a stream with the request's head.
func newStream(id uint32, h *head, start time.Time) *stream {
	st := streamPool.Get().(*stream)
	text := append(st.text[:0], h.method...)
	authority := h.authority
	if len(authority) == 0 {
		authority = h.host
	}
	text = append(text, authority...)
	pathStart := len(text)
	text = append(text, h.path...)
	*st = stream{
		id: id, protocol: h.protocol(), grpcStatus: event.NoGRPCStatus, trace: h.trace,
		start: start, reported: start,
		text: text, methodLen: len(h.method), pathStart: pathStart,
	}
	return st
}

// fill sets what e says of the stream at the time now, and counts bytes afresh.
// The strings are valid until the stream is given back.
func (st *stream) fill(e *event.Event, kind event.Kind, now time.Time) {
	e.Kind = kind
	e.Protocol = st.protocol
	e.Status = st.status
	e.GRPCStatus = st.grpcStatus
	e.Method = stringOf(st.text[:st.methodLen])
	e.Authority = stringOf(st.text[st.methodLen:st.pathStart])
	e.Path = stringOf(st.text[st.pathStart:])
	e.Start = st.start.UnixMicro()
	duration := max(0, now.Sub(st.start))
	e.Duration = uint64(duration.Microseconds())
	e.Latency = e.Duration
	if st.latency > 0 {
		e.Latency = uint64(st.latency.Microseconds())
	}
	e.RequestBytes, e.ResponseBytes = st.sent, st.received
	e.Stream = (st.id + 1) / 2
	e.TraceID = st.trace
	st.sent, st.received, st.reported = 0, 0, now
}

// stringOf is b as a string, which is valid as long as b is not written to.
func stringOf(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// minSlots is the least size of a streamTable; larger ones are let go when
// they are empty.
const (
	minSlots  = 8
	keepSlots = 256
)

// streamTable maps stream ids to streams: open addressing over a power of two,
// as the ids are odd, without memory for what was removed.
type streamTable struct {
	slots []*stream
	count int
}

func (t *streamTable) slot(id uint32) int { return spread(id, len(t.slots)) }

// spread is where in a table of a power of two of slots an identifier belongs.
// Dense ones are spread: in a row they would be one long run, all of which
// remove has to look at.
func spread(id uint32, slots int) int {
	return int(id >> 1 * 0x9e3779b1 >> (bits.LeadingZeros32(uint32(slots - 1))))
}

// get returns the stream, or nil.
func (t *streamTable) get(id uint32) *stream {
	if t.count == 0 {
		return nil
	}
	for i := t.slot(id); ; i = (i + 1) & (len(t.slots) - 1) {
		if st := t.slots[i]; st == nil || st.id == id {
			return st
		}
	}
}

// each calls f for each stream, once, which it may remove.
func (t *streamTable) each(f func(*stream)) {
	start := 0 // an empty slot, across which nothing moves
	for start < len(t.slots) && t.slots[start] != nil {
		start++
	}
	for i := 1; i <= len(t.slots); {
		at := (start + i) & (len(t.slots) - 1)
		st := t.slots[at]
		if st != nil {
			f(st)
		}
		// A slot that f emptied may hold the next stream by now.
		if st == nil || len(t.slots) == 0 || t.slots[at] == st {
			i++
		}
	}
}

// put adds a stream whose id the table does not have.
func (t *streamTable) put(st *stream) {
	if 2*(t.count+1) > len(t.slots) {
		old := t.slots
		t.slots = make([]*stream, max(minSlots, 2*len(old)))
		for _, o := range old {
			if o != nil {
				t.place(o)
			}
		}
	}
	t.place(st)
	t.count++
}

func (t *streamTable) place(st *stream) {
	i := t.slot(st.id)
	for t.slots[i] != nil {
		i = (i + 1) & (len(t.slots) - 1)
	}
	t.slots[i] = st
}

// remove takes a stream of the table out of it.
func (t *streamTable) remove(id uint32) {
	mask := len(t.slots) - 1
	i := t.slot(id)
	for t.slots[i] == nil || t.slots[i].id != id {
		i = (i + 1) & mask
	}
	// Move those behind it that would no longer be found past the gap.
	for j := (i + 1) & mask; t.slots[j] != nil; j = (j + 1) & mask {
		if home := t.slot(t.slots[j].id); (j-home)&mask >= (j-i)&mask {
			t.slots[i] = t.slots[j]
			i = j
		}
	}
	t.slots[i] = nil
	t.count--
	if t.count == 0 && len(t.slots) > keepSlots {
		t.slots = nil
	}
}
