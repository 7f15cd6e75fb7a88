package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	// manifestBytes bounds one source of manifests.
	manifestBytes = 32 << 20
	// fetchTimeout bounds fetching one from a URL.
	fetchTimeout = 30 * time.Second
)

// manifest is a source of manifests, read.
type manifest struct {
	name string
	text []byte
}

// manifests reads files, folders (their .yaml, .yml and .json files, by name), URLs
// and, for "-", stdin.
func (a *app) manifests(ctx context.Context, args []string) ([]manifest, error) {
	var out []manifest
	for _, arg := range args {
		switch {
		case arg == "-":
			text, err := readBounded(a.Streams.In)
			if err != nil {
				return nil, fmt.Errorf("cannot read stdin: %w", err)
			}
			out = append(out, manifest{"stdin", text})
		case strings.HasPrefix(arg, "http://") || strings.HasPrefix(arg, "https://"):
			text, err := fetch(ctx, arg)
			if err != nil {
				return nil, fmt.Errorf("cannot fetch %s: %w", arg, err)
			}
			out = append(out, manifest{arg, text})
		default:
			names, err := manifestFiles(arg)
			if err != nil {
				return nil, fmt.Errorf("cannot read %s: %w", arg, err)
			}
			for _, name := range names {
				text, err := readManifest(name)
				if err != nil {
					return nil, fmt.Errorf("cannot read %s: %w", name, err)
				}
				out = append(out, manifest{name, text})
			}
		}
	}
	return out, nil
}

// manifestFiles is a file, or those of a folder.
func manifestFiles(name string) ([]string, error) {
	info, err := os.Stat(name)
	if err != nil {
		var p *fs.PathError
		if errors.As(err, &p) {
			err = p.Err
		}
		return nil, err
	}
	if !info.IsDir() {
		return []string{name}, nil
	}
	entries, err := os.ReadDir(name) // sorted
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(e.Name())) && !e.IsDir() {
			names = append(names, filepath.Join(name, e.Name()))
		}
	}
	if len(names) == 0 {
		return nil, errors.New("the folder has no .yaml, .yml or .json file")
	}
	return names, nil
}

func readManifest(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	return readBounded(f)
}

func readBounded(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, manifestBytes+1))
	if err == nil && len(text) > manifestBytes {
		err = fmt.Errorf("it is longer than %d MiB; cut it in parts", manifestBytes>>20)
	}
	return text, err
}

// fetch gets what is at a URL.
func fetch(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // read, or given up
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the server says %s", resp.Status)
	}
	return readBounded(resp.Body)
}
