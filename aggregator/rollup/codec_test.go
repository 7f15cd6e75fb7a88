package rollup_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"testing"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/event"
)

// randomDelta makes up n cells of about as many keys, and some sources.
func randomDelta(rng *rand.Rand, n int) *rollup.Delta {
	d := &rollup.Delta{Position: rng.Uint64(), Stored: rng.Int64(), Full: rng.IntN(2) == 0}
	for i := range n {
		k := rollup.Key{Dimension: rollup.ByPeer, Direction: event.Outbound, Workload: web}
		k.Peer = rollup.Peer{Workload: event.Workload{Kind: "deploy", Name: fmt.Sprintf("p%d", i)}, Identity: "spiffe://x", Security: event.Mutual, Meshed: true}
		switch i % 3 {
		case 1:
			k = rollup.Key{Dimension: rollup.ByRoute, Direction: event.Inbound, Workload: voting, Route: rollup.Route{Protocol: event.GRPC, Method: "POST", Path: fmt.Sprintf("/m%d", i)}}
		case 2:
			k = rollup.Key{Dimension: rollup.Ledger, Workload: voting, Pod: fmt.Sprintf("voting-%d", i)}
		}
		c := rollup.Cell{Requests: uint64(i), Lost: int64(i%5) - 2, RequestBytes: rng.Uint64() >> 1}
		c.Status = []rollup.Count[uint16]{{Value: 503, N: 2}, {Value: 200, N: uint64(i + 1)}}
		c.GRPC = []rollup.Count[int16]{{Value: -1, N: 3}, {Value: 14, N: 1}}
		c.Errors = []rollup.Count[string]{{Value: "goaway", N: 1}}
		for range rng.IntN(20) {
			c.Latency.Record(rng.Uint64N(1e7))
			c.Duration.Record(rng.Uint64N(1e7))
		}
		d.Items = append(d.Items, rollup.Item{Key: k, Second: 1_800_000_000 + int64(i%7), Sums: c.AppendBinary(nil)})
	}
	for i := range n / 4 {
		d.Sources = append(d.Sources, rollup.Source{
			ID: rollup.SourceID{Instance: rng.Uint64(), Workload: web}, Pod: fmt.Sprintf("web-%d", i), Node: "n", Version: "v",
			High: 1000, Missing: []rollup.Gap{{From: 3, To: 5, Since: 9}, {From: 7, To: 7, Since: 10, Lost: true}},
			Produced: 5, Shed: 2, OpenConnections: 3, Events: 4, FirstSeen: 1, LastSeen: 2, Final: i%2 == 0, ClockRight: true,
		})
	}
	return d
}

// TestGroups: 10,000 cells do not fit into one message of the bus.
func TestGroups(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	meta := rollup.Meta{Partition: 5, Owner: "me", Group: 42, Written: 7, Turn: 8, Events: event.Mark{Sequence: 9, Stored: 10}, Hole: 11, HoleTiers: 1}
	for _, n := range []int{0, 1, 10, 10_000} {
		d := randomDelta(rng, n)
		for _, limit := range []int{0, 2000} {
			parts := rollup.Encode(d, meta, limit)
			var a rollup.Assembler
			var got *rollup.Delta
			for i, data := range parts {
				if len(data) > max(limit, 1<<20) && limit != 2000 || limit == 2000 && len(data) > 4000 {
					t.Errorf("%d cells: part %d has %d bytes", n, i, len(data))
				}
				p, err := rollup.Decode(data)
				if err != nil {
					t.Fatal(err)
				}
				if p.Number != i || p.Last != (i == len(parts)-1) || p.Meta != meta {
					t.Fatalf("part %+v", p.Meta)
				}
				if got = a.Add(p, len(data)); (got != nil) != p.Last {
					t.Fatalf("part %d of %d: %v", i, len(parts), got)
				}
			}
			if n == 10_000 && len(parts) < 2 {
				t.Errorf("%d cells took %d parts", n, len(parts))
			}
			if !reflect.DeepEqual(normal(got), normal(d)) {
				t.Errorf("%d cells, limit %d: read back something else", n, limit)
			}
		}
	}
}

// normal makes deltas comparable.
func normal(d *rollup.Delta) *rollup.Delta {
	c := *d
	if len(c.Items) == 0 {
		c.Items = nil
	}
	if len(c.Sources) == 0 {
		c.Sources = nil
	}
	return &c
}

// TestIncompleteGroups: only a whole group counts.
func TestIncompleteGroups(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	encode := func(group uint64, owner string) (parts []*rollup.Part) {
		for _, data := range rollup.Encode(randomDelta(rng, 200), rollup.Meta{Owner: owner, Group: group}, 4000) {
			p, err := rollup.Decode(data)
			if err != nil {
				t.Fatal(err)
			}
			parts = append(parts, p)
		}
		return parts
	}
	var a rollup.Assembler
	feed := func(parts []*rollup.Part) (whole int) {
		for _, p := range parts {
			if d := a.Add(p, 4000); d != nil {
				whole++
			}
		}
		return whole
	}
	x, y, z := encode(10, "a"), encode(12, "b"), encode(40, "a")
	if n := feed(x[:2]) + feed(y); n != 1 {
		t.Errorf("a group cut short and a whole one: %d", n)
	}
	if n := feed(z[1:]); n != 0 {
		t.Errorf("a group whose beginning has expired: %d", n)
	}
	if n := feed(z) + feed(x); n != 2 || a.Voided != 2+len(z)-1 {
		t.Errorf("%d whole groups, %d parts void", n, a.Voided)
	}
}

func TestCellCodec(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	var d rollup.Decoder
	var one, parts rollup.Cell
	for _, it := range randomDelta(rng, 50).Items {
		if err := d.Add(&one, it.Sums); err != nil {
			t.Fatal(err)
		}
		var c rollup.Cell
		if err := d.Add(&c, it.Sums); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(c.AppendBinary(nil), it.Sums) {
			t.Error("read back something else")
		}
		parts.Merge(&c)
	}
	if !bytes.Equal(one.AppendBinary(nil), parts.AppendBinary(nil)) {
		t.Error("adding encoded cells is not adding cells")
	}
	before := one.AppendBinary(nil)
	for _, bad := range []string{"\xff", "\x0a\x01", "\x32\x01\x05", "\x62\x02\x09\x09"} {
		if err := d.Add(&one, []byte(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	if !bytes.Equal(one.AppendBinary(nil), before) {
		t.Error("a bad cell changed the sum")
	}
}

func TestManyStatusesAndErrors(t *testing.T) {
	var c rollup.Cell
	for i := range 5000 {
		var o rollup.Cell
		o.Status = []rollup.Count[uint16]{{Value: uint16(i), N: 1}}
		o.GRPC = []rollup.Count[int16]{{Value: int16(i), N: 1}}
		o.Errors = []rollup.Count[string]{{Value: fmt.Sprint("e", i), N: 1}}
		c.Merge(&o)
	}
	var status, errs uint64
	for _, n := range c.Status {
		status += n.N
	}
	for _, n := range c.Errors {
		errs += n.N
	}
	if status != 5000 || errs != 5000 || len(c.Status) > 200 || len(c.Errors) > 100 || len(c.GRPC) > 200 {
		t.Errorf("%d statuses of %d, %d errors of %d", len(c.Status), status, len(c.Errors), errs)
	}
	var back rollup.Cell
	if err := new(rollup.Decoder).Add(&back, c.AppendBinary(nil)); err != nil || len(back.Status) != len(c.Status) {
		t.Errorf("read back %d statuses, %v", len(back.Status), err)
	}
}

// TestProtobuf: any protobuf library reads our bytes with rollup.proto.
func TestProtobuf(t *testing.T) {
	source, err := os.ReadFile("rollup.proto")
	if err != nil {
		t.Fatal(err)
	}
	compiler := protocompile.Compiler{Resolver: &protocompile.SourceResolver{
		Accessor: protocompile.SourceAccessorFromMap(map[string]string{"rollup.proto": string(source)}),
	}}
	files, err := compiler.Compile(t.Context(), "rollup.proto")
	if err != nil {
		t.Fatal(err)
	}
	m := dynamicpb.NewMessage(files[0].Messages().ByName("Rollup"))
	d := randomDelta(rand.New(rand.NewPCG(9, 9)), 12)
	parts := rollup.Encode(d, rollup.Meta{Partition: 3, Owner: "me", Group: 9, Written: 8, Events: event.Mark{Sequence: 7, Stored: 6}}, 0)
	if err := (proto.UnmarshalOptions{DiscardUnknown: false}).Unmarshal(parts[0], m); err != nil {
		t.Fatal(err)
	}
	get := func(m protoreflect.Message, name string) protoreflect.Value {
		return m.Get(m.Descriptor().Fields().ByName(protoreflect.Name(name)))
	}
	if get(m, "partition").Uint() != 3 || get(m, "owner").String() != "me" || get(m, "position").Uint() != d.Position || !get(m, "last").Bool() ||
		get(m, "stored").Int() != d.Stored || get(m, "events").Uint() != 7 || get(m, "events_stored").Int() != 6 {
		t.Error("the head is different")
	}
	cells, keys, words := get(m, "cells").List(), get(m, "keys").List(), get(m, "strings").List()
	if cells.Len() != 12 || get(m, "sources").List().Len() != 3 || len(m.GetUnknown()) > 0 {
		t.Fatalf("%d cells", cells.Len())
	}
	for i := range cells.Len() {
		cell := cells.Get(i).Message()
		key := keys.Get(int(get(cell, "key").Uint())).Message()
		if get(cell, "second").Int() != d.Items[i].Second || get(key, "dimension").Uint() != uint64(d.Items[i].Key.Dimension) {
			t.Errorf("cell %d is different", i)
		}
		name := words.Get(int(get(key, "strings").List().Get(3).Uint())).String()
		if name != d.Items[i].Key.Workload.Name {
			t.Errorf("cell %d is of %q", i, name)
		}
		sums := get(cell, "sums").Message()
		if get(sums, "requests").Uint() != uint64(i) || get(sums, "lost").Int() != int64(i%5)-2 || get(sums, "grpc").List().Get(0).Int() != -1 {
			t.Errorf("cell %d has other sums", i)
		}
	}
}

// FuzzDecode: hostile rollups neither panic nor pass for others.
func FuzzDecode(f *testing.F) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, n := range []int{0, 1, 9} {
		for _, data := range rollup.Encode(randomDelta(rng, n), rollup.Meta{Owner: "me", Group: 1}, 500) {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := rollup.Decode(data)
		if err != nil {
			return
		}
		var a rollup.Assembler
		sources := map[rollup.SourceID]rollup.Source{}
		if d := a.Add(p, len(data)); d != nil {
			d.Apply(sources)
		}
		folder := rollup.NewFolder(rollup.Limits{})
		folder.Restore(event.Mark{Sequence: p.Delta.Position, Stored: p.Delta.Stored}, sources)
		folder.Tick(1_800_000_000)
		var s rollup.Summer
		for _, it := range p.Delta.Items {
			folder.Touch(it.Key, it.Second)
			if s.Add(it.Sums) != nil {
				continue
			}
			var c rollup.Cell
			var d rollup.Decoder
			first := s.AppendBinary(nil)
			if err := d.Add(&c, first); err != nil {
				t.Fatalf("cannot read what was written: %v", err)
			}
			if !bytes.Equal(c.AppendBinary(nil), first) {
				t.Fatal("what was read is not what was written")
			}
			s.Reset()
		}
	})
}
