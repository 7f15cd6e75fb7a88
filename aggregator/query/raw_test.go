package query

import (
	"reflect"
	"testing"
)

// rawReply has rows that are whole, and then brief ones.
func rawReply(t *testing.T) (reply Reply, data []byte) {
	t.Helper()
	reply = Reply{Member: "a", Members: 1, Total: 1, Partitions: []int{0}}
	for i, name := range []string{"whole", "a", "b", "c"} {
		r := Row{Resource: Selector{Cluster: "c", Namespace: "ns", Kind: "deploy", Name: name}, Direction: Inbound, PodsSeen: 3, LostBatches: 400, Brief: i > 0}
		r.Stats = Stats{Requests: 300, Status: map[uint16]uint64{200: 300}, GRPC: map[int16]uint64{-1: 2}, Errors: map[string]uint64{"reset": 7}}
		if i == 2 {
			r.Owner, r.Direction = &Selector{Kind: "deploy", Name: "owner"}, Outbound
			r.Stats.Status, r.Stats.GRPC, r.Stats.Errors = nil, nil, nil
		}
		reply.Rows = append(reply.Rows, r)
	}
	data, err := Pack(&reply)
	if err != nil {
		t.Fatal(err)
	}
	return reply, data
}

// What is left as it was packed is what would have been read.
func TestUnpackRaw(t *testing.T) {
	want, data := rawReply(t)
	got, err := UnpackRaw(data)
	if err != nil || len(got.Rows) != 1 || !reflect.DeepEqual(got.Rows[0], want.Rows[0]) || got.RawRows() != 3 {
		t.Fatalf("%d rows were read, %d left, %v", len(got.Rows), got.RawRows(), err)
	}
	raw := got.Raw()[0]
	var rows RowReader
	var last []byte
	for _, want := range want.Rows[1:] {
		if again := raw; raw.Repeats(last) || raw.Repeats(nil) || again.Len() != raw.Len() {
			t.Error("a row is another's")
		}
		again := raw
		packed, resource, err := raw.Next()
		if err != nil {
			t.Fatal(err)
		}
		if !again.Repeats(packed) || again.Len() != raw.Len() {
			t.Error("a row is not the one that it was")
		}
		if string(AppendResource(nil, &want.Resource)) != string(resource) {
			t.Errorf("the resource is %q", resource)
		}
		row, err := rows.Read(packed)
		if err != nil {
			t.Fatal(err)
		}
		row.Resource, err = ReadResource(resource)
		row.Stats.Status, row.Stats.GRPC, row.Stats.Errors = countsOf(row.Status), countsOf(row.GRPC), countsOf(row.Errors)
		if err != nil || !reflect.DeepEqual(row.Row, want) {
			t.Errorf("read %+v, want %+v; %v", row.Row, want, err)
		}
		last = packed
	}
	if _, _, err := raw.Next(); err == nil || raw.Len() != 0 {
		t.Error("there are more rows than there were")
	}
	if err := got.ReadRaw(); err != nil || got.RawRows() != 0 {
		t.Fatal(err)
	}
	merged, err := Merge([]Reply{want})
	if err != nil || !reflect.DeepEqual(got.Rows, merged.Rows) {
		t.Errorf("read at last: %+v; %v", got.Rows, err)
	}
}

func countsOf[K comparable](all []Count[K]) map[K]uint64 {
	if len(all) == 0 {
		return nil
	}
	m := map[K]uint64{}
	for _, c := range all {
		m[c.Value] = c.N
	}
	return m
}

// What is cut short or goes on is refused, wherever it is.
func TestUnpackRawBroken(t *testing.T) {
	_, data := rawReply(t)
	f := func(data []byte) {
		t.Helper()
		_, plain := Unpack(data)
		r, err := UnpackRaw(data)
		if err == nil {
			for _, raw := range r.Raw() {
				for raw.Len() > 0 && err == nil {
					var packed []byte
					if packed, _, err = raw.Next(); err == nil {
						_, err = new(RowReader).Read(packed)
					}
				}
			}
			if failed := r.ReadRaw(); (failed == nil) != (err == nil) {
				t.Errorf("%d bytes: row by row %v, all at once %v", len(data), err, failed)
			}
		}
		if (plain == nil) != (err == nil) {
			t.Errorf("%d bytes: %v, read plainly %v", len(data), err, plain)
		}
	}
	for n := range data {
		f(data[:n])
	}
	f(append(data[:len(data):len(data)], 0))
}
