package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

func TestExportFlags(t *testing.T) {
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	var got *ExportNDJSON
	run := func(args ...string) error {
		got = nil
		root := newRoot(&app{
			Options: Options{
				Streams: Streams{In: strings.NewReader(""), Out: io.Discard, ErrOut: &bytes.Buffer{}},
				ExportNDJSON: func(_ context.Context, _ *cobra.Command, r ExportNDJSON) error {
					got = &r
					return nil
				},
			},
			now: func() time.Time { return now },
		})
		root.SetArgs(append([]string{"export", "ndjson"}, args...))
		return root.ExecuteContext(t.Context())
	}
	if err := run(); err != nil || got.Dir != "" || got.Filter != nil || !got.Since.IsZero() {
		t.Errorf("%+v, %v", got, err)
	}
	if err := run("--output", "d", "--max-file-size", "5MB", "--max-files", "3", "--since", "10m", "--cursor", "c", "--once"); err != nil ||
		got.Dir != "d" || got.MaxFileBytes != 5e6 || got.MaxFiles != 3 || !got.Since.Equal(now.Add(-10*time.Minute)) || got.Cursor != "c" || !got.Once {
		t.Errorf("%+v, %v", got, err)
	}
	if err := run("--status", "5xx", "--to", "deploy/web", "-n", "shop"); err != nil || got.Filter.GetStatus() != "5xx" ||
		got.Filter.GetTo().GetName() != "web" || got.Filter.GetTo().GetNamespace() != "shop" {
		t.Errorf("%+v, %v", got, err)
	}
	for want, args := range map[string][]string{
		"unexpected argument": {"x"},
		"--max-files":         {"--max-files", "2"},
		"--max-files -1":      {"--output", "d", "--max-files", "-1"},
		"is no size":          {"--output", "d", "--max-file-size", "many"},
		"--output is empty":   {"--output", ""},
		"--since":             {"--since", "soon"},
		"--direction":         {"--direction", "up"},
	} {
		var usage *UsageError
		if err := run(args...); !errors.As(err, &usage) || !strings.Contains(err.Error(), want) || got != nil {
			t.Errorf("%v: %v; want %q", args, err, want)
		}
	}
}

func TestByteSize(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "7": 7, "7B": 7, "1kB": 1000, "100MiB": 100 << 20, "2GB": 2e9, "3 GiB": 3 << 30} {
		var b byteSize
		if err := b.Set(s); err != nil || int64(b) != want {
			t.Errorf("%q is %d, %v; want %d", s, b, err, want)
		}
		var again byteSize
		if err := again.Set(b.String()); err != nil || again != b {
			t.Errorf("%q is written %q", s, b.String())
		}
	}
	for _, s := range []string{"", "x", "-1", "1TB", "9223372036854775807GiB", "MiB"} {
		var b byteSize
		if err := b.Set(s); err == nil {
			t.Errorf("%q is taken for %d", s, b)
		}
	}
}
