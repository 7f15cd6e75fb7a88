package query

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/weirmesh/weir/event"
)

// packMark ends the JSON of a packed reply; what follows are its rows.
const packMark = "\nrows1\n"

// Pack writes a reply in the form that takes the least to write and to read:
// all but the rows as JSON, then the rows, which may be ten thousands, packed.
func Pack(r *Reply) ([]byte, error) {
	head := *r
	head.Rows = nil
	data, err := json.Marshal(&head)
	rows, size := len(r.Rows), len(data)+len(r.Rows)*400+len(packMark)+binary.MaxVarintLen64
	for i := range r.packed {
		rows += r.packed[i].rows
		size += len(r.packed[i].data)
	}
	if err != nil || rows == 0 {
		return data, err
	}
	out := make([]byte, 0, size)
	out = append(append(out, data...), packMark...)
	out = binary.AppendUvarint(out, uint64(rows))
	for i := range r.Rows {
		out = r.Rows[i].appendBinary(out)
	}
	for i := range r.packed {
		out = append(out, r.packed[i].data...)
	}
	return out, nil
}

// Packed are rows that were packed one by one: who has ten thousands of them to
// tell need not have them all at once. The zero value is empty; it is not safe
// for concurrent use.
type Packed struct {
	data []byte
	rows int
	// last is where the last row begins.
	last int
}

// Add packs a row; it keeps nothing of it.
func (p *Packed) Add(r *Row) {
	p.last = len(p.data)
	p.data = r.appendBinary(p.data)
	p.rows++
}

// Last is the row that was added last, as Repeat takes it. It is valid until the
// next is added.
func (p *Packed) Last() []byte { return p.data[p.last:] }

// Repeat adds a row that was added before, as Last gave it.
func (p *Packed) Repeat(row []byte) {
	p.last = len(p.data)
	p.data = append(p.data, row...)
	p.rows++
}

// AddPacked adds rows to what [Pack] writes of r, and to nothing else. It keeps
// them.
func (r *Reply) AddPacked(rows Packed) {
	if rows.rows > 0 {
		r.packed = append(r.packed, rows)
	}
}

// What follows a row's resource: which of its optional parts there are.
const (
	hasOwner = 1 << iota
	isBrief
)

// Unpack reads a reply that is packed, or all JSON.
func Unpack(data []byte) (Reply, error) {
	var r Reply
	head, rows, packed := bytes.Cut(data, []byte(packMark))
	if err := json.Unmarshal(head, &r); err != nil || !packed {
		return r, err
	}
	var err error
	if r.Rows, err = readRows(rows); err != nil {
		return Reply{}, fmt.Errorf("cannot read the rows: %w", err)
	}
	return r, nil
}

func (r *Row) appendBinary(dst []byte) []byte {
	dst = appendSelector(dst, &r.Resource)
	var flags byte
	if r.Brief {
		flags |= isBrief
	}
	if r.Owner == nil {
		dst = append(dst, flags)
	} else {
		dst = appendSelector(append(dst, flags|hasOwner), r.Owner)
	}
	dst = appendText(dst, r.Direction)
	s := &r.Stats
	for _, n := range [...]uint64{
		uint64(r.PodsSeen), uint64(r.PodsLive), r.OpenConnections, r.Shed, r.LostBatches,
		s.Requests, s.Successes, s.RequestBytes, s.ResponseBytes, s.Connections,
	} {
		dst = binary.AppendUvarint(dst, n)
	}
	dst = appendCounts(dst, s.Status, func(dst []byte, v uint16) []byte { return binary.AppendUvarint(dst, uint64(v)) })
	dst = appendCounts(dst, s.GRPC, func(dst []byte, v int16) []byte { return binary.AppendVarint(dst, int64(v)) })
	dst = appendCounts(dst, s.Errors, appendText)
	dst = appendHistogram(dst, &s.Latency)
	return appendHistogram(dst, &s.Duration)
}

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func appendSelector(dst []byte, s *Selector) []byte {
	return appendText(appendText(appendText(appendText(dst, s.Cluster), s.Namespace), s.Kind), s.Name)
}

func appendCounts[K comparable](dst []byte, counts map[K]uint64, key func([]byte, K) []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(counts)))
	for k, n := range counts {
		dst = binary.AppendUvarint(key(dst, k), n)
	}
	return dst
}

// appendHistogram appends a histogram after its length, which takes two bytes
// mostly.
func appendHistogram(dst []byte, h *event.SparseHistogram) []byte {
	const room = 2
	start := len(dst)
	dst = h.AppendBinary(append(dst, 0, 0))
	n := len(dst) - start - room
	if n < 1<<(7*room) {
		dst[start], dst[start+1] = byte(n)|0x80, byte(n>>7)
		return dst
	}
	body := bytes.Clone(dst[start+room:])
	return append(binary.AppendUvarint(dst[:start], uint64(n)), body...)
}

var errPacked = errors.New("they are cut short, or not valid")

// reader reads packed rows. After the first failure it gives zeros.
type reader struct {
	data   []byte
	text   string // all of it
	failed bool
	// chunks for what rows hold.
	histograms event.SparseReader
	// again: histograms are read in the memory of those before.
	again bool
}

func readRows(data []byte) ([]Row, error) {
	r := reader{data: data, text: string(data)}
	n := r.count(1)
	rows := make([]Row, n)
	for i := range rows {
		r.row(&rows[i])
	}
	if r.failed || len(r.data) > 0 {
		return nil, errPacked
	}
	return rows, nil
}

func (r *reader) row(row *Row) {
	r.selector(&row.Resource)
	flags := r.number()
	if flags&hasOwner != 0 {
		row.Owner = &Selector{}
		r.selector(row.Owner)
	}
	row.Brief = flags&isBrief != 0
	row.Direction = r.string()
	r.numbers(row)
	s := &row.Stats
	s.Status = readCounts(r, func() uint16 { return uint16(r.number()) })
	s.GRPC = readCounts(r, r.signed)
	s.Errors = readCounts(r, r.string)
	r.histogram(&s.Latency)
	r.histogram(&s.Duration)
}

// numbers reads those of a row.
func (r *reader) numbers(row *Row) {
	s := &row.Stats
	row.PodsSeen, row.PodsLive = int(r.number()), int(r.number())
	for _, into := range [...]*uint64{
		&row.OpenConnections, &row.Shed, &row.LostBatches,
		&s.Requests, &s.Successes, &s.RequestBytes, &s.ResponseBytes, &s.Connections,
	} {
		*into = r.number()
	}
}

// signed reads what may be negative.
func (r *reader) signed() int16 {
	n := r.number()
	return int16(n>>1) ^ -int16(n&1)
}

func (r *reader) number() uint64 {
	if len(r.data) > 0 && r.data[0] < 0x80 {
		n := r.data[0]
		r.data = r.data[1:]
		return uint64(n)
	}
	v, n := binary.Uvarint(r.data)
	if n <= 0 {
		r.failed, r.data = true, nil
		return 0
	}
	r.data = r.data[n:]
	return v
}

// count reads how many of something follow that take so many bytes each, or
// more.
func (r *reader) count(size int) int {
	n := r.number()
	if n > uint64(len(r.data)/size) {
		r.failed, r.data = true, nil
		return 0
	}
	return int(n)
}

func (r *reader) string() string {
	n := r.count(1)
	at := len(r.text) - len(r.data)
	if n == 0 {
		return ""
	}
	r.data = r.data[n:]
	return r.text[at : at+n]
}

func (r *reader) selector(s *Selector) {
	s.Cluster, s.Namespace, s.Kind, s.Name = r.string(), r.string(), r.string(), r.string()
}

func readCounts[K comparable](r *reader, key func() K) map[K]uint64 {
	n := r.count(2)
	if n == 0 {
		return nil
	}
	counts := make(map[K]uint64, n)
	for range n {
		k := key()
		counts[k] = r.number()
	}
	return counts
}

func (r *reader) histogram(h *event.SparseHistogram) {
	n := r.count(1)
	var err error
	switch {
	case r.again:
		err = h.UnmarshalBinary(r.data[:n])
	case n > 0:
		*h, err = r.histograms.Read(r.data[:n])
	}
	if err != nil {
		r.failed, r.data = true, nil
		return
	}
	r.data = r.data[n:]
}
