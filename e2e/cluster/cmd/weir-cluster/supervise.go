package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/weirmesh/weir/e2e/cluster"
)

// ready is what a supervisor says on its stdout when the cluster is up.
const ready = "weir-cluster: the cluster is ready\n"

// up starts a supervisor in the background and returns when its cluster is ready.
func up(ctx context.Context, o cluster.Options, images []string) error {
	began := time.Now()
	// Here, where it can be watched and ended.
	if err := cluster.Build(ctx, o); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.Command(self, append([]string{"supervise", "--name", o.Name, "--source", o.Source, "--"}, images...)...)
	cmd.Stdout, cmd.Stderr = w, w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it outlives the terminal
	err = cmd.Start()
	_ = w.Close() // the supervisor has its own
	if err != nil {
		return fmt.Errorf("cannot start the supervisor: %w", err)
	}
	said := make(chan string, 1)
	go func() { said <- listen(r) }()
	select {
	case text := <-said:
		if !strings.HasSuffix(text, ready) {
			_ = cmd.Wait() // it has said why
			return errors.New(strings.TrimPrefix(strings.TrimSpace(text), "weir-cluster: "))
		}
	case <-ctx.Done():
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		return errors.Join(ctx.Err(), cmd.Wait())
	}
	slog.Info("the cluster is up", "name", o.Name, "after", time.Since(began).Round(100*time.Millisecond))
	return cmd.Process.Release()
}

// listen reads until the supervisor is ready or has ended.
func listen(r io.Reader) string {
	var text strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		text.Write(buf[:n])
		if err != nil || strings.HasSuffix(text.String(), ready) {
			return text.String()
		}
	}
}

// supervise is the parent of a cluster, until it is told to end or the cluster does.
func supervise(ctx context.Context, o cluster.Options, images []string) error {
	o.Images = images
	c, err := cluster.Up(ctx, o)
	if err != nil {
		return err
	}
	fmt.Print(ready)
	// Whoever waited for that may close the other end now.
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err == nil {
		err = errors.Join(syscall.Dup3(int(null.Fd()), 1, 0), syscall.Dup3(int(null.Fd()), 2, 0), null.Close())
	}
	if err != nil {
		return errors.Join(err, c.Down())
	}
	select {
	case <-ctx.Done():
	case <-c.Done():
	}
	return c.Down()
}

// forward carries connections from this machine into the cluster until ctx ends.
func forward(ctx context.Context, c *cluster.Cluster, from, to string) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", from)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = l.Close() })() // Accept then says so
	slog.Info("forwarding", "from", l.Addr().String(), "to", to)
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		in, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		wg.Go(func() { carry(ctx, c, in, to) })
	}
}

// carry joins a connection with one into the cluster, until both directions end.
func carry(ctx context.Context, c *cluster.Cluster, in net.Conn, to string) {
	defer in.Close()
	out, err := c.DialContext(ctx, "tcp", to)
	if err != nil {
		slog.Warn("cannot connect", "to", to, "error", err)
		return
	}
	defer out.Close()
	defer context.AfterFunc(ctx, func() { _, _ = in.Close(), out.Close() })()
	var wg sync.WaitGroup
	for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
		wg.Go(func() {
			_, _ = io.Copy(way[0], way[1]) // either side may go
			if half, ok := way[0].(*net.TCPConn); ok {
				_ = half.CloseWrite()
			}
		})
	}
	wg.Wait()
}
