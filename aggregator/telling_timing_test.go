package aggregator

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/event"
)

// buses are buses in memory, one for each partition.
type buses struct {
	memory
	each []*memory
}

func (m *buses) LastRollup(ctx context.Context, partition, tier int) ([]byte, uint64, error) {
	return m.each[partition].LastRollup(ctx, partition, tier)
}

// PublishRollup also forgets what has gone into a coarser tier long ago.
func (m *buses) PublishRollup(ctx context.Context, partition, tier int, data []byte, expectLast uint64) (uint64, error) {
	own := m.each[partition]
	if n := len(own.rollups[tier]); n > 200 {
		own.rollups[tier] = slices.Clone(own.rollups[tier][n-150:])
	}
	return own.PublishRollup(ctx, partition, tier, data, expectLast)
}

func (m *buses) ReadRollups(ctx context.Context, partition, tier int, after uint64, since time.Time, fn func(uint64, []byte) error) error {
	return m.each[partition].ReadRollups(ctx, partition, tier, after, since, fn)
}

// tellers are proxies with 10,000 events a second each, two of a workload: 64 routes by
// Zipf's law, 8 peers. A batch has the events of one second, or, where they stray, of the
// halves of two.
type tellers struct {
	b       *testing.B
	a       *Aggregator
	now     time.Time
	stray   bool
	batches [][]byte
	// By what is done: folding, telling (Take and keep), writing, maintaining and
	// coarsening; processor time in ns.
	used     [5]int64
	seconds  int
	sequence uint64
	memory   telling
}

const (
	tellerEvents = 10_000
	tellerStart  = 1_800_000_000
)

func newTellers(b *testing.B, proxies, parts int, stray bool) *tellers {
	b.Helper()
	t := &tellers{b: b, now: time.Unix(tellerStart, 0), stray: stray, sequence: 1 << 14}
	m := &buses{}
	for range parts {
		m.each = append(m.each, &memory{now: func() time.Time { return t.now }})
	}
	o := memoryOptions(&m.memory, "me", func() time.Time { return t.now })
	o.Rollups, o.Partitions, o.Tiers, o.MaxPart = m, parts, nil, 0
	var err error
	if t.a, err = New(o); err != nil {
		b.Fatal(err)
	}
	for _, p := range t.a.partitions {
		if _, err := p.takeOver(context.Background()); err != nil {
			b.Fatal(err)
		}
		p.jobs, p.idle, p.complete = make(chan job, 1), make(chan struct{}, 1), true
		p.idle <- struct{}{}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	zipf := rand.NewZipf(rng, 1.2, 1, 63)
	var encoders [4]event.Encoder
	for i := range encoders {
		tellerEventsOf(&encoders[i], rng, zipf, t.now.UnixMicro())
	}
	for p := range proxies {
		name := fmt.Sprintf("web-%d", p/2)
		t.batches = append(t.batches, encoders[p%len(encoders)].Encode(nil, &event.Header{
			Source:   event.Source{Workload: event.Workload{Cluster: "c", Namespace: "shop", Kind: "deploy", Name: name}, Pod: fmt.Sprintf("%s-%d", name, p%2)},
			Instance: uint64(p + 1), Sequence: t.sequence, Sent: t.now.UnixMicro(),
		}))
	}
	return t
}

// tellerEventsOf gives an encoder the events of a second, which ends 10 ms before
// sent.
func tellerEventsOf(enc *event.Encoder, rng *rand.Rand, zipf *rand.Zipf, sent int64) {
	for i := range tellerEvents {
		route, conn := int(zipf.Uint64()), rng.IntN(32)
		latency := uint64(400*(1+route%7)) + uint64(rng.ExpFloat64()*900)
		duration := latency + rng.Uint64N(60)
		e := event.Event{
			Direction: event.Inbound, Protocol: event.HTTP2, Security: event.Mutual, Method: "GET", Authority: "web.shop.svc:8080",
			Path:   fmt.Sprintf("/api/v1/collection%c/operation%c", 'a'+route%8, 'a'+route/8),
			Status: 200, GRPCStatus: event.NoGRPCStatus, Latency: latency, Duration: duration,
			RequestBytes: uint64(180+3*route) + rng.Uint64N(8), ResponseBytes: uint64(300+100*(route%9)) + rng.Uint64N(50),
			Start:      sent - 1_000_000 + int64(i)*990_000/tellerEvents - int64(duration),
			Connection: uint64(conn + 1), Stream: uint32(i + 1),
			Peer: event.Peer{Workload: event.Workload{Cluster: "c", Namespace: "shop", Kind: "deploy", Name: fmt.Sprintf("client-%d", conn%8)}, Meshed: true},
		}
		switch rng.IntN(100) {
		case 0:
			e.Status = 503
		case 1:
			e.Status, e.Error = 0, event.ErrServerReset
		}
		enc.Add(&e)
	}
}

// spend notes what has been used of the processor since before for one of the kinds
// of work.
func (t *tellers) spend(kind int, before int64) (now int64) {
	now = cpuTime(t.b)
	t.used[kind] += now - before
	return now
}

// second is one more second of events and all that is done with them.
func (t *tellers) second() {
	t.now = t.now.Add(time.Second)
	t.seconds++
	t.sequence++
	sent := t.now.UnixMicro()
	if t.stray {
		sent -= 500_000
	}
	at := cpuTime(t.b)
	for i, data := range t.batches {
		// The header begins with the instance, then come these.
		binary.PutUvarint(data[10:], t.sequence)
		binary.PutUvarint(data[14:], uint64(sent))
		if err := t.a.partitions[i/2%len(t.a.partitions)].take(context.Background(), event.Mark{Sequence: t.sequence<<10 + uint64(i)}, "", data); err != nil {
			t.b.Fatal(err)
		}
	}
	at = t.spend(0, at)
	for _, p := range t.a.partitions {
		p.spent = t.memory.spent
		d := p.cut()
		at = t.spend(1, at)
		t.write(p, d)
		at = t.spend(2, at)
		p.maintain()
		at = t.spend(3, at)
		if p.order(); len(p.jobs) > 0 {
			if err := p.fold(context.Background(), <-p.jobs); err != nil {
				t.b.Fatal(err)
			}
			p.idle <- struct{}{}
		}
		at = t.spend(4, at)
	}
	t.a.trim(t.now)
	t.spend(3, at)
}

// write is what publish does with what cut gives.
func (t *tellers) write(p *partition, d *rollup.Delta) {
	meta := rollup.Meta{Partition: p.number, Owner: p.a.owner, Group: p.lasts[0], Written: t.now.UnixMicro()}
	for _, part := range t.memory.encoder.Encode(d, meta, p.a.o.MaxPart) {
		if err := p.save(context.Background(), 0, part); err != nil {
			t.b.Fatal(err)
		}
	}
	p.saved, p.wrote, t.memory.spent = event.Mark{Sequence: d.Position}, true, d
}

// BenchmarkTelling is what a member does once a second with what it has counted: encode
// the cells (770 of each of four partitions), keep them, write them, and sum them up for
// longer spans. A cell is told once a second, or, where batches stray into the second
// before theirs, twice. All metrics are processor time.
func BenchmarkTelling(b *testing.B) {
	for _, stray := range []bool{false, true} {
		name := "once"
		if stray {
			name = "twice"
		}
		b.Run(name, func(b *testing.B) {
			t := newTellers(b, 80, 4, stray)
			for range 70 {
				t.second()
			}
			t.used, t.seconds = [5]int64{}, 0
			b.ReportAllocs()
			for b.Loop() {
				t.second()
			}
			rows := 0
			for _, p := range t.a.partitions {
				rows += p.folder.Keys()
			}
			for kind, unit := range []string{"fold-ns/event", "tell-ns/event", "write-ns/event", "maintain-ns/event", "coarsen-ns/event"} {
				b.ReportMetric(float64(t.used[kind])/float64(t.seconds)/float64(len(t.batches)*tellerEvents), unit)
			}
			b.ReportMetric(float64(rows), "rows")
			b.ReportMetric(0, "ns/op")
		})
	}
}
