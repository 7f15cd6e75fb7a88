package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// TestDashboardShowsTheSameNumbers drives the dashboard in a real browser.
func TestDashboardShowsTheSameNumbers(t *testing.T) {
	m := startDemo(t)
	if strings.Contains(frontPage(m), "not in this binary") {
		t.Fatal("the dashboard was not built: run `make dashboard` first")
	}
	s := load(t, m.botOut(), 3_000, 16, 9)
	m.settle(s)
	ctx := browser(t)
	do(t, ctx,
		chromedp.EmulateViewport(1280, 900), scheme("light"),
		chromedp.Navigate("http://"+m.dashboard+"/"),
		chromedp.Click(chromedp.CSS(".segments button:last-child")))
	want := fmt.Sprintf("emoji=%d vote-bot=%d voting=%d web=%d", s.emoji, s.requests, s.voting, s.requests)
	eventually(t, 30*time.Second, func() string {
		got := evaluate[string](t, ctx, `[...document.querySelectorAll("tr[data-workload]")].map((r) =>
			r.dataset.workload.split("/")[1] + "=" + r.querySelector("[data-requests]").dataset.requests).sort().join(" ")`)
		if got != want {
			return fmt.Sprintf("the overview shows %q; want %q", got, want)
		}
		return ""
	})
	success := evaluate[string](t, ctx, `document.querySelector('tr[data-workload="deploy/voting"] .success')?.textContent ?? ""`)
	if want := fmt.Sprintf("%.2f%%", 100*(1-float64(s.votingFailed)/float64(s.voting))); strings.TrimSpace(success) != want {
		t.Errorf("voting's success is shown as %q; want %s", success, want)
	}
	shot(t, ctx, "overview-desktop-light")
	m.workloadPage(ctx, s)
	m.meshPage(ctx)
	m.otherLooks(ctx)
}

// meshPage opens the page of the mesh itself, by its link: outside of Kubernetes it
// counts proxies and aggregators, and says that no controller answers.
func (m *mesh) meshPage(ctx context.Context) {
	t := m.t
	t.Helper()
	do(t, ctx, chromedp.Click(chromedp.CSS(`.top nav a[href="#/mesh"]`)), chromedp.WaitVisible(chromedp.CSS(".tiles")))
	eventually(t, 30*time.Second, func() string {
		got := evaluate[string](t, ctx, `[...document.querySelectorAll(".tiles > div")].map((d) => d.textContent).join("; ")`)
		if !strings.Contains(got, "Data-plane proxies4report") || !strings.Contains(got, "Aggregators1of 1 answer") || strings.Contains(got, "Pods meshed") {
			return fmt.Sprintf("the mesh's page shows %q", got)
		}
		return ""
	})
	if got := evaluate[string](t, ctx, `document.querySelector(".empty")?.textContent ?? ""`); !strings.Contains(got, "No controller answers") {
		t.Errorf("without Kubernetes the mesh's page says %q", got)
	}
	if problem := evaluate[string](t, ctx, `document.querySelector("[role=alert]")?.textContent ?? ""`); problem != "" {
		t.Errorf("the mesh's page complains: %s", problem)
	}
	shot(t, ctx, "mesh-desktop-light")
}

// workloadPage opens voting's page and watches its requests live.
func (m *mesh) workloadPage(ctx context.Context, s sent) {
	t := m.t
	t.Helper()
	do(t, ctx, chromedp.Click(chromedp.CSS(`tr[data-workload="deploy/voting"] a.name`)), chromedp.WaitVisible(chromedp.CSS(".tiles")))
	eventually(t, 30*time.Second, func() string {
		got := evaluate[string](t, ctx, `document.querySelector(".tiles [data-requests]")?.dataset.requests ?? ""`)
		if want := fmt.Sprint(s.voting); got != want {
			return fmt.Sprintf("voting's page shows %q requests; want %s", got, want)
		}
		return ""
	})
	eventually(t, 30*time.Second, func() string {
		load(t, m.botOut(), 40, 2, 10)
		time.Sleep(500 * time.Millisecond)
		if evaluate[int](t, ctx, `document.querySelectorAll(".stream tbody tr").length`) == 0 {
			return "the live tap shows nothing"
		}
		return ""
	})
	shot(t, ctx, "workload-desktop-light")
}

// otherLooks keeps pictures of all pages on a phone and in the dark, and
// checks that none is wider than its screen.
func (m *mesh) otherLooks(ctx context.Context) {
	t := m.t
	t.Helper()
	for _, look := range []struct {
		name, scheme  string
		width, height int64
	}{
		{"desktop-dark", "dark", 1280, 900},
		{"phone-light", "light", 390, 844},
		{"phone-dark", "dark", 390, 844},
	} {
		for page, at := range map[string]struct{ hash, shows string }{
			"overview": {"#/", "table"}, "workload": {"#/local/emojivoto/deploy/voting", "table"}, "mesh": {"#/mesh", ".tiles"},
		} {
			do(t, ctx,
				chromedp.EmulateViewport(look.width, look.height), scheme(look.scheme),
				chromedp.Navigate("about:blank"),
				chromedp.Navigate("http://"+m.dashboard+"/"+at.hash),
				chromedp.WaitVisible(chromedp.CSS(at.shows)),
				chromedp.Sleep(1500*time.Millisecond)) // charts take their width
			if evaluate[bool](t, ctx, `document.documentElement.scrollWidth > innerWidth`) {
				t.Errorf("%s, %s: the page is wider than its screen", page, look.name)
			}
			shot(t, ctx, page+"-"+look.name)
		}
	}
}
