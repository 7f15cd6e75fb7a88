package event

import (
	"errors"
	"fmt"
	"net/netip"
	"unicode/utf8"

	"github.com/VictoriaMetrics/easyproto"
)

// DecoderFactor bounds what a [Decoder] allocates: at most so many bytes for
// each byte of a batch (an entry of a dictionary may take as little as a bit),
// 128 KiB, and never more than DecoderBytes. What it has allocated it uses
// again.
const (
	DecoderFactor = 2048
	DecoderBytes  = 24 << 20
)

// Decoder reads batches (event.proto). The zero value is ready. [Decoder.Reset]
// takes a batch whole or not at all; then [Decoder.Next] gives its events:
//
//	if err := d.Reset(data); err != nil { … }
//	for d.Next(&e) { … }
//
// [Decoder.NextRow] gives only numbers, which is several times as fast, for
// readers that look strings up once a batch; [Decoder.Fill] makes the event of
// the row at hand.
//
// It keeps its memory from batch to batch and, once it has seen the usual size,
// allocates once a batch: for the strings. It never panics, whatever the bytes.
// It is not safe for concurrent use.
type Decoder struct {
	header      Header
	strings     []string
	routes      []route
	peers       []peerKey
	peerIDs     []uint64 // the last connection's id of each
	connections []connection
	outcomes    []outcome
	exchanges   []exchange
	// dictionary is room for the columns of the dictionary being read.
	dictionary [maxColumns][]uint64
	joins      [joinedColumns][]uint64
	lengths    []uint16 // of the strings that are written out
	limit      int      // of entries

	count    int
	columns  [eventColumns]packed
	traced   []uint64 // rows
	traceIDs []byte
	// block holds the columns' values of the rows at hand. Those of columns
	// that are absent are set once.
	block [eventColumns][blockRows]uint64

	summaries  []summary
	histograms []byte // of the summaries to come
	summary    int    // the next one
	checked    Histogram

	readSums   bool
	sums       []Sum
	sumSecond  int64
	sumEvents  []uint64
	sumBits    []byte
	sumBuckets []BucketCount

	row   int // the next one
	trace int // the next one
	at    Row // what the last NextRow gave
	// stream is at's ordinal.
	stream uint32
}

// Row is an event in numbers. Times are in microseconds, sizes in bytes.
type Row struct {
	// Exchange and Connection are numbers in this batch, from 0: see
	// [Decoder.Exchange] and [Decoder.Describe].
	Exchange, Connection int
	// End is when the exchange ended, wall clock, µs since 1970.
	End int64
	// The others are as in an [Event].
	Latency, Duration, RequestBytes, ResponseBytes uint64
}

type route struct {
	method, authority, path string
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

type exchange struct {
	route, outcome    uint32
	request, response uint64 // of its previous event
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
// the error says what is wrong, and the decoder is empty. The header's strings
// point into data, which must stay as it is until the next Reset; the events'
// strings are their own.
func (d *Decoder) Reset(data []byte) error {
	err := d.parse(data)
	if err != nil {
		d.clear()
		return fmt.Errorf("cannot read batch: %w", err)
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
// Next or NextRow just gave. Equal numbers mean equal strings.
func (d *Decoder) Indexes() (route, connection, outcome int) {
	if d.row == 0 {
		return 0, 0, 0
	}
	route, outcome = d.Exchange(d.at.Exchange)
	return route, d.at.Connection, outcome
}

// Exchanges is how many pairs of a route and an outcome the batch has;
// Row.Exchange is below it.
func (d *Decoder) Exchanges() int { return len(d.exchanges) }

// Exchange gives the numbers of the route and the outcome that Row.Exchange
// stands for.
func (d *Decoder) Exchange(n int) (route, outcome int) {
	x := &d.exchanges[n]
	return int(x.route), int(x.outcome)
}

// NextRow sets r to the next event's numbers and returns false where there is
// none left.
func (d *Decoder) NextRow(r *Row) bool {
	if d.row >= d.count {
		return false
	}
	i := d.row & (blockRows - 1)
	if i == 0 {
		d.readBlock()
	}
	d.row++
	c := &d.block
	at := &d.at
	x := &d.exchanges[c[eventExchange][i]]
	x.request += c[eventRequestBytes][i]
	x.response += c[eventResponseBytes][i]
	s := &d.connections[c[eventConnection][i]]
	stream := s.stream + c[eventStream][i]
	s.stream = stream + 1
	d.stream = uint32(stream)
	at.Exchange, at.Connection = int(c[eventExchange][i]), int(c[eventConnection][i])
	at.RequestBytes, at.ResponseBytes = x.request, x.response
	at.Latency = c[eventLatency][i]
	at.Duration = at.Latency + c[eventTail][i]
	at.End = d.header.Sent + int64(c[eventEnd][i])
	*r = *at
	return true
}

// readBlock unpacks the columns for the rows from d.row on.
func (d *Decoder) readBlock() {
	n := min(blockRows, d.count-d.row)
	for i := range d.columns {
		if p := &d.columns[i]; p.n > 0 {
			p.read(d.block[i][:n], d.row)
		}
	}
}

// Next sets e to the next event, every field of it, and returns false where
// there is none left.
func (d *Decoder) Next(e *Event) bool {
	var r Row
	if !d.NextRow(&r) {
		return false
	}
	d.Fill(e)
	return true
}

// Fill sets e to the event that NextRow just gave, every field of it. It may
// be called once for each, in order, or left out.
func (d *Decoder) Fill(e *Event) {
	r := &d.at
	d.Describe(r.Exchange, r.Connection, e)
	e.Latency, e.Duration, e.RequestBytes, e.ResponseBytes = r.Latency, r.Duration, r.RequestBytes, r.ResponseBytes
	e.Start, e.Stream = r.End-int64(r.Duration), d.stream
	e.TraceID = [16]byte{}
	row := uint64(d.row - 1)
	for d.trace < len(d.traced) && d.traced[d.trace] < row {
		d.trace++
	}
	if d.trace < len(d.traced) && d.traced[d.trace] == row {
		e.TraceID = [16]byte(d.traceIDs[16*d.trace:])
	}
}

// Describe sets the fields of e that a row's Exchange and Connection stand for:
// all but the times, bytes, ordinal and trace id.
func (d *Decoder) Describe(exchange, connection int, e *Event) {
	d.DescribeExchange(exchange, e)
	s := &d.connections[connection]
	e.Connection, e.Security, e.SecurityReason = s.id, s.security, s.reason
	e.Detection, e.DetectionTime = s.detection, s.detectionTime
	p := &d.peers[s.peer]
	text := &p.strings
	e.Peer.Workload = Workload{
		Cluster: d.strings[text[0]], Namespace: d.strings[text[1]], Kind: d.strings[text[2]], Name: d.strings[text[3]],
	}
	e.Peer.Pod, e.Peer.Identity, e.Peer.Meshed = d.strings[text[4]], d.strings[text[5]], p.meshed
	e.Peer.Addr = netip.AddrPortFrom(p.addr, s.port)
}

// Peer is the number, in this batch, of a connection's peer. Connections of
// equal numbers have the same peer but for its port; how they are secured, and
// why not, may differ.
func (d *Decoder) Peer(connection int) (peer int, security Security, reason string) {
	s := &d.connections[connection]
	return int(s.peer), s.security, s.reason
}

// Peers is how many peers the batch has; what Peer gives is below it.
func (d *Decoder) Peers() int { return len(d.peers) }

// DescribeExchange sets those fields of e that a row's Exchange stands for.
func (d *Decoder) DescribeExchange(exchange int, e *Event) {
	x := &d.exchanges[exchange]
	r, o := &d.routes[x.route], &d.outcomes[x.outcome]
	e.Direction, e.Protocol = r.direction, r.protocol
	e.Method, e.Authority, e.Path = r.method, r.authority, r.path
	e.Kind, e.Status, e.GRPCStatus = o.kind, o.status, o.grpcStatus
	e.Error, e.Fate, e.Attempt = o.error, o.fate, o.attempt
}

// at is an element of a column that is absent where it is all zeros.
func at(column []uint64, i int) uint64 {
	if uint(i) < uint(len(column)) {
		return column[i]
	}
	return 0
}

func (d *Decoder) clear() {
	d.header = Header{}
	d.strings, d.routes, d.peers = d.strings[:0], d.routes[:0], d.peers[:0]
	d.connections, d.outcomes, d.exchanges = d.connections[:0], d.outcomes[:0], d.exchanges[:0]
	d.columns = [eventColumns]packed{}
	d.traced, d.traceIDs = d.traced[:0], nil
	d.count, d.row, d.trace = 0, 0, 0
	d.summaries, d.histograms, d.summary = d.summaries[:0], nil, 0
	d.sums, d.sumSecond = d.sums[:0], 0
	d.at = Row{}
}

// sections are the messages of a batch, yet to be read; those that refer to
// others may come before them.
type sections struct {
	source, strings, routes, peers, connections, outcomes, exchanges, events, summaries, sums []byte
}

func (d *Decoder) parse(data []byte) error {
	d.clear()
	if len(data) > MaxBatchBytes {
		return fmt.Errorf("it has %d bytes, and more than %d are not accepted", len(data), MaxBatchBytes)
	}
	// Whatever is in a dictionary takes a bit at least.
	d.limit = min(MaxEvents, 64+8*len(data))
	s, err := d.parseFields(data)
	if err != nil {
		return err
	}
	if err := d.parseSource(s.source); err != nil {
		return fmt.Errorf("source: %w", err)
	}
	for _, part := range []struct {
		name  string
		data  []byte
		parse func(*Decoder, []byte) error
	}{
		{"strings", s.strings, (*Decoder).parseStrings},
		{"routes", s.routes, (*Decoder).parseRoutes},
		{"peers", s.peers, (*Decoder).parsePeers},
		{"connections", s.connections, (*Decoder).parseConnections},
		{"outcomes", s.outcomes, (*Decoder).parseOutcomes},
		{"exchanges", s.exchanges, (*Decoder).parseExchanges},
		{"events", s.events, (*Decoder).parseEvents},
		{"sums", s.sums, (*Decoder).parseSums},
		{"summaries", s.summaries, (*Decoder).parseSummaries},
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
		if field > fieldSums {
			continue // of a later version
		}
		if seen&(1<<field) != 0 {
			return s, fmt.Errorf("field %d comes twice", field)
		}
		seen |= 1 << field
		var ok bool
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
	case fieldStrings:
		s.strings, ok = fc.MessageData()
	case fieldRoutes:
		s.routes, ok = fc.MessageData()
	case fieldPeers:
		s.peers, ok = fc.MessageData()
	case fieldConnections:
		s.connections, ok = fc.MessageData()
	case fieldOutcomes:
		s.outcomes, ok = fc.MessageData()
	case fieldExchanges:
		s.exchanges, ok = fc.MessageData()
	case fieldEvents:
		s.events, ok = fc.MessageData()
	case fieldSummaries:
		s.summaries, ok = fc.MessageData()
	case fieldSums:
		s.sums, ok = fc.MessageData()
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
