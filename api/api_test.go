package api_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/aggregator/query"
	"github.com/weirmesh/weir/api"
	"github.com/weirmesh/weir/api/apitest"
	"github.com/weirmesh/weir/api/client"
	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/event"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a server over b and connects to it.
func start(t *testing.T, b *apitest.Backend) (*api.Server, *client.Client) {
	t.Helper()
	s, err := api.Start(api.Options{
		Backend:  b,
		GRPCAddr: "127.0.0.1:0",
		HTTPAddr: "127.0.0.1:0",
		Build:    api.Build{Version: "v1.2.3", Commit: "abc", GoVersion: "go1.26"},
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.Dial(t.Context(), s.GRPCAddr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return s, c
}

func stats(requests, successes uint64, latencyUS uint64) query.Stats {
	s := query.Stats{
		Requests:  requests,
		Successes: successes,
		Status:    map[uint16]uint64{200: successes, 500: requests - successes},
	}
	var latency, duration event.Histogram
	latency.RecordN(latencyUS, requests)
	duration.RecordN(2*latencyUS, requests)
	s.Latency, s.Duration = latency.Sparse(), duration.Sparse()
	s.RequestBytes, s.ResponseBytes = 100*requests, 1000*requests
	return s
}

func web(ns string) query.Selector {
	return query.Selector{Cluster: "c", Namespace: ns, Kind: "deploy", Name: "web"}
}

func window(since, until int64) *weirpb.Window {
	return &weirpb.Window{Since: timestamppb.New(time.Unix(since, 0)), Until: timestamppb.New(time.Unix(until, 0))}
}

func TestStatAddsUpMembers(t *testing.T) {
	b := &apitest.Backend{}
	member := func(name string, s query.Stats, ns string) query.Reply {
		return query.Reply{Member: name, Members: 2, Oldest: 1000, Rows: []query.Row{
			{Resource: web(ns), Direction: query.Inbound, Stats: s, PodsSeen: 2, PodsLive: 1, OpenConnections: 3, Shed: 1, LostBatches: 2},
		}}
	}
	b.Answer(query.MethodStat, member("a", stats(600, 600, 1000), "x"), member("b", stats(400, 300, 4000), "x"))
	_, c := start(t, b)
	resp, err := c.Stat(t.Context(), &weirpb.StatRequest{
		Resource: &weirpb.Resource{Namespace: "x", Kind: "deploy"},
		To:       &weirpb.Resource{Name: "db"},
		Window:   window(2000, 2100),
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.GetRows()) != 1 {
		t.Fatalf("%d rows, want 1: %v", len(resp.GetRows()), resp)
	}
	st := resp.GetRows()[0].GetStats()
	if st.GetRequests() != 1000 || st.GetSuccesses() != 900 || st.GetFailures() != 100 || st.GetSuccess() != 0.9 || st.GetRps() != 10 {
		t.Errorf("counts: %v", st)
	}
	if st.GetStatus()["200"] != 900 || st.GetStatus()["500"] != 100 {
		t.Errorf("status: %v", st.GetStatus())
	}
	q := st.GetLatencyMs()
	if !near(q.GetP50(), 1) || !near(q.GetP99(), 4) || q.GetMax() != 4 || q.GetMean() != 2.2 {
		t.Errorf("latency: %v", q)
	}
	if st.GetTcpReadBytesRate() != 1000 || st.GetTcpWriteBytesRate() != 10000 {
		t.Errorf("byte rates: %v", st)
	}
	cov := resp.GetCoverage()
	if cov.GetAggregatorsAnswered() != 2 || cov.GetAggregatorsTotal() != 2 || cov.GetQuantileError() != event.HistogramError {
		t.Errorf("coverage: %v", cov)
	}
	asked := b.Asked()
	if len(asked) != 1 || asked[0].Request.Since != 2000 || asked[0].Request.Until != 2100 ||
		asked[0].Request.Resource != (query.Selector{Namespace: "x", Kind: "deploy"}) || *asked[0].Request.To != (query.Selector{Name: "db"}) {
		t.Errorf("asked %+v", asked)
	}
}

func near(got, want float64) bool {
	return got >= want*(1-event.HistogramError) && got <= want*(1+event.HistogramError)
}

// A window that begins before statistics do gives rates over what there is.
func TestStatCutsWindowToWhatIsKnown(t *testing.T) {
	b := &apitest.Backend{}
	b.Answer(query.MethodStat, query.Reply{Oldest: 2090, Rows: []query.Row{{Resource: web("x"), Stats: stats(100, 100, 1000)}}})
	_, c := start(t, b)
	resp, err := c.Stat(t.Context(), &weirpb.StatRequest{Window: window(2000, 2100)})
	if err != nil {
		t.Fatal(err)
	}
	if got := resp.GetRows()[0].GetStats().GetRps(); got != 10 {
		t.Errorf("rps %v, want 10", got)
	}
	if got := resp.GetCoverage().GetSince().GetSeconds(); got != 2090 {
		t.Errorf("covered since %d, want 2090", got)
	}
}

func TestDefaultWindowIsTheLastMinute(t *testing.T) {
	b := &apitest.Backend{}
	b.Answer(query.MethodStat, query.Reply{})
	_, c := start(t, b)
	before := time.Now().Unix()
	if _, err := c.Stat(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	after := time.Now().Unix()
	r := b.Asked()[0].Request
	if r.Until-r.Since != 60 || r.Until > after || r.Until < before-3 {
		t.Errorf("asked for [%d, %d) between %d and %d", r.Since, r.Until, before, after)
	}
}

func TestSeriesHasEveryPointOnAGrid(t *testing.T) {
	b := &apitest.Backend{}
	b.AnswerFunc(query.MethodSeries, func(q query.Request) query.Reply {
		return query.Reply{Series: []query.Series{{Resource: web("x"), Points: []query.Stats{stats(50, 40, 2000)}}}}
	})
	_, c := start(t, b)
	resp, err := c.Series(t.Context(), &weirpb.SeriesRequest{Window: window(2003, 2027), Step: durationpb.New(10 * time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	r := b.Asked()[0].Request
	if r.Since != 2000 || r.Until != 2030 || r.Step != 10 {
		t.Errorf("asked for [%d, %d) by %d", r.Since, r.Until, r.Step)
	}
	points := resp.GetRows()[0].GetPoints()
	if len(points) != 3 {
		t.Fatalf("%d points, want 3", len(points))
	}
	if p := points[0]; p.GetRps() != 5 || p.GetFailures() != 10 || p.GetSuccess() != 0.8 || !near(p.GetLatencyMsP99(), 2) || p.GetStart().GetSeconds() != 2000 {
		t.Errorf("first point %v", p)
	}
	if p := points[2]; p.GetRequests() != 0 || p.GetStart().GetSeconds() != 2020 {
		t.Errorf("last point %v", p)
	}
}

func TestEdgesRoutesWorkloads(t *testing.T) {
	b := &apitest.Backend{}
	db := query.Selector{Cluster: "c", Namespace: "x", Kind: "sts", Name: "db"}
	b.Answer(query.MethodEdges, query.Reply{Edges: []query.Edge{
		{Source: web("x"), Destination: db, Security: "none", Reason: "not_meshed", SeenBy: "client", Stats: stats(60, 60, 1000)},
	}})
	b.Answer(query.MethodRoutes, query.Reply{Routes: []query.Route{
		{Resource: web("x"), Direction: query.Inbound, Route: "GET /b", Authority: "web:80", Protocol: "http/1", Stats: stats(60, 60, 1000)},
		{Resource: web("x"), Direction: query.Inbound, Route: "GET /a", Authority: "web:80", Protocol: "http/1", Stats: stats(6, 6, 1000)},
	}})
	b.Answer(query.MethodWorkloads, query.Reply{Workloads: []query.Workload{
		{Resource: web("x"), FirstSeen: 100, LastSeen: 200, Pods: []query.Pod{{Name: "web-1", Node: "n", LastSeen: 200, Live: true, OpenConnections: 7}}},
	}})
	_, c := start(t, b)
	edges, err := c.Edges(t.Context(), &weirpb.EdgesRequest{Window: window(2000, 2060)})
	if err != nil {
		t.Fatal(err)
	}
	if e := edges.GetRows()[0]; e.GetDestination().GetName() != "db" || e.GetTlsReason() != "not_meshed" || e.GetStats().GetRps() != 1 || e.GetSeenBy() != "client" {
		t.Errorf("edge %v", e)
	}
	routes, err := c.Routes(t.Context(), &weirpb.RoutesRequest{Window: window(2000, 2060)})
	if err != nil {
		t.Fatal(err)
	}
	if r := routes.GetRows(); len(r) != 2 || r[0].GetRoute() != "GET /a" || r[1].GetStats().GetRequests() != 60 || r[0].GetDirection() != "inbound" {
		t.Errorf("routes %v", r)
	}
	workloads, err := c.Workloads(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if w := workloads.GetRows()[0]; w.GetLastSeen().GetSeconds() != 200 || !w.GetPods()[0].GetLive() || w.GetPods()[0].GetOpenConnections() != 7 {
		t.Errorf("workload %v", w)
	}
}

func TestInvalidRequestsNameTheField(t *testing.T) {
	_, c := start(t, &apitest.Backend{})
	f := func(field string, err error) {
		t.Helper()
		if status.Code(err) != codes.InvalidArgument || !strings.HasPrefix(status.Convert(err).Message(), field+":") {
			t.Errorf("got %v, want InvalidArgument that begins with %q", err, field+":")
		}
	}
	stat := func(r *weirpb.StatRequest) error { _, err := c.Stat(t.Context(), r); return err }
	res := func(r *weirpb.Resource) *weirpb.StatRequest { return &weirpb.StatRequest{Resource: r} }
	win := func(w *weirpb.Window) *weirpb.StatRequest { return &weirpb.StatRequest{Window: w} }

	f("resource.kind", stat(res(&weirpb.Resource{Kind: "deplyo"})))
	f("resource.name", stat(res(&weirpb.Resource{Name: "a*"})))
	f("resource.namespace", stat(res(&weirpb.Resource{Namespace: "a>b"})))
	f("resource.cluster", stat(res(&weirpb.Resource{Cluster: strings.Repeat("a", 254)})))
	f("resource.namespace", stat(res(&weirpb.Resource{Kind: "ns", Name: "a", Namespace: "b"})))
	f("to.name", stat(&weirpb.StatRequest{To: &weirpb.Resource{Name: "a b"}}))
	f("from.kind", stat(&weirpb.StatRequest{From: &weirpb.Resource{Kind: ","}}))
	f("from", stat(&weirpb.StatRequest{To: &weirpb.Resource{Name: "a"}, From: &weirpb.Resource{Name: "b"}}))
	f("window.length", stat(win(&weirpb.Window{Length: durationpb.New(time.Millisecond)})))
	f("window.length", stat(win(&weirpb.Window{Length: &durationpb.Duration{Seconds: 1, Nanos: -1}})))
	f("window", stat(win(&weirpb.Window{Length: durationpb.New(1e6 * time.Hour)})))
	f("window.until", stat(win(window(2000, 1000))))
	f("window.since", stat(win(&weirpb.Window{Since: timestamppb.New(time.Now().Add(time.Hour))})))
	f("window.since", stat(win(&weirpb.Window{Since: &timestamppb.Timestamp{Nanos: -1}})))

	series := func(r *weirpb.SeriesRequest) error { _, err := c.Series(t.Context(), r); return err }
	f("step", series(&weirpb.SeriesRequest{Step: durationpb.New(1500 * time.Millisecond)}))
	f("step", series(&weirpb.SeriesRequest{Step: durationpb.New(12 * time.Second), Window: window(10000, 10010)}))
	f("step", series(&weirpb.SeriesRequest{Step: durationpb.New(time.Second), Window: window(10000, 10000+api.MaxPoints+1)}))

	tap := func(r *weirpb.TapRequest) error {
		stream, err := c.Tap(t.Context(), r)
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	}
	f("status", tap(&weirpb.TapRequest{Status: "5x"}))
	f("direction", tap(&weirpb.TapRequest{Direction: "up"}))
	f("max_rps", tap(&weirpb.TapRequest{MaxRps: -1}))
	f("path", tap(&weirpb.TapRequest{Path: strings.Repeat("/", 5000)}))
	f("resource.kind", tap(&weirpb.TapRequest{Resource: &weirpb.Resource{Kind: "x"}}))
}

func TestNoAggregator(t *testing.T) {
	s, c := start(t, &apitest.Backend{})
	_, err := c.Stat(t.Context(), nil)
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "no aggregator answers") || !strings.Contains(err.Error(), apitest.ErrNobody.Error()) {
		t.Errorf("got %v", err)
	}
	code, _, body := get(t, s, "/api/v1/stat")
	if code != http.StatusServiceUnavailable || !strings.Contains(body, "no aggregator answers") {
		t.Errorf("HTTP %d %s", code, body)
	}
}

func TestRefusalOfAnAggregatorIsTheAnswer(t *testing.T) {
	b := &apitest.Backend{}
	b.Answer(query.MethodStat, query.Reply{Member: "a", Error: "too far back"})
	_, c := start(t, b)
	_, err := c.Stat(t.Context(), nil)
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "too far back") {
		t.Errorf("got %v", err)
	}
}

// While partitions change hands the question is put again.
func TestAsksAgainWhilePartitionsChangeHands(t *testing.T) {
	b := &apitest.Backend{}
	var asked int
	b.AnswerFunc(query.MethodStat, func(query.Request) query.Reply {
		asked++ // one question at a time
		r := query.Reply{Member: "a", Members: 1, Total: 2, Partitions: []int{0}}
		if asked > 2 {
			r.Partitions = []int{0, 1}
		}
		return r
	})
	_, c := start(t, b)
	resp, err := c.Stat(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if asked != 3 || resp.GetCoverage().GetPartitionsMissing() != 0 || resp.GetCoverage().GetPartitionsTotal() != 2 {
		t.Errorf("asked %d times, coverage %v", asked, resp.GetCoverage())
	}
}

// One member is loading its history when the question is put first, so that all are
// asked about what it has. Its history is there by then: an answer about that window,
// which says that statistics reach back to the beginning, would be taken for all.
func TestHistoryLoadedMeanwhile(t *testing.T) {
	const oldest, later = 1_000_000, 1_000_600
	for name, test := range map[string]struct {
		// loading tells whether the member is at its n-th question.
		loading func(n int) bool
		since   int64
	}{
		"in a moment":           {func(n int) bool { return n == 1 }, oldest},
		"not before we gave up": {func(int) bool { return true }, later},
		"another one each time": {func(n int) bool { return n%2 == 1 }, later},
	} {
		t.Run(name, func(t *testing.T) {
			b := &apitest.Backend{}
			asked := 0
			member := func(id int, reaches func() int64) func(query.Request) query.Reply {
				return func(q query.Request) query.Reply {
					r := query.Reply{Member: fmt.Sprint("m", id), Members: 2, Total: 2, Partitions: []int{id}, Oldest: oldest, Resolution: 1, Reaches: reaches()}
					since := max(q.Since, r.Reaches)
					r.Windows = []query.Window{{Since: since, Until: q.Until}}
					r.Rows = []query.Row{{Resource: web("x"), Stats: query.Stats{Requests: uint64(q.Until - since)}}}
					return r
				}
			}
			b.AnswerFunc(query.MethodStat, member(0, func() int64 { return 0 }), member(1, func() int64 {
				if asked++; test.loading(asked) { // one question at a time
					return later
				}
				return 0
			}))
			_, c := start(t, b)
			resp, err := c.Stat(t.Context(), &weirpb.StatRequest{Window: &weirpb.Window{
				Since: &timestamppb.Timestamp{Seconds: oldest}, Until: &timestamppb.Timestamp{Seconds: later + 100}}})
			if err != nil {
				t.Fatal(err)
			}
			cov, requests := resp.GetCoverage(), resp.GetRows()[0].GetStats().GetRequests()
			if cov.GetSince().GetSeconds() != test.since || cov.GetOldest().GetSeconds() != test.since || requests != 2*uint64(later+100-test.since) {
				t.Errorf("an answer from %d on, where statistics reach back to %d, with %d requests; want both to be %d, and %d requests",
					cov.GetSince().GetSeconds(), cov.GetOldest().GetSeconds(), requests, test.since, 2*(later+100-test.since))
			}
		})
	}
}

// While what an answer lacks is being loaded, the question is put again.
func TestWaitsForHistory(t *testing.T) {
	b := &apitest.Backend{}
	asked := 0
	b.AnswerFunc(query.MethodStat, func(q query.Request) query.Reply {
		asked++ // one question at a time
		r := query.Reply{Member: "a", Members: 1, Loading: asked < 3}
		if r.Loading {
			r.Reaches = q.Since + 7
		}
		r.Windows = []query.Window{{Since: max(q.Since, r.Reaches), Until: q.Until}}
		return r
	})
	_, c := start(t, b)
	resp, err := c.Stat(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if length := resp.GetCoverage().GetUntil().AsTime().Sub(resp.GetCoverage().GetSince().AsTime()); asked != 3 || length != time.Minute {
		t.Errorf("asked %d times, an answer about %v", asked, length)
	}
}

func TestPartitionsBehindAreSaid(t *testing.T) {
	b := &apitest.Backend{}
	b.Answer(query.MethodStat, query.Reply{Member: "a", Total: 3, Partitions: []int{1}, Behind: []int{1}}, query.Reply{Member: "b", Total: 3, Partitions: []int{0, 2}, Behind: []int{0}})
	_, c := start(t, b)
	resp, err := c.Stat(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := resp.GetCoverage().GetPartitionsBehind(); got != 2 {
		t.Errorf("%d behind, want 2", got)
	}
}

func TestPartitionsMissingAreSaid(t *testing.T) {
	b := &apitest.Backend{}
	b.Answer(query.MethodStat, query.Reply{Total: 16, Partitions: []int{1, 2, 3}})
	_, c := start(t, b)
	resp, err := c.Stat(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := resp.GetCoverage().GetPartitionsMissing(); got != 13 {
		t.Errorf("%d missing, want 13", got)
	}
}

func get(t *testing.T, s *api.Server, path string) (code int, contentType, body string) {
	t.Helper()
	resp, err := http.Get("http://" + s.HTTPAddr() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Content-Type"), string(data)
}

func TestHTTP(t *testing.T) {
	b := &apitest.Backend{}
	b.Answer(query.MethodStat, query.Reply{Rows: []query.Row{{Resource: web("x"), Stats: stats(60, 60, 1000)}}})
	s, _ := start(t, b)

	code, contentType, body := get(t, s, "/api/v1/stat?resource.namespace=x&resource.kind=deploy&window.length=30s&from.name=bot")
	if code != http.StatusOK || contentType != "application/json" {
		t.Fatalf("%d %s: %s", code, contentType, body)
	}
	var got struct {
		Rows []struct {
			Resource struct{ Namespace, Name string }
			Stats    struct {
				Requests  string
				RPS       float64
				LatencyMS struct{ P50 float64 } `json:"latency_ms"`
			}
			PodsLive *int `json:"pods_live"`
		}
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	if r := got.Rows[0]; r.Resource.Name != "web" || r.Stats.Requests != "60" || r.Stats.RPS != 2 || r.PodsLive == nil || !near(r.Stats.LatencyMS.P50, 1) {
		t.Errorf("got %s", body)
	}
	asked := b.Asked()[0].Request
	if asked.Resource != (query.Selector{Namespace: "x", Kind: "deploy"}) || asked.From.Name != "bot" || asked.Until-asked.Since != 30 {
		t.Errorf("asked %+v", asked)
	}

	if code, _, body := get(t, s, "/api/v1/stat?resource.kind=nonsense"); code != http.StatusBadRequest || !strings.Contains(body, "resource.kind") {
		t.Errorf("%d %s", code, body)
	}
	if code, _, body := get(t, s, "/api/v1/version"); code != http.StatusOK || !strings.Contains(body, `"go_version":"go1.26"`) {
		t.Errorf("%d %s", code, body)
	}
	if code, _, body := get(t, s, "/api/v1/nothing"); code != http.StatusNotFound {
		t.Errorf("%d %s", code, body)
	}
	code, _, body = get(t, s, "/api/v1/openapi.json")
	var doc struct {
		Paths map[string]any `json:"paths"`
	}
	if err := json.Unmarshal([]byte(body), &doc); err != nil || code != http.StatusOK || doc.Paths["/api/v1/tap"] == nil {
		t.Errorf("%d %v: %.80s", code, err, body)
	}
	if code, _, body := get(t, s, "/live"); code != http.StatusOK {
		t.Errorf("%d %s", code, body)
	}
	if code, _, body := get(t, s, "/ready"); code != http.StatusOK {
		t.Errorf("%d %s", code, body)
	}
	if code, _, body := get(t, s, "/metrics"); code != http.StatusOK || !strings.Contains(body, `weir_api_requests_total{method="/weir.v1.Weir/Stat",code="OK"} 1`) {
		t.Errorf("%d %s", code, body)
	}
}

func TestReadySaysWhyNot(t *testing.T) {
	s, err := api.Start(api.Options{
		Backend: &apitest.Backend{}, GRPCAddr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0",
		Ready: func() error { return io.ErrUnexpectedEOF },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		http.DefaultClient.CloseIdleConnections()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	if code, _, body := get(t, s, "/ready"); code != http.StatusServiceUnavailable || !strings.Contains(body, "unexpected EOF") {
		t.Errorf("%d %s", code, body)
	}
}

func TestAddressInUseIsNamed(t *testing.T) {
	s, _ := start(t, &apitest.Backend{})
	f := func(o api.Options) {
		t.Helper()
		o.Backend = &apitest.Backend{}
		other, err := api.Start(o)
		if err == nil {
			_ = other.Close()
			t.Fatal("two servers on one address")
		}
		if !strings.Contains(err.Error(), "127.0.0.1:") || !strings.Contains(err.Error(), "in use") {
			t.Error(err)
		}
	}
	f(api.Options{GRPCAddr: s.GRPCAddr(), HTTPAddr: "127.0.0.1:0"})
	f(api.Options{GRPCAddr: "127.0.0.1:0", HTTPAddr: s.HTTPAddr()})
}

func TestHealthAndReflection(t *testing.T) {
	s, _ := start(t, &apitest.Backend{})
	conn, err := grpc.NewClient(s.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	h, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: "weir.v1.Weir"})
	if err != nil || h.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health %v, %v", h, err)
	}
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, svc := range resp.GetListServicesResponse().GetService() {
		names = append(names, svc.GetName())
	}
	if !strings.Contains(strings.Join(names, " "), "weir.v1.Weir") {
		t.Errorf("reflection lists %v", names)
	}
	if err := stream.CloseSend(); err != nil {
		t.Error(err)
	}
	for err == nil {
		_, err = stream.Recv()
	}
}

func TestDialErrors(t *testing.T) {
	f := func(addr string, wants ...string) {
		t.Helper()
		_, err := client.Dial(t.Context(), addr)
		if err == nil {
			t.Fatal("no error")
		}
		for _, want := range wants {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q lacks %q", err, want)
			}
		}
	}
	f("127.0.0.1:1", "127.0.0.1:1", "connection refused", "weir demo", "weir api", "--api-addr", "WEIR_API_ADDR")
	f("nonsense", "nonsense", "host:port", "--api-addr")
	s, _ := start(t, &apitest.Backend{})
	f(s.HTTPAddr(), s.HTTPAddr(), "does not speak gRPC", "8085", "--api-addr")
}

func TestRequestsAreBounded(t *testing.T) {
	_, c := start(t, &apitest.Backend{})
	_, err := c.Stat(t.Context(), &weirpb.StatRequest{Resource: &weirpb.Resource{Name: strings.Repeat("a", api.MaxMessageBytes)}})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("got %v", err)
	}
	if !proto.Equal(c.Server(), &weirpb.VersionResponse{Version: "v1.2.3", Commit: "abc", GoVersion: "go1.26"}) {
		t.Errorf("version %v", c.Server())
	}
}
