package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// startPatience bounds a program's start, stopPatience its end before it is
	// killed.
	startPatience = 20 * time.Second
	stopPatience  = 5 * time.Second
	// clockTick is the unit of the times in /proc: USER_HZ, 100 on every
	// architecture that Go knows.
	clockTick = 10 * time.Millisecond
)

// A process is a program that runs until stop, with all that it starts.
type process struct {
	name  string
	cmd   *exec.Cmd
	log   tail
	ended chan struct{} // closed when it has ended
}

// start starts a program. It is in a process group of its own, so that an
// interrupt from the terminal reaches this program alone, which then ends the
// others in order; and it ends with this program, however that ends.
func start(name string, argv ...string) (*process, error) {
	p := &process{name: name, cmd: exec.Command(argv[0], argv[1:]...), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), "GOMAXPROCS=2")
	p.cmd.Stdout = &p.log
	p.cmd.Stderr = &p.log
	p.cmd.WaitDelay = stopPatience
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", name, err)
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // how it ended is of no interest: that it did is
	}()
	return p, nil
}

// awaitPort waits until something listens at address, or p has ended.
func (p *process) awaitPort(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	var dialer net.Dialer
	for {
		conn, err := dialer.DialContext(ctx, "tcp", address)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s has ended:\n%s", p.name, p.log.String())
		case <-ctx.Done():
			return fmt.Errorf("%s does not listen on %s: %w\n%s", p.name, address, context.Cause(ctx), p.log.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stop ends p and all that it started, and waits for that.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(stopPatience):
	}
	// Its group holds only what it started; none is left as a rule.
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.ended
}

// alive returns an error if one of the processes has ended.
func alive(procs []*process) error {
	for _, p := range procs {
		select {
		case <-p.ended:
			return fmt.Errorf("%s has ended:\n%s", p.name, p.log.String())
		default:
		}
	}
	return nil
}

// cpuTime is the user and system time of the processes and of all below them.
func cpuTime(procs []*process) (time.Duration, error) {
	var sum time.Duration
	err := eachPID(procs, func(pid int) error {
		fields, err := statFields(pid)
		if err != nil {
			return err
		}
		user, err1 := strconv.ParseInt(fields[11], 10, 64)
		system, err2 := strconv.ParseInt(fields[12], 10, 64)
		sum += time.Duration(user+system) * clockTick
		return errors.Join(err1, err2)
	})
	return sum, err
}

// resident is the resident memory of the processes and of all below them, in
// bytes: the sum of each one's VmRSS.
func resident(procs []*process) (uint64, error) {
	var sum uint64
	err := eachPID(procs, func(pid int) error {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return err
		}
		for line := range bytes.Lines(status) {
			if value, ok := bytes.CutPrefix(line, []byte("VmRSS:")); ok {
				kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(string(value)), " kB"), 10, 64)
				sum += kib << 10
				return err
			}
		}
		return fmt.Errorf("/proc/%d/status has no VmRSS", pid)
	})
	return sum, err
}

// eachPID calls fn for each of the processes and for each process below one.
func eachPID(procs []*process, fn func(pid int) error) error {
	if len(procs) == 0 {
		return nil
	}
	children, err := childProcesses()
	if err != nil {
		return err
	}
	var pids []int
	for _, p := range procs {
		pids = append(pids, p.cmd.Process.Pid)
	}
	for i := 0; i < len(pids); i++ {
		pids = append(pids, children[pids[i]]...)
		if err := fn(pids[i]); err != nil {
			return err
		}
	}
	return nil
}

// childProcesses maps each process to those that it started.
func childProcesses() (map[int][]int, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		fields, err := statFields(pid)
		if err != nil {
			continue // It ended meanwhile.
		}
		parent, err := strconv.Atoi(fields[1])
		if err != nil {
			return nil, fmt.Errorf("cannot read %s/stat: %w", dir, err)
		}
		children[parent] = append(children[parent], pid)
	}
	return children, nil
}

// statFields is /proc/PID/stat from the third field on, the state.
func statFields(pid int) ([]string, error) {
	name := fmt.Sprintf("/proc/%d/stat", pid)
	stat, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	// The second field is a name in brackets, which may hold anything.
	_, rest, _ := strings.Cut(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return nil, fmt.Errorf("%s has only %d fields", name, len(fields))
	}
	return fields, nil
}

// tail keeps the end of what is written to it. Safe for concurrent use.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailBytes = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if extra := len(t.text) - tailBytes; extra > 0 {
		t.text = append(t.text[:0], t.text[extra:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}
