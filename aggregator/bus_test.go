package aggregator_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weirmesh/weir/aggregator"
	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/bus/bustest"
	"github.com/weirmesh/weir/bus/client"
	"github.com/weirmesh/weir/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 60 * time.Second

func options(id string, c *client.Client) aggregator.Options {
	return aggregator.Options{
		ID: id, Source: c, Rollups: c, Members: c, Server: c, Publisher: c,
		Subjects: aggregator.Subjects{
			Parse: bus.ParseWorkload, Events: bus.EventsSubject, Tap: bus.TapSubject, Stats: bus.StatsSubject,
		},
		ErrFenced:   bus.ErrFenced,
		Partitions:  bus.Partitions,
		RollupEvery: 100 * time.Millisecond,
		Logger:      slog.New(slog.DiscardHandler),
	}
}

// start runs an aggregator until the test ends or stop is called.
func start(t *testing.T, o aggregator.Options) (a *aggregator.Aggregator, stop func()) {
	t.Helper()
	a, err := aggregator.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := a.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	return a, stop
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// proxy publishes batches as a proxy does.
type proxy struct {
	t        *testing.T
	c        *client.Client
	w        event.Workload
	instance uint64
	sequence uint64
}

func workload(name string) event.Workload {
	return event.Workload{Cluster: "local", Namespace: "emojivoto", Kind: "deploy", Name: name}
}

// batch encodes n requests of a direction, with peer as the other side, that
// ended just now.
func (p *proxy) batch(n int, d event.Direction, peer event.Workload, meshed bool, status uint16) []byte {
	p.sequence++
	now := time.Now().UnixMicro()
	var enc event.Encoder
	for i := range n {
		e := event.Event{
			Direction: d, Protocol: event.HTTP1, Status: status, GRPCStatus: event.NoGRPCStatus, Method: "GET",
			Authority: "web", Path: fmt.Sprintf("/api/%c", 'a'+i%3), Start: now - 2000, Latency: 1500, Duration: 2000,
			RequestBytes: 100, ResponseBytes: 200, Connection: 7, Stream: uint32(i + 1),
		}
		e.Peer = event.Peer{Workload: peer, Addr: netip.MustParseAddrPort("127.0.0.1:9"), Meshed: meshed}
		enc.Add(&e)
	}
	return enc.Encode(nil, &event.Header{
		Source: event.Source{Workload: p.w, Pod: p.w.Name + "-0"}, Instance: p.instance, Sequence: p.sequence, Sent: now, OpenConnections: 3,
	})
}

func (p *proxy) publish(data []byte) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.c.Publish(ctx, p.w, p.instance, p.sequence, data); err != nil {
		p.t.Fatal(err)
	}
}

// ask puts a request and merges the replies.
func ask(t *testing.T, c *client.Client, method string, q query.Request) *query.Reply {
	t.Helper()
	if q.Until == 0 {
		q.Since, q.Until = time.Now().Unix()-600, time.Now().Unix()+10
	}
	body, err := json.Marshal(&q)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	raw, err := c.Ask(ctx, query.Service, method, body)
	if err != nil {
		return &query.Reply{} // nobody is there yet
	}
	replies := make([]query.Reply, len(raw))
	for i := range raw {
		if err := json.Unmarshal(raw[i], &replies[i]); err != nil {
			t.Fatal(err)
		}
		if replies[i].Error != "" {
			t.Fatalf("%s: %s", method, replies[i].Error)
		}
	}
	merged, err := query.Merge(replies)
	if err != nil {
		t.Fatal(err)
	}
	return merged
}

// whole tells whether each partition was answered for once.
func whole(r *query.Reply) bool {
	missing, duplicate := query.Missing(r)
	return r.Total > 0 && len(missing) == 0 && len(duplicate) == 0
}

func requests(r *query.Reply, name string) (n uint64, direction string) {
	for _, row := range r.Rows {
		if row.Resource.Name == name {
			return row.Stats.Requests, row.Direction
		}
	}
	return 0, ""
}

// expect waits until each workload has so many requests, over all members.
func expect(t *testing.T, c *client.Client, want map[string]uint64) {
	t.Helper()
	var last *query.Reply
	defer func() {
		if t.Failed() && last != nil {
			data, _ := json.Marshal(last)
			t.Logf("last reply: %.2000s", data)
		}
	}()
	eventually(t, fmt.Sprintf("requests %v", want), func() bool {
		last = ask(t, c, query.MethodStat, query.Request{Resource: query.Selector{Namespace: "emojivoto"}})
		if !whole(last) {
			return false
		}
		for name, n := range want {
			if got, _ := requests(last, name); got != n {
				return false
			}
		}
		return true
	})
}

func TestWholeWay(t *testing.T) {
	s := bustest.Run(t)
	c := bustest.Connect(t, s)
	_, stop := start(t, options("one", c))
	web := &proxy{t: t, c: c, w: workload("web"), instance: 1}
	bot := &proxy{t: t, c: c, w: workload("vote-bot"), instance: 2}
	// The bot asks web 300 times, a stranger 50 times; web sees all of them.
	bot.publish(bot.batch(300, event.Outbound, web.w, true, 200))
	web.publish(web.batch(300, event.Inbound, bot.w, true, 200))
	web.publish(web.batch(50, event.Inbound, event.Workload{}, false, 503))
	expect(t, c, map[string]uint64{"web": 350, "vote-bot": 300})

	r := ask(t, c, query.MethodStat, query.Request{Resource: query.Selector{Kind: "deploy"}})
	for _, row := range r.Rows {
		if row.PodsLive != 1 || row.PodsSeen != 1 || row.OpenConnections != 3 {
			t.Errorf("row %+v", row)
		}
	}
	if _, d := requests(r, "vote-bot"); d != query.Outbound {
		t.Errorf("vote-bot counts %s", d)
	}
	if r = ask(t, c, query.MethodStat, query.Request{Resource: query.Selector{Kind: "ns"}}); len(r.Rows) != 1 || r.Rows[0].Stats.Requests != 350 || r.Rows[0].PodsLive != 2 {
		t.Errorf("namespaces %+v", r.Rows)
	}
	if r = ask(t, c, query.MethodStat, query.Request{Resource: query.Selector{Kind: "pod", Name: "web-0"}}); len(r.Rows) != 1 || r.Rows[0].Stats.Requests != 350 || r.Rows[0].Owner.Name != "web" {
		t.Errorf("pods %+v", r.Rows)
	}
	toWeb := &query.Selector{Kind: "deploy", Name: "web"}
	if r = ask(t, c, query.MethodStat, query.Request{To: toWeb}); len(r.Rows) != 2 {
		t.Errorf("to web: %+v", r.Rows)
	}
	if n, _ := requests(r, "vote-bot"); n != 300 {
		t.Errorf("vote-bot to web: %d", n)
	}
	if n, _ := requests(r, "127.0.0.1"); n != 50 {
		t.Errorf("a stranger to web: %d", n)
	}
	r = ask(t, c, query.MethodStat, query.Request{From: &query.Selector{Name: "vote-bot"}})
	if n, d := requests(r, "web"); n != 300 || d != query.Inbound || r.Rows[0].PodsLive != 1 {
		t.Errorf("from vote-bot: %+v", r.Rows)
	}
	if r = ask(t, c, query.MethodEdges, query.Request{}); len(r.Edges) != 2 || r.Edges[0].SeenBy == r.Edges[1].SeenBy {
		t.Errorf("edges %+v", r.Edges)
	}
	if r = ask(t, c, query.MethodRoutes, query.Request{Resource: *toWeb}); len(r.Routes) != 3 || r.Routes[0].Route != "GET /api/a" || r.Routes[0].Stats.Requests != 117 {
		t.Errorf("routes %+v", r.Routes)
	}
	if r = ask(t, c, query.MethodRoutes, query.Request{Resource: query.Selector{Name: "vote-bot"}, To: toWeb}); len(r.Routes) != 3 || r.Routes[0].Stats.Requests != 100 {
		t.Errorf("routes to web %+v", r.Routes)
	}
	r = ask(t, c, query.MethodSeries, query.Request{Resource: *toWeb, Since: time.Now().Unix() - 599, Until: time.Now().Unix() + 10, Step: 7})
	var sum uint64
	for _, p := range r.Series[0].Points {
		sum += p.Requests
	}
	if sum != 350 || len(r.Series[0].Points) != 87 {
		t.Errorf("series of %d points: %d requests", len(r.Series[0].Points), sum)
	}
	if r = ask(t, c, query.MethodWorkloads, query.Request{}); len(r.Workloads) != 2 || len(r.Workloads[0].Pods) != 1 || !r.Workloads[0].Pods[0].Live {
		t.Errorf("workloads %+v", r.Workloads)
	}

	// Another member remembers all of it, and counts on.
	stop()
	start(t, options("two", c))
	web.publish(web.batch(1, event.Inbound, bot.w, true, 200))
	expect(t, c, map[string]uint64{"web": 351, "vote-bot": 300})
}

func TestRefusesWhatIsNotABatch(t *testing.T) {
	s := bustest.Run(t)
	c := bustest.Connect(t, s)
	start(t, options("one", c))
	web := &proxy{t: t, c: c, w: workload("web"), instance: 1}
	web.publish(web.batch(10, event.Inbound, workload("x"), true, 200))
	liar := &proxy{t: t, c: c, w: workload("liar"), instance: 2}
	data := liar.batch(100, event.Inbound, workload("x"), true, 200)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for i, bad := range [][]byte{data, data[:len(data)/2-3], []byte("hello"), slices.Repeat([]byte{0xff}, 1000)} {
		if err := c.Publish(ctx, web.w, 99, uint64(i+1), bad); err != nil {
			t.Fatal(err)
		}
	}
	web.publish(web.batch(5, event.Inbound, workload("x"), true, 200))
	expect(t, c, map[string]uint64{"web": 15, "liar": 0})
}

// TestMembersComeAndGo moves partitions while batches come.
func TestMembersComeAndGo(t *testing.T) {
	s := bustest.Run(t)
	publisher := bustest.Connect(t, s)
	var proxies []*proxy
	for i := range 8 {
		proxies = append(proxies, &proxy{t: t, c: publisher, w: workload(fmt.Sprintf("w%d", i)), instance: uint64(i + 1)})
	}
	sent := map[string]uint64{}
	load := func(rounds int) {
		for range rounds {
			for _, p := range proxies {
				p.publish(p.batch(10, event.Inbound, workload("x"), true, 200))
				sent[p.w.Name] += 10
			}
		}
	}
	_, stopOne := start(t, options("one", bustest.Connect(t, s)))
	load(20)
	start(t, options("two", bustest.Connect(t, s)))
	load(20)
	expect(t, publisher, sent)
	stopOne()
	load(20)
	expect(t, publisher, sent)
}

// TestTwinsBelieve: two members of the same id both own everything; the fence
// keeps the sums exact.
func TestTwinsBelieve(t *testing.T) {
	s := bustest.Run(t)
	c := bustest.Connect(t, s)
	_, stop := start(t, options("twin", bustest.Connect(t, s)))
	start(t, options("twin", bustest.Connect(t, s)))
	web := &proxy{t: t, c: c, w: workload("web"), instance: 1}
	for range 100 {
		web.publish(web.batch(10, event.Inbound, workload("x"), true, 200))
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	expect(t, c, map[string]uint64{"web": 1000})
}

// TestBusRestart: the bus goes and comes back with its data.
func TestBusRestart(t *testing.T) {
	s := bustest.Run(t)
	start(t, options("one", bustest.Connect(t, s)))
	c := bustest.Connect(t, s)
	web := &proxy{t: t, c: c, w: workload("web"), instance: 1}
	web.publish(web.batch(10, event.Inbound, workload("x"), true, 200))
	expect(t, c, map[string]uint64{"web": 10})
	bustest.Restart(t, s)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.WaitConnected(ctx); err != nil {
		t.Fatal(err)
	}
	web.publish(web.batch(7, event.Inbound, workload("x"), true, 200))
	expect(t, c, map[string]uint64{"web": 17})
}

func TestTap(t *testing.T) {
	s := bustest.Run(t)
	c := bustest.Connect(t, s)
	start(t, options("one", bustest.Connect(t, s)))
	web := &proxy{t: t, c: c, w: workload("web"), instance: 1}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var mu sync.Mutex
	seen, announced := map[string]bool{}, 0
	wg.Go(func() {
		_ = c.Tap(ctx, web.w, func(data []byte) {
			e, err := event.ParseJSON(data)
			if err != nil {
				t.Errorf("%s: %v", data, err)
			}
			mu.Lock()
			seen[fmt.Sprintf("%d/%d", e.Sequence, e.Index)] = true
			mu.Unlock()
		}, func(uint64) {})
	})
	wg.Go(func() { _ = c.WatchTap(ctx, web.w, func() { mu.Lock(); announced++; mu.Unlock() }) })
	count := func() (int, int) { mu.Lock(); defer mu.Unlock(); return len(seen), announced }
	eventually(t, "the tap and its announcement", func() bool {
		web.publish(web.batch(1, event.Inbound, workload("x"), true, 200))
		time.Sleep(50 * time.Millisecond)
		events, announced := count()
		return events > 0 && announced > 1
	})
	// Who listens gets every event.
	before, _ := count()
	for range 5 {
		web.publish(web.batch(400, event.Inbound, workload("x"), true, 200))
	}
	eventually(t, "2000 events", func() bool { n, _ := count(); return n >= before+2000 })
}
