package weir_test

import (
	"go/parser"
	"sort"
	"strings"
	"testing"
)

// TestPackagesAreDocumented asks every package, commands included, for a
// comment that says what it is for: "Package x …" or "Command x …".
func TestPackagesAreDocumented(t *testing.T) {
	documented := map[string]bool{}
	for _, src := range readTree(t) {
		if src.test() {
			continue
		}
		_, file := src.parse(t, parser.PackageClauseOnly|parser.ParseComments)
		want := "Package " + file.Name.Name + " "
		if file.Name.Name == "main" {
			want = "Command "
		}
		if file.Doc == nil {
			documented[src.dir] = documented[src.dir] || false
			continue
		}
		if !strings.HasPrefix(file.Doc.Text(), want) {
			t.Errorf("%s: the package comment must begin with %q", src.path, want)
		}
		documented[src.dir] = true
	}

	var bare []string
	for dir, ok := range documented {
		if !ok {
			bare = append(bare, dir)
		}
	}
	sort.Strings(bare)
	for _, dir := range bare {
		t.Errorf("%s: no file has a package comment; say what the package is for, above its package clause", dir)
	}
	if len(documented) < 2 {
		t.Fatalf("found %d packages: the walk over the tree is broken", len(documented))
	}
}
