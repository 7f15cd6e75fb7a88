package rollup

import (
	"errors"
	"fmt"
	"slices"

	"github.com/VictoriaMetrics/easyproto"

	"github.com/weirmesh/weir/aggregator/route"
	"github.com/weirmesh/weir/event"
)

// Part is one message of a group.
type Part struct {
	Meta
	// Number of the part in its group, from 0; Last ends the group.
	Number int
	Last   bool
	// Delta is this part's share; Position, Stored and Full are set in the last.
	Delta Delta
}

// reader holds what references point to.
type reader struct {
	part    *Part
	version uint32
	strings []string
	keys    []Key
	// indexes is scratch.
	indexes []uint32
	// items is memory for the next part, known are strings that were read; nil:
	// none are remembered.
	items []Item
	known map[string]string
}

// Decode reads one message of a group. What it returns points into data; the
// strings of keys and sources do not. The sums of the cells are not read.
func Decode(data []byte) (*Part, error) { return new(reader).decode(data) }

func (r *reader) decode(data []byte) (*Part, error) {
	r.part, r.version = &Part{}, 0
	if err := r.read(data); err != nil {
		return nil, fmt.Errorf("cannot read a rollup: %w", err)
	}
	if r.version != version {
		return nil, fmt.Errorf("cannot read a rollup of version %d: this aggregator knows version %d", r.version, version)
	}
	return r.part, nil
}

// maxKnown is how many strings a Reader remembers.
const maxKnown = 1 << 14

// Reader reads messages one after the other, nearly all of whose strings are those
// of the message before, in the same memory. The zero value is ready; it is not
// safe for concurrent use.
type Reader struct{ reader reader }

// Decode is as [Decode].
func (r *Reader) Decode(data []byte) (*Part, error) {
	if r.reader.known == nil || len(r.reader.known) > maxKnown {
		r.reader.known = map[string]string{}
	}
	return r.reader.decode(data)
}

// Reuse gives the memory of the Items of what was read back, which nobody may hold
// any more.
func (r *Reader) Reuse(d *Delta) {
	r.reader.items = d.Items[:0]
	d.Items = nil
}

// read takes the fields in the order they come in: a reference must come after
// what it refers to.
func (r *reader) read(data []byte) error {
	p := r.part
	if err := r.prepare(data); err != nil {
		return err
	}
	var number, partition, holed uint32
	err := fields(data, func(f *easyproto.FieldContext) error {
		switch f.FieldNum {
		case 1:
			return take(&r.version, f.Uint32)
		case 2:
			return take(&partition, f.Uint32)
		case 3:
			return takeText(&p.Owner, f)
		case 4:
			return take(&p.Group, f.Uint64)
		case 5:
			return take(&number, f.Uint32)
		case 6:
			return take(&p.Last, f.Bool)
		case 7:
			return take(&p.Written, f.Int64)
		case 8:
			return take(&p.Delta.Position, f.Uint64)
		case 9:
			return take(&p.Delta.Full, f.Bool)
		case 10:
			return r.text(f)
		case 11:
			return message(f, r.key)
		case 12:
			return message(f, r.item)
		case 13:
			return message(f, r.source)
		case 14:
			return message(f, r.learned)
		case 15:
			return take(&p.Turn, f.Uint64)
		case 16:
			return take(&p.Events.Sequence, f.Uint64)
		case 17:
			return take(&p.Hole, f.Int64)
		case 18:
			return take(&holed, f.Uint32)
		case 19:
			return take(&p.Delta.Stored, f.Sfixed64)
		case 20:
			return take(&p.Events.Stored, f.Sfixed64)
		}
		return nil
	})
	p.Number, p.Partition, p.HoleTiers = int(number), int(partition), int(holed)
	if err == nil && (p.Hole < 0 || p.Hole > 2*farTime/1_000_000) {
		return fmt.Errorf("a hole before second %d", p.Hole)
	}
	return err
}

// leastItem is about the least that an item takes, bytes.
const leastItem = 16

// prepare makes room for what a message has: growing means copying.
func (r *reader) prepare(data []byte) error {
	var strings, keys, items int
	err := fields(data, func(f *easyproto.FieldContext) error {
		switch f.FieldNum {
		case 10:
			strings++
		case 11:
			keys++
		case 12:
			items++
		}
		return nil
	})
	most := len(data)/leastItem + 1
	r.strings, r.keys = withRoom(r.strings, min(strings, most)), withRoom(r.keys, min(keys, most))
	if items > 0 {
		r.part.Delta.Items, r.items = withRoom(r.items, min(items, most)), nil
	}
	return err
}

// withRoom is an empty slice with room for n, in the memory of s where that does.
func withRoom[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, 0, n)
	}
	return s[:0]
}

// text reads a string that is referred to.
func (r *reader) text(f *easyproto.FieldContext) error {
	data, ok := f.Bytes()
	if !ok {
		return errWire
	}
	s, known := r.known[string(data)]
	if !known {
		if s = string(data); r.known != nil {
			r.known[s] = s
		}
	}
	r.strings = append(r.strings, s)
	return nil
}

func message(f *easyproto.FieldContext, read func([]byte) error) error {
	data, ok := f.MessageData()
	if !ok {
		return errWire
	}
	return read(data)
}

func takeText(to *string, f *easyproto.FieldContext) error {
	b, ok := f.Bytes()
	if !ok {
		return errWire
	}
	*to = string(b)
	return nil
}

// resolve sets strings by their references in r.indexes.
func (r *reader) resolve(to []*string) error {
	if len(r.indexes) > len(to) {
		return fmt.Errorf("%d strings, at most %d are possible", len(r.indexes), len(to))
	}
	for i, index := range r.indexes {
		if int64(index) >= int64(len(r.strings)) {
			return fmt.Errorf("string %d of %d", index, len(r.strings))
		}
		*to[i] = r.strings[index]
	}
	return nil
}

func (r *reader) key(data []byte) error {
	var k Key
	var dimension, direction, security, protocol uint32
	r.indexes = r.indexes[:0]
	names := k.strings()
	err := fields(data, func(f *easyproto.FieldContext) error {
		switch f.FieldNum {
		case 1:
			return take(&dimension, f.Uint32)
		case 2:
			return take(&direction, f.Uint32)
		case 3:
			return unpack(&r.indexes, f.UnpackUint32s, len(names))
		case 4:
			return take(&security, f.Uint32)
		case 5:
			return take(&k.Peer.Meshed, f.Bool)
		case 6:
			return take(&protocol, f.Uint32)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if dimension > 255 || direction > 255 || security > 255 || protocol > 255 {
		return errors.New("a number is out of range")
	}
	k.Dimension, k.Direction = Dimension(dimension), event.Direction(direction)
	k.Peer.Security, k.Route.Protocol = event.Security(security), event.Protocol(protocol)
	if !possible(&k) {
		return fmt.Errorf("a key of dimension %d and direction %d", dimension, direction)
	}
	if err := r.resolve(names[:]); err != nil {
		return err
	}
	r.keys = append(r.keys, k)
	return nil
}

func (r *reader) item(data []byte) error {
	var it Item
	var index uint32
	err := fields(data, func(f *easyproto.FieldContext) error {
		switch f.FieldNum {
		case 1:
			return take(&index, f.Uint32)
		case 2:
			return take(&it.Second, f.Int64)
		case 3:
			return take(&it.Sums, f.MessageData)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if int64(index) >= int64(len(r.keys)) {
		return fmt.Errorf("key %d of %d", index, len(r.keys))
	}
	if it.Second < 0 || it.Second > 2*farTime/1_000_000 {
		return fmt.Errorf("second %d", it.Second)
	}
	it.Key = r.keys[index]
	r.part.Delta.Items = append(r.part.Delta.Items, it)
	return nil
}

func (r *reader) source(data []byte) error {
	var s Source
	r.indexes = r.indexes[:0]
	names := s.strings()
	err := fields(data, func(f *easyproto.FieldContext) error {
		switch f.FieldNum {
		case 1:
			return take(&s.ID.Instance, f.Fixed64)
		case 2:
			return unpack(&r.indexes, f.UnpackUint32s, len(names))
		case 3:
			return take(&s.High, f.Uint64)
		case 4:
			return message(f, s.readGap)
		case 5:
			return take(&s.Produced, f.Uint64)
		case 6:
			return take(&s.Shed, f.Uint64)
		case 7:
			return take(&s.OpenConnections, f.Uint64)
		case 8:
			return take(&s.Final, f.Bool)
		case 9:
			return take(&s.Events, f.Uint64)
		case 10:
			return take(&s.FirstSeen, f.Int64)
		case 11:
			return take(&s.LastSeen, f.Int64)
		case 12:
			return take(&s.ClockRight, f.Bool)
		case 13:
			return take(&s.Batches, f.Uint64)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := r.resolve(names[:]); err != nil {
		return err
	}
	r.part.Delta.Sources = append(r.part.Delta.Sources, s)
	return nil
}

func (r *reader) learned(data []byte) error {
	var l Learned
	var direction uint32
	r.indexes = r.indexes[:0]
	names := [4]*string{&l.Workload.Cluster, &l.Workload.Namespace, &l.Workload.Kind, &l.Workload.Name}
	err := fields(data, func(f *easyproto.FieldContext) error {
		switch f.FieldNum {
		case 1:
			return unpack(&r.indexes, f.UnpackUint32s, len(names))
		case 2:
			return take(&direction, f.Uint32)
		case 3:
			return message(f, l.readPosition)
		}
		return nil
	})
	if err != nil {
		return err
	}
	l.Direction = event.Direction(direction)
	if direction > 255 || l.Direction != event.Inbound && l.Direction != event.Outbound {
		return fmt.Errorf("direction %d", direction)
	}
	if err := r.resolve(names[:]); err != nil {
		return err
	}
	r.part.Delta.Learned = append(r.part.Delta.Learned, l)
	return nil
}

func (l *Learned) readPosition(data []byte) error {
	var p route.Position
	err := fields(data, func(f *easyproto.FieldContext) error {
		switch f.FieldNum {
		case 1:
			return take(&p.Used, f.Int64)
		case 2:
			return takeText(&p.Prefix, f)
		case 3:
			var name string
			err := takeText(&name, f)
			p.Kept = append(p.Kept, name)
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	if p.Used--; p.Used < 0 || len(p.Prefix) > route.MaxTemplate || p.Prefix != "" && p.Prefix[0] != '/' {
		return fmt.Errorf("a position at %d below %.40q", p.Used, p.Prefix)
	}
	l.Positions = append(l.Positions, p)
	return nil
}

func (s *Source) readGap(data []byte) error {
	var g Gap
	err := fields(data, func(f *easyproto.FieldContext) error {
		switch f.FieldNum {
		case 1:
			return take(&g.From, f.Uint64)
		case 2:
			return take(&g.To, f.Uint64)
		case 3:
			return take(&g.Since, f.Int64)
		case 4:
			return take(&g.Lost, f.Bool)
		}
		return nil
	})
	if err != nil {
		return err
	}
	var above uint64
	if n := len(s.Missing); n > 0 {
		above = s.Missing[n-1].To
	}
	if g.From <= above || g.To < g.From || g.To >= s.High || len(s.Missing) >= maxGaps {
		return fmt.Errorf("a gap from %d to %d", g.From, g.To)
	}
	s.Missing = append(s.Missing, g)
	return nil
}

// Assembler puts the parts of groups together, in the order of the stream. The
// zero value is ready; it is not safe for concurrent use.
type Assembler struct {
	parts []*Part
	bytes int
	// Voided counts parts that never became a whole group.
	Voided int
}

// maxGroup bounds what the parts of one group may hold, bytes.
const maxGroup = 256 << 20

// Add takes the next part, of size bytes. When it ends a group, Add returns all
// of the group as one delta; else nil.
func (a *Assembler) Add(p *Part, size int) *Delta {
	if len(a.parts) > 0 && (a.parts[0].Group != p.Group || a.parts[0].Owner != p.Owner || p.Number != len(a.parts)) || a.bytes+size > maxGroup {
		a.void()
	}
	if p.Number != len(a.parts) {
		a.Voided++
		return nil // the rest of a group whose beginning has expired
	}
	a.parts, a.bytes = append(a.parts, p), a.bytes+size
	if !p.Last {
		return nil
	}
	if len(a.parts) == 1 {
		a.parts, a.bytes = nil, 0
		return &p.Delta
	}
	d := &Delta{Position: p.Delta.Position, Stored: p.Delta.Stored, Full: p.Delta.Full}
	for _, q := range a.parts {
		d.Items = append(d.Items, q.Delta.Items...)
		d.Sources = append(d.Sources, q.Delta.Sources...)
		d.Learned = append(d.Learned, q.Delta.Learned...)
	}
	a.parts, a.bytes = nil, 0
	return d
}

func (a *Assembler) void() {
	a.Voided += len(a.parts)
	a.parts, a.bytes = nil, 0
}

// Apply brings what is known of the sources up to date with a later group.
func (d *Delta) Apply(sources map[SourceID]Source) {
	if d.Full {
		clear(sources)
	}
	for _, s := range d.Sources {
		s.Missing = slices.Clip(s.Missing)
		sources[s.ID] = s
	}
}
