package cli

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/api"
	"github.com/weirmesh/weir/api/apitest"
	"github.com/weirmesh/weir/event"
)

// startAt starts an API at an address.
func startAt(t *testing.T, b *apitest.Backend, addr string) *api.Server {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		s, err := api.Start(api.Options{Backend: b, GRPCAddr: addr, HTTPAddr: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler)})
		if err == nil {
			t.Cleanup(func() { _ = s.Close() }) // most have been closed
			return s
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// restarted runs a command through two ends of its API, with events before,
// between and after, until what it says has all of want or it ends.
func restarted(t *testing.T, b *apitest.Backend, between func(), want []string, args ...string) (out, errOut string, err error) {
	t.Helper()
	s := startAt(t, b, "127.0.0.1:0")
	addr := s.GRPCAddr()
	c := newCommand(append(args, "-n", "emojivoto", "--api-addr", addr)...)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- c.root.ExecuteContext(ctx) }()
	sequence := uint64(0)
	publish := func() {
		sequence++
		events := tapped()[:2]
		for i := range events {
			events[i].Start = now.UnixMicro()
			events[i].Path = fmt.Sprintf("/%d/%d", sequence, i)
		}
		b.Publish(event.Header{Source: event.Source{Workload: webWorkload, Pod: "web-0"}, Instance: 1, Sequence: sequence}, events...)
	}
	for range 2 {
		if _, err := b.WaitTaps(ctx, 1); err != nil {
			t.Fatal(err)
		}
		publish()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		publish()
		between()
		publish()
		s = startAt(t, b, addr)
	}
	if _, err := b.WaitTaps(ctx, 1); err != nil {
		t.Fatal(err)
	}
	publish()
	for {
		said := c.out.String() + c.errOut.String()
		if want != nil && !slices.ContainsFunc(want, func(s string) bool { return !strings.Contains(said, s) }) {
			cancel()
		}
		select {
		case err := <-ended:
			return c.out.String(), c.errOut.String(), err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// A tap goes on where it was when its API is restarted: nothing comes twice, and
// nothing is left out.
func TestTapOutlivesTheAPI(t *testing.T) {
	want := ""
	for i := range 7 {
		want += fmt.Sprintf("/%d/0\n/%d/1\n", i+1, i+1)
	}
	for _, args := range [][]string{nil, {"--since", "2026-03-14T12:00:00Z", "-f"}, {"--limit", "14"}} {
		args = append([]string{"tap", "deploy/web", "-o", "jsonpath={.requestInitEvent.path}"}, args...)
		out, errOut, err := restarted(t, emojivoto(), func() {}, []string{"/7/1"}, args...)
		if err != nil || out != want {
			t.Errorf("%q: %q, %v", args, out, err)
		}
		if strings.Count(errOut, "Lost the Weir API at 127.0.0.1:") != 2 || strings.Count(errOut, "going on from where the tap was.") != 2 || strings.Contains(errOut, "Gap") {
			t.Errorf("%q: %q", args, errOut)
		}
	}
}

// What the stream has no longer when the API is back is named.
func TestTapOutlivesTheAPIWithAGap(t *testing.T) {
	b := emojivoto()
	kept := 1
	all := func() {
		b.Discard(kept + 1)
		kept = 2
	}
	_, errOut, err := restarted(t, b, all, []string{"/7/1"}, "tap", "deploy/web", "-o", "jsonpath={.requestInitEvent.path}")
	if err != nil || strings.Count(errOut, "Gap: what came between ") != 2 {
		t.Errorf("%q, %v", errOut, err)
	}
}

// So does what counts.
func TestTopOutlivesTheAPI(t *testing.T) {
	out, errOut, err := restarted(t, emojivoto(), func() {}, nil, "top", "deploy/web", "-o", "json", "--for", "8s")
	if err != nil || strings.Count(out, `"count": 1,`) != 14 || strings.Count(errOut, "The API is back") != 2 {
		t.Errorf("%q, %q, %v", out, errOut, err)
	}
}
