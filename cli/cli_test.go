package cli

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/weirmesh/weir/api"
	"github.com/weirmesh/weir/api/apitest"
	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// now is when the tests happen.
var now = time.Date(2026, 3, 14, 12, 5, 0, 0, time.UTC)

// start runs an API over b and gives its address.
func start(t *testing.T, b *apitest.Backend) string {
	t.Helper()
	return startWith(t, api.Options{Backend: b})
}

// startWith runs an API and gives its address.
func startWith(t *testing.T, o api.Options) string {
	t.Helper()
	// The commands under test set the default logger to their own stderr.
	o.Logger = slog.New(slog.DiscardHandler)
	o.GRPCAddr, o.HTTPAddr = "127.0.0.1:0", "127.0.0.1:0"
	o.Build = api.Build{Version: "v0.2.0", Commit: "fedcba", GoVersion: "go1.26.8"}
	s, err := api.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s.GRPCAddr()
}

// buffer may be written to and read at once.
type buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// command is one call of weir.
type command struct {
	out, errOut buffer
	app         *app
	root        *cobra.Command
}

func newCommand(args ...string) *command {
	c := &command{}
	c.app = &app{
		Options: Options{
			Streams: Streams{In: strings.NewReader(""), Out: &c.out, ErrOut: &c.errOut},
			Build:   Build{Version: "v0.1.0", Commit: "abcdef", GoVersion: "go1.26.8"},
		},
		newCluster: func(*kubeFlags) (*kubeCluster, error) { return nil, errNoCluster },

		now:  func() time.Time { return now },
		open: func(context.Context, string) error { return errors.New("no browser in tests") },
	}
	c.root = newRoot(c.app)
	c.root.SetArgs(append([]string{}, args...))
	return c
}

// weir runs a command to its end.
func weir(t *testing.T, args ...string) (out, errOut string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := newCommand(args...)
	err = c.root.ExecuteContext(ctx)
	return c.out.String(), c.errOut.String(), err
}

// golden compares a command, what it said and what it failed with, with a file.
func golden(t *testing.T, name string, out, errOut string, err error) {
	t.Helper()
	got := out
	if errOut != "" {
		got += "--- stderr\n" + errOut
	}
	if err != nil {
		got += "--- error\n" + err.Error() + "\n"
	}
	// The server's port is a different one each time.
	got = regexp.MustCompile(`127\.0\.0\.1:\d{4,5}\b`).ReplaceAllStringFunc(got, func(s string) string {
		if s == "127.0.0.1:8080" || s == "127.0.0.1:8085" {
			return s
		}
		return "127.0.0.1:PORT"
	})
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, rerr := os.ReadFile(file)
	if rerr != nil {
		t.Fatalf("%v (make it with: go test ./cli -update)", rerr)
	}
	if got != string(want) {
		t.Errorf("%s differs from what it was.\n--- got\n%s\n--- want\n%s", file, got, want)
	}
}

func TestUsageErrors(t *testing.T) {
	f := func(want string, args ...string) {
		t.Helper()
		out, _, err := weir(t, args...)
		var usage *UsageError
		if !errors.As(err, &usage) {
			t.Errorf("weir %v: %v is no usage error", args, err)
			return
		}
		if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "--help") {
			t.Errorf("weir %v: %q lacks %q", args, err, want)
		}
		if out != "" {
			t.Errorf("weir %v wrote %q", args, out)
		}
	}
	f(`unknown command "sat"; did you mean stat`, "sat")
	f(`unknown flag: --nonsense`, "stat", "--nonsense")
	f(`unknown flag: --frm; did you mean --from?`, "stat", "--frm", "deploy/a")
	f("unknown flag: --version; did you mean `weir version`?", "--version")
	f(`unknown command "nonsense"`, "help", "nonsense")
	f(`unknown command "ndjsn"; did you mean ndjson?`, "help", "export", "ndjsn")
	f(`a Service has no proxy`, "stat", "svc")
	f(`between workloads, not pods`, "edges", "pod")
	f(`about workloads, not pods`, "stat", "pod/a", "--to", "deploy/b")
	f(`which resource`, "stat")
	f(`unknown resource type "deplyo"; did you mean deploy`, "stat", "deplyo")
	f(`"deploy/" is not TYPE/NAME`, "stat", "deploy/")
	f(`cannot mix "deploy" and "po/x"`, "stat", "deploy", "po/x")
	f(`all has no name`, "stat", "all/x")
	f(`-n and -A`, "stat", "deploy", "-A", "-n", "x")
	f(`--to and --from`, "stat", "deploy", "--to", "deploy/a", "--from", "deploy/b")
	f(`--to: unknown resource type`, "stat", "deploy", "--to", "what/a")
	f(`must be one of table, wide, json`, "stat", "deploy", "-o", "yaml")
	f(`at least 1s`, "stat", "deploy", "-t", "10ms")
	f(`--since: "noon"`, "stat", "deploy", "--since", "noon")
	f(`is not before`, "stat", "deploy", "--since", "5m", "--until", "10m")
	f(`-t cannot`, "stat", "deploy", "--since", "10m", "--until", "5m", "-t", "1m")
	f(`which resource? Give one`, "tap")
	f(`which resource? Give one`, "tap", "deploy", "a", "b")
	f(`neither in nor out`, "tap", "deploy/a", "--direction", "up")
	f(`must be one of table, wide, json, jsonpath=`, "tap", "deploy/a", "-o", "jsonpath")
	f(`jsonpath= needs a template`, "tap", "deploy/a", "-o", "jsonpath=")
	f(`the template "{.a" cannot be read: unclosed action`, "tap", "deploy/a", "-o", "jsonpath={.a")
	f(`--compare 0s: how long before?`, "stat", "deploy", "--compare", "0s")
	f(`--compare -1m0s: how long before?`, "routes", "deploy", "--compare", "-1m")
	f(`invalid argument "soon" for "--compare"`, "edges", "deploy", "--compare", "soon")
	f(`--compare and --by, or a filter`, "stat", "deploy", "--compare", "10m", "--by", "path")
	f(`unexpected argument`, "version", "x")
	f(`which shell`, "completion")
	f(`known are bash, zsh or fish`, "completion", "tcsh")
	f(`must be dashboard or url`, "dashboard", "--show", "grafana")
	f(`--api needs --listen`, "dashboard", "--api", "127.0.0.1:1")
	f(`not host:port`, "dashboard", "--listen", "nonsense")
	f(`neither host:port nor a URL`, "dashboard", "--listen", "127.0.0.1:0", "--api", "ftp://x")
	f(`for serving it`, "dashboard", "--listen", "127.0.0.1:0", "--port", "1")
}

func TestAPIAway(t *testing.T) {
	for _, args := range [][]string{
		{"stat", "deploy"}, {"edges", "deploy"}, {"routes", "deploy"}, {"tap", "deploy/web"},
	} {
		_, _, err := weir(t, append(args, "--api-addr", "127.0.0.1:1")...)
		var usage *UsageError
		if err == nil || errors.As(err, &usage) || !strings.Contains(err.Error(), "127.0.0.1:1: ") || !strings.Contains(err.Error(), "weir demo") {
			t.Errorf("weir %v: %v", args, err)
		}
	}
}

func TestAPIAddrFromEnvironment(t *testing.T) {
	t.Setenv("WEIR_API_ADDR", start(t, &apitest.Backend{}))
	out, errOut, err := weir(t, "version", "--short")
	if err != nil || out != "v0.1.0\nv0.2.0\n" {
		t.Errorf("%q, %q, %v", out, errOut, err)
	}
}

func TestVersion(t *testing.T) {
	addr := start(t, &apitest.Backend{})
	f := func(name string, args ...string) {
		t.Helper()
		out, errOut, err := weir(t, append([]string{"version"}, args...)...)
		golden(t, name, out, errOut, err)
	}
	f("version", "--api-addr", addr)
	f("version_client", "--client", "--api-addr", "127.0.0.1:1")
	f("version_json", "--api-addr", addr, "-o", "json")
	f("version_away", "--api-addr", "127.0.0.1:1")
}

func TestHelpNamesEverything(t *testing.T) {
	out, _, err := weir(t)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"stat", "tap", "edges", "routes", "dashboard", "version", "completion", "--api-addr"} {
		if !strings.Contains(out, want) {
			t.Errorf("help lacks %s", want)
		}
	}
}

// The help has lengths of time as one would write them, and no default that
// means none.
func TestHelpHasPlainLengths(t *testing.T) {
	for _, command := range []string{"stat", "series", "tap", "top", "edges", "routes"} {
		out, _, err := weir(t, command, "--help")
		if err != nil || strings.Contains(out, "m0s") || strings.Contains(out, "default 0") {
			t.Errorf("weir %s --help: %v\n%s", command, err, out)
		}
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		out, _, err := weir(t, "completion", shell)
		if err != nil || !strings.Contains(out, "weir") {
			t.Errorf("%s: %v, %d bytes", shell, err, len(out))
		}
	}
}

func TestDashboardOpens(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	at, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(at.Host)
	if err != nil {
		t.Fatal(err)
	}
	c := newCommand("dashboard", "--address", host, "--port", port)
	var opened string
	c.app.open = func(_ context.Context, at string) error { opened = at; return nil }
	if err := c.root.ExecuteContext(t.Context()); err != nil || opened != server.URL || c.out.String() != server.URL+"\n" {
		t.Errorf("%v, opened %q, wrote %q", err, opened, c.out.String())
	}
	// Without a browser the URL is still said.
	out, errOut, err := weir(t, "dashboard", "--address", host, "--port", port)
	if err != nil || out != server.URL+"\n" || !strings.Contains(errOut, "no browser") {
		t.Errorf("%q, %q, %v", out, errOut, err)
	}
	out, errOut, err = weir(t, "dashboard", "--address", host, "--port", port, "--show", "url")
	if err != nil || out != server.URL+"\n" || errOut != "" {
		t.Errorf("%q, %q, %v", out, errOut, err)
	}
	server.Close()
	if _, _, err = weir(t, "dashboard", "--address", host, "--port", port); err == nil || !strings.Contains(err.Error(), server.URL) || !strings.Contains(err.Error(), "weir demo") {
		t.Error(err)
	}
}

func TestDashboardServes(t *testing.T) {
	c := newCommand("dashboard", "--listen", "127.0.0.1:0", "--api", "127.0.0.1:8086")
	var gotAPI, gotListen string
	c.app.ServeDashboard = func(_ context.Context, api *url.URL, listen string) error {
		gotAPI, gotListen = api.String(), listen
		return nil
	}
	if err := c.root.ExecuteContext(t.Context()); err != nil || gotAPI != "http://127.0.0.1:8086" || gotListen != "127.0.0.1:0" {
		t.Errorf("%v, api %q, listen %q", err, gotAPI, gotListen)
	}
}
