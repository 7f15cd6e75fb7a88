package measure

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

const (
	// startPatience bounds a program's start, stopPatience its end before it is
	// killed.
	startPatience = 20 * time.Second
	stopPatience  = 5 * time.Second
)

// A Process is a program that runs until Stop, with all that it starts. It is
// safe for concurrent use.
type Process struct {
	name  string
	cmd   *exec.Cmd
	log   tail
	ended chan struct{} // closed when it has ended
}

// Start starts a program with GOMAXPROCS=2 unless the environment says otherwise. It is in a process group of its own, so that an
// interrupt from the terminal reaches this program alone, which then ends the
// others in order; and it ends with this program, however that ends.
func Start(name string, argv ...string) (*Process, error) {
	p := &Process{name: name, cmd: exec.Command(argv[0], argv[1:]...), ended: make(chan struct{})}
	p.cmd.Env = append([]string{"GOMAXPROCS=2"}, os.Environ()...)
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

// PID is the number of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Log is the end of what p wrote to stdout and stderr, 4 KiB at most.
func (p *Process) Log() string { return p.log.String() }

// Ended is closed when p has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Kill ends p and all that it started without any warning, and waits for that.
func (p *Process) Kill() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.ended
}

// AwaitPort waits until something listens at address, or p has ended.
func (p *Process) AwaitPort(ctx context.Context, address string) error {
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

// Stop ends p and all that it started, and waits for that.
func (p *Process) Stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(stopPatience):
	}
	// Its group holds only what it started; none is left as a rule.
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.ended
}

// Alive returns an error if one of the processes has ended.
func Alive(procs []*Process) error {
	for _, p := range procs {
		select {
		case <-p.ended:
			return fmt.Errorf("%s has ended:\n%s", p.name, p.log.String())
		default:
		}
	}
	return nil
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
