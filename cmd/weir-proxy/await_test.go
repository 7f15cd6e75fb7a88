package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestAwait: it goes on asking while the proxy is not ready, and gives up in time.
func TestAwait(t *testing.T) {
	var asked atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/ready" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		if asked.Add(1) < 3 {
			http.Error(w, "waiting for a certificate", http.StatusServiceUnavailable)
		}
	}))
	defer s.Close()
	address := strings.TrimPrefix(s.URL, "http://")
	if code := await([]string{"--admin", address}); code != exitOK || asked.Load() != 3 {
		t.Errorf("exit code %d after %d questions", code, asked.Load())
	}
	asked.Store(-1 << 20)
	if code := await([]string{"--admin", address, "--timeout", "50ms"}); code != exitFailed {
		t.Errorf("a proxy that is never ready: exit code %d", code)
	}
	for _, args := range [][]string{{"--timeout", "soon"}, {"now"}, {"--nothing"}} {
		if code := await(args); code != exitUsage {
			t.Errorf("await %q: exit code %d", args, code)
		}
	}
}

func TestPause(t *testing.T) {
	began := time.Now()
	if code := pause([]string{"20ms"}); code != exitOK || time.Since(began) < 20*time.Millisecond {
		t.Errorf("exit code %d after %s", code, time.Since(began))
	}
	for _, args := range [][]string{nil, {"soon"}, {"-1s"}, {"1s", "2s"}} {
		if code := pause(args); code != exitUsage {
			t.Errorf("pause %q: exit code %d", args, code)
		}
	}
}
