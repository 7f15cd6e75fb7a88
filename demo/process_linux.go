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

func terminate(p *os.Process) error { return p.Signal(syscall.SIGTERM) }
