package discover

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/balance"
)

// View is what is known of a destination at a moment.
type View struct {
	// Known is false where nobody in the cluster has the address, or the control
	// plane could not be asked: then Reason says which, and the address is to be
	// connected to as it is.
	Known  bool
	Reason string
	// Service tells that there may be several endpoints, those of the
	// Destination's Set; else Endpoint is the only one.
	Service  bool
	Endpoint balance.Endpoint
	// Opaque and Protocol are what is declared of the destination; Protocol is
	// ProtocolUnknown where it has to be detected.
	Opaque   bool
	Protocol event.Protocol
}

// Destination is what is behind an address. It changes as endpoints come and
// go. Its methods are safe for concurrent use.
type Destination struct {
	r    *Resolver
	addr netip.AddrPort
	set  *balance.Set
	view atomic.Pointer[View]

	// What follows is guarded by r.mu. state is what was said last, applied counts
	// how often something was.
	state   *control.Destination
	applied uint64
	// asking is closed when the question under way is answered; nil: there is none.
	asking chan struct{}
	// answered: there was an answer once; failing: the last question had none;
	// known: the address is somebody's.
	answered, failing, known bool
	asked, used              time.Time
	refs                     int
	// queued: it waits to be asked for again; again: it is to be, once the question
	// under way is answered; gone: it is not listed any more.
	queued, again, gone bool
	atEnd               []func()
}

func newDestination(r *Resolver, addr netip.AddrPort) *Destination {
	d := &Destination{r: r, addr: addr, set: balance.New(balance.Options{})}
	d.view.Store(&View{Reason: ReasonUnavailable})
	return d
}

// View is what is known now. It must not be changed.
func (d *Destination) View() *View { return d.view.Load() }

// Set is the endpoints of a service, to be balanced over.
func (d *Destination) Set() *balance.Set { return d.set }

// Release ends a use that Resolve began.
func (d *Destination) Release() {
	d.r.mu.Lock()
	d.refs--
	// One that found no room in the list ends with its use.
	over := d.refs == 0 && !d.gone && d.r.known[d.addr] != d
	d.gone = d.gone || over
	d.r.mu.Unlock()
	if over {
		d.end()
	}
}

// AtEnd has f called when the destination is forgotten; nobody uses it then.
func (d *Destination) AtEnd(f func()) {
	d.r.mu.Lock()
	defer d.r.mu.Unlock()
	d.atEnd = append(d.atEnd, f)
}

// Ask has the control plane asked again, where what it said seems wrong.
func (d *Destination) Ask() {
	d.r.mu.Lock()
	defer d.r.mu.Unlock()
	if time.Since(d.asked) > ttlFailed {
		d.requeue()
	}
}

func (d *Destination) end() {
	d.r.mu.Lock()
	fs := d.atEnd
	d.atEnd = nil
	d.r.mu.Unlock()
	for _, f := range fs {
		f()
	}
}

// requeue has the destination asked for again, soon. r.mu is held.
func (d *Destination) requeue() {
	if d.queued {
		return
	}
	select {
	case d.r.stale <- d:
		d.queued = true
	default: // there is room for all, but for those that were evicted meanwhile
	}
}

// apply makes s what is known. r.mu is held.
func (d *Destination) apply(s *control.Destination) {
	d.applied++
	d.state, d.answered, d.known = s, true, s.Known
	v := &View{Known: s.Known, Service: s.Service != "", Opaque: s.Opaque, Protocol: protocols[s.Protocol]}
	if v.Opaque {
		v.Protocol = event.ProtocolUnknown
	}
	switch {
	case !s.Known:
		v.Reason = ReasonUnknown
	case v.Service:
		d.set.Set(d.endpoints(s))
	case len(s.Endpoints) == 0:
		// A pod that is gone: its address is as good as unknown.
		v.Known, v.Reason = false, ReasonUnknown
	default:
		v.Endpoint = d.r.endpoint(&s.Endpoints[0])
	}
	if !v.Service {
		d.set.Set(nil)
	}
	d.view.Store(v)
}

// endpoints are those that take new requests: those that end only where there
// are no others.
func (d *Destination) endpoints(s *control.Destination) []balance.Endpoint {
	var serving, ending []balance.Endpoint
	for i := range s.Endpoints {
		e := d.r.endpoint(&s.Endpoints[i])
		if s.Endpoints[i].Terminating {
			ending = append(ending, e)
		} else {
			serving = append(serving, e)
		}
	}
	if len(serving) == 0 {
		return ending
	}
	return serving
}
