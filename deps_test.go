// This file holds who may import whom.
//
// DO NOT LOOSEN THIS TABLE TO FIX A BUILD. It is the architecture: an import
// that it refuses is a design question. Move the code, or hand the value in
// from cmd/, which may import everything. A row changes only together with
// docs/design.md, and its reason with it.

package weir_test

import (
	"go/parser"
	"os"
	"path"
	"sort"
	"strconv"
	"strings"
	"testing"
)

// An importRule says which packages of this module a package may import.
type importRule struct {
	// Package is a folder, or "folder/*" for all below it. The row that names
	// most of the path counts.
	Package string
	// May lists folders, or "folder/*" for all below one, separated by spaces.
	May string
	// Why is printed where a package oversteps the row.
	Why string
}

// Test files are held only to testMayNot below: they may build any neighbour that
// they need (an in-process bus, a real proxy), since nobody links them.
var importRules = []importRule{
	{".", "", "the root holds tests of the tree, no code"},
	{"event", "", "the vocabulary that both halves share must depend on nobody"},

	{"control", "", "messages between the control plane and the proxies are data: both sides link them"},
	{"suggest", "", "what was meant by a misspelt name: a function of strings, for whoever reads names from people"},
	{"resident", "", "system calls about this process's own memory: what a program's start leaves, for cmd"},
	{"bus", "event", "subjects, streams and consumers are data: whoever names a subject must not link a client or a server"},
	{"bus/client", "event bus", "the proxy links this: nothing heavier may come along"},
	{"bus/server", "bus", "the embedded server knows subjects, not what is carried on them"},
	{"bus/bustest", "event bus bus/client bus/server", "a bus for tests is the real server and the real client"},

	// Under proxy/ a row imports only rows above it.
	{"proxy/hello", "event", whyProxy},
	{"proxy/telemetry", "event", whyProxy},
	{"proxy/relay", "event", whyProxy},
	{"proxy/ports", "", "lists of ports, for flags"},
	{"proxy/intercept", "proxy/ports", "rules for the kernel, written before the proxy runs: they know ports and a uid, and nothing of what is carried"},
	{"proxy/detect", "event proxy/hello proxy/relay", whyProxy},
	{"proxy/policy", "event proxy/relay", whyProxy},
	{"proxy/mtls", "event control proxy/relay", whyProxy},
	{"proxy/mtls/mtlstest", "proxy/mtls", "a certificate authority for tests"},
	{"proxy/balance", "event proxy/relay proxy/policy", whyProxy},
	{"proxy/discover", "event control proxy/balance", whyProxy},
	{"proxy/socket", "", "system calls, and nothing of what they carry"},
	{"proxy/tcp", "event proxy/socket proxy/hello proxy/relay", whyProxy},
	{"proxy/http1", "event proxy/socket proxy/relay proxy/balance proxy/tcp", whyProxy},
	{"proxy/http2", "event proxy/socket proxy/relay proxy/balance", whyProxy},
	{"proxy/listen", "event proxy/socket proxy/ports proxy/hello proxy/relay proxy/detect proxy/mtls proxy/balance proxy/discover proxy/tcp proxy/http1 proxy/http2", whyProxy},
	{"proxy", "event control proxy/*", "the data plane meets the rest in event and bus alone; cmd hands it its Sink, so that it never links nats.go and is tested with slices"},

	{"aggregator/query", "event", "questions and answers are plain values: api imports them, and nothing else of the aggregator"},
	{"aggregator/route", "", "paths are folded alike by whoever counts events and whoever reads them back: a function of strings"},
	{"aggregator/rollup", "event aggregator/route", whyAggregator},
	{"aggregator/store", "event aggregator/query aggregator/rollup", whyAggregator},
	{"aggregator/tap", "event aggregator/query", whyAggregator},
	{"aggregator/match", "event aggregator/query aggregator/route suggest", "one meaning of a filter for whoever reads events"},
	{"aggregator/scan", "event aggregator/query aggregator/rollup aggregator/match", whyAggregator},
	{"aggregator", "event aggregator/*", "the aggregator meets the rest in event and bus alone; cmd hands it its Source, so that it never links nats.go and is tested with slices"},

	{"export", "event bus aggregator/rollup", "exporters read the stream on their own, and take each batch as the aggregator's folder does"},
	{"export/prometheus", "event bus export aggregator/rollup", "an exporter is a consumer like any other; cmd hands it the stream and where its state is kept"},
	{"export/ndjson", "event bus export aggregator/match", "as export/prometheus"},

	{"controller", "event bus control deploy/inject deploy/values controller/*", "the side that faces Kubernetes talks to proxies over the bus only"},
	{"controller/workload", "event", "whose pod a pod is: the one thing that all parts of the controller ask"},
	{"controller/*", "event bus control controller/workload deploy/inject deploy/values", "parts of the controller do not know each other"},

	{"api/weirpb", "", "generated; whoever speaks the API in another language has the same and no more"},
	{"api/client", "event aggregator/query api/weirpb api/wire", "the client of the API must not link its server"},
	{"api", "event control aggregator/query aggregator/match aggregator/scan api/*", "the API shows what the aggregator answers, what aggregator/scan reads back from the stream, and what the controller says in control's words; it never folds events itself, so that no two readers can disagree"},
	{"api/*", "event aggregator/query api/weirpb api/client", "parts of the API hang below its server"},

	{"dashboard", "", "the dashboard reads the API from the browser, as anyone may"},

	{"deploy", "deploy/*", "manifests are rendered from values alone"},
	{"deploy/values", "", "what an installation may be told, declared once"},
	{"deploy/inject", "suggest deploy/values", "a pure function of manifests and settings: the CLI and the webhook link it"},
	{"deploy/*", "deploy/values", "injection and rendering are pure functions of the values"},

	{"cli", "event api/client api/weirpb deploy deploy/* demo suggest cli/*", "commands speak to the API as any client does: what the CLI can show, others can too"},
	{"cli/*", "event api/client api/weirpb", "as cli"},

	{"demo", "event bus bus/client bus/server aggregator aggregator/* api api/client api/weirpb dashboard demo/*", "the runner starts a whole mesh on one machine, its proxies as processes"},
	{"demo/*", "demo/*", "the sample application is an application like any other: it does not know the mesh"},

	{"cmd/weir-proxy", "event bus bus/client control resident proxy proxy/*", "linked code is resident memory in every pod"},
	{"cmd/*", "*", "wiring: the one place that may know everything"},

	{"bench/measure", "", "processes, medians and tables, of no contender in particular"},
	{"bench/*", "bench/measure", "benchmarks run the binaries that users run, beside those of others"},

	{"e2e", "api/client api/weirpb", "black box: it sees what a user sees"},
	{"e2e/conformance", "", "as e2e; its tests read events off the bus, as anyone may"},
	{"e2e/transparent", "", "as e2e; its tests read events off the bus, as anyone may"},
}

const (
	whyProxy      = "one concern each, in layers: a part of the proxy imports event and lower parts, never its siblings or what is above"
	whyAggregator = "one concern each: the aggregator's parts meet in event and in query's values"
)

// testMayNot is what test files may not import, by folder: a test that needs one
// of these tests the wrong thing.
var testMayNot = []string{"cmd/*", "e2e", "e2e/*"}

// foreignBans keeps modules of others out of whole folders, tests excepted.
var foreignBans = []struct{ Package, Import, Why string }{
	{"event", "google.golang.org/protobuf", "the codec is written and read without reflection: the proxy links it"},
	{"event", "github.com/nats-io", "events are values; the bus carries them"},
	{"bus", "github.com/nats-io", "subjects and streams are data; bus/client and bus/server turn them into NATS"},
	{"bus/client", "github.com/nats-io/nats-server", "the proxy links the client: an embedded server alone costs 10 MB of memory"},
	{"proxy", "github.com/nats-io", "the proxy is handed its Sink; tests hand it a slice"},
	{"proxy/*", "github.com/nats-io", "the proxy is handed its Sink; tests hand it a slice"},
	{"proxy/*", "net/http/httputil", "relays read heads and forward bytes; ReverseProxy costs five times the CPU"},
	{"aggregator", "github.com/nats-io", "the aggregator is handed its Source; tests hand it a slice"},
	{"aggregator/*", "github.com/nats-io", "the aggregator is handed its Source; tests hand it a slice"},
	{"export", "github.com/nats-io", "exporters are handed the stream"},
	{"export/*", "github.com/nats-io", "exporters are handed the stream"},
	{"cli", "github.com/nats-io", "the CLI reads through the API, so that it shows what every client can see"},
}

// TestImports holds the tree to the tables above.
// TestNoModuleAsksTheTerminal: some modules ask the terminal for its colours as
// soon as a program that links them starts, whatever it was started for.
func TestNoModuleAsksTheTerminal(t *testing.T) {
	sum, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, module := range []string{"github.com/charmbracelet/bubbletea ", "github.com/charmbracelet/bubbles "} {
		if strings.Contains(string(sum), module) {
			t.Errorf("go.mod has %s: each command of weir would wait for a terminal that does not answer", module)
		}
	}
}

func TestImports(t *testing.T) {
	missing := map[string]bool{}
	checked := 0
	for _, src := range readTree(t) {
		rule, ok := ruleFor(src.dir)
		if !ok {
			missing[src.dir] = true
			continue
		}
		_, file := src.parse(t, parser.ImportsOnly)
		for _, spec := range file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatalf("%s: import %s: %v", src.path, spec.Path.Value, err)
			}
			checked++
			checkImport(t, src, rule, imported)
		}
	}

	var dirs []string
	for dir := range missing {
		dirs = append(dirs, dir)
	}
	sort.Strings(dirs)
	for _, dir := range dirs {
		t.Errorf("package %s is missing from importRules in deps_test.go: decide what it may import, and why", dir)
	}
	if checked == 0 {
		t.Fatal("no import seen: the walk over the tree is broken")
	}
}

func checkImport(t *testing.T, src source, rule importRule, imported string) {
	t.Helper()
	ours, isOurs := ourFolder(imported)
	switch {
	case isOurs && src.test():
		if ours != src.dir && matchesAny(testMayNot, ours) {
			t.Errorf("%s imports %s: tests may import any neighbour but %s", src.path, ours, strings.Join(testMayNot, ", "))
		}
	case isOurs:
		if !matchesAny(strings.Fields(rule.May), ours) {
			t.Errorf("%s imports %s, which package %s may not: %s (it may import: %s)",
				src.path, ours, src.dir, rule.Why, orNothing(rule.May))
		}
	case !src.test():
		for _, ban := range foreignBans {
			if matches(ban.Package, src.dir) && within(ban.Import, imported) {
				t.Errorf("%s imports %s, which package %s may not: %s", src.path, imported, src.dir, ban.Why)
			}
		}
	}
}

// ourFolder turns an import path of this module into a folder.
func ourFolder(imported string) (folder string, ok bool) {
	if imported == modulePath {
		return ".", true
	}
	return strings.CutPrefix(imported, modulePath+"/")
}

// ruleFor finds the row that names most of dir's path, if there is one.
func ruleFor(dir string) (importRule, bool) {
	for at := dir; ; at = path.Dir(at) {
		want := at
		if at != dir {
			want = at + "/*"
		}
		for _, rule := range importRules {
			if rule.Package == want {
				return rule, true
			}
		}
		if at == "." || at == "/" {
			return importRule{}, false
		}
	}
}

func matchesAny(patterns []string, dir string) bool {
	for _, pattern := range patterns {
		if matches(pattern, dir) {
			return true
		}
	}
	return false
}

// matches reports whether dir is the pattern, or below it where it ends in
// "/*". A lone "*" is every folder.
func matches(pattern, dir string) bool {
	if pattern == "*" {
		return true
	}
	if parent, ok := strings.CutSuffix(pattern, "/*"); ok {
		return strings.HasPrefix(dir, parent+"/")
	}
	return pattern == dir
}

// within reports whether an import path is the prefix or lies below it.
func within(prefix, imported string) bool {
	return imported == prefix || strings.HasPrefix(imported, prefix+"/")
}

func orNothing(may string) string {
	if may == "" {
		return "nothing of ours"
	}
	return may
}
