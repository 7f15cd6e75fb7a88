package http2

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"math/rand/v2"
	"testing"

	"golang.org/x/net/http2/hpack"
)

// blockScript encodes messages, a few of them again and again, with a table
// whose size changes at times.
type blockScript struct {
	random *rand.Rand
	buf    bytes.Buffer
	enc    *hpack.Encoder
	kinds  [][]hpack.HeaderField
}

func newBlockScript(seed uint64) *blockScript {
	s := &blockScript{random: rand.New(rand.NewPCG(seed, 1))}
	s.enc = hpack.NewEncoder(&s.buf)
	for range 2 + s.random.IntN(3) {
		kind := []hpack.HeaderField{{Name: ":status", Value: "200"}}
		for range s.random.IntN(5) {
			kind = append(kind, hpack.HeaderField{Name: "x-" + string(rune('a'+s.random.IntN(4))),
				Value: string(bytes.Repeat([]byte{byte('a' + s.random.IntN(3))}, s.random.IntN(300))), Sensitive: s.random.IntN(3) == 0})
		}
		s.kinds = append(s.kinds, kind)
	}
	return s
}

// next is the next message, and its block, which is valid until the next.
func (s *blockScript) next() ([]hpack.HeaderField, []byte) {
	s.buf.Reset()
	if s.random.IntN(8) == 0 {
		s.enc.SetMaxDynamicTableSize(uint32(s.random.IntN(3) * 400))
	}
	kind := s.kinds[s.random.IntN(len(s.kinds))]
	for _, f := range kind {
		_ = s.enc.WriteField(f)
	}
	return kind, s.buf.Bytes()
}

// fieldsOf reads what fields.add wrote.
func fieldsOf(list []byte) (fs []hpack.HeaderField) {
	for len(list) > 0 {
		n, v := int(binary.LittleEndian.Uint32(list[2:])), int(binary.LittleEndian.Uint32(list[6:]))
		text := list[fieldHeader : fieldHeader+n+v]
		fs = append(fs, hpack.HeaderField{Name: string(text[:n]), Value: string(text[n:]), Sensitive: list[1] != 0})
		list = list[fieldHeader+n+v:]
	}
	return fs
}

func sameFields(a, b []hpack.HeaderField) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// TestRepeatedBlocks has blocks that come again decoded, and what they say
// encoded, as if each came for the first time; most of them are not decoded.
func TestRepeatedBlocks(t *testing.T) {
	blocks, hits, encoded := 0, 0, 0
	for seed := range uint64(60) {
		script := newBlockScript(seed)
		s := &session{maxHead: 1 << 16}
		d := &s.dirs[server]
		d.s, d.from = s, server
		d.hpack.init()
		var e encoder
		e.init(maphash.MakeSeed())
		back := hpack.NewDecoder(defaultTable, nil)
		for range 200 {
			want, block := script.next()
			blocks++
			if d.heads.find(block, d.hpack.table.state, false) != nil {
				hits++
			}
			if err := d.decode(bytes.Clone(block), true); err != nil {
				t.Fatalf("%x: %v", block, err)
			}
			if got := fieldsOf(s.head.fields.buf); !sameFields(got, want) {
				t.Fatalf("%v, want %v", got, want)
			}
			if s.head.status != 200 || s.head.fields.responseFault(s.head) != "" {
				t.Fatalf("status %d: %s", s.head.status, s.head.fields.responseFault(s.head))
			}
			if e.lists.find(s.head.fields.buf, e.table.state) != nil {
				encoded++
			}
			again, err := back.DecodeFull(e.append(nil, s.head.fields.buf))
			if err != nil || !sameFields(again, want) {
				t.Fatalf("encoded again: %v, %v, want %v", again, err, want)
			}
		}
	}
	if hits < blocks/10 || encoded < blocks/10 {
		t.Fatalf("of %d blocks %d were decoded before and %d encoded before", blocks, hits, encoded)
	}
}

// TestRepeatedEntries decodes blocks that enter fields in the table and come
// again, and others that refer to those, beside a decoder that keeps nothing.
func TestRepeatedEntries(t *testing.T) {
	entering := 0
	for seed := range uint64(60) {
		random := rand.New(rand.NewPCG(seed, 2))
		s := &session{maxHead: 1 << 16}
		d := &s.dirs[server]
		d.s, d.from = s, server
		d.hpack.init()
		var plain decoder
		plain.init()
		for range 300 {
			block := entryBlock(random, plain.table.count)
			if h := d.heads.find(block, d.hpack.table.state, false); h != nil && len(h.entered) > 0 {
				entering++
			}
			var list fields
			var h head
			h.fields = &list
			h.reset()
			list.reset()
			err := plain.decode(bytes.Clone(block), s.maxHead, &h)
			if got := d.decode(block, true); got != nil || err != nil {
				t.Fatalf("%x: %v and %v", block, got, err)
			}
			if !bytes.Equal(s.head.fields.buf, list.buf) || s.head.status != h.status || s.head.size != h.size ||
				s.head.fields.fault != list.fault {
				t.Fatalf("%x: %v, want %v", block, fieldsOf(s.head.fields.buf), fieldsOf(list.buf))
			}
			if d.hpack.table.size != plain.table.size || d.hpack.table.count != plain.table.count {
				t.Fatalf("%x: a table of %d fields, want %d", block, d.hpack.table.count, plain.table.count)
			}
		}
	}
	if entering < 1000 {
		t.Fatalf("only %d blocks came again that enter fields", entering)
	}
}

// entryBlock is one of a few blocks: fields that enter the table, references to
// it, or both, and changes of its size.
func entryBlock(random *rand.Rand, count int) (block []byte) {
	if random.IntN(12) == 0 {
		block = appendInt(block, 0x20, 5, uint64(random.IntN(3)*300))
		count = 0 // it may be empty now
	}
	block = append(block, 0x88)
	kind := random.IntN(3)
	if kind > 0 {
		block = append(block, 0x40, 3, 'x', '-', byte('a'+random.IntN(2)), 40)
		block = append(block, bytes.Repeat([]byte{'v'}, 40)...)
		block = append(block, 0x5f, 2, 'b', byte('a'+random.IntN(2))) // content-type
	}
	if count >= 3 && kind < 2 {
		block = appendInt(block, 0x80, 7, staticFields+uint64(1+random.IntN(2)))
	}
	return block
}

// TestTransferTable compares a table with a map.
func TestTransferTable(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	for range 300 {
		var table transferTable
		model := map[uint32]*transfer{}
		next := uint32(1)
		for range random.IntN(400) {
			if random.IntN(5) < 3 {
				next += 2 * uint32(1+random.IntN(1+random.IntN(20)))
				tr := &transfer{uid: next}
				table.put(next, tr)
				model[next] = tr
				continue
			}
			for id := range model {
				table.remove(id)
				table.remove(id) // is gone
				delete(model, id)
				break
			}
		}
		if table.len() != len(model) {
			t.Fatalf("%d transfers, want %d", table.len(), len(model))
		}
		for id := uint32(1); id < next+40; id += 2 {
			if got := table.get(id); got != model[id] {
				t.Fatalf("transfer %d: got %v, want %v", id, got, model[id])
			}
		}
		seen := map[uint32]bool{}
		table.each(func(tr *transfer) {
			if seen[tr.uid] || model[tr.uid] != tr {
				t.Fatalf("transfer %d twice, or gone", tr.uid)
			}
			seen[tr.uid] = true
			table.remove(tr.uid)
		})
		if len(seen) != len(model) || table.len() != 0 || table.get(1) != nil {
			t.Fatalf("%d transfers seen of %d, %d left", len(seen), len(model), table.len())
		}
	}
}
