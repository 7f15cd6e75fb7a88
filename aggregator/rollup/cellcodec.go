package rollup

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/VictoriaMetrics/easyproto"

	"github.com/weirmesh/weir/event"
)

// AppendBinary appends the message Sums of rollup.proto. Equal cells give equal
// bytes. It reorders c's counts, so it is not safe for concurrent use.
func (c *Cell) AppendBinary(dst []byte) []byte {
	var s scratch
	return c.appendBinary(dst, &s)
}

// scratch is memory to put histograms together in.
type scratch struct {
	latency, duration           event.Histogram
	latencyTally, durationTally event.Tally // empty
}

// appendDistributions appends the fields of both histograms: straight from the
// tallies, where they have all there is.
func (c *Cell) appendDistributions(dst []byte, s *scratch) []byte {
	switch {
	case c.waiting.latency.Count() == 0:
		dst = appendLen(dst, 12, c.Latency.AppendBinary)
		return appendLen(dst, 13, c.Duration.AppendBinary)
	case c.Latency.Count() == 0 && c.tallied:
		c.flush()
		return c.appendTallies(dst, &c.latencyTally, &c.durationTally)
	case c.Latency.Count() == 0:
		// Memory that all such cells share is in the core's cache.
		latency, duration := &s.latencyTally, &s.durationTally
		event.TallyPairs(c.buffer, latency, duration)
		dst = c.appendTallies(dst, latency, duration)
		latency.Reset(&c.waiting.latency)
		duration.Reset(&c.waiting.duration)
		return dst
	}
	s.latency.Reset()
	s.duration.Reset()
	s.latency.Merge(&c.Latency)
	s.duration.Merge(&c.Duration)
	c.pour(&s.latency, &s.duration)
	dst = appendLen(dst, 12, s.latency.AppendBinary)
	return appendLen(dst, 13, s.duration.AppendBinary)
}

// appendTallies appends the fields of both histograms from tallies of all that
// waits.
func (c *Cell) appendTallies(dst []byte, latency, duration *event.Tally) []byte {
	dst = appendLen(dst, 12, func(dst []byte) []byte { return latency.AppendBinary(dst, &c.waiting.latency) })
	return appendLen(dst, 13, func(dst []byte) []byte { return duration.AppendBinary(dst, &c.waiting.duration) })
}

func (c *Cell) appendBinary(dst []byte, s *scratch) []byte {
	return c.appendLedger(c.appendDistributions(c.appendCounters(dst), s))
}

// appendCounters appends the fields before the histograms.
func (c *Cell) appendCounters(dst []byte) []byte {
	c.sort()
	dst = appendUint(dst, 1, c.Requests)
	dst = appendUint(dst, 2, c.Successes)
	dst = appendUint(dst, 3, c.RequestBytes)
	dst = appendUint(dst, 4, c.ResponseBytes)
	dst = appendUint(dst, 5, c.Connections)
	dst = appendCounts(dst, 6, c.Status, func(v uint16) uint64 { return uint64(v) })
	dst = appendCounts(dst, 8, c.GRPC, func(v int16) uint64 { return zigzag(int64(v)) })
	for i := range c.Errors {
		dst = appendString(dst, 10, c.Errors[i].Value)
	}
	return appendLen(dst, 11, func(dst []byte) []byte { return appendNs(dst, c.Errors) })
}

// appendLedger appends the fields after the histograms.
func (c *Cell) appendLedger(dst []byte) []byte {
	dst = appendUint(dst, 14, c.Batches)
	dst = appendUint(dst, 15, c.Events)
	dst = appendUint(dst, 16, c.Shed)
	return appendUint(dst, 17, zigzag(c.Lost))
}

func appendCounts[T any](dst []byte, field uint64, counts []Count[T], number func(T) uint64) []byte {
	dst = appendLen(dst, field, func(dst []byte) []byte {
		for i := range counts {
			dst = binary.AppendUvarint(dst, number(counts[i].Value))
		}
		return dst
	})
	return appendLen(dst, field+1, func(dst []byte) []byte { return appendNs(dst, counts) })
}

func appendNs[T any](dst []byte, counts []Count[T]) []byte {
	for i := range counts {
		dst = binary.AppendUvarint(dst, counts[i].N)
	}
	return dst
}

// Decoder adds encoded cells up. Its memory is used again. The zero value is
// ready; it is not safe for concurrent use.
type Decoder struct {
	cell           Cell
	statuses       []uint32
	grpcs          []int32
	statusN, grpcN []uint64
	errors         []string
	errorN         []uint64
	// The histograms of cell.
	latency, duration event.SparseHistogram
}

// Add adds to c what AppendBinary wrote. On an error c stays as it was.
func (d *Decoder) Add(c *Cell, data []byte) error {
	if err := d.read(data); err != nil {
		return fmt.Errorf("cannot read a cell: %w", err)
	}
	for _, s := range d.cell.Errors {
		// The strings point into data.
		c.addError(s.Value, s.N, true)
	}
	d.cell.Errors = d.cell.Errors[:0]
	c.Merge(&d.cell)
	c.Latency.MergeSparse(&d.latency)
	c.Duration.MergeSparse(&d.duration)
	return nil
}

func (d *Decoder) read(data []byte) error {
	d.cell.Reset()
	d.statuses, d.statusN = d.statuses[:0], d.statusN[:0]
	d.grpcs, d.grpcN = d.grpcs[:0], d.grpcN[:0]
	d.errors, d.errorN = d.errors[:0], d.errorN[:0]
	_ = d.latency.UnmarshalBinary(nil) // empties it
	_ = d.duration.UnmarshalBinary(nil)
	if err := d.readFields(data); err != nil {
		return err
	}
	if len(d.statuses) != len(d.statusN) || len(d.grpcs) != len(d.grpcN) || len(d.errors) != len(d.errorN) {
		return errors.New("not as many counts as values")
	}
	for i, v := range d.statuses {
		if v > uint32(OtherStatus) {
			return fmt.Errorf("HTTP status %d", v)
		}
		d.cell.Status = addCount(d.cell.Status, uint16(v), d.statusN[i], OtherStatus)
	}
	for i, v := range d.grpcs {
		if v != int32(int16(v)) {
			return fmt.Errorf("gRPC status %d", v)
		}
		d.cell.GRPC = addCount(d.cell.GRPC, int16(v), d.grpcN[i], OtherGRPC)
	}
	for i, v := range d.errors {
		d.cell.addError(v, d.errorN[i], false)
	}
	return nil
}

func (d *Decoder) readFields(data []byte) error {
	c := &d.cell
	var f easyproto.FieldContext
	for len(data) > 0 {
		var err error
		if data, err = f.NextField(data); err != nil {
			return err
		}
		switch f.FieldNum {
		case 1:
			err = take(&c.Requests, f.Uint64)
		case 2:
			err = take(&c.Successes, f.Uint64)
		case 3:
			err = take(&c.RequestBytes, f.Uint64)
		case 4:
			err = take(&c.ResponseBytes, f.Uint64)
		case 5:
			err = take(&c.Connections, f.Uint64)
		case 6:
			err = unpack(&d.statuses, f.UnpackUint32s, maxStatuses+1)
		case 7:
			err = unpack(&d.statusN, f.UnpackUint64s, maxStatuses+1)
		case 8:
			err = unpack(&d.grpcs, f.UnpackSint32s, maxStatuses+1)
		case 9:
			err = unpack(&d.grpcN, f.UnpackUint64s, maxStatuses+1)
		case 10:
			err = d.readError(&f)
		case 11:
			err = unpack(&d.errorN, f.UnpackUint64s, maxErrors+1)
		case 12:
			err = readHistogram(&d.latency, &f)
		case 13:
			err = readHistogram(&d.duration, &f)
		case 14:
			err = take(&c.Batches, f.Uint64)
		case 15:
			err = take(&c.Events, f.Uint64)
		case 16:
			err = take(&c.Shed, f.Uint64)
		case 17:
			err = take(&c.Lost, f.Sint64)
		}
		if err != nil {
			return fmt.Errorf("field %d: %w", f.FieldNum, err)
		}
	}
	return nil
}

func (d *Decoder) readError(f *easyproto.FieldContext) error {
	s, ok := f.String()
	if !ok {
		return errWire
	}
	if len(d.errors) > maxErrors {
		return fmt.Errorf("more than %d values", maxErrors)
	}
	d.errors = append(d.errors, s)
	return nil
}

func readHistogram(h *event.SparseHistogram, f *easyproto.FieldContext) error {
	data, ok := f.Bytes()
	if !ok {
		return errWire
	}
	return h.UnmarshalBinary(data)
}
