package demo

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

const tempPattern = "weir-demo-"

// dataDir returns the folder for the streams, and a function that removes it if
// it is a temporary one. Temporary folders of demos that were killed before
// they could remove theirs are removed first: a demo holds a lock on its own
// for as long as it lives.
func dataDir(keep string) (dir string, remove func(), err error) {
	if keep != "" {
		if err := os.MkdirAll(keep, 0o700); err != nil {
			return "", nil, fmt.Errorf("cannot make the folder of --data: %w", err)
		}
		return keep, func() {}, nil
	}
	sweep(os.TempDir())
	dir, err = os.MkdirTemp("", tempPattern)
	if err != nil {
		return "", nil, fmt.Errorf("cannot make a temporary folder for the streams: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	return dir, func() {
		_ = os.RemoveAll(dir) // the next demo sweeps what is left
		_ = lock.Close()
	}, nil
}

// sweep removes the temporary folders whose demos are gone.
func sweep(temp string) {
	dirs, err := filepath.Glob(filepath.Join(temp, tempPattern+"*"))
	if err != nil {
		return // only a malformed pattern, which this is not
	}
	for _, dir := range dirs {
		if lock, err := lockDir(dir); err == nil {
			_ = os.RemoveAll(dir) // another user's: not ours to remove
			_ = lock.Close()
		}
	}
}

// lockDir takes the lock of a folder, or fails at once if someone holds it.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot lock %s: %w", dir, err)
	}
	if err := lockFile(f); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot lock %s: %w", dir, err), f.Close())
	}
	return f, nil
}
