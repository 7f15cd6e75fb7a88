package demo

import (
	"os"
	"syscall"
)

// dieWithParent has the kernel kill a process when its parent ends, and puts
// it into a group of its own: Ctrl-C in a terminal then reaches the demo
// alone, which stops its processes in order.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// terminate asks a process to end.
func terminate(p *os.Process) error { return p.Signal(syscall.SIGTERM) }

// lockFile takes a file for this process until it is closed, or the process ends
// in whatever way.
func lockFile(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }

// checkSystem tells whether a demo can run here.
func checkSystem() error { return nil }
