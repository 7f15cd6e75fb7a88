package ndjson

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// A sink is where lines go, whole ones.
type sink interface {
	io.Writer
	// sync makes sure that all that was written stays, and notes in the cursor
	// where it ends.
	sync(c *cursor) error
	// committed is called when that cursor is in place.
	committed(c *cursor) error
	// close ends it. What was not synced may stay or go.
	close() error
}

// stream is a sink that is nobody's file.
type stream struct{ io.Writer }

func (stream) sync(*cursor) error      { return nil }
func (stream) committed(*cursor) error { return nil }
func (stream) close() error            { return nil }

// filePattern are the names of files, numbered from 1.
const filePattern = "events-%08d.ndjson"

// files is a sink of numbered files in a folder.
type files struct {
	dir      string
	maxBytes int64
	maxFiles int

	file   *os.File
	number uint64
	size   int64
}

// openFiles makes the folder as it was when the cursor was put in place: later
// files go, and what came later in the file at hand.
func openFiles(o *Options, c *cursor) (*files, error) {
	f := &files{dir: o.Dir, maxBytes: o.MaxFileBytes, maxFiles: o.MaxFiles, number: c.File, size: c.Size}
	numbers, err := list(o.Dir)
	if err != nil {
		return nil, err
	}
	for _, n := range numbers {
		if n > c.File {
			if err := os.Remove(f.path(n)); err != nil {
				return nil, fmt.Errorf("cannot remove what was written after the cursor: %w", err)
			}
		}
	}
	f.file, err = os.OpenFile(f.path(c.File), os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("cannot open the file to go on with: %w", err)
	}
	if err := f.cut(c.Size); err != nil {
		return nil, errors.Join(err, f.file.Close())
	}
	return f, nil
}

// cut makes the file at hand as long as it was.
func (f *files) cut(size int64) error {
	info, err := f.file.Stat()
	if err != nil {
		return fmt.Errorf("cannot look up the file to go on with: %w", err)
	}
	if info.Size() < size {
		return fmt.Errorf("cannot go on with %s: it has %d bytes, and the cursor says that %d were written; if it was changed on purpose, remove the cursor and the files, and begin anew",
			f.file.Name(), info.Size(), size)
	}
	if err := f.file.Truncate(size); err != nil {
		return fmt.Errorf("cannot cut off what was written after the cursor: %w", err)
	}
	if _, err := f.file.Seek(size, io.SeekStart); err != nil {
		return fmt.Errorf("cannot go to the end of %s: %w", f.file.Name(), err)
	}
	return nil
}

func (f *files) path(number uint64) string {
	return filepath.Join(f.dir, fmt.Sprintf(filePattern, number))
}

// Write implements io.Writer.
func (f *files) Write(p []byte) (int, error) {
	n, err := f.file.Write(p)
	f.size += int64(n)
	if err != nil {
		return n, fmt.Errorf("cannot write events: %w", err)
	}
	return n, nil
}

// full tells that a line of n bytes belongs into the next file, with buffered
// bytes still to come before it.
func (f *files) full(buffered, n int64) bool {
	size := f.size + buffered
	return f.maxBytes > 0 && size > 0 && size+n > f.maxBytes
}

// next begins the next file. The one before is complete on the disk.
func (f *files) next() error {
	if err := f.settle(); err != nil {
		return err
	}
	if err := f.file.Close(); err != nil {
		return fmt.Errorf("cannot close %s: %w", f.file.Name(), err)
	}
	file, err := os.OpenFile(f.path(f.number+1), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("cannot begin the next file: %w", err)
	}
	f.file, f.number, f.size = file, f.number+1, 0
	return nil
}

func (f *files) settle() error {
	if err := f.file.Sync(); err != nil {
		return fmt.Errorf("cannot bring %s to the disk: %w", f.file.Name(), err)
	}
	return nil
}

func (f *files) sync(c *cursor) error {
	if err := f.settle(); err != nil {
		return err
	}
	c.File, c.Size = f.number, f.size
	// The name of a new file has to be on the disk, too.
	return syncDir(f.dir)
}

// committed removes the oldest files where there are too many. None of them is
// the cursor's any more.
func (f *files) committed(c *cursor) error {
	if f.maxFiles <= 0 {
		return nil
	}
	numbers, err := list(f.dir)
	if err != nil {
		return err
	}
	for len(numbers) > f.maxFiles && numbers[0] < c.File {
		if err := os.Remove(f.path(numbers[0])); err != nil {
			return fmt.Errorf("cannot remove the oldest file: %w", err)
		}
		numbers = numbers[1:]
	}
	return nil
}

func (f *files) close() error {
	if err := f.file.Close(); err != nil {
		return fmt.Errorf("cannot close %s: %w", f.file.Name(), err)
	}
	return nil
}

// list gives the numbers of the files in a folder, ascending.
func list(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot list the files of the export: %w", err)
	}
	var numbers []uint64
	for _, entry := range entries {
		var n uint64
		if _, err := fmt.Sscanf(entry.Name(), filePattern, &n); err == nil && fmt.Sprintf(filePattern, n) == entry.Name() {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// checkEmpty refuses a folder that has files and no cursor.
func checkEmpty(dir, cursor string) error {
	numbers, err := list(dir)
	if err == nil && len(numbers) > 0 {
		err = fmt.Errorf("cannot begin an export in %s: it has files of one, but there is no cursor %s; name its cursor to go on, or another folder", dir, cursor)
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("cannot open %s: %w", dir, err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("cannot bring %s to the disk: %w", dir, err)
	}
	return nil
}
