package proxy

import (
	"context"
	"runtime/debug"
	"time"
)

const (
	// trimEvery is how often the proxy looks whether it has memory to give back.
	trimEvery = 10 * time.Second
	// trimRounds is how many collections it takes: a pool keeps what it has for
	// two, and a stack halves in each.
	trimRounds = 3
	// quietEvents is how many events within trimEvery are no burst: a collection
	// costs as much as some hundred requests.
	quietEvents = 1000
)

// A trimmer decides when memory is given back. The runtime collects what a
// burst has left only as new memory is asked for, and relays ask for next to
// none; by itself it looks every two minutes, and keeps stacks for longer.
type trimmer struct {
	events, accepted uint64 // at the last look
	left             int    // collections still to be done
}

// look is told what the proxy has recorded and accepted in all, and tells
// whether this is the moment for a collection.
func (t *trimmer) look(events, accepted uint64) bool {
	busy := events - t.events
	if busy > 0 || accepted != t.accepted {
		t.left = trimRounds
	}
	t.events, t.accepted = events, accepted
	if t.left == 0 || busy >= quietEvents {
		return false
	}
	t.left--
	return true
}

// trim gives memory back to the system after bursts, until ctx ends.
func (p *Proxy) trim(ctx context.Context) {
	tick := time.NewTicker(trimEvery)
	defer tick.Stop()
	var t trimmer
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var events, accepted uint64
		if p.pipeline != nil {
			for _, n := range p.pipeline.Stats().Events {
				events += n
			}
		}
		for _, n := range p.group.Stats().Accepted {
			accepted += n
		}
		if t.look(events, accepted) {
			debug.FreeOSMemory()
		}
	}
}
