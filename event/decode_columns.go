package event

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"

	"github.com/VictoriaMetrics/easyproto"
)

// fields are the columns of one section, by field number less fieldColumn, yet
// to be read.
type fields struct {
	data  [lastField - fieldColumn + 1][]byte
	seen  uint32
	count int
}

// parse finds the fields of a section that has at most limit entries.
func (f *fields) parse(data []byte, limit int) error {
	var fc easyproto.FieldContext
	for len(data) > 0 {
		var err error
		if data, err = fc.NextField(data); err != nil {
			return err
		}
		n := int(fc.FieldNum)
		if n == 0 {
			return errors.New("field number 0")
		}
		if n >= fieldColumn+len(f.data) {
			continue // of a later version
		}
		if f.seen&(1<<n) != 0 {
			return fmt.Errorf("field %d comes twice", n)
		}
		f.seen |= 1 << n
		var ok bool
		if n == fieldCount {
			var count uint64
			if count, ok = fc.Uint64(); ok && count > uint64(limit) {
				return fmt.Errorf("count is %d, and more than %d are not accepted here", count, limit)
			}
			f.count = int(count)
		} else {
			f.data[n-fieldColumn], ok = fc.Bytes()
		}
		if !ok {
			return fmt.Errorf("field %d is not of its type", n)
		}
	}
	return nil
}

// readDictionary decodes the columns of a dictionary into d.dictionary and
// returns its length.
func (d *Decoder) readDictionary(data []byte, specs []spec) (int, fields, error) {
	var f fields
	if err := f.parse(data, d.limit); err != nil {
		return 0, f, err
	}
	for i, s := range specs {
		var err error
		if d.dictionary[i], err = readColumn(d.dictionary[i], f.data[i], f.count, s); err != nil {
			return 0, f, err
		}
	}
	return f.count, f, nil
}

// readColumn decodes a column of n values into dst, whose memory it may use.
// It is empty where the column is absent.
func readColumn(dst []uint64, data []byte, n int, want spec) ([]uint64, error) {
	var p packed
	if err := p.parse(data, n); err != nil {
		return dst[:0], fmt.Errorf("%s %w", want.name, err)
	}
	dst = p.all(dst)
	if want.limit > 0 {
		for i, v := range dst {
			if v >= want.limit {
				return dst[:0], want.exceeded(i, v)
			}
		}
	}
	return dst, nil
}

// room is a slice of n elements that uses the memory of s if it can.
func room[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

func (d *Decoder) parseRoutes(data []byte) error {
	text := uint64(len(d.strings))
	n, _, err := d.readDictionary(data, []spec{
		{"kind", 1 << 10}, {"method", text}, {"authority", text}, {"path", text},
	})
	if err != nil {
		return err
	}
	d.routes = room(d.routes, n)
	c := &d.dictionary
	for i := range d.routes {
		kind := at(c[routeKind], i)
		d.routes[i] = route{
			direction: Direction(kind & 3), protocol: Protocol(kind >> 2),
			method:    d.strings[at(c[routeMethod], i)],
			authority: d.strings[at(c[routeAuthority], i)],
			path:      d.strings[at(c[routePath], i)],
		}
	}
	return nil
}

func (d *Decoder) parsePeers(data []byte) error {
	text := uint64(len(d.strings))
	n, f, err := d.readDictionary(data, []spec{
		{"ip_length", 17}, {"cluster", text}, {"namespace", text}, {"kind", text}, {"name", text},
		{"pod", text}, {"identity", text}, {"flags", 0},
	})
	if err != nil {
		return err
	}
	d.peers = room(d.peers, n)
	v4 := &d.dictionary[maxColumns-1] // no column of those above
	if *v4, err = readColumn(*v4, f.data[fieldPeerIPv4-fieldColumn], n, spec{"ipv4", 1 << 32}); err != nil {
		return err
	}
	c, ips := &d.dictionary, f.data[fieldPeerIP-fieldColumn]
	for i := range d.peers {
		length := int(at(c[peerIPLength], i))
		var addr netip.Addr
		switch {
		case length == 4:
			var ip [4]byte
			binary.BigEndian.PutUint32(ip[:], uint32(at(*v4, i)))
			addr = netip.AddrFrom4(ip)
		case length == 16 && len(ips) >= 16:
			addr = netip.AddrFrom16([16]byte(ips))
			ips = ips[16:]
		case length != 0:
			return fmt.Errorf("ip_length of entry %d is %d, with %d bytes of ip left", i, length, len(ips))
		}
		p := peerKey{addr: addr, meshed: at(c[peerFlags], i)&flagMeshed != 0}
		for k := range p.strings {
			p.strings[k] = uint32(at(c[peerCluster+k], i))
		}
		d.peers[i] = p
	}
	if len(ips) > 0 {
		return fmt.Errorf("%d bytes of ip are no peer's", len(ips))
	}
	return nil
}

func (d *Decoder) parseConnections(data []byte) error {
	n, _, err := d.readDictionary(data, []spec{
		{"2", 0}, {"peer", max(uint64(len(d.peers)), 1)}, {"port", 1 << 16}, {"security", 1 << 8},
		{"security_reason", uint64(len(d.strings))}, {"detection", 1 << 8},
		{"detection_time", math.MaxUint32 + 1}, {"stream", math.MaxUint32 + 1},
		{"id", 0},
	})
	if err != nil {
		return err
	}
	if n > 0 && len(d.peers) == 0 {
		return errors.New("there are no peers for them")
	}
	d.connections = room(d.connections, n)
	c := &d.dictionary
	d.peerIDs = room(d.peerIDs, len(d.peers))
	clear(d.peerIDs)
	for i := range d.connections {
		peer := at(c[connPeer], i)
		d.peerIDs[peer] += at(c[connID], i)
		d.connections[i] = connection{
			id:            d.peerIDs[peer],
			peer:          uint32(peer),
			port:          uint16(at(c[connPort], i)),
			security:      Security(at(c[connSecurity], i)),
			reason:        d.strings[at(c[connReason], i)],
			detection:     Detection(at(c[connDetection], i)),
			detectionTime: uint32(at(c[connDetectionTime], i)),
			stream:        at(c[connStream], i),
		}
	}
	return nil
}

func (d *Decoder) parseOutcomes(data []byte) error {
	n, _, err := d.readDictionary(data, []spec{
		{"kind", 1 << 8}, {"status", 1 << 16}, {"grpc_status", math.MaxInt16 + 2},
		{"error", uint64(len(d.strings))}, {"fate", 1 << 16}, {"attempt", 1 << 8},
	})
	if err != nil {
		return err
	}
	d.outcomes = room(d.outcomes, n)
	c := &d.dictionary
	for i := range d.outcomes {
		d.outcomes[i] = outcome{
			kind:       Kind(at(c[outcomeKind], i)),
			status:     uint16(at(c[outcomeStatus], i)),
			grpcStatus: int16(int(at(c[outcomeGRPC], i)) - 1),
			error:      d.strings[at(c[outcomeError], i)],
			fate:       Fate(at(c[outcomeFate], i)),
			attempt:    uint8(at(c[outcomeAttempt], i)),
		}
	}
	return nil
}

func (d *Decoder) parseExchanges(data []byte) error {
	n, _, err := d.readDictionary(data, []spec{
		{"route", max(uint64(len(d.routes)), 1)}, {"outcome", max(uint64(len(d.outcomes)), 1)},
		{"request_bytes", 0}, {"response_bytes", 0},
	})
	if err != nil {
		return err
	}
	if n > 0 && (len(d.routes) == 0 || len(d.outcomes) == 0) {
		return errors.New("there are no routes or outcomes for them")
	}
	d.exchanges = room(d.exchanges, n)
	c := &d.dictionary
	for i := range d.exchanges {
		d.exchanges[i] = exchange{
			route: uint32(at(c[exchangeRoute], i)), outcome: uint32(at(c[exchangeOutcome], i)),
			request: at(c[exchangeRequest], i), response: at(c[exchangeResponse], i),
		}
	}
	return nil
}

func (d *Decoder) parseEvents(data []byte) error {
	var f fields
	if err := f.parse(data, MaxEvents); err != nil {
		return err
	}
	n := f.count
	if n > 0 && (len(d.exchanges) == 0 || len(d.connections) == 0) {
		return errors.New("there are no exchanges or connections for them")
	}
	for i, s := range [eventColumns]spec{
		{"end", 0}, {"exchange", uint64(len(d.exchanges))}, {"connection", uint64(len(d.connections))},
		{"latency", 0}, {"tail", 0}, {"request_bytes", 0}, {"response_bytes", 0}, {"stream", 0},
	} {
		p := &d.columns[i]
		if err := p.parse(f.data[i], n); err != nil {
			return fmt.Errorf("%s %w", s.name, err)
		}
		if err := p.check(s); err != nil {
			return err
		}
		if p.n == 0 {
			d.block[i] = [blockRows]uint64{}
		}
	}
	if err := d.parseTraces(f.data[fieldTraceRow-fieldColumn], f.data[fieldTraceID-fieldColumn], n); err != nil {
		return err
	}
	d.count = n
	return nil
}

func (d *Decoder) parseTraces(rows, ids []byte, n int) error {
	if len(ids)%16 != 0 || len(ids)/16 > n {
		return fmt.Errorf("trace_id has %d bytes: no multiple of 16, or more than events", len(ids))
	}
	if len(ids) == 0 {
		return nil
	}
	var err error
	if d.traced, err = readColumn(d.traced, rows, len(ids)/16, spec{"trace_row", uint64(n)}); err != nil {
		return err
	}
	if len(d.traced) == 0 {
		// All zeros: there is one, of the first event.
		d.traced = append(d.traced, make([]uint64, len(ids)/16)...)
	}
	for i := 1; i < len(d.traced); i++ {
		if d.traced[i] <= d.traced[i-1] {
			return fmt.Errorf("trace_row %d is not above the one before", d.traced[i])
		}
	}
	d.traceIDs = ids
	return nil
}
