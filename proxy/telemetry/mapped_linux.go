package telemetry

import (
	"os"
	"syscall"
)

// mapFile maps the first n bytes of a file into memory, for all to see.
func mapFile(f *os.File, n int) ([]byte, error) {
	return syscall.Mmap(int(f.Fd()), 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
}

// unmapFile undoes it.
func unmapFile(mem []byte) { _ = syscall.Munmap(mem) }

// reserve gives bytes of a file room on the file system.
func reserve(f *os.File, at, n int64) error {
	for {
		if err := syscall.Fallocate(int(f.Fd()), 0, at, n); err != syscall.EINTR {
			return os.NewSyscallError("fallocate", err)
		}
	}
}

// Modes of fallocate.
const (
	keepSize  = 1
	punchHole = 2
)

// release gives it back; where the file system cannot, it stays.
func release(f *os.File, at, n int64) {
	_ = syscall.Fallocate(int(f.Fd()), keepSize|punchHole, at, n)
}

// lockFile takes a file for this process, until it is closed, or fails.
func lockFile(f *os.File) error {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}
