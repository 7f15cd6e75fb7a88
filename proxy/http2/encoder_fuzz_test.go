package http2

import (
	"bytes"
	"hash/maphash"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
)

// FuzzEncoder encodes header blocks of arbitrary fields, with tables of
// arbitrary sizes, and has x/net decode them: the same fields, with the same
// ban on tables, and never more in the table than the peer allows. The fields
// are lines of "name value"; "!" before one keeps it out of tables, and a line
// that begins with "=" ends a block and sets the table's size by its length.
func FuzzEncoder(f *testing.F) {
	f.Add(":method GET\n:path /a\nx-a b\n=\n:method GET\n:path /a\nx-a b\n=\nx-a b\nx-a c")
	f.Add("!authorization secret\n:status 200\n=" + strings.Repeat("x", 90) + "\n!authorization secret\n:status 299\nx y\n=\nx y\n=\nx y\n=====\nx y")
	f.Add("a b\n=\na b\n=\na b\nb " + strings.Repeat("c", 2000) + "\n=\na b\nb " + strings.Repeat("c", 2000))
	f.Add(strings.Repeat("a b\n!c d\n=\n", 6) + "a b\n!c d\n=xxxx\n" + strings.Repeat("a b\n!c d\n=\n:status 200\ne f\n=\n", 6) +
		"=" + strings.Repeat("x", 6) + "\na b\n!c d\n=\na b\n!c d\n=\na b\n!c d")
	f.Add(" \n=\n \n\x00 \xff\n:authority h\nhost h")
	f.Fuzz(func(t *testing.T, script string) {
		var e encoder
		e.init(maphash.MakeSeed())
		d := hpack.NewDecoder(defaultTable, nil)
		var list fields
		list.reset()
		var want []hpack.HeaderField
		encode := func() {
			block := e.append(nil, list.buf)
			got, err := d.DecodeFull(block)
			if err != nil {
				t.Fatalf("%x does not decode: %v", block, err)
			}
			if len(got) != len(want) {
				t.Fatalf("%d fields of %d: %x", len(got), len(want), block)
			}
			for i := range got {
				if got[i] != want[i] {
					t.Fatalf("field %d is %v, was %v", i, got[i], want[i])
				}
			}
			if e.table.size > e.table.max || e.table.max > defaultTable || cap(e.table.data) > 2*maxTable+512 {
				t.Fatalf("a table of %d bytes of %d, in %d", e.table.size, e.table.max, cap(e.table.data))
			}
			list.reset()
			want = want[:0]
		}
		for line := range strings.SplitSeq(script, "\n") {
			if size, ok := strings.CutPrefix(line, "="); ok {
				encode()
				if size != "" {
					e.setMax(uint32(len(size) * len(size)))
				}
				continue
			}
			line, never := strings.CutPrefix(line, "!")
			name, value, _ := strings.Cut(line, " ")
			id := nameOf([]byte(name))
			list.add(id, []byte(name), []byte(value), never, false)
			// What is in the static table whole needs no ban: it is no secret.
			exact, _ := staticIndex(id, []byte(value))
			want = append(want, hpack.HeaderField{Name: name, Value: value, Sensitive: never && !exact})
		}
		encode()
	})
}

// FuzzFields judges arbitrary header blocks, as what comes from either side is
// before it goes on: what passes has nothing that could be read otherwise
// behind it.
func FuzzFields(f *testing.F) {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for _, field := range []hpack.HeaderField{
		{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: "/"},
		{Name: ":authority", Value: "h"}, {Name: "te", Value: "trailers"}, {Name: "content-length", Value: "12"},
	} {
		_ = e.WriteField(field)
	}
	f.Add(block.Bytes())
	f.Add([]byte{0x82, 0x86, 0x84, 0x40, 1, 'A', 1, 'b'})
	f.Add([]byte{0x88, 0x00, 10, 'c', 'o', 'n', 'n', 'e', 'c', 't', 'i', 'o', 'n', 1, 'x'})
	f.Fuzz(func(t *testing.T, block []byte) {
		var d decoder
		d.init()
		var list fields
		var h head
		h.fields = &list
		h.reset()
		list.reset()
		if d.decode(block, 4096, &h) != nil {
			return
		}
		valid := list.requestFault(h.method) == "" || list.responseFault(&h) == "" || list.trailersFault() == ""
		if !valid {
			return
		}
		var enc encoder
		enc.init(maphash.MakeSeed())
		fields, err := hpack.NewDecoder(defaultTable, nil).DecodeFull(enc.append(nil, list.buf))
		if err != nil {
			t.Fatal(err)
		}
		regular := false
		for _, field := range fields {
			if strings.ContainsAny(field.Value, "\x00\r\n") || strings.ContainsAny(field.Name, "\x00\r\n ") ||
				field.Name != strings.ToLower(field.Name) {
				t.Errorf("%q passes", field.String())
			}
			switch field.Name {
			case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "":
				t.Errorf("%q passes", field.String())
			}
			if pseudo := strings.HasPrefix(field.Name, ":"); pseudo && regular {
				t.Errorf("%q passes after other fields", field.String())
			} else {
				regular = !pseudo
			}
		}
	})
}
