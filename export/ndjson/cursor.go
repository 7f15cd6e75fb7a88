package ndjson

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/export"
)

// cursorVersion is that of the cursor's format.
const cursorVersion = 1

// cursorName is the cursor's file in the folder of an export.
const cursorName = "cursor.json"

// cursor is how far an export has come.
type cursor struct {
	Version int `json:"version"`
	// File is the number of the file at hand, Size what of it counts, bytes.
	File uint64 `json:"file,omitempty"`
	Size int64  `json:"size,omitempty"`
	// Lines of the export, from its first on.
	Lines uint64 `json:"lines"`
	// Since is where the export was asked to begin.
	Since time.Time `json:"since,omitzero"`
	// Partitions are by number.
	Partitions []place `json:"partitions"`
}

// place is how far a partition has been read.
type place struct {
	// Position is the sequence in the stream of the last batch.
	Position uint64 `json:"position"`
	// Marks are those of an export.Intake; none: nothing has been read.
	Marks []byte `json:"marks,omitempty"`
}

func newCursor(after uint64, since time.Time) *cursor {
	c := &cursor{Version: cursorVersion, File: 1, Since: since, Partitions: make([]place, bus.Partitions)}
	for n := range c.Partitions {
		c.Partitions[n].Position = after
	}
	return c
}

// intake is the intake of a partition that goes on from the cursor.
func (c *cursor) intake(n int) (*export.Intake, error) {
	p := &c.Partitions[n]
	if len(p.Marks) == 0 {
		return export.NewIntake(n, p.Position, c.Since), nil
	}
	return export.RestoreIntake(n, p.Marks)
}

// note brings a partition's place up to date.
func (c *cursor) note(in *export.Intake) {
	c.Partitions[in.Partition()] = place{Position: in.Position(), Marks: in.Marks()}
}

// keeper keeps the cursor in its file. Without a path it keeps nothing.
type keeper struct {
	path string
	lock *os.File
}

// newKeeper makes the folders and takes the cursor for this process alone.
func newKeeper(o *Options) (*keeper, error) {
	k := &keeper{path: o.Cursor}
	if o.Dir != "" {
		if err := os.MkdirAll(o.Dir, 0o755); err != nil {
			return nil, fmt.Errorf("cannot make the folder for events: %w", err)
		}
		if k.path == "" {
			k.path = filepath.Join(o.Dir, cursorName)
		}
	}
	if k.path == "" {
		return k, nil
	}
	var err error
	if k.lock, err = os.OpenFile(k.path+".lock", os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return nil, fmt.Errorf("cannot use the cursor %s: %w", k.path, err)
	}
	if err := lockFile(k.lock); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot use the cursor %s: another export is running with it", k.path), k.lock.Close())
	}
	return k, nil
}

// load returns the cursor; nil where there is none.
func (k *keeper) load() (*cursor, error) {
	if k.path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(k.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the cursor: %w", err)
	}
	c := &cursor{}
	if err := json.Unmarshal(data, c); err != nil {
		return nil, fmt.Errorf("cannot read the cursor %s: %w", k.path, err)
	}
	if c.Version != cursorVersion || len(c.Partitions) != bus.Partitions || c.Size < 0 {
		return nil, fmt.Errorf("cannot go on from the cursor %s: it is of version %d with %d partitions; this program knows version %d with %d",
			k.path, c.Version, len(c.Partitions), cursorVersion, bus.Partitions)
	}
	return c, nil
}

// save puts the cursor in place of the one before, whole or not at all.
func (k *keeper) save(c *cursor) error {
	if k.path == "" {
		return nil
	}
	data, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("cannot write the cursor: %w", err)
	}
	temporary := k.path + ".new"
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("cannot write the cursor: %w", err)
	}
	_, err = f.Write(append(data, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temporary, k.path)
	}
	if err != nil {
		return fmt.Errorf("cannot write the cursor: %w", err)
	}
	return syncDir(filepath.Dir(k.path))
}

func (k *keeper) close() error {
	if k.lock == nil {
		return nil
	}
	if err := k.lock.Close(); err != nil {
		return fmt.Errorf("cannot give up the cursor: %w", err)
	}
	return nil
}
