package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"
)

// Bounds on a process that is to stop, and on one that keeps dying.
const (
	stopGrace    = 12 * time.Second
	restartPause = 500 * time.Millisecond
	restartLimit = 10 * time.Second
)

// A supervisor runs processes and starts those again that die, as a kubelet
// does. They die with this process, however it ends.
type supervisor struct {
	say     func(format string, args ...any)
	verbose bool

	forks chan func() // run on the thread that parents every process
}

// newSupervisor returns a supervisor; run its forker before start.
func newSupervisor(say func(string, ...any), verbose bool) *supervisor {
	return &supervisor{say: say, verbose: verbose, forks: make(chan func())}
}

// forker starts processes until ctx ends. The kernel's "die with your parent"
// means the parent's thread, so that one goroutine, locked to one thread, does
// all of it and must outlive them all.
func (s *supervisor) forker(ctx context.Context) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		select {
		case <-ctx.Done():
			return
		case f := <-s.forks:
			f()
		}
	}
}

// A process is one supervised program.
type process struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{}
}

// start runs a program until stop, again and again if it dies.
func (s *supervisor) start(name, path string, args ...string) *process {
	ctx, cancel := context.WithCancel(context.Background())
	p := &process{name: name, cancel: cancel, done: make(chan struct{})}
	go func() { // stop waits for it
		defer close(p.done)
		pause := restartPause
		for {
			began := time.Now()
			err := s.once(ctx, name, path, args)
			if ctx.Err() != nil {
				return
			}
			if time.Since(began) > time.Minute {
				pause = restartPause
			}
			s.say("%s ended (%v); starting it again", name, err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			pause = min(2*pause, restartLimit)
		}
	}()
	return p
}

// stop asks p to end, and waits until it has, after stopGrace by force.
func (p *process) stop() {
	p.cancel()
	<-p.done
}

// once runs a program to its end; when ctx ends it is asked to stop.
func (s *supervisor) once(ctx context.Context, name, path string, args []string) error {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.SysProcAttr = dieWithParent()
	cmd.Cancel = func() error { return terminate(cmd.Process) }
	cmd.WaitDelay = stopGrace
	output, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w

	var wg sync.WaitGroup
	wg.Go(func() { s.relay(name, output) })
	started := make(chan error, 1)
	s.forks <- func() { started <- cmd.Start() }
	err := <-started
	if err == nil {
		err = cmd.Wait()
	}
	_ = w.Close() // never fails
	wg.Wait()
	return err
}

// relay shows what a process says: its warnings and errors, or all of it.
func (s *supervisor) relay(name string, output io.Reader) {
	lines := bufio.NewReader(output)
	for {
		line, err := lines.ReadString('\n')
		line = strings.TrimRight(line, "\n")
		quiet := strings.Contains(line, "level=INFO") || strings.Contains(line, "level=DEBUG")
		if line != "" && (s.verbose || !quiet) {
			s.say("[%s] %s", name, line)
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				s.say("[%s] cannot read its output: %v", name, err)
			}
			return
		}
	}
}

// waitFor calls ready every 50 ms until it returns nil, ctx ends, or p has been
// tried for too long; the error is then ready's last.
func waitFor(ctx context.Context, what string, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s did not become ready: %w", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
