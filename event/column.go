package event

import "encoding/binary"

// column is a packed repeated field being written. One that holds zeros only
// is left out of the batch.
type column struct {
	data []byte
	any  uint64
}

func (c *column) put(v uint64) {
	c.any |= v
	if v < 0x80 {
		c.data = append(c.data, byte(v))
		return
	}
	c.data = binary.AppendUvarint(c.data, v)
}

// resetColumns empties columns and gives back the memory of those that a burst
// made larger than keepColumn.
func resetColumns(columns []column) {
	for i := range columns {
		c := &columns[i]
		if cap(c.data) > keepColumn && len(c.data) < keepColumn/2 {
			c.data = nil
		}
		c.data, c.any = c.data[:0], 0
	}
}

// fieldSize is what a bytes field of n bytes takes; fields are all below 16,
// so a tag is one byte.
func fieldSize(n int) int { return 1 + uvarintSize(uint64(n)) + n }

func uvarintSize(v uint64) int {
	n := 1
	for v >= 0x80 {
		v >>= 7
		n++
	}
	return n
}

// columnsSize is the size of a message that consists of columns. The first is
// always written where force is set.
func columnsSize(columns []column, force bool) int {
	size := 0
	for i := range columns {
		c := &columns[i]
		if c.any != 0 || force && i == 0 && len(c.data) > 0 {
			size += fieldSize(len(c.data))
		}
	}
	return size
}

// appendColumns appends columns as the fields from first on.
func appendColumns(dst []byte, columns []column, first int, force bool) []byte {
	for i := range columns {
		c := &columns[i]
		if c.any != 0 || force && i == 0 && len(c.data) > 0 {
			dst = appendBytes(dst, first+i, c.data)
		}
	}
	return dst
}

const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
)

func appendBytes[T string | []byte](dst []byte, field int, data T) []byte {
	dst = appendLength(dst, field, len(data))
	return append(dst, data...)
}

// appendLength begins a field of n bytes.
func appendLength(dst []byte, field, n int) []byte {
	dst = append(dst, byte(field<<3|wireBytes))
	return binary.AppendUvarint(dst, uint64(n))
}

// appendString leaves out the empty string, as proto3 does.
func appendString(dst []byte, field int, s string) []byte {
	if s == "" {
		return dst
	}
	return appendBytes(dst, field, s)
}

// appendUint leaves out zero, as proto3 does.
func appendUint(dst []byte, field int, v uint64) []byte {
	if v == 0 {
		return dst
	}
	dst = append(dst, byte(field<<3|wireVarint))
	return binary.AppendUvarint(dst, v)
}

func zigzag(v int64) uint64 { return uint64(v<<1) ^ uint64(v>>63) }

func unzigzag(v uint64) int64 { return int64(v>>1) ^ -int64(v&1) }
