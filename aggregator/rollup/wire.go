package rollup

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/VictoriaMetrics/easyproto"
)

// Writing: protobuf by hand, into a slice. Fields that are zero are left out.

const (
	wireVarint  = 0
	wireFixed64 = 1
	wireLen     = 2
)

func appendTag(dst []byte, field, wire uint64) []byte {
	return binary.AppendUvarint(dst, field<<3|wire)
}

func appendUint(dst []byte, field, v uint64) []byte {
	if v == 0 {
		return dst
	}
	return binary.AppendUvarint(appendTag(dst, field, wireVarint), v)
}

func appendBool(dst []byte, field uint64, v bool) []byte {
	if !v {
		return dst
	}
	return appendUint(dst, field, 1)
}

func appendFixed64(dst []byte, field, v uint64) []byte {
	if v == 0 {
		return dst
	}
	return binary.LittleEndian.AppendUint64(appendTag(dst, field, wireFixed64), v)
}

func appendString(dst []byte, field uint64, s string) []byte {
	dst = binary.AppendUvarint(appendTag(dst, field, wireLen), uint64(len(s)))
	return append(dst, s...)
}

// appendLen appends a field whose content fill appends.
func appendLen(dst []byte, field uint64, fill func([]byte) []byte) []byte {
	start := len(dst)
	dst = appendTag(dst, field, wireLen)
	mark := len(dst)
	dst = fill(append(dst, 0))
	n := len(dst) - mark - 1
	if n == 0 {
		return dst[:start]
	}
	if n < 0x80 {
		dst[mark] = byte(n)
		return dst
	}
	// The length takes more than the byte set aside.
	var length [binary.MaxVarintLen64]byte
	size := binary.PutUvarint(length[:], uint64(n))
	dst = append(dst, length[:size-1]...)
	copy(dst[mark+size:], dst[mark+1:mark+1+n])
	copy(dst[mark:], length[:size])
	return dst
}

func zigzag(v int64) uint64 { return uint64(v)<<1 ^ uint64(v>>63) }

// Reading.

var errWire = errors.New("a field is not of the type it should be")

// fields calls fn with each field of a message.
func fields(data []byte, fn func(f *easyproto.FieldContext) error) error {
	var f easyproto.FieldContext
	for len(data) > 0 {
		var err error
		if data, err = f.NextField(data); err != nil {
			return fmt.Errorf("cannot read a field: %w", err)
		}
		if err := fn(&f); err != nil {
			return fmt.Errorf("field %d: %w", f.FieldNum, err)
		}
	}
	return nil
}

// take stores a field's value, or tells that it is of another type.
func take[T any](to *T, get func() (T, bool)) error {
	v, ok := get()
	if !ok {
		return errWire
	}
	*to = v
	return nil
}

// unpack appends a packed field's values to a slice that stays within limit.
func unpack[T any](to *[]T, get func([]T) ([]T, bool), limit int) error {
	v, ok := get(*to)
	if !ok {
		return errWire
	}
	if len(v) > limit {
		return fmt.Errorf("%d values, at most %d are possible", len(v), limit)
	}
	*to = v
	return nil
}
