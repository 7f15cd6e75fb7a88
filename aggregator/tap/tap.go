// Package tap hands live events on to those who listen: each event as one JSON
// message on its workload's subject, encoded only while somebody is there.
package tap

import (
	"sync"
	"time"

	"github.com/weirmesh/weir/event"
)

// MaxAge is how old a batch may be to be handed on. What an aggregator reads
// back after a restart is history; the stream has it.
const MaxAge = 30 * time.Second

// Publisher sends to those who listen. It must be safe for concurrent use.
type Publisher interface {
	// Interested tells whether PublishInterest would send now: false where nobody
	// listened just now. It is true, too, where only a message finds that out.
	Interested(subject string) bool
	// PublishInterest publishes while somebody listens, and tells whether it
	// did. It finds out by publishing now and then. data may be used again.
	PublishInterest(subject string, data []byte) bool
	// AnnounceTapped tells the workload's proxies that it is tapped.
	AnnounceTapped(w event.Workload) error
}

const (
	// confirm is how long after a message it is known whether somebody was
	// there to get it; doubt is when that is not known any more.
	confirm = 100 * time.Millisecond
	doubt   = 900 * time.Millisecond
	// announceEvery is how often proxies are told, forget how long a workload
	// without events is remembered.
	announceEvery = time.Second
	forget        = 10 * time.Second
	// recheck: so many events are published between two looks whether somebody
	// still listens.
	recheck = 32
	// maxWorkloads bounds what is remembered.
	maxWorkloads = 10_000
)

// Fanout publishes events to the tap subjects. It is safe for concurrent use.
type Fanout struct {
	publisher Publisher
	subject   func(event.Workload) string

	mu sync.Mutex
	// workloads is guarded by mu.
	workloads map[event.Workload]*workload
}

// workload is what is known of one subject.
type workload struct {
	subject string
	// first and last message since nobody was there.
	first, last time.Time
	// tapped: somebody was there to get a message.
	tapped    bool
	announced time.Time
}

// New returns a Fanout that publishes on the subjects that subject names.
func New(p Publisher, subject func(event.Workload) string) *Fanout {
	return &Fanout{publisher: p, subject: subject, workloads: map[event.Workload]*workload{}}
}

// Batch returns what to call with each event of a batch that was sealed at
// sent, or nil where it is too old or nobody listens. What it returns is whether
// it wants the next: not, once nobody listens any more. It is not safe for
// concurrent use and must not be called after the batch's end.
func (f *Fanout) Batch(h *event.Header, sent, now time.Time) func(index int, e *event.Event) (more bool) {
	if now.Sub(sent) > MaxAge {
		return nil
	}
	subject := f.note(h.Source.Workload, now)
	if subject == "" {
		return nil
	}
	var line []byte
	return func(index int, e *event.Event) bool {
		// The first may have been the one that finds out whether anybody listens.
		if (index == 1 || index%recheck == 0 && index > 0) && !f.publisher.Interested(subject) {
			return false
		}
		line = event.AppendJSON(line[:0], h, index, e)
		return f.publisher.PublishInterest(subject, line)
	}
}

// note remembers that a message will be published, and returns its subject, or
// "" where nobody listens.
func (f *Fanout) note(w event.Workload, now time.Time) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.workloads[w]
	if s == nil {
		if len(f.workloads) >= maxWorkloads {
			return ""
		}
		// w's strings may point into a batch; the subject does not.
		s = &workload{subject: f.subject(w)}
		f.workloads[w.Clone()] = s
	}
	if !f.publisher.Interested(s.subject) {
		s.tapped, s.first = false, time.Time{}
		s.last = now
		return ""
	}
	if s.first.IsZero() {
		s.first = now
	}
	s.last = now
	return s.subject
}

// Tick finds out who is tapped and tells the proxies, once a second each. To be
// called every 100 ms or so.
func (f *Fanout) Tick(now time.Time) {
	for _, w := range f.due(now) {
		// Where the bus is away nobody is tapped either.
		_ = f.publisher.AnnounceTapped(w)
	}
}

func (f *Fanout) due(now time.Time) (due []event.Workload) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for w, s := range f.workloads {
		idle := now.Sub(s.last)
		if idle > forget {
			delete(f.workloads, w)
			continue
		}
		if !s.first.IsZero() && now.Sub(s.first) >= confirm && idle < doubt {
			if s.tapped = f.publisher.Interested(s.subject); !s.tapped {
				s.first = time.Time{}
			}
		}
		if s.tapped && now.Sub(s.announced) >= announceEvery {
			s.announced = now
			due = append(due, w)
		}
	}
	return due
}

// Tapped is how many workloads are tapped.
func (f *Fanout) Tapped() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.workloads {
		if s.tapped {
			n++
		}
	}
	return n
}
