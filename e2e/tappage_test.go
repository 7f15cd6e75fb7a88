package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// startDashboard runs a `weir dashboard` before an API, and returns its address.
func startDashboard(t *testing.T, a *apiProcess) string {
	t.Helper()
	listen := "127.0.0.1:" + strconv.Itoa(freePorts(t, 1))
	said := &syncBuffer{}
	cmd := exec.Command(filepath.Join(bin, "weir"), "dashboard", "--api", "http://"+a.http, "--listen", listen)
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // as it was told to
		if t.Failed() {
			t.Logf("weir dashboard said:\n%s", said)
		}
	})
	return listen
}

// TestTapPageOutlivesTheAPI: the API is killed and started again in the middle of a
// counted load. The dashboard's live tap goes on where it was: it has seen each
// request once, and says so.
func TestTapPageOutlivesTheAPI(t *testing.T) {
	m := startDemo(t)
	if strings.Contains(frontPage(m), "not in this binary") {
		t.Fatal("the dashboard was not built: run `make dashboard` first")
	}
	a := startAPI(t, m)
	a.awaitUp()
	at := startDashboard(t, a) // its port is free for certain, now that the API has taken its own
	ctx := browser(t)
	do(t, ctx, chromedp.Navigate("http://"+at+"/#/local/emojivoto/deploy/vote-bot"), chromedp.WaitVisible(chromedp.CSS(".tap")))
	seen := func() int {
		t.Helper()
		text := evaluate[string](t, ctx, `document.querySelector(".tap [role=status]").textContent`)
		n, err := strconv.Atoi(strings.ReplaceAll(strings.Fields(text)[0], ",", ""))
		if err != nil {
			t.Fatalf("the page shows %q", text)
		}
		return n
	}
	before := uint64(0)
	eventually(t, 30*time.Second, func() string {
		before += load(t, m.botOut(), 5, 1, 7).requests
		time.Sleep(300 * time.Millisecond)
		if seen() == 0 {
			return "the page's tap shows nothing"
		}
		return ""
	})
	time.Sleep(2 * time.Second)
	// The first requests may have come before the page listened.
	first := uint64(seen())
	if first > before {
		t.Fatalf("the page has seen %d requests of %d", first, before)
	}
	want := first
	for round := range 2 {
		loaded := make(chan sent, 1)
		shown := seen()
		go func() { loaded <- load(t, m.botOut(), 3000, 20, uint64(8+round)) }()
		eventually(t, time.Minute, func() string {
			if seen() < shown+100 {
				return "the page's tap does not show the load"
			}
			return ""
		})
		a.kill()
		eventually(t, 30*time.Second, func() string {
			if !strings.Contains(evaluate[string](t, ctx, `document.querySelector(".tap").textContent`), "trying again") {
				return "the page does not say that the API is away"
			}
			return ""
		})
		a.start()
		s := <-loaded
		want += s.requests
		eventually(t, time.Minute, func() string {
			if got := seen(); uint64(got) < want {
				return fmt.Sprintf("the page has seen %d requests of %d", got, want)
			}
			return ""
		})
	}
	time.Sleep(3 * time.Second) // what comes twice would show by now
	if got := seen(); uint64(got) != want {
		t.Errorf("the page has seen %d requests, %d were sent", got, want)
	}
	if text := evaluate[string](t, ctx, `document.querySelector(".tap .controls").textContent`); strings.Contains(text, "again") || strings.Contains(text, "Gap") || strings.Contains(text, "missing") {
		t.Errorf("the page says %q", text)
	}
}
