package api

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/api/wire"
	"github.com/weirmesh/weir/event"
)

// teller tells of workloads, as two aggregators do: from one question to the next
// some change, come, go or move.
type teller struct {
	t    *testing.T
	rng  *rand.Rand
	rows map[int]told
}

// told is a row, and how it is packed: as aggregators do, the same each time.
type told struct {
	query.Row
	packed []byte
}

func newTeller(t *testing.T, seed uint64, of int) *teller {
	t.Helper()
	w := &teller{t: t, rng: rand.New(rand.NewPCG(seed, 1)), rows: map[int]told{}}
	for i := range of {
		w.rows[i] = w.row(i)
	}
	return w
}

func named(i int) query.Selector {
	return query.Selector{Cluster: "c", Namespace: fmt.Sprint("ns", i%7), Kind: []string{"deploy", "sts"}[i%2], Name: fmt.Sprint("w", i/2)}
}

func (w *teller) row(i int) told {
	r := query.Row{
		Resource:  named(i),
		Direction: []string{query.Inbound, query.Outbound}[w.rng.IntN(2)], Brief: true, PodsSeen: w.rng.IntN(3), PodsLive: w.rng.IntN(3),
		Stats: query.Stats{Requests: w.rng.Uint64N(50), RequestBytes: w.rng.Uint64N(3), Connections: w.rng.Uint64N(2)},
	}
	if w.rng.IntN(3) > 0 {
		r.Stats.Status = map[uint16]uint64{200: 1, uint16(300 + w.rng.IntN(3)): 2, 65535: 3}
		var h event.Histogram
		for range 1 + w.rng.IntN(20) {
			h.Record(w.rng.Uint64N(100_000))
		}
		qs := query.Quantiles()
		h.Thin(&r.Stats.Latency, qs[:]...)
		h.Thin(&r.Stats.Duration, qs[:]...)
	}
	if w.rng.IntN(4) == 0 {
		r.Owner = &query.Selector{Kind: "deploy", Name: "owner"}
		r.Stats.Errors, r.Stats.GRPC = map[string]uint64{"reset": 2, "(other)": 1}, map[int16]uint64{14: 3, -1: 1, 32767: 2}
		r.Shed, r.LostBatches, r.OpenConnections = 1, w.rng.Uint64N(300), w.rng.Uint64N(300)
	}
	var packed query.Packed
	packed.Add(&r)
	return told{r, packed.Last()}
}

// change has a tenth of the rows change, come or go.
func (w *teller) change(of int) {
	for range of / 10 {
		i := w.rng.IntN(of)
		if _, ok := w.rows[i]; ok && w.rng.IntN(4) == 0 {
			delete(w.rows, i)
			continue
		}
		w.rows[i] = w.row(i)
	}
}

// packed is what two members tell of all rows, moved so far from one to the
// other; each tells some, that both have, whole.
func (w *teller) packed(of, moved int) (replies [][]byte) {
	for m := range 2 {
		r := query.Reply{Member: fmt.Sprint(m), Members: 2, Total: 2, Partitions: []int{m}}
		for i := range of {
			if row, ok := w.rows[i]; ok && i%100 == 99 {
				row.Brief, row.Resource.Name = false, "(other)"
				r.Rows = append(r.Rows, row.Row)
			}
		}
		var brief query.Packed
		for i := range of {
			if row, ok := w.rows[i]; ok && i%100 != 99 && (i+moved)/(of/4)%2 == m {
				brief.Repeat(row.packed)
			}
		}
		merged, err := query.Merge([]query.Reply{r})
		if err != nil {
			w.t.Fatal(err)
		}
		merged.AddPacked(brief)
		data, err := query.Pack(merged)
		if err != nil {
			w.t.Fatal(err)
		}
		replies = append(replies, data)
	}
	return replies
}

// known is what Kubernetes knows: of some, and of some that nobody else does.
func (w *teller) known(of int) *known {
	if w.rng.IntN(3) == 0 {
		return nil
	}
	out := &known{}
	for i := range of + 20 {
		if i%3 > 0 {
			continue
		}
		k := knownRow{resource: named(i), pods: &weirpb.PodCounts{Total: uint32(w.rng.IntN(20) / 19), Ready: 3}, status: "Running", proxy: "v1"}
		if i%2 == 0 {
			k.owner = &query.Selector{Kind: "job", Name: fmt.Sprint(w.rng.IntN(20) / 19)}
		}
		out.rows = append(out.rows, k)
	}
	return out
}

func unpackAll(t *testing.T, replies [][]byte, unpack unpacker) (*query.Reply, error) {
	t.Helper()
	var all []query.Reply
	for _, data := range replies {
		r, err := unpack(data)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return query.Merge(all)
}

// plainly is the answer that nothing was remembered for.
func plainly(t *testing.T, reply *query.Reply, known *known, all bool, seconds float64) *weirpb.StatResponse {
	t.Helper()
	arrange(query.MethodStat, reply)
	out := &weirpb.StatResponse{}
	(&answer{shown: show(reply.Rows, known, all)}).giveRows(out, seconds)
	return out
}

func readRows(t *testing.T, written []byte) *weirpb.StatResponse {
	t.Helper()
	out := &weirpb.StatResponse{}
	if err := wire.New().Unmarshal(mem.BufferSlice{mem.SliceBuffer(written)}, out); err != nil {
		t.Fatal(err)
	}
	return out
}

// What was remembered gives the same answers as what was not, whatever comes.
func TestWriting(t *testing.T) {
	const of = 1000
	for seed := range uint64(3) {
		w := newTeller(t, seed, of)
		var g writing
		seconds, moved := 60.0, 0
		for question := range 20 {
			if question%5 > 0 { // or nothing has changed
				w.change(of)
			}
			switch w.rng.IntN(8) {
			case 0:
				seconds = float64(10 + w.rng.IntN(3))
			case 1:
				moved += w.rng.IntN(of)
			}
			replies, known, all := w.packed(of, moved), w.known(of), w.rng.IntN(4) > 0
			plain, err := unpackAll(t, replies, query.Unpack)
			if err != nil {
				t.Fatal(err)
			}
			raw, err := unpackAll(t, replies, query.UnpackRaw)
			if err != nil || raw.RawRows() < of/2 {
				t.Fatal(raw.RawRows(), err)
			}
			want := plainly(t, plain, known, all, seconds)
			written, err := g.write(raw, known, all, seconds)
			if err != nil {
				t.Fatal(err)
			}
			if got := readRows(t, written); !proto.Equal(got, want) {
				t.Fatalf("seed %d, question %d: %d rows, want %d, or they differ", seed, question, len(got.GetRows()), len(want.GetRows()))
			}
			if err := raw.ReadRaw(); err != nil || !proto.Equal(plainly(t, raw, known, all, seconds), want) {
				t.Errorf("read later, the rows differ, or %v", err)
			}
			if len(g.rows) > 2*of || len(g.index) != len(g.order) {
				t.Fatalf("%d rows are kept, %d of them indexed, %d told", len(g.rows), len(g.index), len(g.order))
			}
		}
	}
}

// Rows that have not changed are not written again.
func TestWritingRepeats(t *testing.T) {
	const of = 2000
	w := newTeller(t, 1, of)
	var g writing
	for question, want := range []int{of - of/100, 0, 0} {
		raw, err := unpackAll(t, w.packed(of, 0), query.UnpackRaw)
		if err != nil {
			t.Fatal(err)
		}
		whole := len(raw.Rows)
		if _, err := g.write(raw, nil, true, 60); err != nil || len(g.stale) != want+whole {
			t.Errorf("question %d: %d rows were written, %d of them told whole, want %d; %v", question, len(g.stale), whole, want, err)
		}
	}
}

// What two members tell in brief is not told twice, nor added up; and what is
// cut short is not taken for less.
func TestWritingRefuses(t *testing.T) {
	const of = 1000
	w := newTeller(t, 1, of)
	for _, before := range []bool{false, true} {
		var g writing
		replies := w.packed(of, 0)
		if before {
			raw, err := unpackAll(t, replies, query.UnpackRaw)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := g.write(raw, nil, true, 60); err != nil {
				t.Fatal(err)
			}
		}
		raw, err := unpackAll(t, [][]byte{replies[0], replies[0]}, query.UnpackRaw)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.write(raw, nil, true, 60); !errors.Is(err, query.ErrBrief) {
			t.Errorf("the same row of two members: %v", err)
		}
		if err := raw.ReadRaw(); !errors.Is(err, query.ErrBrief) {
			t.Errorf("the same row of two members, read: %v", err)
		}
		for _, broken := range [][]byte{replies[0][:len(replies[0])-1], append(replies[0][:len(replies[0]):len(replies[0])], 0)} {
			raw, err := unpackAll(t, [][]byte{broken}, query.UnpackRaw)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := g.write(raw, nil, true, 60); err == nil {
				t.Error("a reply of another length is written")
			}
			if err := raw.ReadRaw(); err == nil {
				t.Error("a reply of another length is read")
			}
			g = writing{}
		}
	}
}

// What is remembered has bounds: in number, in rows, in time; and one question at
// a time has it.
func TestWritings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w writings
		for i := range maxWritings {
			g := w.take(fmt.Sprint(i))
			if g == nil || w.take(fmt.Sprint(i)) != nil {
				t.Fatal("not taken, or twice")
			}
			g.rows = make([]writtenRow, 10)
			w.give(fmt.Sprint(i), g, true)
		}
		if w.take("another") != nil {
			t.Error("too many are remembered")
		}
		time.Sleep(writtenFor - time.Second)
		g := w.take("0")
		if len(g.rows) != 10 {
			t.Error("it was forgotten early")
		}
		w.give("0", g, true)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if len(w.all) != 1 {
			t.Errorf("%d are remembered", len(w.all))
		}
		g = w.take("0")
		w.give("0", g, false)
		g = w.take("0")
		if len(g.rows) != 0 {
			t.Error("what is of no use was remembered")
		}
		g.rows = make([]writtenRow, maxWrittenRows+1)
		w.give("0", g, true)
		if len(w.all) != 0 {
			t.Error("too many rows are remembered")
		}
		g = w.take("0")
		w.give("0", g, true)
		taken := w.take("1")
		w.stop()
		w.give("1", taken, true)
		if len(w.all) != 0 || w.take("2") != nil {
			t.Error("remembered after the end")
		}
	})
}
