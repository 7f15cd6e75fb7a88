package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestRunParts holds that the controller ends as a whole: with its context, and
// with the first of its parts that fails.
func TestRunParts(t *testing.T) {
	ended := make(chan string, 2)
	wait := part{name: "waits", run: func(ctx context.Context) error {
		<-ctx.Done()
		ended <- "waits"
		return ctx.Err()
	}}
	broken := part{name: "breaks", run: func(context.Context) error { return errors.New("broken") }}
	err := new(controller).runParts(t.Context(), []part{wait, broken})
	if err == nil || err.Error() != "breaks: broken" || len(ended) != 1 {
		t.Errorf("got %v, %d ended", err, len(ended))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := new(controller).runParts(ctx, []part{wait}); err != nil {
		t.Errorf("told to end: %v", err)
	}
}

func TestControllerReady(t *testing.T) {
	c := new(controller)
	fine, not := func() error { return nil }, func() error { return errors.New("not yet") }
	if err := c.ready([]part{{name: "a"}, {name: "b", ready: fine}}); err != nil {
		t.Error(err)
	}
	if err := c.ready([]part{{name: "a", ready: not}}); err == nil || err.Error() != "a: not yet" {
		t.Error(err)
	}
}

func TestAwaitFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tls.crt")
	waited := make(chan error, 1)
	go func() { waited <- awaitFiles(t.Context(), file) }()
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := awaitFiles(ctx, file+".not"); err == nil {
		t.Error("a file that is not there was awaited")
	}
}

func TestByteCount(t *testing.T) {
	f := func(s string, want int64) {
		t.Helper()
		var n byteCount
		if err := n.Set(s); (err == nil) != (want > 0) || err == nil && int64(n) != want {
			t.Errorf("%q gives %d, %v", s, n, err)
		}
		if want > 0 {
			var again byteCount
			if err := again.Set(n.String()); err != nil || again != n {
				t.Errorf("%q is written as %q, which is %d, %v", s, n.String(), again, err)
			}
		}
	}
	f("1", 1)
	f("4096", 4096)
	f("3KiB", 3<<10)
	f("256MiB", 256<<20)
	f("4GiB", 4<<30)
	f("5000MiB", 5000<<20)
	f("", 0)
	f("0", 0)
	f("-1KiB", 0)
	f("1GB", 0)
	f("99999999999GiB", 0)
}
