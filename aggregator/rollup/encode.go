package rollup

import (
	"encoding/binary"

	"github.com/weirmesh/weir/event"
)

// version of the format.
const version = 1

// MaxPart is how large a part of a group may be unless told otherwise, bytes:
// a message of the bus has 1 MiB at most.
const MaxPart = 900 << 10

// Meta is what a group says of itself.
type Meta struct {
	Partition int
	// Owner is who writes, for people to read.
	Owner string
	// Group names the group: the stream sequence of the partition's rollup
	// before it.
	Group uint64
	// Written is when, µs since 1970.
	Written int64
	// Turn numbers the partition's groups of the finest tier, from 1. A coarse group
	// has that of the last which it sums up, and Events, that one's position in the
	// events stream.
	Turn   uint64
	Events event.Mark
	// Hole, Unix seconds, where not 0: what begins before and was counted before this
	// group, the finest HoleTiers tiers may have lost; the next tier has all of it.
	Hole      int64
	HoleTiers int
}

// mostStrings is how many strings a message refers to at most: a key's.
const mostStrings = 14

// writer builds the parts of a group.
type writer struct {
	meta  Meta
	limit int
	parts [][]byte

	// expected are about the bytes of all parts yet to be written.
	expected int
	// free is memory for the next part.
	free []byte

	// The part at hand.
	body    []byte
	strings map[string]uint32
	// before are the strings that were referred to last, in each place of a message:
	// most are so again.
	before [mostStrings]struct {
		text string
		ref  uint32
	}
	// keys are those that were written, by index; where items of the same key
	// follow one another, the last is all there is to know.
	keys    map[Key]uint32
	last    *Key
	count   uint32
	grouped bool
	scratch []byte
}

// Encode writes a delta as the messages of one group, each of about maxPart
// bytes at most (0: MaxPart). There is at least one.
func Encode(d *Delta, m Meta, maxPart int) [][]byte { return new(Encoder).Encode(d, m, maxPart) }

// Encoder writes deltas one after the other in the same memory. The zero value is
// ready; it is not safe for concurrent use.
type Encoder struct{ writer writer }

// Encode is as [Encode]. What it returns is valid until the next call.
func (e *Encoder) Encode(d *Delta, m Meta, maxPart int) [][]byte {
	if maxPart <= 0 {
		maxPart = MaxPart
	}
	w := &e.writer
	w.begin(d, m, maxPart)
	// Growing means copying. A key takes some 30 bytes, where most of its strings
	// have come before.
	for i := range d.Items {
		w.expected += len(d.Items[i].Sums) + 48
	}
	w.start()
	for i := range d.Items {
		w.item(&d.Items[i])
	}
	for i := range d.Sources {
		w.source(&d.Sources[i])
	}
	for i := range d.Learned {
		w.learned(&d.Learned[i])
	}
	w.body = appendBool(w.body, 6, true)
	w.body = appendUint(w.body, 8, d.Position)
	w.body = appendBool(w.body, 9, d.Full)
	w.body = appendFixed64(w.body, 19, uint64(d.Stored))
	w.end()
	w.last = nil // which is d's
	return w.parts
}

// begin begins a group. The memory of the last one's first part is for this one's,
// unless that was much larger.
func (w *writer) begin(d *Delta, m Meta, limit int) {
	w.meta, w.limit, w.grouped, w.expected = m, limit, d.grouped, 0
	if len(w.parts) > 0 {
		w.free = w.parts[0]
	}
	if cap(w.free) > 4*len(w.free) {
		w.free = nil
	}
	clear(w.parts)
	w.parts = w.parts[:0]
	if w.strings == nil {
		w.strings = map[string]uint32{}
	}
	if w.keys = nil; !w.grouped {
		w.keys = make(map[Key]uint32, len(d.Items))
	}
}

func (w *writer) start() {
	clear(w.strings)
	clear(w.before[:]) // "" is 0
	clear(w.keys)
	w.last, w.count = nil, 0
	w.strings[""] = 0
	if w.body, w.free = w.free[:0], nil; cap(w.body) < min(w.expected, w.limit)+512 {
		w.body = make([]byte, 0, min(w.expected, w.limit)+512)
	}
	w.body = appendUint(w.body, 1, version)
	w.body = appendUint(w.body, 2, uint64(w.meta.Partition))
	w.body = appendString(w.body, 3, w.meta.Owner)
	w.body = appendUint(w.body, 4, w.meta.Group)
	w.body = appendUint(w.body, 5, uint64(len(w.parts)))
	w.body = appendUint(w.body, 7, uint64(w.meta.Written))
	w.body = appendUint(w.body, 15, w.meta.Turn)
	w.body = appendUint(w.body, 16, w.meta.Events.Sequence)
	w.body = appendUint(w.body, 17, uint64(w.meta.Hole))
	w.body = appendUint(w.body, 18, uint64(w.meta.HoleTiers))
	w.body = appendFixed64(w.body, 20, uint64(w.meta.Events.Stored))
	w.body = appendString(w.body, 10, "")
}

func (w *writer) end() {
	w.parts = append(w.parts, w.body)
	w.expected = max(w.expected-len(w.body), 0)
}

// room begins the next part where the one at hand is full. A field of protobuf
// may come in any place, so each is written as soon as it is known.
func (w *writer) room(n int) {
	if len(w.body)+n > w.limit && int(w.count)+len(w.strings) > 1 {
		w.end()
		w.start()
	}
}

// index is the number of a key in the part, if it has been written.
func (w *writer) index(k *Key) (n uint32, ok bool) {
	if w.grouped {
		return w.count - 1, w.last != nil && *w.last == *k
	}
	n, ok = w.keys[*k]
	return n, ok
}

// ref is the index of a string in the part.
func (w *writer) ref(s string) uint32 {
	i, ok := w.strings[s]
	if !ok {
		i = uint32(len(w.strings))
		w.strings[s] = i
		w.body = appendString(w.body, 10, s)
	}
	return i
}

// refs puts references to strings into w.scratch, packed.
func (w *writer) refs(all []*string) {
	for len(all) > 0 && *all[len(all)-1] == "" {
		all = all[:len(all)-1]
	}
	w.scratch = w.scratch[:0]
	for i, s := range all {
		b := &w.before[i]
		if b.text != *s {
			b.text, b.ref = *s, w.ref(*s)
		}
		w.scratch = binary.AppendUvarint(w.scratch, uint64(b.ref))
	}
}

// sizeOf bounds what some strings can add to a part.
func sizeOf(all []*string) int {
	n := 64
	for _, s := range all {
		n += len(*s) + 8
	}
	return n
}

func (w *writer) item(it *Item) {
	names := it.Key.strings()
	w.room(sizeOf(names[:]) + len(it.Sums) + 32)
	index, ok := w.index(&it.Key)
	if !ok {
		index = w.count
		w.last, w.count = &it.Key, w.count+1
		if !w.grouped {
			w.keys[it.Key] = index
		}
		w.refs(names[:])
		w.body = appendLen(w.body, 11, func(dst []byte) []byte {
			dst = appendUint(dst, 1, uint64(it.Key.Dimension))
			dst = appendUint(dst, 2, uint64(it.Key.Direction))
			dst = appendLen(dst, 3, func(dst []byte) []byte { return append(dst, w.scratch...) })
			dst = appendUint(dst, 4, uint64(it.Key.Peer.Security))
			dst = appendBool(dst, 5, it.Key.Peer.Meshed)
			return appendUint(dst, 6, uint64(it.Key.Route.Protocol))
		})
	}
	// The sums, nearly all of it, are copied once only.
	head := appendUint(appendUint(w.scratch[:0], 1, uint64(index)), 2, uint64(it.Second))
	if len(it.Sums) > 0 {
		head = binary.AppendUvarint(appendTag(head, 3, wireLen), uint64(len(it.Sums)))
	}
	if w.scratch = head; len(head) > 0 {
		w.body = binary.AppendUvarint(appendTag(w.body, 12, wireLen), uint64(len(head)+len(it.Sums)))
		w.body = append(append(w.body, head...), it.Sums...)
	}
}

func (s *Source) strings() [7]*string {
	w := &s.ID.Workload
	return [7]*string{&w.Cluster, &w.Namespace, &w.Kind, &w.Name, &s.Pod, &s.Node, &s.Version}
}

func (w *writer) source(s *Source) {
	names := s.strings()
	w.room(sizeOf(names[:]) + 32*len(s.Missing) + 96)
	w.refs(names[:])
	w.body = appendLen(w.body, 13, func(dst []byte) []byte {
		dst = appendFixed64(dst, 1, s.ID.Instance)
		dst = appendLen(dst, 2, func(dst []byte) []byte { return append(dst, w.scratch...) })
		dst = appendUint(dst, 3, s.High)
		for _, g := range s.Missing {
			dst = appendLen(dst, 4, g.appendBinary)
		}
		dst = appendUint(dst, 5, s.Produced)
		dst = appendUint(dst, 6, s.Shed)
		dst = appendUint(dst, 7, s.OpenConnections)
		dst = appendBool(dst, 8, s.Final)
		dst = appendUint(dst, 9, s.Events)
		dst = appendUint(dst, 10, uint64(s.FirstSeen))
		dst = appendUint(dst, 11, uint64(s.LastSeen))
		dst = appendBool(dst, 12, s.ClockRight)
		return appendUint(dst, 13, s.Batches)
	})
}

func (w *writer) learned(l *Learned) {
	size := 256
	for _, p := range l.Positions {
		size += len(p.Prefix) + 24
		for _, name := range p.Kept {
			size += len(name) + 4
		}
	}
	names := [4]*string{&l.Workload.Cluster, &l.Workload.Namespace, &l.Workload.Kind, &l.Workload.Name}
	w.room(size + sizeOf(names[:]))
	w.refs(names[:])
	w.body = appendLen(w.body, 14, func(dst []byte) []byte {
		dst = appendLen(dst, 1, func(dst []byte) []byte { return append(dst, w.scratch...) })
		dst = appendUint(dst, 2, uint64(l.Direction))
		for _, p := range l.Positions {
			dst = appendLen(dst, 3, func(dst []byte) []byte {
				dst = appendUint(dst, 1, uint64(p.Used)+1) // lest it is empty
				dst = appendString(dst, 2, p.Prefix)
				for _, name := range p.Kept {
					dst = appendString(dst, 3, name)
				}
				return dst
			})
		}
		return dst
	})
}

func (g Gap) appendBinary(dst []byte) []byte {
	dst = appendUint(dst, 1, g.From)
	dst = appendUint(dst, 2, g.To)
	dst = appendUint(dst, 3, uint64(g.Since))
	return appendBool(dst, 4, g.Lost)
}

// directions of a key that are possible.
func possible(k *Key) bool {
	switch k.Dimension {
	case Total, ByPod, ByPeer, ByRoute, ByPeerRoute:
		return k.Direction == event.Inbound || k.Direction == event.Outbound
	case Ledger:
		return k.Direction == 0
	default:
		return false
	}
}
