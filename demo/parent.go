package demo

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// WithParent returns a context that also ends when the process that started
// this one ends: a demo then does not outlive the shell, make or script that
// ran it. Where hangups are ignored (nohup) it was meant to, and where there is
// no parent to lose, only ctx counts. The returned function releases it.
func WithParent(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	parent := os.Getppid()
	if parent <= 1 || signal.Ignored(syscall.SIGHUP) {
		return ctx, cancel
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if os.Getppid() != parent {
					cancel()
					return
				}
			}
		}
	}()
	return ctx, func() {
		cancel()
		<-done
	}
}
