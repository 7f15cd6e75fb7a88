package wire_test

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/api/wire"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// fill sets the fields of a message, all that the .proto has, each with
// probability p.
func fill(rng *rand.Rand, m protoreflect.Message, p float64) {
	all := m.Descriptor().Fields()
	for i := range all.Len() {
		fd := all.Get(i)
		if rng.Float64() >= p {
			continue
		}
		switch {
		case fd.IsMap():
			for range 1 + rng.IntN(3) {
				m.Mutable(fd).Map().Set(scalar(rng, fd.MapKey()).MapKey(), scalar(rng, fd.MapValue()))
			}
		case fd.IsList():
			for range 1 + rng.IntN(3) {
				fill(rng, m.Mutable(fd).List().AppendMutable().Message(), p)
			}
		case fd.Message() != nil:
			fill(rng, m.Mutable(fd).Message(), p)
		default:
			m.Set(fd, scalar(rng, fd))
		}
	}
}

func scalar(rng *rand.Rand, fd protoreflect.FieldDescriptor) protoreflect.Value {
	n := rng.Uint64() >> rng.IntN(64)
	if rng.IntN(8) == 0 {
		n = 0
	}
	switch fd.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString([]string{"", "web", "default", "häßlich", fmt.Sprint("w", n)}[rng.IntN(5)])
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64([]float64{0, math.Copysign(0, -1), math.Inf(1), float64(n) / 7}[rng.IntN(4)])
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(int64(n))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(n&1 == 0)
	default:
		return protoreflect.ValueOfUint64(n)
	}
}

func answer(rng *rand.Rand, rows int, p float64) *weirpb.StatResponse {
	r := &weirpb.StatResponse{}
	fill(rng, r.ProtoReflect(), p)
	r.Rows = nil
	for range rows {
		row := &weirpb.StatRow{}
		fill(rng, row.ProtoReflect(), p)
		r.Rows = append(r.Rows, row)
	}
	return r
}

// What is written is protobuf, and what is read is what protobuf reads: of all
// fields that the .proto has.
func TestCodec(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	c := wire.New()
	if c.Name() != "proto" {
		t.Errorf("the codec is %q", c.Name())
	}
	for _, rows := range []int{0, 1, 31, 32, 100, 1024, 1025, 3000} {
		for _, p := range []float64{0, 0.3, 1} {
			want := answer(rng, rows, p)
			data, err := c.Marshal(want)
			if err != nil {
				t.Fatal(err)
			}
			plain := data.Materialize()
			data.Free()
			if size := proto.Size(want); len(plain) != size {
				t.Errorf("%d rows: %d bytes, protobuf takes %d", rows, len(plain), size)
			}
			read := &weirpb.StatResponse{}
			if err := proto.Unmarshal(plain, read); err != nil || !proto.Equal(read, want) {
				t.Fatalf("%d rows, as protobuf: %v", rows, err)
			}
			// One buffer, and several.
			cut := rng.IntN(len(plain) + 1)
			for _, data := range []mem.BufferSlice{{mem.SliceBuffer(plain)}, {mem.SliceBuffer(plain[:cut]), mem.SliceBuffer(plain[cut:])}} {
				read := &weirpb.StatResponse{Rows: []*weirpb.StatRow{{Direction: "stale"}}}
				if err := c.Unmarshal(data, read); err != nil || !proto.Equal(read, want) {
					t.Fatalf("%d rows: %v", rows, err)
				}
			}
		}
	}
}

// What is read must not change when the buffers are used again.
func TestReadKeepsNothing(t *testing.T) {
	want := answer(rand.New(rand.NewPCG(3, 4)), 100, 1)
	data, err := proto.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got := &weirpb.StatResponse{}
	if err := wire.New().Unmarshal(mem.BufferSlice{mem.SliceBuffer(data)}, got); err != nil {
		t.Fatal(err)
	}
	clear(data)
	if !proto.Equal(got, want) {
		t.Error("it changed with the buffer that it was read from")
	}
}

// Whatever comes is read as protobuf reads it: fields that are not known, that
// are there twice, and what is not valid.
func TestReadBroken(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	c := wire.New()
	f := func(data []byte) {
		t.Helper()
		want, got := &weirpb.StatResponse{}, &weirpb.StatResponse{}
		failed := proto.Unmarshal(data, want)
		err := c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(data)}, got)
		if (failed == nil) != (err == nil) {
			t.Fatalf("%x: %v, protobuf says %v", data, err, failed)
		}
		if err == nil && !proto.Equal(got, want) {
			t.Fatalf("%x:\n%v\nprotobuf reads\n%v", data, got, want)
		}
	}
	for range 3000 {
		data, err := proto.Marshal(answer(rng, 2, 0.5))
		if err != nil {
			t.Fatal(err)
		}
		f(data)
		f(append(bytes.Clone(data), data...))
		if len(data) == 0 {
			continue
		}
		f(data[:rng.IntN(len(data))])
		for range 1 + rng.IntN(2) {
			data[rng.IntN(len(data))] ^= byte(1 + rng.IntN(255))
		}
		f(data)
	}
}

// What protobuf does not allow is not written.
func TestWriteRefuses(t *testing.T) {
	r := answer(rand.New(rand.NewPCG(7, 8)), 100, 0.5)
	r.Rows[50].Direction = "\xff"
	if data, err := wire.New().Marshal(r); err == nil {
		t.Errorf("%d bytes with a string that is not UTF-8", data.Len())
	}
}
