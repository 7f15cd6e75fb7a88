package server

import (
	"errors"
	"os"
	"syscall"
)

// lockFile takes a file for this process until it is closed, or the process ends
// in whatever way.
func lockFile(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return errors.New("another bus is using it")
	}
	return os.NewSyscallError("flock", err)
}

// freeBytes is how much room is left on a folder's disk.
func freeBytes(dir string) (int64, error) {
	var disk syscall.Statfs_t
	if err := syscall.Statfs(dir, &disk); err != nil {
		return 0, os.NewSyscallError("statfs", err)
	}
	return int64(disk.Bavail) * disk.Bsize, nil
}
