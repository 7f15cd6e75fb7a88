package http2

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
)

// literals decodes the fields that h collected.
func literals(t testing.TB, h *head) []hpack.HeaderField {
	t.Helper()
	fields, err := hpack.NewDecoder(0, nil).DecodeFull(h.literal)
	if err != nil {
		t.Fatalf("the relay's own literals do not decode: %v", err)
	}
	return fields
}

// sameBlock decodes block with both decoders and compares what they say. It
// tells whether both are still in step.
func sameBlock(t testing.TB, d *decoder, x *hpack.Decoder, block []byte) bool {
	t.Helper()
	var h head
	h.reset()
	h.keepAll = true
	err := d.decode(block, 1<<30, &h)
	want, wantErr := x.DecodeFull(block)
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("block %x: error %v, x/net says %v", block, err, wantErr)
	}
	if err != nil {
		return false
	}
	got := literals(t, &h)
	if len(got) != len(want) {
		t.Fatalf("block %x: fields %v, want %v", block, got, want)
	}
	size := 0
	for i := range got {
		if got[i].Name != want[i].Name || got[i].Value != want[i].Value {
			t.Fatalf("block %x: field %d is %v, want %v", block, i, got[i], want[i])
		}
		size += int(want[i].Size())
	}
	if size != h.size {
		t.Fatalf("block %x: list size %d, want %d", block, h.size, size)
	}
	return true
}

func FuzzHPACK(f *testing.F) {
	var buf bytes.Buffer
	e := hpack.NewEncoder(&buf)
	for i := range 4 {
		for _, field := range []hpack.HeaderField{
			{Name: ":method", Value: "POST"}, {Name: ":path", Value: fmt.Sprint("/x/", i)},
			{Name: "content-type", Value: "application/grpc"}, {Name: "grpc-status", Value: "0"},
			{Name: "x-binary", Value: "\x00\xff\x80 \x7f"}, {Name: "cookie", Value: "a", Sensitive: true},
		} {
			_ = e.WriteField(field)
		}
	}
	f.Add(buf.Bytes(), []byte{0xbe, 0xbf, 0xc0}, uint16(4096))
	f.Add([]byte{0x20, 0x3f, 0xe1, 0x1f}, []byte{0x40, 0x81, 0xff, 0x00}, uint16(0))
	f.Add([]byte{0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff}, []byte{0xbe}, uint16(100))
	f.Fuzz(func(t *testing.T, one, two []byte, limit uint16) {
		var d decoder
		d.init()
		x := hpack.NewDecoder(defaultTable, nil)
		d.limit = max(defaultTable, uint32(limit))
		x.SetAllowedMaxDynamicTableSize(d.limit)
		for _, block := range [][]byte{one, two, one} {
			// x/net takes an update in the middle while its table is empty, and
			// no second one at the beginning while it is not; RFC 7541 (4.2)
			// says otherwise.
			if lateUpdate(block) {
				return
			}
			if !sameBlock(t, &d, x, block) {
				return
			}
			if int(d.table.size) > maxTable || cap(d.table.data) > 2*maxTable+512 {
				t.Fatalf("table of %d bytes in %d", d.table.size, cap(d.table.data))
			}
		}
	})
}

// lateUpdate tells that block may have a table size update that is not its
// very beginning: then the decoders differ.
func lateUpdate(block []byte) bool {
	d := decoder{}
	d.init()
	field := false
	for len(block) > 0 {
		b := block[0]
		switch {
		case b&0x80 != 0:
			_, block, _ = readInt(block, 7)
			field = true
		case b&0xe0 == 0x20:
			if field {
				return true
			}
			_, block, _ = readInt(block, 5)
			field = true
		default:
			n := uint(4)
			if b&0xc0 == 0x40 {
				n = 6
			}
			var index uint64
			var ok bool
			if index, block, ok = readInt(block, n); !ok {
				return false
			}
			if index == 0 {
				if _, block, ok = d.text(block); !ok {
					return false
				}
			}
			if _, block, ok = d.text(block); !ok {
				return false
			}
			field = true
		}
	}
	return false
}

// TestHPACKAgainstEncoder keeps step with x/net's encoder through tables of
// changing sizes.
func TestHPACKAgainstEncoder(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var buf bytes.Buffer
	e := hpack.NewEncoder(&buf)
	e.SetMaxDynamicTableSizeLimit(maxTable)
	var d decoder
	d.init()
	d.limit = maxTable
	x := hpack.NewDecoder(defaultTable, nil)
	x.SetAllowedMaxDynamicTableSize(maxTable)
	for range 5000 {
		buf.Reset()
		if random.IntN(50) == 0 {
			e.SetMaxDynamicTableSize(uint32(random.IntN(maxTable + 1)))
		}
		if random.IntN(50) == 0 {
			e.SetMaxDynamicTableSize(uint32(random.IntN(300)))
		}
		for range random.IntN(10) {
			length := random.IntN(20)
			if random.IntN(20) == 0 {
				length = random.IntN(5000)
			}
			value := make([]byte, length)
			for i := range value {
				value[i] = byte(random.Uint32())
			}
			_ = e.WriteField(hpack.HeaderField{Name: fmt.Sprint("name-", random.IntN(40)), Value: string(value),
				Sensitive: random.IntN(10) == 0})
		}
		if !sameBlock(t, &d, x, buf.Bytes()) {
			t.Fatal("x/net's decoder refuses its encoder's block")
		}
	}
}

func TestHuffman(t *testing.T) {
	tables := huffman()
	f := func(text string) {
		t.Helper()
		got, ok := tables.append(nil, hpack.AppendHuffmanString(nil, text))
		if !ok || string(got) != text {
			t.Errorf("%q: got %q, %v", text, got, ok)
		}
	}
	var every strings.Builder
	for i := range 256 {
		f(string([]byte{byte(i)}))
		f(strings.Repeat(string([]byte{byte(i)}), 7))
		every.WriteByte(byte(i))
	}
	f("")
	f(every.String())

	random := rand.New(rand.NewPCG(3, 4))
	for range 100000 {
		src := make([]byte, random.IntN(12))
		for i := range src {
			src[i] = byte(random.Uint32())
			if random.IntN(3) == 0 {
				src[i] = 0xff
			}
		}
		got, ok := tables.append(nil, src)
		var want bytes.Buffer
		_, err := hpack.HuffmanDecode(&want, src)
		if ok != (err == nil) || ok && !bytes.Equal(got, want.Bytes()) {
			t.Fatalf("%x: got %q, %v, want %q, %v", src, got, ok, want.Bytes(), err)
		}
	}
}

func TestDecodeErrors(t *testing.T) {
	f := func(want error, maxList int, blocks ...[]byte) {
		t.Helper()
		var d decoder
		d.init()
		var err error
		for _, block := range blocks {
			var h head
			h.reset()
			if err = d.decode(block, maxList, &h); err != nil {
				break
			}
		}
		if !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	bomb := append([]byte{0x40, 1, 'a', 0x7f, 0x81, 0x1e}, make([]byte, 3968)...)
	f(nil, 1<<16, bomb)
	f(errListTooLong, 1<<16, bomb, bytes.Repeat([]byte{0xbe}, 60))
	f(errCompression, 1<<16, []byte{0x80})                   // index 0
	f(errCompression, 1<<16, []byte{0xbe})                   // no such entry
	f(errCompression, 1<<16, []byte{0x82, 0x20})             // update after a field
	f(errCompression, 1<<16, []byte{0x3f, 0xe2, 0x1f})       // 4097, above what was announced
	f(nil, 1<<16, []byte{0x3f, 0xe1, 0x1f})                  // 4096
	f(errCompression, 1<<16, []byte{0x00, 0x05, 'a'})        // cut short
	f(errCompression, 1<<16, []byte{0x00, 0x81, 0xff, 0x00}) // padding of 8 bits
	f(errCompression, 1<<16, bytes.Repeat([]byte{0xff}, 20)) // endless integer
}

// blockOf encodes fields given as name, value, name, value.
func blockOf(e *hpack.Encoder, buf *bytes.Buffer, fields ...string) []byte {
	buf.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(buf.Bytes())
}

func benchmarkBlocks() [][]byte {
	var buf bytes.Buffer
	e := hpack.NewEncoder(&buf)
	var blocks [][]byte
	for i := range 1000 {
		blocks = append(blocks, blockOf(e, &buf,
			":method", "POST", ":scheme", "http", ":path", "/emojivoto.v1.VotingService/VoteDoughnut",
			":authority", "voting-svc.emojivoto:8080", "content-type", "application/grpc",
			"user-agent", "grpc-go/1.84.0", "te", "trailers", "grpc-timeout", fmt.Sprint(10000+i, "u"),
			"traceparent", fmt.Sprintf("00-0123456789abcdef0123456789ab%04x-0123456789abcdef-01", i)))
	}
	return blocks
}

// BenchmarkDecode decodes a gRPC request's block, two of its fields new.
func BenchmarkDecode(b *testing.B) {
	blocks := benchmarkBlocks()
	b.Run("own", func(b *testing.B) {
		b.ReportAllocs()
		var h head
		for b.Loop() {
			var d decoder
			d.init()
			for _, block := range blocks {
				h.reset()
				if err := d.decode(block, 1<<16, &h); err != nil {
					b.Fatal(err)
				}
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(blocks)), "ns/block")
	})
	b.Run("xnet", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			d := hpack.NewDecoder(4096, func(hpack.HeaderField) {})
			for _, block := range blocks {
				if _, err := d.Write(block); err != nil && err != io.EOF {
					b.Fatal(err)
				}
				_ = d.Close()
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(blocks)), "ns/block")
	})
}
