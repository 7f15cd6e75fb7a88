package client

import (
	"sync/atomic"
	"time"
)

const (
	// A connection on which reads had to wait paceMany times within paceLook is read
	// every paceEvery from then on, until that brings something less than paceFew
	// times in as long: each wait takes as much as handling several messages.
	paceEvery = 5 * time.Millisecond
	paceLook  = 100 * time.Millisecond
	paceMany  = 25
	paceFew   = 10
	// paceBytes are read sooner; a socket holds more.
	paceBytes = 64 << 10
)

// pace lets bytes gather on a connection that has much to read. But for on, it is
// its reader's alone.
type pace struct {
	// on: there is somebody who reads a lot, and for whom that little later is soon
	// enough.
	on atomic.Bool
	// since is when the count of reads began.
	since time.Time
	reads int
	busy  bool
}

// rests tells whether to wait for paceEvery before the next read. got tells that
// the one before got anything, and had to wait for it.
func (p *pace) rests(got bool) bool {
	if !p.on.Load() {
		return false
	}
	now := time.Now()
	if passed := now.Sub(p.since); passed >= paceLook {
		least := paceMany
		if p.busy {
			least = paceFew
		}
		p.busy = p.reads >= least && passed < 2*paceLook
		p.since, p.reads = now, 0
	}
	if got {
		p.reads++
	}
	return p.busy
}
