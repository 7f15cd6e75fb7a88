package event

import (
	"errors"
	"fmt"
	"math"
	"net/netip"

	"github.com/VictoriaMetrics/easyproto"
)

// fields are the columns of one message, by field number less 1, yet to be
// read.
type fields struct {
	data [fieldTraceID][]byte
	seen uint32
	// count is field 1 where it is a plain number, as in Events.
	count uint64
}

func (f *fields) parse(data []byte, counted bool) error {
	var fc easyproto.FieldContext
	for len(data) > 0 {
		var err error
		if data, err = fc.NextField(data); err != nil {
			return err
		}
		n := fc.FieldNum
		if n == 0 {
			return errors.New("field number 0")
		}
		if int(n) > len(f.data) {
			continue // of a later version
		}
		if f.seen&(1<<n) != 0 {
			return fmt.Errorf("field %d comes twice", n)
		}
		f.seen |= 1 << n
		var ok bool
		if counted && n == fieldCount {
			f.count, ok = fc.Uint64()
		} else {
			f.data[n-1], ok = fc.Bytes()
		}
		if !ok {
			return fmt.Errorf("field %d is not of its type (columns are packed)", n)
		}
	}
	return nil
}

// spec is what a column's values must be below; 0 for no bound.
type spec struct {
	name  string
	limit uint64
}

func (s spec) exceeded(entry int, v uint64) error {
	return fmt.Errorf("%s of entry %d is %d, and must be below %d", s.name, entry, v, s.limit)
}

// readColumn decodes a column of n values into dst, whose memory it may use.
// It is empty where the column is absent.
func readColumn(dst []uint64, data []byte, n int, want spec) ([]uint64, error) {
	if len(data) == 0 {
		return dst[:0], nil
	}
	if got := countVarints(data); got != n {
		return dst[:0], fmt.Errorf("%s has %d values, want %d", want.name, got, n)
	}
	if cap(dst) < n {
		dst = make([]uint64, n)
	}
	dst = dst[:n]
	if !decodeVarints(dst, data) {
		return dst[:0], fmt.Errorf("%s holds what is no varint", want.name)
	}
	if want.limit > 0 {
		for i, v := range dst {
			if v >= want.limit {
				return dst[:0], want.exceeded(i, v)
			}
		}
	}
	return dst, nil
}

// readDictionary decodes the columns of a dictionary into d.dictionary and
// returns its length, that of its first column. A column without a name is none.
func (d *Decoder) readDictionary(data []byte, specs []spec) (int, fields, error) {
	var f fields
	if err := f.parse(data, false); err != nil {
		return 0, f, err
	}
	n := countVarints(f.data[0])
	if n > MaxEvents {
		return 0, f, fmt.Errorf("%d entries, and more than %d are not accepted", n, MaxEvents)
	}
	for i, s := range specs {
		if s.name == "" {
			continue
		}
		var err error
		if d.dictionary[i], err = readColumn(d.dictionary[i], f.data[i], n, s); err != nil {
			return 0, f, err
		}
	}
	return n, f, nil
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
		{"ip_length", 17}, {}, {"cluster", text}, {"namespace", text}, {"kind", text}, {"name", text},
		{"pod", text}, {"identity", text}, {"flags", 0},
	})
	if err != nil {
		return err
	}
	d.peers = room(d.peers, n)
	c, ips := &d.dictionary, f.data[fieldPeerIP-1]
	for i := range d.peers {
		length := int(at(c[peerIPLength], i))
		if length != 0 && length != 4 && length != 16 || length > len(ips) {
			return fmt.Errorf("ip_length of entry %d is %d, with %d bytes of ip left", i, length, len(ips))
		}
		addr, _ := netip.AddrFromSlice(ips[:length])
		ips = ips[length:]
		d.peers[i] = Peer{
			Workload: Workload{
				Cluster:   d.strings[at(c[peerCluster], i)],
				Namespace: d.strings[at(c[peerNamespace], i)],
				Kind:      d.strings[at(c[peerKind], i)],
				Name:      d.strings[at(c[peerName], i)],
			},
			Pod:      d.strings[at(c[peerPod], i)],
			Identity: d.strings[at(c[peerIdentity], i)],
			Addr:     netip.AddrPortFrom(addr, 0),
			Meshed:   at(c[peerFlags], i)&flagMeshed != 0,
		}
	}
	if len(ips) > 0 {
		return fmt.Errorf("%d bytes of ip are no peer's", len(ips))
	}
	return nil
}

func (d *Decoder) parseConnections(data []byte) error {
	n, _, err := d.readDictionary(data, []spec{
		{"id", 0}, {"peer", max(uint64(len(d.peers)), 1)}, {"port", 1 << 16}, {"security", 1 << 8},
		{"security_reason", uint64(len(d.strings))}, {"detection", 1 << 8},
		{"detection_time", math.MaxUint32 + 1}, {"stream", math.MaxUint32 + 1},
	})
	if err != nil {
		return err
	}
	if n > 0 && len(d.peers) == 0 {
		return errors.New("there are no peers for them")
	}
	d.connections = room(d.connections, n)
	c := &d.dictionary
	var id uint64
	for i := range d.connections {
		id += uint64(unzigzag(at(c[connID], i)))
		d.connections[i] = connection{
			id:            id,
			peer:          uint32(at(c[connPeer], i)),
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

func (d *Decoder) parseEvents(data []byte) error {
	var f fields
	if err := f.parse(data, true); err != nil {
		return err
	}
	if f.count > MaxEvents {
		return fmt.Errorf("count is %d, and more than %d are not accepted", f.count, MaxEvents)
	}
	n := int(f.count)
	if n > 0 && (len(d.routes) == 0 || len(d.connections) == 0 || len(d.outcomes) == 0) {
		return errors.New("there are no routes, connections or outcomes for them")
	}
	for i, s := range [eventColumns]spec{
		{"end", 0}, {"route", uint64(len(d.routes))}, {"connection", uint64(len(d.connections))},
		{"outcome", uint64(len(d.outcomes))}, {"latency", 0}, {"tail", 0}, {"request_bytes", 0},
		{"response_bytes", 0}, {"stream", 0},
	} {
		if err := d.columns[i].read(f.data[fieldEnd-1+i], n, s); err != nil {
			return err
		}
	}
	if err := d.parseTraces(f.data[fieldTraceRow-1], f.data[fieldTraceID-1], n); err != nil {
		return err
	}
	d.count = n
	return nil
}

// read takes a column of n events.
func (v *values) read(data []byte, n int, want spec) error {
	if len(data) == n && isNarrow(data) {
		if want.limit > 0 && want.limit < 0x80 {
			for i, one := range data {
				if uint64(one) >= want.limit {
					return want.exceeded(i, uint64(one))
				}
			}
		}
		v.narrow = data
		return nil
	}
	var err error
	v.buffer, err = readColumn(v.buffer, data, n, want)
	v.wide = v.buffer
	return err
}

func (d *Decoder) parseTraces(rows, ids []byte, n int) error {
	var err error
	if len(ids)%16 != 0 {
		return fmt.Errorf("trace_id has %d bytes, no multiple of 16", len(ids))
	}
	if len(rows) == 0 && len(ids) > 0 {
		return errors.New("trace_row is absent, and trace_id is not")
	}
	if d.traced, err = readColumn(d.traced, rows, len(ids)/16, spec{"trace_row", uint64(n)}); err != nil {
		return err
	}
	row := 0
	for i, delta := range d.traced {
		if row += int(delta); row >= n || i > 0 && delta == 0 {
			return fmt.Errorf("trace_row %d is not above the one before and below %d", row, n)
		}
	}
	d.traceIDs = ids
	return nil
}
