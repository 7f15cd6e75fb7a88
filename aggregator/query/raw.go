package query

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
)

// Who asks for thousands of rows every second gets most of them again byte for
// byte: what was made of them before can be told again, and need not be read.

// Raw are the brief rows of one member's reply as they were packed. The zero
// value is empty; it is not safe for concurrent use.
type Raw struct {
	data []byte
	left int
}

// UnpackRaw is as [Unpack], but packed rows are left as they are from the first
// one on that is Brief: see [Reply.Raw]. They keep data.
func UnpackRaw(data []byte) (Reply, error) {
	var r Reply
	head, packed, ok := bytes.Cut(data, []byte(packMark))
	if err := json.Unmarshal(head, &r); err != nil || !ok {
		return r, err
	}
	in := reader{data: packed}
	left := in.count(1)
	whole := in.data
	for left > 0 {
		_, brief := in.skip()
		if in.failed {
			return Reply{}, fmt.Errorf("cannot read the rows: %w", errPacked)
		}
		if brief {
			break
		}
		whole, left = in.data, left-1
		r.Rows = append(r.Rows, Row{})
	}
	rows := reader{data: packed, text: string(packed[:len(packed)-len(whole)])}
	rows.data = packed[:len(rows.text)]
	rows.number() // how many there are
	for i := range r.Rows {
		rows.row(&r.Rows[i])
	}
	if in.failed || rows.failed || len(rows.data) > 0 {
		return Reply{}, fmt.Errorf("cannot read the rows: %w", errPacked)
	}
	if left > 0 {
		r.raw = []Raw{{whole, left}}
	}
	return r, nil
}

// Raw gives the rows that [UnpackRaw] left as they are, of each of the replies
// that were merged: a row that two of them have was not added up.
func (r *Reply) Raw() []Raw { return slices.Clone(r.raw) }

// DropRaw takes those rows off r.
func (r *Reply) DropRaw() { r.raw = nil }

// RawRows is how many rows they are.
func (r *Reply) RawRows() (n int) {
	for i := range r.raw {
		n += r.raw[i].left
	}
	return n
}

// ReadRaw reads the rows that [UnpackRaw] left as they are, and puts them among
// Rows. It fails as Merge and [Unpack] do.
func (r *Reply) ReadRaw() error {
	if len(r.raw) == 0 {
		return nil
	}
	n := len(r.Rows) + r.RawRows()
	rows := make([]Row, n)
	at := copy(rows, r.Rows)
	for _, raw := range r.raw {
		in := reader{data: raw.data, text: string(raw.data)}
		for range raw.left {
			in.row(&rows[at])
			at++
		}
		if in.failed || len(in.data) > 0 {
			return fmt.Errorf("cannot read the rows: %w", errPacked)
		}
	}
	all := make([]*Row, n)
	for i := range rows {
		all[i] = &rows[i]
	}
	merged, err := mergeRows(all)
	if err != nil {
		return err
	}
	r.Rows, r.raw = merged, nil
	return nil
}

// Len is how many rows are left.
func (r *Raw) Len() int { return r.left }

// Repeats goes past the next row where it is, byte for byte, one that Next gave
// before, and tells whether it is.
func (r *Raw) Repeats(row []byte) bool {
	// No row begins as another one is.
	if r.left == 0 || len(row) == 0 || !bytes.HasPrefix(r.data, row) || r.left == 1 && len(r.data) > len(row) {
		return false
	}
	r.data, r.left = r.data[len(row):], r.left-1
	return true
}

// Next gives the next row, as [RowReader] takes it, and the part of it that is
// its resource, as [AppendResource] writes it. It fails where there is none, or
// what there is is no brief row.
func (r *Raw) Next() (row, resource []byte, err error) {
	in := reader{data: r.data}
	name, brief := in.skip()
	if r.left == 0 || in.failed || !brief || r.left == 1 && len(in.data) > 0 {
		return nil, nil, errPacked
	}
	row, resource = r.data[:len(r.data)-len(in.data)], r.data[:name]
	r.data, r.left = in.data, r.left-1
	return row, resource, nil
}

// AppendResource appends a resource as rows have it.
func AppendResource(dst []byte, s *Selector) []byte { return appendSelector(dst, s) }

// RowReader reads packed rows one after the other, in the same memory. The zero
// value is ready; it is not safe for concurrent use.
type RowReader struct {
	in  reader
	row RawRow
}

// RawRow is a row as a [RowReader] reads it: without Resource, which who has the
// row knows, and with the counts of Stats beside it, for maps take more time than
// all the rest.
type RawRow struct {
	Row
	Status []Count[uint16]
	GRPC   []Count[int16]
	Errors []Count[string]
}

// Count is how often there was a value.
type Count[K any] struct {
	Value K
	N     uint64
}

// Read reads a row, which is valid until the next one is read, and keeps nothing
// of data.
func (r *RowReader) Read(data []byte) (*RawRow, error) {
	in, row := &r.in, &r.row
	*in = reader{data: data, again: true}
	in.pass(4)
	flags := in.number()
	row.Owner = nil
	if flags&hasOwner != 0 {
		row.Owner = &Selector{Cluster: string(in.bytes()), Namespace: string(in.bytes()), Kind: string(in.bytes()), Name: string(in.bytes())}
	}
	row.Brief = flags&isBrief != 0
	switch direction := in.bytes(); string(direction) {
	case Inbound:
		row.Direction = Inbound
	case Outbound:
		row.Direction = Outbound
	default:
		row.Direction = string(direction)
	}
	in.numbers(&row.Row)
	row.Status, row.GRPC, row.Errors = row.Status[:0], row.GRPC[:0], row.Errors[:0]
	for range in.count(2) {
		row.Status = append(row.Status, Count[uint16]{uint16(in.number()), in.number()})
	}
	for range in.count(2) {
		row.GRPC = append(row.GRPC, Count[int16]{in.signed(), in.number()})
	}
	for range in.count(2) {
		row.Errors = append(row.Errors, Count[string]{string(in.bytes()), in.number()})
	}
	in.histogram(&row.Stats.Latency)
	in.histogram(&row.Stats.Duration)
	if in.failed || len(in.data) > 0 {
		return nil, errPacked
	}
	return row, nil
}

// ReadResource reads what [AppendResource] wrote.
func ReadResource(data []byte) (Selector, error) {
	var s Selector
	in := reader{data: data, text: string(data)}
	in.selector(&s)
	if in.failed || len(in.data) > 0 {
		return Selector{}, errPacked
	}
	return s, nil
}

// skip goes past a row, and tells how many bytes of it are its resource, and
// whether it is brief.
func (r *reader) skip() (resource int, brief bool) {
	all := len(r.data)
	r.pass(4)
	resource = all - len(r.data)
	flags := r.number()
	if flags&hasOwner != 0 {
		r.pass(4)
	}
	r.pass(1) // the direction
	for range 10 {
		r.number()
	}
	for range 2 * r.count(2) {
		r.number()
	}
	for range 2 * r.count(2) {
		r.number()
	}
	for range r.count(2) {
		r.pass(1)
		r.number()
	}
	r.pass(2) // the histograms
	return resource, flags&isBrief != 0
}

// pass goes past so many texts, or what else has its length before it.
func (r *reader) pass(texts int) {
	for range texts {
		r.bytes()
	}
}

// bytes gives a text, or what else has its length before it.
func (r *reader) bytes() []byte {
	n := r.count(1)
	b := r.data[:n]
	r.data = r.data[n:]
	return b
}
