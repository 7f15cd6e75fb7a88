package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/api/apitest"
	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/event"
)

// publishTop is some traffic of web as its proxy and, twice as it were, voting's
// reports it, stored at sent, µs since 1970 (0: now).
func publishTop(b *apitest.Backend, sent int64) {
	events := tapped()
	slow := events[0]
	slow.Latency, slow.Status = 1_250_000, 503
	call := events[1]
	call.Peer.Meshed = true
	served := call
	served.Direction, served.GRPCStatus = event.Inbound, 0
	served.Peer = event.Peer{Workload: webWorkload, Meshed: true}
	b.Publish(event.Header{Source: event.Source{Workload: webWorkload, Pod: "web-0"}, Instance: 1, Sequence: 1, Sent: sent}, append(events, slow, call)...)
	b.Publish(event.Header{Source: event.Source{Workload: votingWorkload, Pod: "voting-0"}, Instance: 2, Sequence: 1, Sent: sent}, served)
}

func top(t *testing.T, args ...string) (out, errOut string, err error) {
	t.Helper()
	b := emojivoto()
	c := newCommand(append([]string{"top", "--api-addr", start(t, b), "--for", "2s"}, args...)...)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- c.root.ExecuteContext(ctx) }()
	if _, err := b.WaitTaps(ctx, 1); err != nil {
		t.Fatal(err)
	}
	publishTop(b, 0)
	err = <-ended
	return c.out.String(), c.errOut.String(), err
}

func TestTop(t *testing.T) {
	f := func(name string, args ...string) {
		t.Helper()
		out, errOut, err := top(t, args...)
		golden(t, name, out, errOut, err)
	}
	f("top", "deploy/web", "-n", "emojivoto", "-o", "table")
	f("top_namespace", "ns/emojivoto", "--hide-sources", "--routes", "--sort", "worst")
	f("top_routes_json", "deploy/web", "-n", "emojivoto", "-o", "json", "--routes", "--status", "5xx")
	f("top_json", "deploy/web", "-n", "emojivoto", "-o", "json", "--status", "5xx")
}

func TestTopTableIsBounded(t *testing.T) {
	table := newTopTable(nil, false, false)
	e := tapEventOf("/x")
	for i := range maxTopRows + 100 {
		e.Path = "/" + strings.Repeat("a", i%7) + string(rune('a'+i%26)) + time.Duration(i).String()
		table.add(e)
	}
	rows, _ := table.snapshot("count")
	if len(rows) != maxTopRows+1 || rows[0].path != otherName || rows[0].count != 100 {
		t.Errorf("%d rows, the first %+v", len(rows), rows[0])
	}
}

func TestTopView(t *testing.T) {
	table := newTopTable(nil, true, false)
	for _, path := range []string{"/a", "/b", "/b", "/c", "/d"} {
		table.add(tapEventOf(path))
	}
	v := &topView{table: table, title: "weir top", sort: "count", height: 5, width: 60}
	v.refresh(io.Discard)
	keys := func(bytes string) {
		t.Helper()
		for _, key := range keysOf(bytes) {
			if v.key(key) {
				t.Errorf("%q quits", key)
			}
		}
	}
	lines := func() []string { return strings.Split(strings.TrimSpace(v.View()), "\n") }
	if got := lines(); len(got) != 5 || !strings.Contains(got[2], "/b") || got[4] != "… 2 more" {
		t.Errorf("%q", got)
	}
	for _, line := range lines() {
		if len([]rune(line)) > 60 {
			t.Errorf("%q is too long", line)
		}
	}
	keys("\x1b[B\x1bOB\x1b[B")
	if got := lines(); len(got) != 4 || !strings.Contains(got[3], "/d") {
		t.Errorf("%q", got)
	}
	keys("\x1b[Ap\x1b[H\x1b[17~é")
	if got := lines(); !strings.Contains(got[0], "by path") || !strings.Contains(got[2], "/a") {
		t.Errorf("%q", got)
	}
	keys(" ")
	table.add(tapEventOf("/0"))
	v.refresh(io.Discard)
	if got := lines(); !strings.Contains(got[0], "paused") || strings.Contains(got[2], "/0") {
		t.Errorf("%q", got)
	}
	for _, bytes := range []string{"q", "\x03", "\x1b"} {
		if key := keysOf(bytes); len(key) != 1 || !v.key(key[0]) {
			t.Errorf("%q is %q, which does not quit", bytes, key)
		}
	}
}

// On a narrow terminal paths give way to the numbers.
func TestTopViewIsNarrow(t *testing.T) {
	table := newTopTable(nil, false, false)
	table.add(tapEventOf("/emojivoto.v1.EmojiService/FindByShortcode"))
	table.add(tapEventOf("/short"))
	v := &topView{table: table, title: "weir top", sort: "count", height: 10, width: 96}
	v.refresh(io.Discard)
	lines := strings.Split(strings.TrimSuffix(v.View(), "\n"), "\n")
	if len(lines) != 4 || !strings.HasSuffix(lines[1], "SUCCESS RATE") || !strings.Contains(lines[2]+lines[3], "…ce/FindByShortcode ") || !strings.HasSuffix(lines[2], "100.00%") || !strings.Contains(lines[2]+lines[3], "/short ") {
		t.Errorf("%q", lines)
	}
	v.width = 300
	if wide := v.View(); !strings.Contains(wide, "/emojivoto.v1.EmojiService/FindByShortcode") {
		t.Errorf("%q", wide)
	}
}

// The view as a whole: it draws, takes a key, puts the screen back, and leaves no
// goroutine. Nothing is asked of the terminal: an answer could come when nobody
// reads it any more, or never.
func TestTopLive(t *testing.T) {
	f := func(name string, in io.Reader, press func(), ended chan error, want string) {
		t.Helper()
		table := newTopTable(nil, false, false)
		table.add(tapEventOf("/shown"))
		var out buffer
		got := make(chan error, 1)
		go func() { got <- (&topView{table: table, sort: "count", height: 24}).run(t.Context(), in, &out, ended) }()
		for !strings.Contains(out.String(), "/shown") {
			select {
			case err := <-got:
				t.Fatalf("%s: %v after %q", name, err, out.String())
			case <-time.After(5 * time.Millisecond):
			}
		}
		press()
		if err := <-got; fmt.Sprint(err) != want {
			t.Errorf("%s: %v; want %s", name, err, want)
		}
		if s := out.String(); !strings.HasPrefix(s, screenBegin) || !strings.HasSuffix(s, screenEnd) || strings.ContainsAny(s, "\x07") || strings.Contains(s, "\x1b[6n") || strings.Contains(s, "\x1b]") {
			t.Errorf("%s: %q", name, s)
		}
	}
	in, keys := io.Pipe()
	ended := make(chan error, 1)
	f("a key", in, func() {
		ended <- nil // the end of the past is not the view's
		if _, err := keys.Write([]byte("q")); err != nil {
			t.Error(err)
		}
	}, ended, "<nil>")
	if err := keys.Close(); err != nil {
		t.Error(err)
	}
	broken := make(chan error, 1)
	f("the stream ends", strings.NewReader(""), func() { broken <- errors.New("cut off") }, broken, "cut off")
}

func tapEventOf(path string) *weirpb.TapEvent {
	return &weirpb.TapEvent{Kind: "end", ProxyDirection: "inbound", Protocol: "http/1", Method: "GET", Path: path, Status: 200, LatencyUs: 5,
		Source: &weirpb.Endpoint{Pod: "bot-0"}, Destination: &weirpb.Endpoint{Workload: &weirpb.Resource{Kind: "deploy", Name: "web"}}}
}
