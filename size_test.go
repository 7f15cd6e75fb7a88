package weir_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"regexp"
	"testing"
)

// Above these nobody reads a file or a function as a whole any more. Cut by
// meaning where one is reached; do not raise them.
const (
	maxFileLines     = 600
	maxFunctionLines = 80
)

// generatedLine is what the go command's documentation prescribes.
var generatedLine = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)

func generated(src source) bool { return generatedLine.Match(src.text) }

// TestFilesAndFunctionsAreSmall counts lines, comments included, tests too.
func TestFilesAndFunctionsAreSmall(t *testing.T) {
	for _, src := range readTree(t) {
		if generated(src) {
			continue
		}
		if n := bytes.Count(src.text, []byte("\n")); n > maxFileLines {
			t.Errorf("%s: %d lines, more than %d: cut it by meaning", src.path, n, maxFileLines)
		}
		fset, file := src.parse(t, parser.SkipObjectResolution)
		for _, decl := range file.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			begin, end := fset.Position(fn.Pos()), fset.Position(fn.End())
			if n := end.Line - begin.Line + 1; n > maxFunctionLines {
				t.Errorf("%s:%d: func %s has %d lines, more than %d: cut it by meaning", src.path, begin.Line, fn.Name.Name, n, maxFunctionLines)
			}
		}
	}
}
