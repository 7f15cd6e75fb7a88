package cli

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"
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
	v := &topView{table: table, title: "weir top", sort: "count", height: 24}
	send := func(msgs ...tea.Msg) {
		for _, m := range msgs {
			v.Update(m)
		}
	}
	send(tea.WindowSizeMsg{Width: 60, Height: 5}, redrawMsg{})
	lines := func() []string { return strings.Split(strings.TrimSpace(v.View()), "\n") }
	if got := lines(); len(got) != 5 || !strings.Contains(got[2], "/b") || got[4] != "… 2 more" {
		t.Errorf("%q", got)
	}
	for _, line := range lines() {
		if len([]rune(line)) > 60 {
			t.Errorf("%q is too long", line)
		}
	}
	send(tea.KeyMsg{Type: tea.KeyDown}, tea.KeyMsg{Type: tea.KeyDown}, tea.KeyMsg{Type: tea.KeyDown})
	if got := lines(); len(got) != 4 || !strings.Contains(got[3], "/d") {
		t.Errorf("%q", got)
	}
	send(tea.KeyMsg{Type: tea.KeyUp}, tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("p")}, tea.KeyMsg{Type: tea.KeyHome})
	if got := lines(); !strings.Contains(got[0], "by path") || !strings.Contains(got[2], "/a") {
		t.Errorf("%q", got)
	}
	send(tea.KeyMsg{Type: tea.KeySpace, Runes: []rune(" ")})
	table.add(tapEventOf("/0"))
	send(redrawMsg{})
	if got := lines(); !strings.Contains(got[0], "paused") || strings.Contains(got[2], "/0") {
		t.Errorf("%q", got)
	}
	if _, cmd := v.Update(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("q")}); cmd == nil {
		t.Error("q does not quit")
	}
}

// The program as a whole: it draws, takes a key, and leaves no goroutine.
func TestTopLive(t *testing.T) {
	table := newTopTable(nil, false, false)
	table.add(tapEventOf("/shown"))
	in, keys := io.Pipe()
	var out buffer
	program := tea.NewProgram(&topView{table: table, sort: "count", height: 24}, tea.WithInput(in), tea.WithOutput(&out), tea.WithContext(t.Context()))
	ended := make(chan error, 1)
	go func() {
		_, err := program.Run()
		ended <- err
	}()
	for !strings.Contains(out.String(), "/shown") {
		select {
		case err := <-ended:
			t.Fatalf("%v after %q", err, out.String())
		case <-time.After(5 * time.Millisecond):
		}
	}
	if _, err := keys.Write([]byte("q")); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := keys.Close(); err != nil {
		t.Error(err)
	}
	if bytes.Contains([]byte(out.String()), []byte("\x07")) {
		t.Error("it rings")
	}
}

func tapEventOf(path string) *weirpb.TapEvent {
	return &weirpb.TapEvent{Kind: "end", ProxyDirection: "inbound", Protocol: "http/1", Method: "GET", Path: path, Status: 200, LatencyUs: 5,
		Source: &weirpb.Endpoint{Pod: "bot-0"}, Destination: &weirpb.Endpoint{Workload: &weirpb.Resource{Kind: "deploy", Name: "web"}}}
}
