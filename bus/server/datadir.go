package server

import (
	"fmt"
	"os"

	"github.com/weirmesh/weir/bus"
)

// warnOfSmallDisk tells in the log when the disk cannot hold what the streams may
// grow to: nats-server stops storing when it is full.
func warnOfSmallDisk(o Options) {
	free, err := freeBytes(o.DataDir)
	if err != nil {
		o.Logger.Warn("cannot tell how much room the bus has for its data", "data", o.DataDir, "error", err)
		return
	}
	want := o.Retention.EventBytes + bus.Tiers*o.Retention.RollupBytes
	if free < want {
		o.Logger.Warn("the disk has less room than the bus's streams may take; keep fewer bytes of events",
			"data", o.DataDir, "free_bytes", free, "wanted_bytes", want)
	}
}

// lockDir creates the folder and keeps other servers out of it: two on the same
// files would destroy them. The lock ends with the process.
func lockDir(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("cannot use %s for the bus's data: %w", dir, err)
	}
	f, err := os.OpenFile(dir+"/lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot use %s for the bus's data: %w", dir, err)
	}
	if err := lockFile(f); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("cannot use %s for the bus's data: %w", dir, err)
	}
	return func() { _ = f.Close() }, nil
}
