package event

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
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

	routes       []routeKey
	routeIndex   index
	routeColumns [routeColumns]column

	peers       map[peerKey]uint32
	peerList    []Peer // without port
	peerIPs     []byte
	peerIPv4    column
	peerIDs     []uint64 // the last connection's id of each
	peerColumns [peerColumns]column

	connections map[connectionKey]uint32
	connStates  []connectionState
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

	// small counts batches in a row that needed little of the memory.
	small int

	summaries      int
	summed         uint64 // events
	summaryColumns [summaryColumns]column
	histograms     []byte
}

// Workspace is memory that [Encoder.Encode] works in, and no batch's. Its zero
// value is ready; it is not safe for concurrent use.
type Workspace struct {
	packer packer
	words  words
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

// peerKey is a peer with numbers for its strings: a map keeps keys longer than
// 128 bytes, as a Peer is, each in an allocation of its own.
type peerKey struct {
	strings [peerFlags - peerCluster]uint32
	addr    netip.Addr
	meshed  bool
}

type connectionKey struct {
	id            uint64
	peer          uint32
	detectionTime uint32
	port          uint16
	security      Security
	detection     Detection
	reason        string
}

type connectionState struct {
	connectionKey
	stream uint64 // of the next event, if it comes in order
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
	size := e.Size() + e.count*eventColumns
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
	key.method, _ = e.strings.intern(ev.Method, classWord)
	key.authority, _ = e.strings.intern(ev.Authority, classWord)
	key.path, _ = e.strings.intern(ev.Path, classPath)
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
	key.error, _ = e.strings.intern(ev.Error, classWord)
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

func (e *Encoder) connection(ev *Event) uint32 {
	slot := ev.Connection * 0x9e3779b97f4a7c15 >> 55
	if n := e.connCache[slot]; n > 0 && e.sameConnection(n-1, ev) {
		return n - 1
	}
	if n := e.connCache[slot^1]; n > 0 && e.sameConnection(n-1, ev) {
		return n - 1
	}
	if e.connCache[slot] != 0 && e.connCache[slot^1] == 0 {
		slot ^= 1
	}
	n := e.findConnection(ev)
	e.connCache[slot] = n + 1
	return n
}

func (e *Encoder) sameConnection(n uint32, ev *Event) bool {
	s := &e.connStates[n]
	if s.id != ev.Connection || s.port != ev.Peer.Addr.Port() || s.security != ev.Security ||
		s.detection != ev.Detection || s.detectionTime != ev.DetectionTime || s.reason != ev.SecurityReason {
		return false
	}
	p := &e.peerList[s.peer]
	return p.Meshed == ev.Peer.Meshed && p.Addr.Addr() == ev.Peer.Addr.Addr().Unmap() && p.Pod == ev.Peer.Pod &&
		p.Identity == ev.Peer.Identity && p.Workload == ev.Peer.Workload
}

func (e *Encoder) findConnection(ev *Event) uint32 {
	reason, text := e.strings.intern(ev.SecurityReason, classWord)
	key := connectionKey{
		id: ev.Connection, peer: e.peer(&ev.Peer), port: ev.Peer.Addr.Port(), reason: text,
		security: ev.Security, detection: ev.Detection, detectionTime: ev.DetectionTime,
	}
	if n, ok := e.connections[key]; ok {
		return n
	}
	if e.connections == nil {
		e.connections = make(map[connectionKey]uint32)
	}
	n := uint32(len(e.connStates))
	e.connections[key] = n
	e.connStates = append(e.connStates, connectionState{key, uint64(ev.Stream)})
	c := &e.connColumns
	c[connID].put(key.id - e.peerIDs[key.peer])
	e.peerIDs[key.peer] = key.id
	c[connPeer].put(uint64(key.peer))
	c[connPort].put(uint64(key.port))
	c[connSecurity].put(uint64(key.security))
	c[connReason].put(uint64(reason))
	c[connDetection].put(uint64(key.detection))
	c[connDetectionTime].put(uint64(key.detectionTime))
	c[connStream].put(uint64(ev.Stream))
	return n
}

func (e *Encoder) peer(p *Peer) uint32 {
	kept := *p
	addr := p.Addr.Addr().Unmap().WithZone("")
	kept.Addr = netip.AddrPortFrom(addr, 0)
	key := peerKey{addr: addr, meshed: p.Meshed}
	for i, s := range [len(key.strings)]*string{
		&kept.Workload.Cluster, &kept.Workload.Namespace, &kept.Workload.Kind, &kept.Workload.Name,
		&kept.Pod, &kept.Identity,
	} {
		key.strings[i], *s = e.strings.intern(*s, peerClasses[i])
	}
	if n, ok := e.peers[key]; ok {
		return n
	}
	if e.peers == nil {
		e.peers = make(map[peerKey]uint32)
	}
	n := uint32(len(e.peerList))
	e.peers[key] = n
	e.peerList = append(e.peerList, kept)
	e.peerIDs = append(e.peerIDs, 0)
	c := &e.peerColumns
	switch {
	case addr.Is4():
		ip := addr.As4()
		e.peerIPv4.put(uint64(binary.BigEndian.Uint32(ip[:])))
	case addr.Is6():
		ip := addr.As16()
		e.peerIPs = append(e.peerIPs, ip[:]...)
		e.peerIPv4.put(0)
	default:
		e.peerIPv4.put(0)
	}
	c[peerIPLength].put(uint64(addr.BitLen() / 8))
	for i, s := range key.strings {
		c[peerCluster+i].put(uint64(s))
	}
	var flags uint64
	if p.Meshed {
		flags = flagMeshed
	}
	c[peerFlags].put(flags)
	return n
}

// peerClasses are the classes of a peer's strings.
var peerClasses = [...]uint8{classWord, classWord, classWord, className, classPod, classIdentity}

// Batches that need less than an eighth of the room for exchanges, where that is
// for manyExchanges at least, are small: so many in a row, and what was many is
// over.
const (
	manyExchanges = 128
	smallBatches  = 30
)

// Reset forgets all events and keeps the memory that a usual batch needs.
func (e *Encoder) Reset() {
	if e.small++; cap(e.exchanges) < manyExchanges || len(e.exchanges) >= cap(e.exchanges)/8 {
		e.small = 0
	}
	if e.small == smallBatches {
		*e = Encoder{work: e.work}
		return
	}
	e.count, e.firstEnd, e.lastEnd = 0, 0, 0
	e.connCache, e.exchangeCache = [cacheSlots]uint32{}, [cacheSlots]uint32{}
	e.routes = emptied(e.routes, keepRoutes)
	e.outcomes = emptied(e.outcomes, keepEntries)
	e.exchanges = emptied(e.exchanges, keepRoutes)
	e.routeIndex.reset(keepRoutes)
	e.outcomeIndex.reset(keepEntries)
	e.exchangeIndex.reset(keepRoutes)
	if len(e.peers) > keepEntries {
		e.peers, e.peerList, e.peerIDs = nil, nil, nil
	}
	if len(e.connections) > keepEntries {
		e.connections, e.connStates = nil, nil
	}
	clear(e.peers)
	clear(e.connections)
	clear(e.peerList)
	clear(e.connStates)
	e.peerList, e.connStates = e.peerList[:0], e.connStates[:0]
	e.peerIPs, e.peerIDs, e.traceIDs = e.peerIPs[:0], e.peerIDs[:0], e.traceIDs[:0]
	resetColumns(e.routeColumns[:])
	resetColumns(e.peerColumns[:])
	resetColumns(e.connColumns[:])
	resetColumns(e.outcomeColumns[:])
	resetColumns(e.exchangeColumns[:])
	resetColumns(e.columns[:])
	e.peerIPv4.data, e.peerIPv4.any = e.peerIPv4.data[:0], 0
	e.traced.data, e.traced.any = e.traced.data[:0], 0
	e.resetSummaries()
	e.strings.reset()
}

// emptied is a list without its entries, and without its memory where they were
// more than keep.
func emptied[T any](list []T, keep int) []T {
	if len(list) > keep {
		return nil
	}
	return list[:0]
}
