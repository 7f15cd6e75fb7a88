package event

import (
	"encoding/binary"
	"math/bits"
	"unsafe"
)

// Encoder gathers events into a batch (event.proto). The zero value is ready.
// It keeps its memory from batch to batch and so allocates nothing once it has
// seen a batch of the usual size; what only a burst needed, it gives back. It
// is not safe for concurrent use.
type Encoder struct {
	count   int
	strings interner
	work    *Workspace // nil until it is needed
	salt    uint64     // of the hashes of what others choose; 0 until it is needed

	routes       []routeKey
	routeIndex   index
	routeColumns [routeColumns]column

	peers       []peerKey
	peerIndex   index
	peerIPs     []byte
	peerIPv4    column
	peerIDs     []uint64 // the last connection's id of each
	peerColumns [peerColumns]column

	connStates  []connectionState
	connIndex   index
	connColumns [connColumns]column
	// connCache finds the connections in use without hashing their peers: for
	// each hash of an id, two entries' numbers + 1.
	connCache [cacheSlots]uint32

	outcomes       []outcomeKey
	outcomeIndex   index
	outcomeColumns [outcomeColumns]column

	exchanges       []exchangeState
	exchangeIndex   index
	exchangeColumns [exchangeColumns]column
	// exchangeCache does the same for exchanges, by a hash of their path.
	exchangeCache [cacheSlots]uint32

	columns  [eventColumns]column
	firstEnd int64
	lastEnd  int64
	traced   column // numbers of events with a trace id
	traceIDs []byte

	// batches counts resets, and most is what the batches of late needed.
	batches uint
	most    entries

	summaries      int
	summed         uint64 // events
	summaryColumns [summaryColumns]column
	histograms     []byte
}

// entries are how many of each list were needed.
type entries struct {
	routes, outcomes, exchanges, peers, peerIDs, connStates, peerIPs, traceIDs, histograms need
}

// Workspace is memory that [Encoder.Encode] works in, and no batch's. Its zero
// value is ready; it is not safe for concurrent use.
type Workspace struct {
	packer  packer
	words   words
	batches uint
	// sums are those of batches that have any, unsummed how many in turn had none.
	sums     *summer
	unsummed uint
}

// Use has the encoder encode in a workspace, which it may share with others that
// never encode at the same time. Without, it has one of its own.
func (e *Encoder) Use(w *Workspace) { e.work = w }

const cacheSlots = 512

// routeKey is a route with numbers for its strings, as all of the dictionaries
// are: traffic may have a path for each request, and then what takes memory is an
// entry of each.
type routeKey struct {
	method, authority, path uint32
	direction               Direction
	protocol                Protocol
}

type outcomeKey struct {
	error      uint32
	status     uint16
	grpcStatus int16
	fate       Fate
	kind       Kind
	attempt    uint8
}

// exchangeState is an exchange, and what the next event's bytes are told
// relative to.
type exchangeState struct {
	route, outcome    uint32
	request, response uint64
}

// Len is how many events were added.
func (e *Encoder) Len() int { return e.count }

// Exchanges is how many different exchanges (a route and how it ended) the batch
// names. Each takes far more memory here than its event does, so a caller that
// wants to stay small seals when there are many.
func (e *Encoder) Exchanges() int { return len(e.exchanges) }

// Size is about how long the batch is so far, in bytes, but for its header:
// rather more than less.
func (e *Encoder) Size() int {
	n := e.strings.bytes + len(e.peerIPs) + len(e.peerIPv4.data) + len(e.traced.data) + len(e.traceIDs)
	if e.summaries > 0 {
		n += lengths(e.summaryColumns[:]) + len(e.histograms)
	}
	n += lengths(e.columns[:]) + lengths(e.routeColumns[:]) + lengths(e.peerColumns[:])
	return n + lengths(e.connColumns[:]) + lengths(e.outcomeColumns[:]) + lengths(e.exchangeColumns[:])
}

func lengths(columns []column) int {
	n := 0
	for i := range columns {
		n += len(columns[i].data)
	}
	return n
}

// Full tells that the batch has to be sealed before another event, lest it pass
// MaxEvents, MaxSummaries or MaxBatchBytes. A caller that seals earlier needs not ask.
func (e *Encoder) Full() bool {
	// A column takes a byte a row more than its numbers as varints at the most:
	// where each is a patch.
	// Sums have no more bytes than there are events.
	size := e.Size() + e.count*(eventColumns+1)
	return e.count >= MaxEvents || e.summaries >= MaxSummaries || size > MaxBatchBytes-MaxEventBytes-MaxHeaderBytes
}

// Add adds an event and copies what it needs. Strings are made valid UTF-8 and
// cut to MaxStringBytes. An IPv6 zone is left out, and an IPv4 address in IPv6
// form is told as IPv4. A Direction above 3 is told as 0, a GRPCStatus below
// NoGRPCStatus as NoGRPCStatus.
//
// It returns the numbers, in the batch, of what the event has in common with
// others: those of [Decoder.Describe]. A number that was not there before is one
// more than the greatest.
func (e *Encoder) Add(ev *Event) (exchange, connection int) {
	x, c := e.exchange(ev), e.connection(ev)
	e.add(ev, x, c)
	return int(x), int(c)
}

func (e *Encoder) add(ev *Event, exchange, connection uint32) {
	end := ev.Start + int64(ev.Duration)
	if e.count == 0 {
		e.firstEnd, e.lastEnd = end, end
	}

	c := &e.columns
	c[eventEnd].put(uint64(end - e.lastEnd))
	e.lastEnd = end
	c[eventExchange].put(uint64(exchange))
	c[eventConnection].put(uint64(connection))
	c[eventLatency].put(ev.Latency)
	c[eventTail].put(ev.Duration - ev.Latency)

	x := &e.exchanges[exchange]
	c[eventRequestBytes].put(ev.RequestBytes - x.request)
	c[eventResponseBytes].put(ev.ResponseBytes - x.response)
	x.request, x.response = ev.RequestBytes, ev.ResponseBytes

	s := &e.connStates[connection]
	c[eventStream].put(uint64(ev.Stream) - s.stream)
	s.stream = uint64(ev.Stream) + 1

	if ev.TraceID != ([16]byte{}) {
		e.traced.put(uint64(e.count))
		e.traceIDs = append(e.traceIDs, ev.TraceID[:]...)
	}
	e.count++
}

// exchange finds what was asked for and how it ended.
func (e *Encoder) exchange(ev *Event) uint32 {
	slot := pathHash(ev.Path) ^ uint64(ev.Status)<<1&(cacheSlots-1)
	if n := e.exchangeCache[slot]; n > 0 && e.sameExchange(n-1, ev) {
		return n - 1
	}
	if n := e.exchangeCache[slot^1]; n > 0 && e.sameExchange(n-1, ev) {
		return n - 1
	}
	if e.exchangeCache[slot] != 0 && e.exchangeCache[slot^1] == 0 {
		slot ^= 1
	}
	n := e.findExchange(ev)
	e.exchangeCache[slot] = n + 1
	return n
}

// pathHash is a slot for a path, of its end and length.
func pathHash(s string) uint64 {
	h := uint64(len(s))
	if len(s) >= 8 {
		end := unsafe.Slice(unsafe.StringData(s[len(s)-8:]), 8)
		h += binary.LittleEndian.Uint64(end)
	} else {
		for i := range len(s) {
			h = h<<8 | uint64(s[i])
		}
	}
	// What differs is mostly in the highest bits of h: both halves of the
	// product are needed.
	high, low := bits.Mul64(h, 0x9e3779b97f4a7c15)
	return (high ^ low) >> 55
}

func (e *Encoder) sameExchange(n uint32, ev *Event) bool {
	s := &e.exchanges[n]
	r, o := &e.routes[s.route], &e.outcomes[s.outcome]
	t := &e.strings
	return o.status == ev.Status && o.kind == ev.Kind && o.attempt == ev.Attempt && o.grpcStatus == ev.GRPCStatus &&
		o.fate == ev.Fate && r.direction == ev.Direction && r.protocol == ev.Protocol &&
		t.text(r.path) == ev.Path && t.text(r.method) == ev.Method && t.text(r.authority) == ev.Authority && t.text(o.error) == ev.Error
}

func (e *Encoder) findExchange(ev *Event) uint32 {
	route, outcome := e.route(ev), e.outcome(ev)
	hash := mix(uint64(route), uint64(outcome))
	n, ok := e.exchangeIndex.find(hash, func(n uint32) bool {
		return e.exchanges[n].route == route && e.exchanges[n].outcome == outcome
	})
	if ok {
		return n
	}
	n = uint32(len(e.exchanges))
	e.exchangeIndex.add(hash)
	e.exchanges = append(e.exchanges, exchangeState{route, outcome, ev.RequestBytes, ev.ResponseBytes})
	c := &e.exchangeColumns
	c[exchangeRoute].put(uint64(route))
	c[exchangeOutcome].put(uint64(outcome))
	c[exchangeRequest].put(ev.RequestBytes)
	c[exchangeResponse].put(ev.ResponseBytes)
	return n
}

// route finds what was asked for.
func (e *Encoder) route(ev *Event) uint32 {
	key := routeKey{direction: ev.Direction, protocol: ev.Protocol}
	if key.direction > 3 {
		key.direction = 0
	}
	key.method = e.strings.intern(ev.Method, classWord)
	key.authority = e.strings.intern(ev.Authority, classWord)
	key.path = e.strings.intern(ev.Path, classPath)
	hash := mix(uint64(key.method)<<32|uint64(key.path), uint64(key.authority)<<16|uint64(key.direction)<<8|uint64(key.protocol))
	if n, ok := e.routeIndex.find(hash, func(n uint32) bool { return e.routes[n] == key }); ok {
		return n
	}
	n := uint32(len(e.routes))
	e.routeIndex.add(hash)
	e.routes = append(e.routes, key)
	c := &e.routeColumns
	c[routeKind].put(uint64(key.direction) | uint64(key.protocol)<<2)
	c[routeMethod].put(uint64(key.method))
	c[routeAuthority].put(uint64(key.authority))
	c[routePath].put(uint64(key.path))
	return n
}

// outcome finds how it ended.
func (e *Encoder) outcome(ev *Event) uint32 {
	key := outcomeKey{kind: ev.Kind, attempt: ev.Attempt, status: ev.Status, grpcStatus: max(ev.GRPCStatus, NoGRPCStatus), fate: ev.Fate}
	key.error = e.strings.intern(ev.Error, classWord)
	hash := mix(uint64(key.error)<<32|uint64(key.status)<<16|uint64(uint16(key.grpcStatus)),
		uint64(key.fate)<<16|uint64(key.kind)<<8|uint64(key.attempt))
	if n, ok := e.outcomeIndex.find(hash, func(n uint32) bool { return e.outcomes[n] == key }); ok {
		return n
	}
	n := uint32(len(e.outcomes))
	e.outcomeIndex.add(hash)
	e.outcomes = append(e.outcomes, key)
	c := &e.outcomeColumns
	c[outcomeKind].put(uint64(key.kind))
	c[outcomeStatus].put(uint64(key.status))
	c[outcomeGRPC].put(uint64(int32(key.grpcStatus) + 1))
	c[outcomeError].put(uint64(key.error))
	c[outcomeFate].put(uint64(key.fate))
	c[outcomeAttempt].put(uint64(key.attempt))
	return n
}

// Reset forgets all events and keeps the memory that a usual batch needs.
func (e *Encoder) Reset() {
	e.batches++
	over := e.batches%usualBatches == 0
	e.count, e.firstEnd, e.lastEnd = 0, 0, 0
	e.connCache, e.exchangeCache = [cacheSlots]uint32{}, [cacheSlots]uint32{}
	m := &e.most
	e.routes = emptied(e.routes, &m.routes, keepRoutes, over)
	e.outcomes = emptied(e.outcomes, &m.outcomes, keepEntries, over)
	e.exchanges = emptied(e.exchanges, &m.exchanges, keepRoutes, over)
	e.peers = emptied(e.peers, &m.peers, keepEntries, over)
	e.peerIDs = emptied(e.peerIDs, &m.peerIDs, keepEntries, over)
	e.connStates = emptied(e.connStates, &m.connStates, keepEntries, over)
	e.peerIPs = emptied(e.peerIPs, &m.peerIPs, keepColumn, over)
	e.traceIDs = emptied(e.traceIDs, &m.traceIDs, keepColumn, over)
	for _, x := range [...]*index{&e.routeIndex, &e.outcomeIndex, &e.exchangeIndex} {
		x.reset(keepRoutes, over)
	}
	e.peerIndex.reset(keepEntries, over)
	e.connIndex.reset(keepEntries, over)
	resetColumns(e.routeColumns[:], over)
	resetColumns(e.peerColumns[:], over)
	resetColumns(e.connColumns[:], over)
	resetColumns(e.outcomeColumns[:], over)
	resetColumns(e.exchangeColumns[:], over)
	resetColumns(e.columns[:], over)
	e.peerIPv4.reset(over)
	e.traced.reset(over)
	e.resetSummaries(over)
	e.strings.reset(over)
}
