// Package resident keeps a long-running program's resident memory to what it works
// with.
package resident

import "time"

const (
	// Settled is when a program has started, and [Keep] drops its text for the
	// first time.
	Settled = 2 * time.Second
	// Interval is between one time and the next: what the traffic of an hour ago
	// used of the program is not what that of now uses. The pages in use come back
	// by some dozens of minor faults, so more often would not be dear either.
	Interval = 10 * time.Second
)

// Keep calls [DropText] at [Settled] and every [Interval] from then on, until stop
// is called, which waits for it to end.
func Keep() (stop func()) {
	ending, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		next := time.NewTimer(Settled)
		defer next.Stop()
		for {
			select {
			case <-ending:
				return
			case <-next.C:
				DropText()
				next.Reset(Interval)
			}
		}
	}()
	return func() {
		close(ending)
		<-ended
	}
}
