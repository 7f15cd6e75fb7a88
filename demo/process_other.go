//go:build !linux

package demo

import (
	"os"
	"syscall"
)

// dieWithParent puts a process into a group of its own: Ctrl-C in a terminal
// then reaches the demo alone, which stops its processes in order. Only Linux
// can have a process die with its parent.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func terminate(p *os.Process) error { return p.Signal(syscall.SIGTERM) }
