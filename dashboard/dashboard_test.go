package dashboard

import (
	"bufio"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/fstest"
)

func built() fs.FS {
	return fstest.MapFS{
		"index.html":      {Data: []byte("<title>Weir</title>")},
		"assets/app-1.js": {Data: []byte("1")},
	}
}

// start serves a dashboard over build before api, until the test ends.
func start(t *testing.T, build fs.FS, api http.Handler) *httptest.Server {
	t.Helper()
	backend := httptest.NewServer(api)
	t.Cleanup(backend.Close)
	u, err := url.Parse(backend.URL)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(handler(build, u, slog.New(slog.DiscardHandler)))
	t.Cleanup(s.Close)
	return s
}

func get(t *testing.T, url string) (*http.Response, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestServesBuild(t *testing.T) {
	s := start(t, built(), http.NotFoundHandler())
	f := func(path string, status int, cache, body string) {
		t.Helper()
		resp, got := get(t, s.URL+path)
		if resp.StatusCode != status || !strings.Contains(got, body) {
			t.Errorf("%s: %d %q; want %d with %q", path, resp.StatusCode, got, status, body)
		}
		if c := resp.Header.Get("Cache-Control"); !strings.Contains(c, cache) {
			t.Errorf("%s: Cache-Control %q; want %q", path, c, cache)
		}
		if resp.Header.Get("Content-Security-Policy") != policy {
			t.Errorf("%s: no content security policy", path)
		}
	}
	f("/", 200, "no-cache", "<title>Weir</title>")
	f("/assets/app-1.js", 200, "immutable", "1")
	f("/missing", 404, "", "not found")

	resp, err := http.Post(s.URL+"/", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d; want 405", resp.StatusCode)
	}
}

func TestWithoutBuildSaysHow(t *testing.T) {
	s := start(t, fstest.MapFS{".gitkeep": {}}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "from the API")
	}))
	resp, body := get(t, s.URL+"/")
	if resp.StatusCode != http.StatusNotImplemented || !strings.Contains(body, "make dashboard build") {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
	if _, body := get(t, s.URL+"/api/v1/version"); body != "from the API" {
		t.Errorf("the API behind it: %q", body)
	}
}

func TestStreamsAtOnce(t *testing.T) {
	next := make(chan struct{})
	s := start(t, built(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery != "resource.name=web" {
			t.Errorf("query %q", r.URL.RawQuery)
		}
		_, _ = io.WriteString(w, "one\n")
		w.(http.Flusher).Flush()
		<-next
		_, _ = io.WriteString(w, "two\n")
	}))
	resp, err := http.Get(s.URL + "/api/v1/tap?resource.name=web")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	if line, err := lines.ReadString('\n'); line != "one\n" {
		t.Fatalf("%q, %v", line, err)
	}
	close(next) // only now: the first line came while the API still wrote
	if line, err := lines.ReadString('\n'); line != "two\n" {
		t.Fatalf("%q, %v", line, err)
	}
}

func TestAPIAway(t *testing.T) {
	u := &url.URL{Scheme: "http", Host: "127.0.0.1:1"}
	s := httptest.NewServer(handler(built(), u, slog.New(slog.DiscardHandler)))
	defer s.Close()
	resp, body := get(t, s.URL+"/api/v1/stat")
	if resp.StatusCode != http.StatusBadGateway || !strings.Contains(body, "no answer at 127.0.0.1:1") {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
}

func TestEmbedded(t *testing.T) {
	if _, err := fs.Stat(dist, "web/dist/.gitkeep"); err != nil {
		t.Error(err)
	}
}
