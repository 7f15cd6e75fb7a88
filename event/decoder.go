package event

import (
	"errors"
	"fmt"
	"net/netip"
	"unicode/utf8"

	"github.com/VictoriaMetrics/easyproto"
)

// DecoderFactor bounds what a [Decoder] allocates: at most so many bytes for
// each byte of a batch (a peer, the largest entry, may take as little as one
// byte), and 64 KiB. What it has allocated it uses again.
const DecoderFactor = 192

// Decoder reads batches (event.proto). The zero value is ready. [Decoder.Reset]
// takes a batch whole or not at all; then [Decoder.Next] gives its events:
//
//	if err := d.Reset(data); err != nil { … }
//	for d.Next(&e) { … }
//
// It keeps its memory from batch to batch and allocates nothing once it has
// seen the usual size. It never panics, whatever the bytes. It is not safe for
// concurrent use.
type Decoder struct {
	header      Header
	strings     []string
	routes      []route
	peers       []Peer
	connections []connection
	outcomes    []outcome
	// dictionary is room for the columns of the dictionary being read.
	dictionary [peerColumns][]uint64

	count    int
	columns  [eventColumns]values
	traced   []uint64 // rows
	traceIDs []byte

	row                        int // the next one
	end                        int64
	trace, traceRow            int // the next one
	atRoute, atConn, atOutcome int
}

type route struct {
	method, authority, path string
	request, response       uint64 // of its previous event
	direction               Direction
	protocol                Protocol
}

type connection struct {
	id            uint64
	reason        string
	stream        uint64 // of its next event, if it comes in order
	peer          uint32
	detectionTime uint32
	port          uint16
	security      Security
	detection     Detection
}

type outcome struct {
	error      string
	status     uint16
	grpcStatus int16
	fate       Fate
	kind       Kind
	attempt    uint8
}

// Reset begins another batch. It checks all of it: every bound, length, string
// and number, so that where it returns nil, every event can be read. Otherwise
// the error says what is wrong, and the decoder is empty. The header and the
// events point into data, which must stay as it is until the next Reset.
func (d *Decoder) Reset(data []byte) error {
	err := d.parse(data)
	if err != nil {
		d.clear()
		return fmt.Errorf("cannot read batch: %w", err)
	}
	if len(d.traced) > 0 {
		d.traceRow = int(d.traced[0])
	}
	return nil
}

// Header is the batch's header; valid until the next Reset.
func (d *Decoder) Header() *Header { return &d.header }

// Len is how many events the batch has.
func (d *Decoder) Len() int { return d.count }

// Err is always nil, for Reset has already checked every event; it is there
// for loops that ask.
func (d *Decoder) Err() error { return nil }

// Counts are how many routes, connections and outcomes the batch has; the
// numbers that [Decoder.Indexes] gives are below them.
func (d *Decoder) Counts() (routes, connections, outcomes int) {
	return len(d.routes), len(d.connections), len(d.outcomes)
}

// Indexes are the numbers, in this batch, of the route (direction, protocol,
// method, authority, path), the connection (with its peer and security) and the
// outcome (kind, status, gRPC status, error, fate, attempt) of the event that
// Next just gave. Equal numbers mean equal strings.
func (d *Decoder) Indexes() (route, connection, outcome int) {
	return d.atRoute, d.atConn, d.atOutcome
}

// Next sets e to the next event, every field of it, and returns false where
// there is none left. Its strings point into the batch.
func (d *Decoder) Next(e *Event) bool {
	i := d.row
	if i >= d.count {
		return false
	}
	d.row++
	c := &d.columns
	d.atRoute, d.atConn, d.atOutcome = int(c[eventRoute].at(i)), int(c[eventConnection].at(i)), int(c[eventOutcome].at(i))

	r := &d.routes[d.atRoute]
	r.request += uint64(unzigzag(c[eventRequestBytes].at(i)))
	r.response += uint64(unzigzag(c[eventResponseBytes].at(i)))
	e.RequestBytes, e.ResponseBytes = r.request, r.response
	e.Direction, e.Protocol = r.direction, r.protocol
	e.Method, e.Authority, e.Path = r.method, r.authority, r.path

	s := &d.connections[d.atConn]
	s.stream += uint64(unzigzag(c[eventStream].at(i)))
	e.Stream = uint32(s.stream)
	s.stream++
	e.Connection, e.Security, e.SecurityReason = s.id, s.security, s.reason
	e.Detection, e.DetectionTime = s.detection, s.detectionTime
	p := &d.peers[s.peer]
	e.Peer.Workload, e.Peer.Pod, e.Peer.Identity, e.Peer.Meshed = p.Workload, p.Pod, p.Identity, p.Meshed
	e.Peer.Addr = netip.AddrPortFrom(p.Addr.Addr(), s.port)

	o := &d.outcomes[d.atOutcome]
	e.Kind, e.Status, e.GRPCStatus = o.kind, o.status, o.grpcStatus
	e.Error, e.Fate, e.Attempt = o.error, o.fate, o.attempt

	e.Latency = c[eventLatency].at(i)
	e.Duration = e.Latency + c[eventTail].at(i)
	d.end += unzigzag(c[eventEnd].at(i))
	e.Start = d.end - int64(e.Duration)

	e.TraceID = [16]byte{}
	if d.trace < len(d.traced) && d.traceRow == i {
		e.TraceID = [16]byte(d.traceIDs[16*d.trace:])
		d.trace++
		if d.trace < len(d.traced) {
			d.traceRow += int(d.traced[d.trace])
		}
	}
	return true
}

// at is an element of a column that is absent where it is all zeros.
func at(column []uint64, i int) uint64 {
	if uint(i) < uint(len(column)) {
		return column[i]
	}
	return 0
}

// values are a column of events. Most columns hold nothing above 127 and are
// read where they are; the others are decoded. Neither is set where all are 0.
type values struct {
	narrow []byte
	wide   []uint64
	buffer []uint64 // of wide
}

func (v *values) at(i int) uint64 {
	if uint(i) < uint(len(v.narrow)) {
		return uint64(v.narrow[i])
	}
	if uint(i) < uint(len(v.wide)) {
		return v.wide[i]
	}
	return 0
}

func (d *Decoder) clear() {
	d.header = Header{}
	d.strings, d.routes, d.peers = d.strings[:0], d.routes[:0], d.peers[:0]
	d.connections, d.outcomes = d.connections[:0], d.outcomes[:0]
	for i := range d.columns {
		d.columns[i].narrow, d.columns[i].wide = nil, nil
	}
	d.traced, d.traceIDs = d.traced[:0], nil
	d.count, d.row, d.end, d.trace, d.traceRow = 0, 0, 0, 0, 0
	d.atRoute, d.atConn, d.atOutcome = 0, 0, 0
}

// sections are the messages of a batch, yet to be read; those that refer to
// others may come before them.
type sections struct {
	source, routes, peers, connections, outcomes, events []byte
}

func (d *Decoder) parse(data []byte) error {
	d.clear()
	if len(data) > MaxBatchBytes {
		return fmt.Errorf("it has %d bytes, and more than %d are not accepted", len(data), MaxBatchBytes)
	}
	s, err := d.parseFields(data)
	if err != nil {
		return err
	}
	if len(d.strings) == 0 {
		d.strings = append(d.strings, "")
	}
	if d.strings[0] != "" {
		return errors.New("strings: number 0 is not empty")
	}
	if err := d.parseSource(s.source); err != nil {
		return fmt.Errorf("source: %w", err)
	}
	for _, part := range []struct {
		name  string
		data  []byte
		parse func(*Decoder, []byte) error
	}{
		{"routes", s.routes, (*Decoder).parseRoutes},
		{"peers", s.peers, (*Decoder).parsePeers},
		{"connections", s.connections, (*Decoder).parseConnections},
		{"outcomes", s.outcomes, (*Decoder).parseOutcomes},
		{"events", s.events, (*Decoder).parseEvents},
	} {
		if err := part.parse(d, part.data); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}

func (d *Decoder) parseFields(data []byte) (sections, error) {
	var s sections
	var fc easyproto.FieldContext
	var seen uint32
	h := &d.header
	for len(data) > 0 {
		var err error
		if data, err = fc.NextField(data); err != nil {
			return s, err
		}
		field := fc.FieldNum
		if field == 0 {
			return s, errors.New("field number 0")
		}
		if field > fieldEvents {
			continue // of a later version
		}
		if field != fieldStrings && seen&(1<<field) != 0 {
			return s, fmt.Errorf("field %d comes twice", field)
		}
		seen |= 1 << field
		ok := true
		switch field {
		case fieldInstance:
			h.Instance, ok = fc.Fixed64()
		case fieldSequence:
			h.Sequence, ok = fc.Uint64()
		case fieldSent:
			h.Sent, ok = fc.Int64()
		case fieldProduced:
			h.Produced, ok = fc.Uint64()
		case fieldShed:
			h.Shed, ok = fc.Uint64()
		case fieldOpenConnections:
			h.OpenConnections, ok = fc.Uint64()
		case fieldFinal:
			h.Final, ok = fc.Bool()
		case fieldVersion:
			h.Version, ok = text(&fc)
		case fieldStrings:
			var one string
			one, ok = text(&fc)
			d.strings = append(d.strings, one)
		default:
			ok = s.take(&fc)
		}
		if !ok {
			return s, fmt.Errorf("field %d is not of its type, or no valid UTF-8, or longer than %d", field, MaxStringBytes)
		}
	}
	return s, nil
}

func (s *sections) take(fc *easyproto.FieldContext) (ok bool) {
	switch fc.FieldNum {
	case fieldSource:
		s.source, ok = fc.MessageData()
	case fieldRoutes:
		s.routes, ok = fc.MessageData()
	case fieldPeers:
		s.peers, ok = fc.MessageData()
	case fieldConnections:
		s.connections, ok = fc.MessageData()
	case fieldOutcomes:
		s.outcomes, ok = fc.MessageData()
	case fieldEvents:
		s.events, ok = fc.MessageData()
	}
	return ok
}

// text reads a string field.
func text(fc *easyproto.FieldContext) (string, bool) {
	s, ok := fc.String()
	return s, ok && len(s) <= MaxStringBytes && utf8.ValidString(s)
}

func (d *Decoder) parseSource(data []byte) error {
	s := &d.header.Source
	into := [...]*string{
		&s.Workload.Cluster, &s.Workload.Namespace, &s.Workload.Kind, &s.Workload.Name, &s.Pod, &s.Node,
	}
	var fc easyproto.FieldContext
	for len(data) > 0 {
		var err error
		if data, err = fc.NextField(data); err != nil {
			return err
		}
		if fc.FieldNum < fieldCluster || fc.FieldNum > fieldNode {
			continue
		}
		one, ok := text(&fc)
		if !ok {
			return fmt.Errorf("field %d is no valid string, or longer than %d", fc.FieldNum, MaxStringBytes)
		}
		*into[fc.FieldNum-fieldCluster] = one
	}
	return nil
}
