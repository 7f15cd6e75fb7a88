package chart

import (
	"bytes"
	"flag"
	"os"
	"testing"

	"github.com/weirmesh/weir/deploy/values"
)

var update = flag.Bool("update", false, "write what is generated, and the golden files")

// golden holds got to a file, or writes it.
func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what is generated now: `make generate` writes it. First difference:\n%s", file, firstDifference(want, got))
	}
}

func firstDifference(want, got []byte) string {
	w, g := bytes.Split(want, []byte("\n")), bytes.Split(got, []byte("\n"))
	for i := range min(len(w), len(g)) {
		if !bytes.Equal(w[i], g[i]) {
			return "- " + string(w[i]) + "\n+ " + string(g[i])
		}
	}
	return "one ends before the other"
}

// TestGenerated holds the chart's values and their schema to the Go struct.
func TestGenerated(t *testing.T) {
	golden(t, "values.yaml", values.YAML())
	golden(t, "values.schema.json", values.Schema())
}
