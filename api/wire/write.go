package wire

import (
	"encoding/binary"
	"math"
	"sync/atomic"
	"unicode/utf8"

	"github.com/weirmesh/weir/api/weirpb"
	"google.golang.org/grpc/mem"
)

// writeStat writes an answer; not ok, if it has what cannot be written.
func (c Codec) writeStat(r *weirpb.StatResponse) (data mem.BufferSlice, ok bool) {
	if len(r.ProtoReflect().GetUnknown()) > 0 {
		return nil, false
	}
	rest, err := c.rest(r)
	if err != nil {
		return nil, false
	}
	written := make([]mem.BufferSlice, parts(len(r.GetRows())))
	var failed atomic.Bool
	portions(len(r.GetRows()), func(part, from, to int) {
		w := writer{pool: mem.DefaultBufferPool()}
		for _, row := range r.GetRows()[from:to] {
			w.add(row)
		}
		w.flush()
		written[part] = w.data
		if w.failed {
			failed.Store(true)
		}
	})
	for _, part := range written {
		data = append(data, part...)
	}
	data = append(data, rest...)
	if failed.Load() {
		data.Free()
		return nil, false
	}
	return data, true
}

// rest writes all but the rows.
func (c Codec) rest(r *weirpb.StatResponse) (mem.BufferSlice, error) {
	return c.CodecV2.Marshal(&weirpb.StatResponse{Coverage: r.GetCoverage(), Offenders: r.GetOffenders()})
}

// chunk is how many bytes are written into one buffer.
const chunk = 32 << 10

// writer writes rows into buffers of a pool.
type writer struct {
	pool mem.BufferPool
	data mem.BufferSlice
	// buffer is the one being filled, used how much of it is.
	buffer *[]byte
	used   int
	// row, stats and part are scratch: a message follows its length.
	row, stats, part []byte
	// also are counts of a row that it has not itself; or nil.
	also   *Counts
	failed bool
}

// add writes a row into the buffers.
func (w *writer) add(r *weirpb.StatRow) {
	w.write(r)
	var head [1 + binary.MaxVarintLen64]byte
	head[0] = 1<<3 | length
	w.put(head[:1+binary.PutUvarint(head[1:], uint64(len(w.row)))])
	w.put(w.row)
}

// write writes a row into the writer's row.
func (w *writer) write(r *weirpb.StatRow) {
	if r == nil {
		w.failed = true
		return
	}
	w.row = w.row[:0]
	w.message(1, r.GetResource())
	if s := r.GetStats(); s != nil {
		w.fillStats(s)
		w.row = appendBytes(w.row, 2, w.stats)
	}
	w.row = appendNumber(w.row, 3, uint64(r.GetPodsSeen()))
	w.row = appendNumber(w.row, 4, uint64(r.GetPodsLive()))
	w.row = appendNumber(w.row, 5, r.GetTcpOpenConnections())
	w.row = appendNumber(w.row, 6, r.GetShed())
	w.row = appendNumber(w.row, 7, r.GetLostBatches())
	w.message(8, r.GetOwner())
	w.row = w.text(w.row, 9, r.GetDirection())
	if p := r.GetPods(); p != nil {
		w.part = w.part[:0]
		for i, n := range [...]uint32{
			p.GetTotal(), p.GetMeshed(), p.GetReady(), p.GetProxyReady(), p.GetPending(),
			p.GetRunning(), p.GetUnknown(), p.GetFinished(), p.GetFailed(),
		} {
			w.part = appendNumber(w.part, i+1, uint64(n))
		}
		w.row = appendBytes(w.row, 10, w.part)
	}
	w.row = w.text(w.row, 11, r.GetPodStatus())
	w.row = w.text(w.row, 12, r.GetProxyVersion())
}

// put copies data into as many buffers as it takes.
func (w *writer) put(data []byte) {
	for len(data) > 0 {
		if w.buffer == nil {
			w.buffer, w.used = w.pool.Get(chunk), 0
		}
		n := copy((*w.buffer)[w.used:], data)
		data = data[n:]
		if w.used += n; w.used == len(*w.buffer) {
			w.flush()
		}
	}
}

// flush ends the buffer that is being filled.
func (w *writer) flush() {
	if w.buffer != nil {
		*w.buffer = (*w.buffer)[:w.used]
		w.data = append(w.data, mem.NewBuffer(w.buffer, w.pool))
		w.buffer = nil
	}
}

// message appends a resource to the row.
func (w *writer) message(field int, r *weirpb.Resource) {
	if r == nil {
		return
	}
	w.part = w.text(w.part[:0], 1, r.GetCluster())
	w.part = w.text(w.part, 2, r.GetNamespace())
	w.part = w.text(w.part, 3, r.GetKind())
	w.part = w.text(w.part, 4, r.GetName())
	w.row = appendBytes(w.row, field, w.part)
}

func (w *writer) fillStats(s *weirpb.Stats) {
	also := w.also
	if also == nil {
		also = &Counts{}
	}
	b := appendNumber(w.stats[:0], 1, s.GetRequests())
	b = appendNumber(b, 2, s.GetSuccesses())
	b = appendNumber(b, 3, s.GetFailures())
	b = appendDouble(b, 4, s.GetSuccess())
	b = appendDouble(b, 5, s.GetRps())
	b = w.counts(b, 6, s.GetStatus(), also.Status)
	b = w.counts(b, 7, s.GetGrpcStatus(), also.GRPC)
	b = w.quantiles(b, 8, s.GetLatencyMs())
	b = w.quantiles(b, 9, s.GetDurationMs())
	b = appendNumber(b, 10, s.GetRequestBytes())
	b = appendNumber(b, 11, s.GetResponseBytes())
	b = appendNumber(b, 12, s.GetTcpConnections())
	b = appendDouble(b, 13, s.GetTcpReadBytesRate())
	b = appendDouble(b, 14, s.GetTcpWriteBytesRate())
	w.stats = w.counts(b, 15, s.GetErrors(), also.Errors)
}

func (w *writer) counts(dst []byte, field int, counts map[string]uint64, also []Count) []byte {
	for key, n := range counts {
		dst = w.count(dst, field, key, n)
	}
	for _, c := range also {
		dst = w.count(dst, field, c.Key, c.N)
	}
	return dst
}

func (w *writer) count(dst []byte, field int, key string, n uint64) []byte {
	w.check(key)
	// Both are written, whatever they are, as all implementations do.
	w.part = appendBytes(w.part[:0], 1, key)
	w.part = binary.AppendUvarint(append(w.part, 2<<3|varint), n)
	return appendBytes(dst, field, w.part)
}

func (w *writer) quantiles(dst []byte, field int, q *weirpb.Quantiles) []byte {
	if q == nil {
		return dst
	}
	w.part = w.part[:0]
	for i, v := range [...]float64{
		q.GetP50(), q.GetP75(), q.GetP90(), q.GetP95(), q.GetP99(), q.GetP999(), q.GetP9999(), q.GetMax(), q.GetMean(),
	} {
		w.part = appendDouble(w.part, i+1, v)
	}
	return appendBytes(dst, field, w.part)
}

func (w *writer) text(dst []byte, field int, s string) []byte {
	if s == "" {
		return dst
	}
	w.check(s)
	return appendBytes(dst, field, s)
}

// check fails the writer where a string is none that protobuf allows.
func (w *writer) check(s string) {
	if !utf8.ValidString(s) {
		w.failed = true
	}
}

// Fields below 16 have tags of one byte.

func appendBytes[T []byte | string](dst []byte, field int, b T) []byte {
	return append(binary.AppendUvarint(append(dst, byte(field<<3|length)), uint64(len(b))), b...)
}

func appendNumber(dst []byte, field int, n uint64) []byte {
	if n == 0 {
		return dst
	}
	return binary.AppendUvarint(append(dst, byte(field<<3|varint)), n)
}

func appendDouble(dst []byte, field int, v float64) []byte {
	bits := math.Float64bits(v)
	if bits == 0 {
		return dst
	}
	return binary.LittleEndian.AppendUint64(append(dst, byte(field<<3|fixed64)), bits)
}
