package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/weirmesh/weir/e2e/cluster/node"
)

// A process is the node's first, and with it all of the node.
type process struct {
	pid   int
	cmd   *exec.Cmd
	ended chan struct{}
}

// startNode starts the node in namespaces of its own. It is killed when this
// process ends, however that does.
func startNode(c node.Config) (*process, error) {
	out, err := os.OpenFile(filepath.Join(c.Dir, "node.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("cannot start the node: %w", err)
	}
	defer out.Close()
	cmd := exec.Command(filepath.Join(c.Bin, "weir-cluster"), "node", "--config", c.File())
	cmd.Dir = c.Dir
	cmd.Env = []string{"PATH=" + c.Bin + ":" + searchPath, "HOME=" + c.Dir, "TMPDIR=" + c.Dir}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
		Setsid:     true, // Ctrl-C in a terminal is its parent's to heed
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The kernel takes the end of this thread for that of the parent.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // its log says why it ended
		}
		close(p.ended)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("cannot start the node: %w", err)
	}
	p.pid = cmd.Process.Pid
	return p, nil
}

// kill ends the node, and returns when its last process is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended by itself
	<-p.ended
}
