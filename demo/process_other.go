//go:build !linux

package demo

import (
	"errors"
	"os"
	"syscall"
)

// errLinux is what there is of a demo elsewhere: the commands that ask a mesh in
// a cluster need no more.
var errLinux = errors.New("cannot run the demo: its proxies and its bus need Linux (a container or a virtual machine will do)")

func checkSystem() error { return errLinux }

func dieWithParent() *syscall.SysProcAttr { return nil }

func terminate(*os.Process) error { return errLinux }

func lockFile(*os.File) error { return errLinux }
