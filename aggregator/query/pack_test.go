package query_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/event"
)

// A packed reply reads as the JSON of the same reply does.
func TestPack(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		r := randomReply(rng, rng.IntN(5))
		if len(r.Rows) > 0 {
			r.Rows[0].Owner = &query.Selector{Cluster: "c", Name: "owner"}
			var wide event.Histogram
			for range 5000 { // more than fits a length of two bytes
				wide.RecordN(rng.Uint64()>>rng.IntN(64), 1+rng.Uint64N(1<<40))
			}
			r.Rows[0].Stats.Latency = wide.Sparse()
		}
		data, err := query.Pack(&r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := query.Unpack(data)
		if err != nil {
			t.Fatal(err)
		}
		if want := text(t, &r); text(t, &got) != want {
			t.Fatalf("%s\nwant\n%s", text(t, &got), want)
		}
		plain, err := json.Marshal(&r)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := query.Unpack(plain); err != nil || text(t, &got) != text(t, &r) {
			t.Fatalf("all JSON: %v\n%s", err, text(t, &got))
		}
		if len(r.Rows) == 0 {
			continue
		}
		rows := bytes.Index(data, []byte("\nrows1\n")) + 7
		for range 20 {
			at := rows + rng.IntN(len(data)-rows)
			if _, err := query.Unpack(data[:at]); err == nil {
				t.Fatalf("cut to %d of %d bytes, it was read", at, len(data))
			}
			broken := bytes.Clone(data)
			broken[at] ^= byte(1 + rng.IntN(255))
			_, _ = query.Unpack(broken) // must not panic
		}
	}
}

// Rows packed one by one are rows as others.
func TestPackedOneByOne(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	for range 50 {
		r := randomReply(rng, 1)
		for i := range r.Rows {
			r.Rows[i].Brief = rng.IntN(2) == 0
		}
		split := r
		at := rng.IntN(len(r.Rows) + 1)
		var rows query.Packed
		for i := range r.Rows[at:] {
			rows.Add(&r.Rows[at+i])
		}
		split.Rows = r.Rows[:at:at]
		split.AddPacked(rows)
		data, err := query.Pack(&split)
		if err != nil {
			t.Fatal(err)
		}
		got, err := query.Unpack(data)
		if err != nil {
			t.Fatal(err)
		}
		if text(t, &got) != text(t, &r) {
			t.Fatalf("%s\nwant\n%s", text(t, &got), text(t, &r))
		}
	}
}

// What is in brief is not added up.
func TestMergeBrief(t *testing.T) {
	row := func(name string, brief bool) query.Row {
		return query.Row{Resource: query.Selector{Name: name}, Direction: query.Inbound, Brief: brief, Stats: query.Stats{Requests: 1}}
	}
	a := query.Reply{Rows: []query.Row{row("a", true), row("b", false)}}
	if m, err := query.Merge([]query.Reply{a, {Rows: []query.Row{row("b", false), row("c", true)}}}); err != nil || len(m.Rows) != 3 || !m.Rows[0].Brief || m.Rows[1].Stats.Requests != 2 {
		t.Errorf("%v, %v", m, err)
	}
	for _, name := range []string{"a", "b"} {
		for _, order := range [][]query.Reply{{a, {Rows: []query.Row{row(name, true)}}}, {{Rows: []query.Row{row(name, true)}}, a}} {
			if _, err := query.Merge(order); !errors.Is(err, query.ErrBrief) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
