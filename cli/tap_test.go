package cli

import (
	"context"
	"encoding/json"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/api/apitest"
	"github.com/weirmesh/weir/event"
)

var (
	webWorkload    = event.Workload{Cluster: cluster, Namespace: "emojivoto", Kind: "deploy", Name: "web"}
	votingWorkload = event.Workload{Cluster: cluster, Namespace: "emojivoto", Kind: "deploy", Name: "voting"}
)

// tapped are events of web's proxy of all sorts.
func tapped() []event.Event {
	base := event.Event{
		Direction: event.Inbound, Protocol: event.HTTP1, Status: 200, GRPCStatus: event.NoGRPCStatus,
		Method: "GET", Authority: "web.emojivoto:80", Path: "/api/list", SecurityReason: "no_identity",
		Start: now.UnixMicro(), Latency: 1234, Duration: 2345, RequestBytes: 120, ResponseBytes: 4567,
		Connection: 0xc0ffee, Stream: 7, Detection: event.DetectBytes, DetectionTime: 12,
		Peer: event.Peer{Workload: event.Workload{Cluster: cluster, Namespace: "emojivoto", Kind: "deploy", Name: "vote-bot"}, Pod: "vote-bot-0",
			Addr: netip.MustParseAddrPort("10.1.0.7:43210")},
	}
	call := base
	call.Direction, call.Protocol, call.GRPCStatus = event.Outbound, event.GRPC, 14
	call.Method, call.Authority, call.Path = "POST", "voting.emojivoto:8080", "/emojivoto.v1.VotingService/VoteDoughnut"
	call.Security, call.SecurityReason = event.Mutual, ""
	call.Peer = event.Peer{Workload: votingWorkload, Pod: "voting-0", Addr: netip.MustParseAddrPort("10.1.0.9:4143"), Identity: "spiffe://c/ns/emojivoto/sa/voting"}
	call.TraceID[15] = 1
	failed := base
	failed.Status, failed.ResponseBytes, failed.Error, failed.Fate, failed.Attempt = 0, 0, event.ErrConnectRefused, event.Retried, 1
	hostile := base
	hostile.Path = "/\x1b[2Jgone\nend id=fake"
	tcp := event.Event{
		Kind: event.Progress, Direction: event.Inbound, Protocol: event.TCP, GRPCStatus: event.NoGRPCStatus, Start: now.UnixMicro(),
		Latency: 1, Duration: 10_500_000, RequestBytes: 1, ResponseBytes: 2, Connection: 1, Stream: 1, Security: event.Passthrough,
	}
	return []event.Event{base, call, failed, hostile, tcp}
}

// tap runs a tap until it has shown lines, then interrupts it.
func tap(t *testing.T, b *apitest.Backend, lines int, publish func(), args ...string) (out, errOut string, err error) {
	t.Helper()
	c := newCommand(append([]string{"tap", "--api-addr", start(t, b)}, args...)...)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- c.root.ExecuteContext(ctx) }()
	wctx, wcancel := context.WithTimeout(ctx, 30*time.Second)
	defer wcancel()
	if _, err := b.WaitTaps(wctx, 1); err != nil {
		t.Fatal(err)
	}
	publish()
	for strings.Count(c.out.String()+c.errOut.String(), "\n") < lines {
		select {
		case err := <-ended:
			return c.out.String(), c.errOut.String(), err
		case <-time.After(5 * time.Millisecond):
		}
	}
	cancel()
	return c.out.String(), c.errOut.String(), <-ended
}

func publishAll(b *apitest.Backend) func() {
	return func() {
		h := event.Header{Source: event.Source{Workload: webWorkload, Pod: "web-0"}, Instance: 0xabcdef, Sequence: 42}
		b.Publish(h, tapped()...)
	}
}

func TestTap(t *testing.T) {
	f := func(name string, args ...string) {
		t.Helper()
		b := emojivoto()
		out, errOut, err := tap(t, b, 5, publishAll(b), args...)
		golden(t, name, out, errOut, err)
	}
	f("tap", "deploy/web", "-n", "emojivoto")
	f("tap_wide", "deploy", "web", "-n", "emojivoto", "-o", "wide")
	f("tap_json", "deploy/web", "-n", "emojivoto", "-o", "json")
	f("tap_jsonpath", "deploy/web", "-n", "emojivoto", "-o", `jsonpath={.status} {.requestInitEvent.path} {.source.metadata.deploy} {.duration_us}{range .fate[*]} {@}{end} {.nothing}`)
}

func TestTapFiltersAndLimit(t *testing.T) {
	b := emojivoto()
	out, errOut, err := tap(t, b, 100, publishAll(b), "deploy/web", "-n", "emojivoto", "--direction", "out", "--to", "deploy/voting", "--method", "POST", "--limit", "1")
	if err != nil || errOut != "" || strings.Count(out, "\n") != 1 || !strings.Contains(out, "VoteDoughnut") {
		t.Errorf("%q, %q, %v", out, errOut, err)
	}
}

func TestTapSaysWhatItSkips(t *testing.T) {
	b := emojivoto()
	out, errOut, err := tap(t, b, 2, publishAll(b), "deploy/web", "-n", "emojivoto", "--max-rps", "0.001")
	if err != nil || strings.Count(out, "\n") != 1 || !regexp.MustCompile(`^4 skipped: more came \([0-9.]+ a second\) than --max-rps lets through.\n$`).MatchString(errOut) {
		t.Errorf("%q, %q, %v", out, errOut, err)
	}
}

func TestTapOfWhatWasNeverSeen(t *testing.T) {
	f := func(want string, args ...string) {
		t.Helper()
		out, errOut, err := tap(t, emojivoto(), 1, func() {}, args...)
		if err != nil || out != "" || errOut != want+"\n" {
			t.Errorf("%q, %q, %v", out, errOut, err)
		}
	}
	f("No proxy of deploy/wb in namespace emojivoto has reported yet. Did you mean deploy/web? Waiting.", "deploy/wb", "-n", "emojivoto")
	f("No proxy of deploy/web in namespace default has reported yet. Namespace emojivoto has some: use -n emojivoto, or -A for all. Waiting.", "deploy/web")
}

// A reading of the past that shows nothing says why.
func TestTapOfAnEmptyPast(t *testing.T) {
	b := emojivoto()
	b.Publish(event.Header{Source: event.Source{Workload: webWorkload, Pod: "web-0"}, Instance: 1, Sequence: 1, Sent: now.UnixMicro()}, tapped()...)
	addr := start(t, b)
	f := func(want string, args ...string) {
		t.Helper()
		out, errOut, err := weir(t, append([]string{"tap", "--api-addr", addr, "-n", "emojivoto"}, args...)...)
		_, said, _ := strings.Cut(errOut, "is not kept.\n")
		if err != nil || out != "" || said != want+"\n" {
			t.Errorf("%q, %q, %v; want %q", out, errOut, err, want)
		}
	}
	times := []string{"--since", "2026-03-14T12:04:00Z", "--until", "2026-03-14T12:05:30Z"}
	f("None of the 5 events between 12:04:00 and 12:05:30 match.", append(times, "deploy/web", "--status", "404")...)
	f("No events for deploy/voting in namespace emojivoto between 12:04:00 and 12:05:30.", append(times, "deploy/voting")...)
	f("No events for deploy/wb in namespace emojivoto between 12:04:00 and 12:05:30. No proxy of deploy/wb in namespace emojivoto has reported yet. Did you mean deploy/web?", append(times, "deploy/wb")...)
}

// A hostile path must not forge output.
func TestTapJSONLinesAreOneLineEach(t *testing.T) {
	b := emojivoto()
	out, _, err := tap(t, b, 5, publishAll(b), "deploy/web", "-n", "emojivoto", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out) {
		var o struct {
			Source struct {
				Metadata map[string]string `json:"metadata"`
			} `json:"source"`
			ProxyDirection string `json:"proxyDirection"`
		}
		if err := json.Unmarshal([]byte(line), &o); err != nil || o.ProxyDirection == "" || o.Source.Metadata == nil {
			t.Errorf("%v: %s", err, line)
		}
	}
}

func TestTapAPIGoesAway(t *testing.T) {
	b := emojivoto()
	c := newCommand("tap", "deploy/web", "-n", "emojivoto", "--status", "nonsense", "--api-addr", start(t, b))
	err := c.root.ExecuteContext(t.Context())
	if err == nil || !strings.Contains(err.Error(), "status") || !strings.Contains(err.Error(), "nonsense") {
		t.Error(err)
	}
}
