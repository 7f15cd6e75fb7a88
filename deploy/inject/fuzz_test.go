package inject

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzInject: whatever it is given, Inject ends without a panic, what it skips it
// leaves untouched, and Uninject gives back the values of before.
func FuzzInject(f *testing.F) {
	shapes, err := filepath.Glob("testdata/shapes/*")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range shapes {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		out, reports, err := Inject(in, options(""))
		if err != nil {
			return
		}
		touched := false
		for _, r := range reports {
			touched = touched || r.Action != Skipped
		}
		if !touched {
			if string(out) != string(in) {
				t.Errorf("nothing is injected, and the text is another: %q, then %q", in, out)
			}
			return
		}
		back, _, err := Uninject(out)
		if err != nil {
			t.Fatalf("cannot uninject %q: %v", out, err)
		}
		sameValues(t, in, back)
	})
}
