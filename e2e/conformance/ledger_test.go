package conformance

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/bus/bustest"
	"github.com/weirmesh/weir/bus/server"
	"github.com/weirmesh/weir/event"
)

// What a client knows of an exchange.
const (
	// attempted: it may have come to the proxy, or not.
	attempted uint8 = iota + 1
	// answered: it did, and the server saw it too.
	answered
)

// A ledger compares what clients did with what two proxies told. Every
// exchange has a path of its own, so each is followed by itself.
type ledger struct {
	mu      sync.Mutex
	clients [][]uint8    // by worker and number: what the client knows
	ended   [2][][]uint8 // by direction, worker and number: End events
	faults  []string     // what no run may show; the first ones

	streams map[streamKey][]uint64 // which streams of a connection have ended
	tcp     [2]uint64              // End events of TCP connections
	other   [2]uint64              // End events of requests without a path
	proxies map[uint64]told
	errors  map[string]uint64
}

type streamKey struct{ instance, connection uint64 }

// told is what the batches of one proxy say together.
type told struct {
	events, produced, shed, batches uint64
	final                           bool
}

func newLedger() *ledger {
	return &ledger{streams: map[streamKey][]uint64{}, proxies: map[uint64]told{}, errors: map[string]uint64{}}
}

// path begins a new exchange of a worker and returns its name.
func (l *ledger) path(worker int) (path string, number int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.clients) <= worker {
		l.clients = append(l.clients, nil)
	}
	l.clients[worker] = append(l.clients[worker], attempted)
	number = len(l.clients[worker]) - 1
	return fmt.Sprintf("/soak/%d/%d", worker, number), number
}

// answer notes that an exchange had its answer, or the beginning of one.
func (l *ledger) answer(worker, number int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clients[worker][number] = answered
}

func (l *ledger) fault(format string, args ...any) {
	if len(l.faults) < 20 {
		l.faults = append(l.faults, fmt.Sprintf(format, args...))
	}
}

// read takes all events off the bus until the test ends.
func (l *ledger) read(t *testing.T, s *server.Server) {
	t.Helper()
	c := bustest.Connect(t, s)
	ctx, cancel := context.WithCancel(context.Background())
	var readers sync.WaitGroup
	for partition := range bus.Partitions {
		readers.Go(func() {
			var d event.Decoder
			err := c.ConsumeEvents(ctx, partition, nil, func(_ event.Mark, _ string, data []byte) error {
				if err := d.Reset(data); err != nil {
					return err
				}
				l.take(&d)
				return nil
			})
			if ctx.Err() == nil {
				t.Errorf("cannot read partition %d: %v", partition, err)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		readers.Wait()
	})
}

// take enters a batch.
func (l *ledger) take(d *event.Decoder) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := d.Header()
	p := l.proxies[h.Instance]
	p.batches++
	p.produced, p.shed = max(p.produced, h.Produced), max(p.shed, h.Shed)
	p.final = p.final || h.Final
	var e event.Event
	for d.Next(&e) {
		p.events++
		if e.Kind == event.End {
			l.end(h.Instance, &e)
		}
	}
	l.proxies[h.Instance] = p
}

// end enters an exchange's end.
func (l *ledger) end(instance uint64, e *event.Event) {
	key := streamKey{instance, e.Connection}
	bits := l.streams[key]
	for len(bits) <= int(e.Stream/64) {
		bits = append(bits, 0)
	}
	if bits[e.Stream/64]&(1<<(e.Stream%64)) != 0 {
		l.fault("connection %x has two ends of stream %d: %+v", e.Connection, e.Stream, *e)
	}
	bits[e.Stream/64] |= 1 << (e.Stream % 64)
	l.streams[key] = bits
	l.errors[e.Direction.String()+" "+e.Protocol.String()+" "+e.Error]++
	d := e.Direction - event.Inbound
	worker, number, ok := parsePath(e.Path)
	switch {
	case ok:
		seen := &l.ended[d]
		for len(*seen) <= worker {
			*seen = append(*seen, nil)
		}
		for len((*seen)[worker]) <= number {
			(*seen)[worker] = append((*seen)[worker], 0)
		}
		(*seen)[worker][number]++
	case e.Protocol == event.TCP:
		l.tcp[d]++
	default:
		l.other[d]++
	}
}

func parsePath(path string) (worker, number int, ok bool) {
	rest, ok := strings.CutPrefix(path, "/soak/")
	if !ok {
		return 0, 0, false
	}
	a, b, _ := strings.Cut(rest, "/")
	worker, err := strconv.Atoi(a)
	if err != nil {
		return 0, 0, false
	}
	number, err = strconv.Atoi(b)
	return worker, number, err == nil
}

// settled waits until all that so many proxies produced is here. They must have
// ended.
func (l *ledger) settled(t *testing.T, proxies int) {
	t.Helper()
	eventually(t, func() string {
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.proxies) != proxies {
			return fmt.Sprintf("%d proxies have told something, want %d", len(l.proxies), proxies)
		}
		for instance, p := range l.proxies {
			if !p.final || p.events+p.shed < p.produced {
				return fmt.Sprintf("proxy %x: %+v", instance, p)
			}
		}
		return ""
	})
}

// check compares. Where an exchange was answered there is exactly one end of
// it on either side, else at most one.
func (l *ledger) check(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.faults {
		t.Error(f)
	}
	for instance, p := range l.proxies {
		if p.shed > 0 || p.events != p.produced {
			t.Errorf("proxy %x: events were shed or came twice: %+v", instance, p)
		}
	}
	wrong, total, sure := 0, 0, 0
	for worker, states := range l.clients {
		for number, state := range states {
			total++
			if state == answered {
				sure++
			}
			for d := range l.ended {
				n := uint8(0)
				if seen := l.ended[d]; worker < len(seen) && number < len(seen[worker]) {
					n = seen[worker][number]
				}
				if n > 1 || n == 0 && state == answered {
					if wrong++; wrong <= 10 {
						t.Errorf("%s: /soak/%d/%d has %d ends, its client's state is %d", event.Direction(d+1), worker, number, n, state)
					}
				}
			}
		}
	}
	t.Logf("%d exchanges, %d of them answered; %d wrong; TCP ends %v, without a path %v; ends by error: %v", total, sure, wrong, l.tcp, l.other, l.errors)
	if sure == 0 {
		t.Error("no exchange was answered")
	}
}

// wait is a pause of a client's.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
