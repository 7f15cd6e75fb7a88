package event

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
)

// peerKey is a peer, without its port, with numbers for its strings.
type peerKey struct {
	strings [peerFlags - peerCluster]uint32
	addr    netip.Addr
	meshed  bool
}

// connectionKey is what an event's connection says, with numbers for the reason
// and the peer.
type connectionKey struct {
	id                          uint64
	peer, detectionTime, reason uint32
	port                        uint16
	security                    Security
	detection                   Detection
}

// connectionState is a connection, and what the next event's stream is told
// relative to.
type connectionState struct {
	connectionKey
	stream uint64 // of the next event, if it comes in order
}

// Connections is how many different connections the batch names. Traffic of a
// connection for each request has as many as events, and each takes more memory
// than its event does.
func (e *Encoder) Connections() int { return len(e.connStates) }

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
	t := &e.strings
	if s.id != ev.Connection || s.port != ev.Peer.Addr.Port() || s.security != ev.Security ||
		s.detection != ev.Detection || s.detectionTime != ev.DetectionTime || t.text(s.reason) != ev.SecurityReason {
		return false
	}
	p, w := &e.peers[s.peer], &ev.Peer.Workload
	return p.meshed == ev.Peer.Meshed && p.addr == ev.Peer.Addr.Addr().Unmap() &&
		t.text(p.strings[peerPod-peerCluster]) == ev.Peer.Pod && t.text(p.strings[peerIdentity-peerCluster]) == ev.Peer.Identity &&
		t.text(p.strings[peerName-peerCluster]) == w.Name && t.text(p.strings[peerNamespace-peerCluster]) == w.Namespace &&
		t.text(p.strings[peerKind-peerCluster]) == w.Kind && t.text(p.strings[0]) == w.Cluster
}

func (e *Encoder) findConnection(ev *Event) uint32 {
	if e.salt == 0 {
		e.salt = rand.Uint64() | 1
	}
	reason := e.strings.intern(ev.SecurityReason, classWord)
	key := connectionKey{
		id: ev.Connection, peer: e.peer(&ev.Peer), port: ev.Peer.Addr.Port(), reason: reason,
		security: ev.Security, detection: ev.Detection, detectionTime: ev.DetectionTime,
	}
	hash := mix(mix(key.id^e.salt, uint64(key.peer)<<32|uint64(key.detectionTime)),
		uint64(reason)<<32|uint64(key.port)<<16|uint64(key.security)<<8|uint64(key.detection))
	if n, ok := e.connIndex.find(hash, func(n uint32) bool { return e.connStates[n].connectionKey == key }); ok {
		return n
	}
	n := uint32(len(e.connStates))
	e.connIndex.add(hash)
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
	addr := p.Addr.Addr().Unmap().WithZone("")
	key := peerKey{addr: addr, meshed: p.Meshed}
	for i, s := range [len(key.strings)]string{
		p.Workload.Cluster, p.Workload.Namespace, p.Workload.Kind, p.Workload.Name, p.Pod, p.Identity,
	} {
		key.strings[i] = e.strings.intern(s, peerClasses[i])
	}
	hash := e.peerHash(&key)
	if n, ok := e.peerIndex.find(hash, func(n uint32) bool { return e.peers[n] == key }); ok {
		return n
	}
	n := uint32(len(e.peers))
	e.peerIndex.add(hash)
	e.peers = append(e.peers, key)
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

// peerHash is salted: others choose their addresses.
func (e *Encoder) peerHash(k *peerKey) uint64 {
	ip := k.addr.As16()
	h := mix(binary.LittleEndian.Uint64(ip[:])^e.salt, binary.LittleEndian.Uint64(ip[8:]))
	for i := 0; i < len(k.strings); i += 2 {
		h = mix(h, uint64(k.strings[i])<<32|uint64(k.strings[i+1]))
	}
	return h
}

// peerClasses are the classes of a peer's strings.
var peerClasses = [...]uint8{classWord, classWord, classWord, className, classPod, classIdentity}
