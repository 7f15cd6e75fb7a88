package prometheus

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/event"
)

// stateVersion is the version of state.proto.
const stateVersion = 1

// state is what is stored of a partition: state.proto.
type state struct {
	owner    string
	written  int64
	position uint64
	marks    []byte
	rows     []*row
	open     map[connectionID]int64
	totals   totals
}

// totals are counts of a partition since the first batch ever.
type totals struct {
	events, batches, duplicates, refused, lost, shed uint64
}

func (t *totals) all() [6]*uint64 {
	return [6]*uint64{&t.events, &t.batches, &t.duplicates, &t.refused, &t.lost, &t.shed}
}

// firstTotal is the number of the first field of totals.
const firstTotal = 9

// encoder writes a state. A string is written before what refers to it.
type encoder struct {
	body    []byte
	strings map[string]uint64
	scratch []byte
	message []byte
}

func (s *state) encode() []byte {
	w := &encoder{strings: map[string]uint64{"": 0}}
	w.number(1, stateVersion)
	w.bytes(2, []byte(s.owner))
	w.number(3, uint64(s.written))
	w.number(4, s.position)
	w.bytes(5, s.marks)
	for _, r := range s.rows {
		w.row(r)
	}
	for id, ended := range s.open {
		w.open(id, ended)
	}
	for i, n := range s.totals.all() {
		w.number(protowire.Number(firstTotal+i), *n)
	}
	return w.body
}

func (w *encoder) number(field protowire.Number, v uint64) {
	w.body = appendNumber(w.body, field, v)
}

func (w *encoder) bytes(field protowire.Number, b []byte) {
	w.body = appendBytes(w.body, field, b)
}

func appendNumber(dst []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return dst
	}
	return protowire.AppendVarint(protowire.AppendTag(dst, field, protowire.VarintType), v)
}

func appendBytes(dst []byte, field protowire.Number, b []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(dst, field, protowire.BytesType), b)
}

func (w *encoder) ref(s string) uint64 {
	i, ok := w.strings[s]
	if !ok {
		i = uint64(len(w.strings))
		w.strings[s] = i
		w.bytes(6, []byte(s))
	}
	return i
}

// refs are references to strings, packed; valid until the next call.
func (w *encoder) refs(all ...string) []byte {
	for len(all) > 0 && all[len(all)-1] == "" {
		all = all[:len(all)-1]
	}
	w.scratch = w.scratch[:0]
	for _, s := range all {
		w.scratch = protowire.AppendVarint(w.scratch, w.ref(s))
	}
	return w.scratch
}

func (w *encoder) row(r *row) {
	w.message = appendNumber(w.message[:0], 1, uint64(r.family))
	w.message = appendBytes(w.message, 2, w.refs(r.labels[:]...))
	n := r.n[:]
	for len(n) > 0 && n[len(n)-1] == 0 {
		n = n[:len(n)-1]
	}
	w.scratch = w.scratch[:0]
	for _, v := range n {
		w.scratch = protowire.AppendVarint(w.scratch, v)
	}
	w.message = appendBytes(w.message, 3, w.scratch)
	w.message = appendNumber(w.message, 4, uint64(r.used))
	w.bytes(7, w.message)
}

func (w *encoder) open(id connectionID, ended int64) {
	at := id.source.Workload
	w.message = protowire.AppendFixed64(protowire.AppendTag(w.message[:0], 1, protowire.Fixed64Type), id.source.Instance)
	w.message = appendBytes(w.message, 2, w.refs(at.Cluster, at.Namespace, at.Kind, at.Name))
	w.message = appendNumber(w.message, 3, uint64(id.direction))
	w.message = protowire.AppendFixed64(protowire.AppendTag(w.message, 4, protowire.Fixed64Type), id.connection)
	w.message = appendNumber(w.message, 5, uint64(ended))
	w.bytes(8, w.message)
}

// errState tells that a stored state is not what it should be.
var errState = errors.New("the stored state is not readable")

// value is one field's.
type value struct {
	number uint64
	bytes  []byte
}

// fields calls fn with each field of a message.
func fields(data []byte, fn func(field protowire.Number, v value) error) error {
	for len(data) > 0 {
		field, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return errState
		}
		data = data[n:]
		var v value
		switch kind {
		case protowire.VarintType:
			v.number, n = protowire.ConsumeVarint(data)
		case protowire.Fixed64Type:
			v.number, n = protowire.ConsumeFixed64(data)
		case protowire.BytesType:
			v.bytes, n = protowire.ConsumeBytes(data)
		default:
			n = protowire.ConsumeFieldValue(field, kind, data)
		}
		if n < 0 {
			return errState
		}
		data = data[n:]
		if err := fn(field, v); err != nil {
			return err
		}
	}
	return nil
}

// packed reads at most len(to) numbers.
func packed(data []byte, to []uint64) (n int, err error) {
	for len(data) > 0 {
		v, size := protowire.ConsumeVarint(data)
		if size < 0 || n == len(to) {
			return 0, errState
		}
		data = data[size:]
		to[n] = v
		n++
	}
	return n, nil
}

// decodeState reads what encode wrote. What it returns points into data.
func decodeState(data []byte) (*state, error) {
	s := &state{open: map[connectionID]int64{}}
	var version uint64
	names := []string{""}
	totals := s.totals.all()
	err := fields(data, func(field protowire.Number, v value) error {
		switch field {
		case 1:
			version = v.number
		case 2:
			s.owner = string(v.bytes)
		case 3:
			s.written = int64(v.number)
		case 4:
			s.position = v.number
		case 5:
			s.marks = v.bytes
		case 6:
			names = append(names, string(v.bytes))
		case 7:
			return s.readRow(v.bytes, names)
		case 8:
			return s.readOpen(v.bytes, names)
		default:
			if i := int(field) - firstTotal; i >= 0 && i < len(totals) {
				*totals[i] = v.number
			}
		}
		return nil
	})
	if err == nil && version != stateVersion {
		err = fmt.Errorf("it is of version %d, and this exporter knows version %d", version, stateVersion)
	}
	return s, err
}

// resolve reads references to strings.
func resolve(data []byte, names, to []string) error {
	var refs [labelCount]uint64
	n, err := packed(data, refs[:len(to)])
	if err != nil {
		return err
	}
	for i, ref := range refs[:n] {
		if ref >= uint64(len(names)) {
			return errState
		}
		to[i] = names[ref]
	}
	return nil
}

func (s *state) readRow(data []byte, names []string) error {
	r := &row{}
	err := fields(data, func(field protowire.Number, v value) (err error) {
		switch field {
		case 1:
			r.family = family(v.number)
		case 2:
			err = resolve(v.bytes, names, r.labels[:])
		case 3:
			_, err = packed(v.bytes, r.n[:])
		case 4:
			r.used = int64(v.number)
		}
		return err
	})
	if err == nil && (r.family < requests || r.family > closes) {
		return errState
	}
	s.rows = append(s.rows, r)
	return err
}

func (s *state) readOpen(data []byte, names []string) error {
	var id connectionID
	var ended int64
	err := fields(data, func(field protowire.Number, v value) (err error) {
		switch field {
		case 1:
			id.source.Instance = v.number
		case 2:
			var w [4]string
			err = resolve(v.bytes, names, w[:])
			id.source = rollup.SourceID{Instance: id.source.Instance, Workload: event.Workload{Cluster: w[0], Namespace: w[1], Kind: w[2], Name: w[3]}}
		case 3:
			id.direction = event.Direction(v.number)
		case 4:
			id.connection = v.number
		case 5:
			ended = int64(v.number)
		}
		return err
	})
	s.open[id] = ended
	return err
}
