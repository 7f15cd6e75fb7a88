package weir_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// modulePath is the path that go.mod declares; checked by readTree.
const modulePath = "github.com/weirmesh/weir"

// A source is one .go file of this module.
type source struct {
	path string // from the root, with slashes: "event/event.go"
	dir  string // its package, from the root: "event"; "." is the root itself
	text []byte
}

// test reports whether only `go test` compiles the file.
func (s source) test() bool { return strings.HasSuffix(s.path, "_test.go") }

// parse reads the file in the given mode.
func (s source) parse(t *testing.T, mode parser.Mode) (*token.FileSet, *ast.File) {
	t.Helper()
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, s.path, s.text, mode)
	if err != nil {
		t.Fatalf("cannot parse %s: %v", s.path, err)
	}
	return fset, file
}

// readTree reads go.mod, go.sum and every .go file of this module, modules
// nested in it (tools/…, e2e/cluster) left out.
//
// It reads them here, inside the test that calls it, on purpose. The go
// command serves a test's result from its cache as long as the files that the
// test itself opened are unchanged; what a child process opened (`go list`) or
// what was opened before the test began is not recorded. A test that only asks
// `go list` goes on saying "ok (cached)" after a violation.
func readTree(t *testing.T) []source {
	t.Helper()
	mod := readFile(t, "go.mod")
	if !strings.Contains(string(mod), "\nmodule "+modulePath+"\n") && !strings.HasPrefix(string(mod), "module "+modulePath+"\n") {
		t.Fatalf("go.mod does not declare module %s: correct modulePath in tree_test.go", modulePath)
	}
	readFile(t, "go.sum")

	var all []source
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return skipFolder(name, entry.Name())
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		slashed := filepath.ToSlash(name)
		all = append(all, source{path: slashed, dir: path.Dir(slashed), text: text})
		return nil
	})
	if err != nil {
		t.Fatalf("cannot read the tree: %v", err)
	}
	return all
}

// skipFolder leaves out what the go command leaves out too, and node's modules,
// which may bring .go files of others.
func skipFolder(name, base string) error {
	if name == "." {
		return nil
	}
	if strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata" || base == "node_modules" || name == "bin" {
		return filepath.SkipDir
	}
	if _, err := os.Stat(filepath.Join(name, "go.mod")); err == nil {
		return filepath.SkipDir
	}
	return nil
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
