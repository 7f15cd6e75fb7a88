package node

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
)

// processes starts the node's processes and collects every one that ends: as the
// first of its pid namespace this process inherits those of others, too.
type processes struct {
	mu    sync.Mutex
	named map[int]running // by pid
}

type running struct {
	name  string
	ended chan<- ended
}

// ended says that a process did, and how.
type ended struct {
	name   string
	status syscall.WaitStatus
}

func (e ended) Error() string {
	if e.status.Signaled() {
		return fmt.Sprintf("%s was ended by the signal %s", e.name, e.status.Signal())
	}
	return fmt.Sprintf("%s ended with exit code %d", e.name, e.status.ExitStatus())
}

// reap collects what ends, until stop is called, which waits for it.
func reap() (p *processes, stop func()) {
	p = &processes{named: map[int]running{}}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGCHLD)
	var wg sync.WaitGroup
	wg.Go(func() {
		for range signals {
			p.collect()
		}
	})
	return p, func() {
		signal.Stop(signals)
		close(signals)
		wg.Wait()
	}
}

// collect asks for all that have ended: several signals may come as one.
func (p *processes) collect() {
	// Under the lock, so that one that ends at once is known by then.
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if r, ok := p.named[pid]; ok {
			delete(p.named, pid)
			r.ended <- ended{r.name, status}
		}
	}
}

// start starts a program whose output goes to out. Its end is sent to done, which
// must have room for it.
func (p *processes) start(out *os.File, done chan<- ended, name, path string, args ...string) error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return fmt.Errorf("cannot start %s: %w", name, err)
	}
	defer null.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	process, err := os.StartProcess(path, append([]string{path}, args...), &os.ProcAttr{
		Files: []*os.File{null, out, out},
		Env:   os.Environ(),
		Sys:   &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return fmt.Errorf("cannot start %s: %w", name, err)
	}
	p.named[process.Pid] = running{name, done}
	return process.Release()
}

// run runs a program to its end, and errs with what it said if it failed.
func (p *processes) run(name string, args ...string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return fmt.Errorf("cannot run %s: %w", name, err)
	}
	said, err := os.CreateTemp("", "weir-node-*")
	if err != nil {
		return fmt.Errorf("cannot run %s: %w", name, err)
	}
	defer func() { _ = os.Remove(said.Name()) }() // it goes with the cluster anyway
	defer said.Close()
	done := make(chan ended, 1)
	if err := p.start(said, done, name, path, args...); err != nil {
		return err
	}
	if e := <-done; e.status != 0 {
		text, _ := os.ReadFile(said.Name()) // the failure itself counts
		return fmt.Errorf("cannot run %s %q: %w: %s", name, args, e, text)
	}
	return nil
}

// open makes a component's log.
func (c Config) open(name string) (*os.File, error) {
	return os.OpenFile(filepath.Join(c.LogDir(), name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
}
