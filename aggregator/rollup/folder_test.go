package rollup_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/weirmesh/weir/aggregator/rollup"
	"github.com/weirmesh/weir/event"
)

const second = int64(1e6)

var (
	web    = event.Workload{Cluster: "c", Namespace: "shop", Kind: "deploy", Name: "web"}
	voting = event.Workload{Cluster: "c", Namespace: "shop", Kind: "deploy", Name: "voting"}
	t0     = int64(1_800_000_000) * second
)

func request(d event.Direction, start int64, path string) event.Event {
	e := event.Event{
		Direction: d, Protocol: event.HTTP1, Status: 200, GRPCStatus: event.NoGRPCStatus,
		Method: "GET", Authority: "web", Path: path, Start: start, Latency: 900, Duration: 1000,
		RequestBytes: 10, ResponseBytes: 20, Connection: 1, Stream: 1, SecurityReason: "no_identity",
	}
	e.Peer = event.Peer{Workload: voting, Pod: "voting-0", Addr: netip.MustParseAddrPort("10.0.0.7:4143"), Meshed: true}
	return e
}

func header(instance, sequence uint64, sent int64) event.Header {
	return event.Header{
		Source:   event.Source{Workload: web, Pod: "web-0", Node: "n1"},
		Instance: instance, Sequence: sequence, Sent: sent, Version: "test",
	}
}

func encode(h event.Header, events ...event.Event) []byte {
	var enc event.Encoder
	for i := range events {
		enc.Add(&events[i])
	}
	return enc.Encode(nil, &h)
}

func fold(f *rollup.Folder, data []byte, now int64) (rollup.Result, error) {
	return f.Fold(rollup.Message{
		Sequence: f.Position() + 1, Data: data, Now: now, Arrived: now,
		Matches: func(w event.Workload) bool { return w == web },
	})
}

// sums adds up all that a folder holds, by dimension and direction.
func sums(f *rollup.Folder) map[[2]int]*rollup.Cell {
	all := map[[2]int]*rollup.Cell{}
	f.Scan(0, 1<<60, func(k rollup.Key) func(int64, *rollup.Cell) {
		id := [2]int{int(k.Dimension), int(k.Direction)}
		if all[id] == nil {
			all[id] = &rollup.Cell{}
		}
		return func(_ int64, c *rollup.Cell) { all[id].Merge(c) }
	})
	return all
}

func TestFoldCountsInAllMarginals(t *testing.T) {
	f := rollup.NewFolder(rollup.Limits{})
	failed := request(event.Inbound, t0, "/b")
	failed.Status, failed.Error = 503, event.ErrConnectRefused
	call := request(event.Outbound, t0, "/pkg.Svc/Do")
	call.Protocol, call.GRPCStatus = event.GRPC, 13
	conn := request(event.Inbound, t0, "")
	conn.Protocol, conn.Status, conn.Method = event.TCP, 0, ""
	progress := conn
	progress.Kind = event.Progress
	r, err := fold(f, encode(header(1, 1, t0+second), request(event.Inbound, t0, "/a"), failed, call, conn, progress), t0+second)
	if err != nil || r.Events != 5 || r.Skewed || r.Moved != 0 {
		t.Fatalf("result %+v, %v", r, err)
	}
	all := sums(f)
	for _, d := range []rollup.Dimension{rollup.Total, rollup.ByPod, rollup.ByPeer, rollup.ByRoute} {
		in, out := all[[2]int{int(d), int(event.Inbound)}], all[[2]int{int(d), int(event.Outbound)}]
		if in.Requests != 2 || in.Successes != 1 || in.Connections != 1 || in.RequestBytes != 40 || in.ResponseBytes != 80 {
			t.Errorf("dimension %d inbound: %+v", d, in)
		}
		if in.Latency.Count() != 2 || in.Duration.Sum() != 2000 || len(in.Errors) != 1 || in.Errors[0].N != 1 || len(in.Status) != 2 {
			t.Errorf("dimension %d inbound: %+v", d, in)
		}
		if out.Requests != 1 || out.Successes != 0 || len(out.GRPC) != 1 || out.GRPC[0] != (rollup.Count[int16]{Value: 13, N: 1}) {
			t.Errorf("dimension %d outbound: %+v", d, out)
		}
	}
	if pair := all[[2]int{int(rollup.ByPeerRoute), int(event.Outbound)}]; pair == nil || pair.Requests != 1 {
		t.Errorf("peer and route: %+v", pair)
	}
	if ledger := all[[2]int{int(rollup.Ledger), 0}]; ledger.Batches != 1 || ledger.Events != 5 {
		t.Errorf("ledger: %+v", ledger)
	}
}

// TestFoldOnce: any order, any repetition, the same sums.
func TestFoldOnce(t *testing.T) {
	const batches = 200
	rng := rand.New(rand.NewPCG(1, 2))
	f := rollup.NewFolder(rollup.Limits{})
	order := rng.Perm(batches)
	// Repetitions anywhere.
	for range 300 {
		order = append(order, rng.IntN(batches))
	}
	now := t0
	for _, i := range order {
		h := header(7, uint64(i+1), t0)
		h.Produced, h.Shed = uint64(2*(i+1)), uint64(2*(i/10+1))
		data := encode(h, request(event.Inbound, t0, "/a"), request(event.Inbound, t0, "/b"))
		if i%10 == 0 {
			data = summarize(h, 1, request(event.Inbound, t0, "/a"), request(event.Inbound, t0, "/b"))
		}
		if _, err := fold(f, data, now); err != nil {
			t.Fatal(err)
		}
	}
	all := sums(f)
	if n := all[[2]int{int(rollup.Total), 1}].Requests; n != 2*batches {
		t.Errorf("requests %d, want %d", n, 2*batches)
	}
	ledger := all[[2]int{int(rollup.Ledger), 0}]
	// More than 64 gaps at once: the oldest were declared lost early and
	// forgotten, so those that came later were not counted. Not here: the gaps
	// of 200 shuffled batches are at most 100.
	if ledger.Shed != 2*batches/10 {
		t.Errorf("shed %d", ledger.Shed)
	}
	if ledger.Batches+uint64(ledger.Lost) != batches {
		t.Errorf("batches %d and lost %d are not %d", ledger.Batches, ledger.Lost, batches)
	}
}

func TestGaps(t *testing.T) {
	f := rollup.NewFolder(rollup.Limits{})
	put := func(sequence uint64, now int64) rollup.Result {
		t.Helper()
		r, err := fold(f, encode(header(7, sequence, now), request(event.Inbound, now, "/a")), now)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	lost := func() int64 { return sums(f)[[2]int{int(rollup.Ledger), 0}].Lost }
	put(1, t0)
	put(5, t0) // 2, 3, 4 are missing
	if n := f.Tick(t0/second + 9); n != 0 {
		t.Fatalf("%d lost too early", n)
	}
	put(3, t0+second)
	if n := f.Tick(t0/second + 10); n != 2 || lost() != 2 {
		t.Fatalf("%d lost, ledger %d, want 2", n, lost())
	}
	if r := put(2, t0+20*second); r.Duplicate || r.Lost != -1 || lost() != 1 {
		t.Fatalf("a lost batch that came after all: %+v, ledger %d", r, lost())
	}
	if r := put(2, t0+20*second); !r.Duplicate {
		t.Fatal("counted twice")
	}
	if n := f.Tick(t0/second + 30); n != 0 || lost() != 1 {
		t.Fatalf("%d lost again", n)
	}
}

func TestFirstSightOfASource(t *testing.T) {
	f := func(sequence uint64, lost int64) {
		t.Helper()
		folder := rollup.NewFolder(rollup.Limits{})
		if _, err := fold(folder, encode(header(7, sequence, t0), request(event.Inbound, t0, "/a")), t0); err != nil {
			t.Fatal(err)
		}
		if n := folder.Tick(t0/second + 11); n != lost {
			t.Errorf("first sequence %d: %d lost, want %d", sequence, n, lost)
		}
	}
	f(1, 0)
	f(2, 1)
	f(1024, 1023)
	f(1_000_000, 0) // older than what we know
}

func TestRefusals(t *testing.T) {
	good := encode(header(7, 1, t0), request(event.Inbound, t0, "/a"))
	f := func(name, reason string, data []byte) {
		t.Helper()
		folder := rollup.NewFolder(rollup.Limits{})
		if _, err := fold(folder, encode(header(9, 1, t0), request(event.Inbound, t0, "/other")), t0); err != nil {
			t.Fatal(err)
		}
		_, err := fold(folder, data, t0)
		var r *rollup.Refusal
		if !errors.As(err, &r) || r.Reason != reason {
			t.Errorf("%s: %v, want reason %s", name, err, reason)
		}
		if folder.Position() != 2 {
			t.Errorf("%s: position %d", name, folder.Position())
		}
		if n := sums(folder)[[2]int{int(rollup.Total), 1}].Requests; n != 1 {
			t.Errorf("%s: others' requests are %d", name, n)
		}
		if r, err := fold(folder, good, t0); err != nil || r.Duplicate {
			t.Errorf("%s: a good batch after it: %+v, %v", name, r, err)
		}
	}
	f("empty", rollup.Malformed, nil)
	f("text", rollup.Malformed, []byte("GET / HTTP/1.1\r\n\r\n"))
	for cut := 1; cut < len(good); cut++ {
		var d event.Decoder
		if d.Reset(good[:cut]) == nil {
			continue // cut between two fields, it is another batch
		}
		f(fmt.Sprintf("cut to %d of %d", cut, len(good)), rollup.Malformed, good[:cut])
	}
	f("oversized", rollup.Oversized, make([]byte, event.MaxBatchBytes+1))
	other := header(7, 1, t0)
	other.Source.Workload = voting
	f("another's source", rollup.WrongSource, encode(other, request(event.Inbound, t0, "/a")))
	far := header(9, 1<<40, t0)
	f("a sequence far ahead", rollup.WrongSequence, encode(far, request(event.Inbound, t0, "/a")))
}

func TestClocks(t *testing.T) {
	f := func(name string, sent, now, arrived int64, skewed bool, want int64) {
		t.Helper()
		folder := rollup.NewFolder(rollup.Limits{})
		r, err := folder.Fold(rollup.Message{
			Sequence: 1, Now: now, Arrived: arrived, Matches: func(event.Workload) bool { return true },
			Data: encode(header(1, 1, sent), request(event.Inbound, sent-3*second, "/a")),
		})
		if err != nil || r.Skewed != skewed {
			t.Errorf("%s: %+v, %v", name, r, err)
			return
		}
		folder.Scan(0, 1<<60, func(k rollup.Key) func(int64, *rollup.Cell) {
			if k.Dimension != rollup.Total {
				return nil
			}
			return func(at int64, _ *rollup.Cell) {
				if at != want/second {
					t.Errorf("%s: counted at %d, want %d", name, at, want/second)
				}
			}
		})
	}
	const hour = 3600 * second
	end := -3*second + 1000
	f("right", t0, t0, t0, false, t0+end)
	f("a minute late", t0-60*second, t0, t0, false, t0-60*second+end)
	f("two hours ahead", t0+2*hour, t0, t0, true, t0+end)
	f("two hours behind", t0-2*hour, t0, t0, true, t0+end)
	f("history, an hour old", t0-hour, t0, 0, false, t0-hour+end)
	f("history, from the future", t0+hour, t0, 0, true, t0+end)
	f("history, from 1970", 0, t0, 0, true, t0)
	f("far", 1<<62, t0, t0, true, t0+(1<<62)-(1<<62)) // only must not overflow
}

// TestBacklogIsNoSkew: what waited in a proxy for the bus keeps its time.
func TestBacklogIsNoSkew(t *testing.T) {
	f := rollup.NewFolder(rollup.Limits{})
	if _, err := fold(f, encode(header(1, 1, t0), request(event.Inbound, t0, "/a")), t0); err != nil {
		t.Fatal(err)
	}
	r, err := fold(f, encode(header(1, 2, t0+second), request(event.Inbound, t0, "/a")), t0+600*second)
	if err != nil || r.Skewed {
		t.Fatalf("%+v, %v", r, err)
	}
}

func TestCaps(t *testing.T) {
	f := rollup.NewFolder(rollup.Limits{Routes: 50, Peers: 20})
	const n = 100_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	sequence := uint64(0)
	for i := 0; i < n; {
		var enc event.Encoder
		for range 1000 {
			e := request(event.Outbound, t0, "/item/"+word(i))
			e.Peer.Workload = event.Workload{}
			e.Peer.Addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 80)
			e.Connection = uint64(i + 1)
			enc.Add(&e)
			i++
		}
		sequence++
		h := header(3, sequence, t0)
		if _, err := fold(f, enc.Encode(nil, &h), t0); err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	all := sums(f)
	for _, d := range []rollup.Dimension{rollup.Total, rollup.ByPod, rollup.ByPeer, rollup.ByRoute, rollup.ByPeerRoute} {
		if got := all[[2]int{int(d), 2}].Requests; got != n {
			t.Errorf("dimension %d: %d requests, want %d", d, got, n)
		}
	}
	if f.Keys() > 50+20+50+8 {
		t.Errorf("%d keys", f.Keys())
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 16<<20 {
		t.Errorf("heap grew by %d bytes", grown)
	}
	others := 0
	f.Scan(0, 1<<60, func(k rollup.Key) func(int64, *rollup.Cell) {
		if k.IsOther() {
			others++
		}
		return nil
	})
	if others != 3 {
		t.Errorf("%d (other) rows, want 3", others)
	}
	runtime.KeepAlive(f)
}

func TestWorkloadCap(t *testing.T) {
	f := rollup.NewFolder(rollup.Limits{Workloads: 10})
	for i := range 1000 {
		h := header(uint64(i+1), 1, t0)
		h.Source.Workload.Name = fmt.Sprintf("w%d", i)
		_, err := f.Fold(rollup.Message{Sequence: uint64(i + 1), Now: t0, Arrived: t0,
			Matches: func(event.Workload) bool { return true }, Data: encode(h, request(event.Inbound, t0, "/a"))})
		if err != nil {
			t.Fatal(err)
		}
	}
	if n := sums(f)[[2]int{int(rollup.Total), 1}].Requests; n != 1000 {
		t.Errorf("%d requests", n)
	}
	if f.Keys() > 11*5 {
		t.Errorf("%d keys", f.Keys())
	}
}

// TestManySeconds: a batch that spreads over hours cannot take much memory.
func TestManySeconds(t *testing.T) {
	f := rollup.NewFolder(rollup.Limits{Pending: 100})
	var enc event.Encoder
	for i := range 5000 {
		e := request(event.Inbound, t0-int64(i%3000)*second, "/"+strings.Repeat("x", i%7))
		enc.Add(&e)
	}
	h := header(1, 1, t0)
	r, err := fold(f, enc.Encode(nil, &h), t0)
	if err != nil || r.Moved == 0 || f.Pending() > 300 || !f.Full() {
		t.Fatalf("%+v, %v, %d pending", r, err, f.Pending())
	}
	if n := sums(f)[[2]int{int(rollup.Total), 1}].Requests; n != 5000 {
		t.Errorf("%d requests", n)
	}
}

// TestImpossibleDirections: such events are left out, and told of.
func TestImpossibleDirections(t *testing.T) {
	f := rollup.NewFolder(rollup.Limits{})
	none, third := request(event.Inbound, t0, "/a"), request(event.Inbound, t0, "/b")
	none.Direction, third.Direction = 0, 3
	r, err := fold(f, encode(header(1, 1, t0), none, third, request(event.Inbound, t0, "/c")), t0)
	if err != nil {
		return // the codec refuses them by itself
	}
	if n := sums(f)[[2]int{int(rollup.Total), 1}].Requests; r.Events != 1 || r.Skipped != 2 || n != 1 {
		t.Errorf("%+v, %d requests", r, n)
	}
}
