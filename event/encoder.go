package event

import (
	"encoding/binary"
	"net/netip"
)

// Encoder gathers events into a batch (event.proto). The zero value is ready.
// It keeps its memory from batch to batch and so allocates nothing once it has
// seen a batch of the usual size; what only a burst needed, it gives back. It
// is not safe for concurrent use.
type Encoder struct {
	count   int
	strings interner

	routes       map[routeKey]uint32
	routeStates  []routeState
	routeColumns [routeColumns]column

	peers       map[peerKey]uint32
	peerList    []Peer // without port
	peerIPs     []byte
	peerColumns [peerColumns]column

	connections map[connectionKey]uint32
	connStates  []connectionState
	connColumns [connColumns]column
	lastID      uint64
	// cache finds the connections in use without hashing their peers: for each
	// hash of an id, two entries' numbers + 1.
	cache [cacheSlots]uint32

	outcomes       map[outcomeKey]uint32
	outcomeColumns [outcomeColumns]column
	lastOutcome    outcomeKey
	lastOutcomeN   uint32

	columns  [eventColumns]column
	lastEnd  int64
	traced   column // numbers of events with a trace id
	traceIDs []byte
	lastRow  int
}

const cacheSlots = 512

type routeKey struct {
	direction               Direction
	protocol                Protocol
	method, authority, path string
}

// routeState is what the next event's bytes are told relative to.
type routeState struct{ request, response uint64 }

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
	kind       Kind
	attempt    uint8
	status     uint16
	grpcStatus int16
	fate       Fate
	error      string
}

// Len is how many events were added.
func (e *Encoder) Len() int { return e.count }

// Size is how long the batch is so far, in bytes, but for its header and some
// dozens of bytes of framing.
func (e *Encoder) Size() int {
	n := e.strings.bytes + len(e.peerIPs) + len(e.traced.data) + len(e.traceIDs)
	n += lengths(e.columns[:]) + lengths(e.routeColumns[:]) + lengths(e.peerColumns[:])
	return n + lengths(e.connColumns[:]) + lengths(e.outcomeColumns[:])
}

func lengths(columns []column) int {
	n := 0
	for i := range columns {
		n += len(columns[i].data)
	}
	return n
}

// Full tells that the batch has to be sealed before another event, lest it pass
// MaxEvents or MaxBatchBytes. A caller that seals earlier needs not ask.
func (e *Encoder) Full() bool {
	return e.count >= MaxEvents || e.Size() > MaxBatchBytes-MaxEventBytes-MaxHeaderBytes
}

// Add adds an event and copies what it needs. Strings are made valid UTF-8 and
// cut to MaxStringBytes. An IPv6 zone is left out, and an IPv4 address in IPv6
// form is told as IPv4. A Direction above 3 is told as 0, a GRPCStatus below
// NoGRPCStatus as NoGRPCStatus.
func (e *Encoder) Add(ev *Event) {
	route := e.route(ev)
	connection := e.connection(ev)
	outcome := e.outcome(ev)
	end := ev.Start + int64(ev.Duration)

	c := &e.columns
	c[eventEnd].put(zigzag(end - e.lastEnd))
	e.lastEnd = end
	c[eventRoute].put(uint64(route))
	c[eventConnection].put(uint64(connection))
	c[eventOutcome].put(uint64(outcome))
	c[eventLatency].put(ev.Latency)
	c[eventTail].put(ev.Duration - ev.Latency)

	r := &e.routeStates[route]
	c[eventRequestBytes].put(zigzag(int64(ev.RequestBytes - r.request)))
	c[eventResponseBytes].put(zigzag(int64(ev.ResponseBytes - r.response)))
	r.request, r.response = ev.RequestBytes, ev.ResponseBytes

	s := &e.connStates[connection]
	c[eventStream].put(zigzag(int64(uint64(ev.Stream) - s.stream)))
	s.stream = uint64(ev.Stream) + 1

	if ev.TraceID != ([16]byte{}) {
		e.traced.put(uint64(e.count - e.lastRow))
		e.lastRow = e.count
		e.traceIDs = append(e.traceIDs, ev.TraceID[:]...)
	}
	e.count++
}

func (e *Encoder) route(ev *Event) uint32 {
	key := routeKey{ev.Direction, ev.Protocol, ev.Method, ev.Authority, ev.Path}
	if n, ok := e.routes[key]; ok {
		return n
	}
	if key.direction > 3 {
		key.direction = 0
	}
	var method, authority, path uint32
	method, key.method = e.strings.intern(ev.Method)
	authority, key.authority = e.strings.intern(ev.Authority)
	path, key.path = e.strings.intern(ev.Path)
	if n, ok := e.routes[key]; ok {
		return n
	}
	if e.routes == nil {
		e.routes = make(map[routeKey]uint32)
	}
	n := uint32(len(e.routeStates))
	e.routes[key] = n
	e.routeStates = append(e.routeStates, routeState{})
	c := &e.routeColumns
	c[routeKind].put(uint64(key.direction) | uint64(key.protocol)<<2)
	c[routeMethod].put(uint64(method))
	c[routeAuthority].put(uint64(authority))
	c[routePath].put(uint64(path))
	return n
}

func (e *Encoder) connection(ev *Event) uint32 {
	slot := ev.Connection * 0x9e3779b97f4a7c15 >> 55
	if n := e.cache[slot]; n > 0 && e.sameConnection(n-1, ev) {
		return n - 1
	}
	if n := e.cache[slot^1]; n > 0 && e.sameConnection(n-1, ev) {
		return n - 1
	}
	if e.cache[slot] != 0 && e.cache[slot^1] == 0 {
		slot ^= 1
	}
	n := e.findConnection(ev)
	e.cache[slot] = n + 1
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
	reason, text := e.strings.intern(ev.SecurityReason)
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
	c[connID].put(zigzag(int64(key.id - e.lastID)))
	e.lastID = key.id
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
		key.strings[i], *s = e.strings.intern(*s)
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
	c := &e.peerColumns
	switch {
	case addr.Is4():
		ip := addr.As4()
		e.peerIPs = append(e.peerIPs, ip[:]...)
	case addr.Is6():
		ip := addr.As16()
		e.peerIPs = append(e.peerIPs, ip[:]...)
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

func (e *Encoder) outcome(ev *Event) uint32 {
	key := outcomeKey{ev.Kind, ev.Attempt, ev.Status, max(ev.GRPCStatus, NoGRPCStatus), ev.Fate, ev.Error}
	if key == e.lastOutcome && len(e.outcomes) > 0 {
		return e.lastOutcomeN
	}
	n, ok := e.outcomes[key]
	if !ok {
		n, key = e.addOutcome(key)
	} else {
		// The event's string will be gone by the next one.
		_, key.error = e.strings.intern(key.error)
	}
	e.lastOutcome, e.lastOutcomeN = key, n
	return n
}

func (e *Encoder) addOutcome(key outcomeKey) (uint32, outcomeKey) {
	var errorN uint32
	errorN, key.error = e.strings.intern(key.error)
	if n, ok := e.outcomes[key]; ok {
		return n, key
	}
	if e.outcomes == nil {
		e.outcomes = make(map[outcomeKey]uint32)
	}
	n := uint32(len(e.outcomes))
	e.outcomes[key] = n
	c := &e.outcomeColumns
	c[outcomeKind].put(uint64(key.kind))
	c[outcomeStatus].put(uint64(key.status))
	c[outcomeGRPC].put(uint64(int32(key.grpcStatus) + 1))
	c[outcomeError].put(uint64(errorN))
	c[outcomeFate].put(uint64(key.fate))
	c[outcomeAttempt].put(uint64(key.attempt))
	return n, key
}

// Encode appends the batch with a header to dst. The encoder stays as it is:
// encoding again gives the same events.
func (e *Encoder) Encode(dst []byte, h *Header) []byte {
	dst = e.appendHeader(dst, h)
	if len(e.strings.strings) > 0 {
		dst = appendLength(dst, fieldStrings, 0) // number 0, the empty string
		for _, s := range e.strings.strings {
			dst = appendBytes(dst, fieldStrings, s)
		}
	}
	dst = appendDictionary(dst, fieldRoutes, e.routeColumns[:])
	dst = e.appendPeers(dst)
	dst = appendDictionary(dst, fieldConnections, e.connColumns[:])
	dst = appendDictionary(dst, fieldOutcomes, e.outcomeColumns[:])
	return e.appendEvents(dst)
}

func (e *Encoder) appendHeader(dst []byte, h *Header) []byte {
	dst = append(dst, fieldInstance<<3|wireFixed64)
	dst = binary.LittleEndian.AppendUint64(dst, h.Instance)
	dst = appendUint(dst, fieldSequence, h.Sequence)
	dst = appendUint(dst, fieldSent, uint64(h.Sent))
	dst = appendUint(dst, fieldProduced, h.Produced)
	dst = appendUint(dst, fieldShed, h.Shed)
	dst = appendUint(dst, fieldOpenConnections, h.OpenConnections)
	if h.Final {
		dst = appendUint(dst, fieldFinal, 1)
	}
	dst = appendString(dst, fieldVersion, e.strings.clean(h.Version))
	size := 0
	s := &h.Source
	source := [...]string{s.Workload.Cluster, s.Workload.Namespace, s.Workload.Kind, s.Workload.Name, s.Pod, s.Node}
	for _, text := range source {
		if text != "" {
			size += fieldSize(len(e.strings.clean(text)))
		}
	}
	dst = appendLength(dst, fieldSource, size)
	for i, text := range source {
		dst = appendString(dst, fieldCluster+i, e.strings.clean(text))
	}
	return dst
}

func appendDictionary(dst []byte, field int, columns []column) []byte {
	if len(columns[0].data) == 0 {
		return dst
	}
	dst = appendLength(dst, field, columnsSize(columns, true))
	return appendColumns(dst, columns, 1, true)
}

// appendPeers writes the peers; their addresses are field 2, in place of a
// column that is never used.
func (e *Encoder) appendPeers(dst []byte) []byte {
	if len(e.peerList) == 0 {
		return dst
	}
	c := e.peerColumns
	c[fieldPeerIP-1] = column{data: e.peerIPs, any: uint64(len(e.peerIPs))}
	return appendDictionary(dst, fieldPeers, c[:])
}

func (e *Encoder) appendEvents(dst []byte) []byte {
	if e.count == 0 {
		return dst
	}
	size := 1 + uvarintSize(uint64(e.count)) + columnsSize(e.columns[:], false)
	if len(e.traceIDs) > 0 {
		size += fieldSize(len(e.traced.data)) + fieldSize(len(e.traceIDs))
	}
	dst = appendLength(dst, fieldEvents, size)
	dst = appendUint(dst, fieldCount, uint64(e.count))
	dst = appendColumns(dst, e.columns[:], fieldEnd, false)
	if len(e.traceIDs) > 0 {
		dst = appendBytes(dst, fieldTraceRow, e.traced.data)
		dst = appendBytes(dst, fieldTraceID, e.traceIDs)
	}
	return dst
}

// Reset forgets all events and keeps the memory that a usual batch needs.
func (e *Encoder) Reset() {
	e.count, e.lastEnd, e.lastRow, e.lastID = 0, 0, 0, 0
	e.lastOutcome, e.lastOutcomeN = outcomeKey{}, 0
	e.cache = [cacheSlots]uint32{}
	if len(e.routes) > keepEntries {
		e.routes, e.routeStates = nil, nil
	}
	if len(e.peers) > keepEntries {
		e.peers, e.peerList = nil, nil
	}
	if len(e.connections) > keepEntries {
		e.connections, e.connStates = nil, nil
	}
	if len(e.outcomes) > keepEntries {
		e.outcomes = nil
	}
	clear(e.routes)
	clear(e.peers)
	clear(e.connections)
	clear(e.outcomes)
	clear(e.peerList)
	clear(e.connStates)
	e.routeStates, e.peerList, e.connStates = e.routeStates[:0], e.peerList[:0], e.connStates[:0]
	e.peerIPs, e.traceIDs = e.peerIPs[:0], e.traceIDs[:0]
	resetColumns(e.routeColumns[:])
	resetColumns(e.peerColumns[:])
	resetColumns(e.connColumns[:])
	resetColumns(e.outcomeColumns[:])
	resetColumns(e.columns[:])
	e.traced.data, e.traced.any = e.traced.data[:0], 0
	e.strings.reset()
}
