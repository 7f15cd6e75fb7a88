package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/weirmesh/weir/api/weirpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// room is all that a row takes mostly: ten thousands of them are read at once.
type room struct {
	row               weirpb.StatRow
	resource          weirpb.Resource
	stats             weirpb.Stats
	latency, duration weirpb.Quantiles
}

// readStat reads an answer. It keeps nothing of data.
func readStat(data []byte, r *weirpb.StatResponse) error {
	var rows [][]byte
	var rest []byte
	for left := data; len(left) > 0; {
		number, kind, n := protowire.ConsumeField(left)
		if n < 0 {
			return fmt.Errorf("cannot read an answer of statistics: %w", protowire.ParseError(n))
		}
		_, _, tag := protowire.ConsumeTag(left)
		if number == 1 && kind == protowire.BytesType {
			row, _ := protowire.ConsumeBytes(left[tag:n])
			rows = append(rows, row)
		} else {
			rest = append(rest, left[:n]...)
		}
		left = left[n:]
	}
	if err := proto.Unmarshal(rest, r); err != nil {
		return fmt.Errorf("cannot read an answer of statistics: %w", err)
	}
	if len(rows) == 0 {
		return nil
	}
	r.Rows = make([]*weirpb.StatRow, len(rows))
	failed := make([]error, parts(len(rows)))
	portions(len(rows), func(part, from, to int) {
		rooms := make([]room, to-from)
		var d reader
		for i := range rooms {
			row := &rooms[i].row
			if !d.row(&rooms[i], rows[from+i]) {
				// Something new, or not valid.
				row = &weirpb.StatRow{}
				if err := proto.Unmarshal(rows[from+i], row); err != nil {
					failed[part] = fmt.Errorf("cannot read a row of statistics: %w", err)
				}
			}
			r.Rows[from+i] = row
		}
	})
	return errors.Join(failed...)
}

// reader reads rows one after the other.
type reader struct {
	// resource, direction and keys are the last ones: the next row's are the
	// same mostly, and then need no memory of their own.
	resource  weirpb.Resource
	direction string
	status    string
	code      string
}

// row reads a row. It fails at all that it does not know, or that is there
// twice.
func (d *reader) row(room *room, data []byte) bool {
	row, f := &room.row, fields{data: data}
	for f.next() {
		switch f.tag {
		case 1<<3 | length:
			if row.Resource != nil || !d.readResource(&room.resource, f.bytes()) {
				return false
			}
			row.Resource = &room.resource
		case 2<<3 | length:
			if row.Stats != nil || !d.readStats(room, f.bytes()) {
				return false
			}
			row.Stats = &room.stats
		case 3<<3 | varint:
			row.PodsSeen = uint32(f.number())
		case 4<<3 | varint:
			row.PodsLive = uint32(f.number())
		case 5<<3 | varint:
			row.TcpOpenConnections = f.number()
		case 6<<3 | varint:
			row.Shed = f.number()
		case 7<<3 | varint:
			row.LostBatches = f.number()
		case 8<<3 | length:
			owner := &weirpb.Resource{}
			if row.Owner != nil || !d.readResource(owner, f.bytes()) {
				return false
			}
			row.Owner = owner
		case 9<<3 | length:
			row.Direction = f.text(&d.direction)
		case 10<<3 | length:
			pods := &weirpb.PodCounts{}
			if row.Pods != nil || !readPods(pods, f.bytes()) {
				return false
			}
			row.Pods = pods
		case 11<<3 | length:
			row.PodStatus = f.text(nil)
		case 12<<3 | length:
			row.ProxyVersion = f.text(nil)
		default:
			return false
		}
	}
	return !f.failed
}

func (d *reader) readResource(r *weirpb.Resource, data []byte) bool {
	f := fields{data: data}
	for f.next() {
		switch f.tag {
		case 1<<3 | length:
			r.Cluster = f.text(&d.resource.Cluster)
		case 2<<3 | length:
			r.Namespace = f.text(&d.resource.Namespace)
		case 3<<3 | length:
			r.Kind = f.text(&d.resource.Kind)
		case 4<<3 | length:
			r.Name = f.text(nil)
		default:
			return false
		}
	}
	return !f.failed
}

func (d *reader) readStats(room *room, data []byte) bool {
	s, f := &room.stats, fields{data: data}
	for f.next() {
		switch f.tag {
		case 1<<3 | varint:
			s.Requests = f.number()
		case 2<<3 | varint:
			s.Successes = f.number()
		case 3<<3 | varint:
			s.Failures = f.number()
		case 4<<3 | fixed64:
			s.Success = f.double()
		case 5<<3 | fixed64:
			s.Rps = f.double()
		case 6<<3 | length:
			s.Status = f.count(s.Status, &d.status)
		case 7<<3 | length:
			s.GrpcStatus = f.count(s.GrpcStatus, &d.code)
		case 8<<3 | length:
			if s.LatencyMs != nil || !readQuantiles(&room.latency, f.bytes()) {
				return false
			}
			s.LatencyMs = &room.latency
		case 9<<3 | length:
			if s.DurationMs != nil || !readQuantiles(&room.duration, f.bytes()) {
				return false
			}
			s.DurationMs = &room.duration
		case 10<<3 | varint:
			s.RequestBytes = f.number()
		case 11<<3 | varint:
			s.ResponseBytes = f.number()
		case 12<<3 | varint:
			s.TcpConnections = f.number()
		case 13<<3 | fixed64:
			s.TcpReadBytesRate = f.double()
		case 14<<3 | fixed64:
			s.TcpWriteBytesRate = f.double()
		case 15<<3 | length:
			s.Errors = f.count(s.Errors, nil)
		default:
			return false
		}
	}
	return !f.failed
}

func readQuantiles(q *weirpb.Quantiles, data []byte) bool {
	into := [...]*float64{&q.P50, &q.P75, &q.P90, &q.P95, &q.P99, &q.P999, &q.P9999, &q.Max, &q.Mean}
	f := fields{data: data}
	for f.next() {
		at := int(f.tag>>3) - 1
		if f.tag&7 != fixed64 || at < 0 || at >= len(into) {
			return false
		}
		*into[at] = f.double()
	}
	return !f.failed
}

func readPods(p *weirpb.PodCounts, data []byte) bool {
	into := [...]*uint32{&p.Total, &p.Meshed, &p.Ready, &p.ProxyReady, &p.Pending, &p.Running, &p.Unknown, &p.Finished, &p.Failed}
	f := fields{data: data}
	for f.next() {
		at := int(f.tag>>3) - 1
		if f.tag&7 != varint || at < 0 || at >= len(into) {
			return false
		}
		*into[at] = uint32(f.number())
	}
	return !f.failed
}

// fields reads the fields of a message. After the first failure there are none.
type fields struct {
	data   []byte
	tag    byte
	failed bool
}

// next reads a tag of one byte; there is none after the last field. Longer ones
// are of fields that are not known here.
func (f *fields) next() bool {
	if f.failed || len(f.data) == 0 {
		return false
	}
	f.tag, f.data = f.data[0], f.data[1:]
	f.failed = f.tag >= 0x80
	return !f.failed
}

func (f *fields) number() uint64 {
	if len(f.data) > 0 && f.data[0] < 0x80 {
		n := uint64(f.data[0])
		f.data = f.data[1:]
		return n
	}
	n, size := binary.Uvarint(f.data)
	if size <= 0 {
		f.failed = true
		return 0
	}
	f.data = f.data[size:]
	return n
}

func (f *fields) double() float64 {
	if len(f.data) < 8 {
		f.failed = true
		return 0
	}
	v := math.Float64frombits(binary.LittleEndian.Uint64(f.data))
	f.data = f.data[8:]
	return v
}

func (f *fields) bytes() []byte {
	n := f.number()
	if f.failed || n > uint64(len(f.data)) {
		f.failed = true
		return nil
	}
	b := f.data[:n]
	f.data = f.data[n:]
	return b
}

// text reads a string; last, if any, is the last of its kind.
func (f *fields) text(last *string) string {
	b := f.bytes()
	if last != nil && *last == string(b) {
		return *last
	}
	if !utf8.Valid(b) {
		f.failed = true
		return ""
	}
	s := string(b)
	if last != nil {
		*last = s
	}
	return s
}

// count reads an entry of a map.
func (f *fields) count(counts map[string]uint64, last *string) map[string]uint64 {
	entry := fields{data: f.bytes()}
	var key string
	var n uint64
	for entry.next() {
		switch entry.tag {
		case 1<<3 | length:
			key = entry.text(last)
		case 2<<3 | varint:
			n = entry.number()
		default:
			entry.failed = true
		}
	}
	if entry.failed || f.failed {
		f.failed = true
		return counts
	}
	if counts == nil {
		counts = make(map[string]uint64, 1)
	}
	counts[key] = n
	return counts
}
