package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// errLocked says that another process holds a lock.
var errLocked = errors.New("another process holds it")

// A lock is a file that one process at most holds; the kernel lets go of it when
// that process ends, however it does.
type lock struct{ file *os.File }

// tryLock takes a lock, or errs with errLocked.
func tryLock(path string) (*lock, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("cannot lock %s: %w", path, err)
	}
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, fmt.Errorf("cannot lock %s: %w", path, err)
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			_ = f.Close() // nothing was written
			if errors.Is(err, syscall.EWOULDBLOCK) {
				err = errLocked
			}
			return nil, fmt.Errorf("cannot lock %s: %w", path, err)
		}
		// Whoever held it may have removed the file just before it let go.
		ours, err := f.Stat()
		if err == nil {
			if there, err := os.Stat(path); err == nil && os.SameFile(ours, there) {
				return &lock{f}, nil
			}
		}
		_ = f.Close() // nothing was written
	}
}

// awaitLock waits for a lock until ctx ends; waiting is called once if it must.
func awaitLock(ctx context.Context, path string, waiting func()) (*lock, error) {
	for {
		l, err := tryLock(path)
		if !errors.Is(err, errLocked) {
			return l, err
		}
		if waiting != nil {
			waiting()
			waiting = nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", err, ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// release lets go of the lock and leaves its file.
func (l *lock) release() { _ = l.file.Close() } // closing is what lets go of it

// remove lets go of the lock and of its file.
func (l *lock) remove() error {
	err := os.Remove(l.file.Name())
	l.release()
	return err
}
