// Package wire is the gRPC codec of the API and its clients. On the wire it is
// protobuf as any other; but rows of statistics, of which an answer may have ten
// thousands, it writes and reads by itself, without reflection, side by side,
// in a third of the time.
package wire

import (
	"bytes"
	"sync"

	"github.com/weirmesh/weir/api/weirpb"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// Codec is a [encoding.CodecV2] named "proto". Use [New]. It is safe for
// concurrent use.
type Codec struct {
	// CodecV2 is gRPC's own, for all other messages.
	encoding.CodecV2
}

// New returns a codec.
func New() Codec { return Codec{encoding.GetCodecV2(proto.Name)} }

// many is how many rows are worth the effort.
const many = 32

// Marshal writes a message. Of the rows of a [weirpb.StatResponse] it writes
// the fields that the .proto has, and no others: rows are made here, not passed
// on.
func (c Codec) Marshal(v any) (mem.BufferSlice, error) {
	if r, ok := v.(*weirpb.StatResponse); ok {
		written := r.ProtoReflect().GetUnknown()
		switch {
		case len(written) == 0 && len(r.GetRows()) >= many:
			if data, ok := c.writeStat(r); ok {
				return data, nil
			}
		case len(written) > 0 && len(r.GetRows()) == 0:
			rest, err := c.rest(r)
			if err != nil {
				return nil, err
			}
			return append(mem.BufferSlice{mem.SliceBuffer(written)}, rest...), nil
		}
	}
	return c.CodecV2.Marshal(v)
}

// Unmarshal reads a message.
func (c Codec) Unmarshal(data mem.BufferSlice, v any) error {
	r, ok := v.(*weirpb.StatResponse)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	buffer := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buffer.Free()
	return readStat(buffer.ReadOnlyData(), r)
}

// portion is how many rows are worth a goroutine of their own.
const portion = 1024

// SetRows gives an answer n rows that are written at once, side by side where
// there are many, and that nobody here looks at: the answer is as if it had been
// read by who does not know that there are rows. start is called for each run of
// neighbours and gives what makes a row of a number; a row need not outlast the
// next. Where there is what cannot be written, SetRows gives nil and leaves r as
// it is; else it gives what it wrote, which [SetWritten] takes.
func SetRows(r *weirpb.StatResponse, n int, start func() func(i int) *weirpb.StatRow) []byte {
	if n == 0 {
		return nil
	}
	written := make([][]byte, parts(n))
	portions(n, func(part, from, to int) {
		var w writer
		row, out := start(), make([]byte, 0, (to-from)*rowBytes)
		for i := from; i < to; i++ {
			w.write(row(i))
			out = appendBytes(out, 1, w.row)
		}
		if !w.failed {
			written[part] = out
		}
	})
	for _, part := range written {
		if part == nil {
			return nil
		}
	}
	all := bytes.Join(written, nil)
	SetWritten(r, all)
	return all
}

// Writer writes rows one by one, for [SetWritten]. The zero value is ready; it is
// not safe for concurrent use.
type Writer struct{ w writer }

// Counts are more counts of a row's Stats than those that it has, of other keys.
type Counts struct{ Status, GRPC, Errors []Count }

// Count is an entry of a map of counts.
type Count struct {
	Key string
	N   uint64
}

// Append appends a row as an answer has it; also may be nil. Where there is what
// cannot be written, ok is false and dst is as it was.
func (w *Writer) Append(dst []byte, row *weirpb.StatRow, also *Counts) (out []byte, ok bool) {
	w.w.failed, w.w.also = false, also
	if w.w.write(row); w.w.failed {
		return dst, false
	}
	return appendBytes(dst, 1, w.w.row), true
}

// rowBytes is more than most rows take.
const rowBytes = 384

// SetWritten gives an answer the rows that SetRows gave another.
func SetWritten(r *weirpb.StatResponse, rows []byte) { r.ProtoReflect().SetUnknown(rows) }

// portions calls fn for each portion of n rows, side by side where there are
// several.
func portions(n int, fn func(part, from, to int)) {
	var group sync.WaitGroup
	for part := 1; part*portion < n; part++ {
		group.Go(func() { fn(part, part*portion, min((part+1)*portion, n)) })
	}
	fn(0, 0, min(portion, n))
	group.Wait()
}

// parts is how many portions n rows are.
func parts(n int) int { return max(1, (n+portion-1)/portion) }

// Tags are a field's number and how it is written.
const (
	varint  = 0
	fixed64 = 1
	length  = 2
)
