package inject

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing with them")

// anchors is what the tests trust; nothing reads it.
const anchors = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"

// options are those of the golden files; a shape whose name ends in "-plain" gets a
// plain container.
func options(name string) Options {
	c := Defaults()
	c.Version, c.TrustAnchors = "v1.2.3", anchors
	o := Options{Config: c, By: "weir/cli v1.2.3", Flags: map[string]string{}}
	if strings.HasSuffix(name, "-plain") {
		o.Flags["native-sidecar"] = "false"
	}
	if strings.HasSuffix(name, "-opaque") {
		o.Flags["opaque-ports"] = "5432"
	}
	return o
}

// TestShapes injects each manifest of testdata/shapes and compares with
// testdata/golden. Then it injects once more, which changes nothing, and takes all
// out again, which gives the manifest of before.
func TestShapes(t *testing.T) {
	shapes, err := filepath.Glob("testdata/shapes/*")
	if err != nil {
		t.Fatal(err)
	}
	if len(shapes) < 40 {
		t.Errorf("there are %d shapes, want at least 40", len(shapes))
	}
	for _, path := range shapes {
		file := filepath.Base(path)
		name := strings.TrimSuffix(file, filepath.Ext(file))
		t.Run(name, func(t *testing.T) {
			in, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			out, reports, err := Inject(in, options(name))
			if err != nil {
				t.Fatal(err)
			}
			var said bytes.Buffer
			if err := WriteReports(&said, reports); err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join("testdata/golden", file), out)
			golden(t, filepath.Join("testdata/golden", name+".report"), said.Bytes())

			again, reports, err := Inject(out, options(name))
			if err != nil || !bytes.Equal(again, out) {
				t.Errorf("injected twice it is different: %v\n%s", err, again)
			}
			for _, r := range reports {
				if r.Action != Skipped {
					t.Errorf("injected twice: %v", r)
				}
			}
			back, _, err := Uninject(out)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(back, in) && !rewritten[name] {
				t.Errorf("uninjected it is not what it was:\n%s", back)
			}
			sameValues(t, in, back)
		})
	}
}

// rewritten are the shapes that are too involved to be edited as text, and those with
// empty fields, which are gone when what was put into them is taken out.
var rewritten = map[string]bool{"anchors-in-the-way": true, "json-surrogates": true, "empty-fields": true, "null-fields": true}

func sameValues(t *testing.T, a, b []byte) {
	t.Helper()
	left, err := split(a)
	if err != nil {
		t.Fatal(err)
	}
	right, err := split(b)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != len(right) {
		t.Fatalf("%d documents, then %d", len(left), len(right))
	}
	for i := range left {
		if !equal(left[i].value, right[i].value) {
			t.Errorf("document %d has other values:\n%s\n%s", i+1, left[i].text, right[i].text)
		}
	}
}

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (go test -update writes it):\n%s", path, got)
	}
}
