package rollup

import (
	"encoding/binary"
	"fmt"
	"unsafe"
)

// Adder adds encoded cells up as a [Decoder] does, in less than half the time:
// it reads each straight into the sum. Its memory is used again. The zero value
// is ready; it is not safe for concurrent use.
type Adder struct {
	slow Decoder
	// reasons are the errors of the cell at hand.
	reasons [][]byte
}

// Fields that Add reads by itself: the tags of rollup.proto's Sums.
const (
	tagRequests      = 1<<3 | wireVarint
	tagSuccesses     = 2<<3 | wireVarint
	tagRequestBytes  = 3<<3 | wireVarint
	tagResponseBytes = 4<<3 | wireVarint
	tagConnections   = 5<<3 | wireVarint
	tagStatus        = 6<<3 | wireLen
	tagStatusN       = 7<<3 | wireLen
	tagGRPC          = 8<<3 | wireLen
	tagGRPCN         = 9<<3 | wireLen
	tagError         = 10<<3 | wireLen
	tagErrorN        = 11<<3 | wireLen
	tagLatency       = 12<<3 | wireLen
	tagDuration      = 13<<3 | wireLen
	tagBatches       = 14<<3 | wireVarint
	tagEvents        = 15<<3 | wireVarint
)

// merger is a histogram that encoded ones are added to.
type merger interface{ MergeBinary(data []byte) error }

// Add adds to c what AppendBinary wrote. On an error c is not usable any more.
func (a *Adder) Add(c *Cell, data []byte) error {
	return a.add(c, &c.Latency, &c.Duration, data)
}

// add is as Add, with the histograms elsewhere; but what is rare may be added to
// those of c all the same.
func (a *Adder) add(c *Cell, latency, duration merger, data []byte) error {
	var statuses, grpcs []byte
	a.reasons = a.reasons[:0]
	for rest := data; len(rest) > 0; {
		tag := rest[0]
		if len(rest) == 1 || tag >= 0x80 {
			// Fields that few cells have.
			return a.others(c, rest)
		}
		n, size := uint64(rest[1]), 1
		if n >= 0x80 {
			if n, size = binary.Uvarint(rest[1:]); size <= 0 {
				return fmt.Errorf("cannot read a cell: field %d: %w", tag>>3, errWire)
			}
		}
		after := rest[1+size:]
		var body []byte
		if tag&7 == wireLen {
			if n > uint64(len(after)) {
				return fmt.Errorf("cannot read a cell: field %d: %w", tag>>3, errWire)
			}
			body, after = after[:n], after[n:]
		}
		var err error
		switch tag {
		case tagRequests:
			c.Requests += n
		case tagSuccesses:
			c.Successes += n
		case tagRequestBytes:
			c.RequestBytes += n
		case tagResponseBytes:
			c.ResponseBytes += n
		case tagConnections:
			c.Connections += n
		case tagStatus:
			statuses = body
		case tagStatusN:
			err = c.addStatuses(statuses, body)
		case tagGRPC:
			grpcs = body
		case tagGRPCN:
			err = c.addGRPC(grpcs, body)
		case tagError:
			if len(a.reasons) > maxErrors {
				err = errWire
			}
			a.reasons = append(a.reasons, body)
		case tagErrorN:
			err = c.addErrors(a.reasons, body)
			a.reasons = a.reasons[:0]
		case tagLatency:
			err = latency.MergeBinary(body)
		case tagDuration:
			err = duration.MergeBinary(body)
		case tagBatches:
			c.Batches += n
		case tagEvents:
			c.Events += n
		default:
			return a.others(c, rest)
		}
		if err != nil {
			return fmt.Errorf("cannot read a cell: field %d: %w", tag>>3, err)
		}
		rest = after
	}
	return a.complete()
}

// complete tells whether each reason has had its count.
func (a *Adder) complete() error {
	if len(a.reasons) > 0 {
		return fmt.Errorf("cannot read a cell: %d errors without counts: %w", len(a.reasons), errWire)
	}
	return nil
}

// others adds the fields that are rare; fields are in ascending order, so none
// is added twice.
func (a *Adder) others(c *Cell, rest []byte) error {
	if err := a.complete(); err != nil {
		return err
	}
	return a.slow.Add(c, rest)
}

// eachCount calls add with each of packed values and its count.
func eachCount(values, counts []byte, add func(value, n uint64) error) error {
	for len(values) > 0 {
		v, size := binary.Uvarint(values)
		n, width := binary.Uvarint(counts)
		if size <= 0 || width <= 0 {
			return errWire
		}
		values, counts = values[size:], counts[width:]
		if err := add(v, n); err != nil {
			return err
		}
	}
	if len(counts) > 0 {
		return errWire
	}
	return nil
}

// addStatuses adds the counts of HTTP statuses, packed.
func (c *Cell) addStatuses(values, counts []byte) error {
	return eachCount(values, counts, func(v, n uint64) error {
		if v > uint64(OtherStatus) {
			return fmt.Errorf("HTTP status %d", v)
		}
		c.Status = addCount(c.Status, uint16(v), n, OtherStatus)
		return nil
	})
}

// addErrors adds the counts of errors, packed.
func (c *Cell) addErrors(reasons [][]byte, counts []byte) error {
	for _, reason := range reasons {
		n, width := binary.Uvarint(counts)
		if width <= 0 {
			return errWire
		}
		counts = counts[width:]
		// Copied where it is kept.
		c.addError(unsafe.String(unsafe.SliceData(reason), len(reason)), n, true)
	}
	if len(counts) > 0 {
		return errWire
	}
	return nil
}

// addGRPC adds the counts of gRPC statuses, packed.
func (c *Cell) addGRPC(values, counts []byte) error {
	return eachCount(values, counts, func(v, n uint64) error {
		status := int64(v>>1) ^ -int64(v&1)
		if status != int64(int16(status)) {
			return fmt.Errorf("gRPC status %d", status)
		}
		c.GRPC = addCount(c.GRPC, int16(status), n, OtherGRPC)
		return nil
	})
}
