package weir_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

const (
	proxyMain = "cmd/weir-proxy"
	proxyDeps = proxyMain + "/deps.txt"
)

// updateDeps is what `make deps` sets.
var updateDeps = flag.Bool("update-deps", false, "write "+proxyDeps+" instead of comparing with it")

// linkBans keeps code out of the sidecar, however it would come in. Linked code
// is resident memory, and there is one proxy beside every pod.
var linkBans = []struct{ Import, Why string }{
	{"google.golang.org/grpc", "5 MB of resident memory; the proxy relays gRPC's frames without it"},
	{"google.golang.org/protobuf", "reflection and registries; batches are written with easyproto"},
	{"k8s.io", "the proxy hears of Kubernetes over the bus alone"},
	{"sigs.k8s.io", "the proxy hears of Kubernetes over the bus alone"},
	{"github.com/nats-io/nats-server", "10 MB of resident memory; the proxy is a client of the bus"},
	{"text/template", "calls methods by name, so the linker keeps every exported method of the program"},
	{"html/template", "as text/template, and more"},
	{"expvar", "registers itself on the default mux; metrics go through VictoriaMetrics/metrics"},
	{"net/http/pprof", "puts profiles on the default mux, open to whoever reaches the port"},
	{"net/http/httputil", "the proxy relays; it does not handle"},
}

// A linked package is one that go list -deps names.
type linked struct {
	path     string
	standard bool
	imports  []string
}

// TestProxyLinks refuses banned packages in bin/weir-proxy, with the way they
// came in, and any package that the reviewed list deps.txt does not name.
func TestProxyLinks(t *testing.T) {
	// Read first: this is what makes the go command run the test again after a
	// change (see readTree).
	sources := readTree(t)
	if !slices.ContainsFunc(sources, func(s source) bool { return s.dir == proxyMain && !s.test() }) {
		t.Fatalf("%s has no Go files: the sidecar is a program of its own, see docs/design.md", proxyMain)
	}

	packages := listLinked(t)
	for _, ban := range linkBans {
		var way []string // the shortest of those that the ban forbids
		for _, p := range packages {
			if !within(ban.Import, p.path) {
				continue
			}
			if w := wayTo(packages, p.path); way == nil || len(w) < len(way) {
				way = w
			}
		}
		if way != nil {
			t.Errorf("weir-proxy links %s: %s\n\tby way of %s", ban.Import, ban.Why, strings.Join(way, " → "))
		}
	}
	if *updateDeps {
		if err := os.WriteFile(filepath.FromSlash(proxyDeps), renderDeps(packages), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	compareDeps(t, packages)
}

// listLinked asks the go command what the proxy links on linux/amd64, whatever
// machine this is.
func listLinked(t *testing.T) []linked {
	t.Helper()
	cmd := exec.Command("go", "list", "-mod=readonly", "-deps",
		"-f", `{{.ImportPath}} {{.Standard}} {{join .Imports " "}}`, "./"+proxyMain)
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("cannot list what %s links: %v\n%s", proxyMain, err, stderr.String())
	}
	var packages []linked
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		packages = append(packages, linked{path: fields[0], standard: fields[1] == "true", imports: fields[2:]})
	}
	return packages
}

// wayTo finds the shortest chain of imports from the proxy's main to a package.
func wayTo(packages []linked, target string) []string {
	imports := map[string][]string{}
	for _, p := range packages {
		imports[p.path] = p.imports
	}
	from := map[string]string{}
	root := modulePath + "/" + proxyMain
	for queue := []string{root}; len(queue) > 0; queue = queue[1:] {
		if queue[0] == target {
			break
		}
		for _, next := range imports[queue[0]] {
			if _, seen := from[next]; !seen && next != root {
				from[next] = queue[0]
				queue = append(queue, next)
			}
		}
	}
	way := []string{target}
	for at, ok := from[target]; ok; at, ok = from[at] {
		way = append(way, at)
	}
	slices.Reverse(way)
	return way
}

// renderDeps writes the reviewed list: ours, others', then the standard
// library's public packages, which differ from one Go release to the next.
func renderDeps(packages []linked) []byte {
	var ours, others, standard []string
	for _, p := range packages {
		switch {
		case p.standard && !strings.HasPrefix(p.path, "vendor/") && !slices.Contains(strings.Split(p.path, "/"), "internal"):
			standard = append(standard, p.path)
		case p.standard:
		case strings.HasPrefix(p.path, modulePath+"/"):
			ours = append(ours, p.path)
		default:
			others = append(others, p.path)
		}
	}
	var out bytes.Buffer
	fmt.Fprintln(&out, "# Every package that bin/weir-proxy links (linux/amd64). Written by `make deps`;")
	fmt.Fprintln(&out, "# a line that is new here is memory in every pod, and wants a reason in review.")
	section := func(title string, paths []string) {
		slices.Sort(paths)
		fmt.Fprintf(&out, "\n# %s\n%s\n", title, strings.Join(paths, "\n"))
	}
	section("Weir", ours)
	section("others", others)
	section(standardTitle(), standard)
	return out.Bytes()
}

// standardTitle names the Go release: "standard library, go1.26".
func standardTitle() string {
	release := strings.SplitN(runtime.Version(), ".", 3)
	if len(release) > 2 {
		release = release[:2]
	}
	return "standard library, " + strings.Join(release, ".")
}

// compareDeps compares with deps.txt. Under another Go release than the one the
// list was written with, the standard library's part is left to linkBans.
func compareDeps(t *testing.T, packages []linked) {
	t.Helper()
	want, err := os.ReadFile(filepath.FromSlash(proxyDeps))
	if err != nil {
		t.Fatalf("%v: run `make deps`, and read what it writes", err)
	}
	got := renderDeps(packages)
	const marker = "\n# standard library, "
	if !bytes.Contains(want, []byte("\n# "+standardTitle()+"\n")) {
		want, _, _ = bytes.Cut(want, []byte(marker))
		got, _, _ = bytes.Cut(got, []byte(marker))
	}
	gotLines, wantLines := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for _, line := range gotLines {
		if !slices.Contains(wantLines, line) {
			t.Errorf("weir-proxy links %s\n\tby way of %s\n\twhich %s does not name: if it is worth its memory, run `make deps`",
				line, strings.Join(wayTo(packages, line), " → "), proxyDeps)
		}
	}
	for _, line := range wantLines {
		if !slices.Contains(gotLines, line) {
			t.Errorf("%s names %q, which weir-proxy does not link any more: run `make deps`", proxyDeps, line)
		}
	}
}
