package e2e

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/bus/client"
	"github.com/weirmesh/weir/event"
)

// ledger is what the stream of events says of each pod, read without Weir's
// aggregator.
type ledger map[string]*account

// account is one pod's.
type account struct {
	// produced, told and shed are events: all, one by one, and those in sums.
	produced, told, shed uint64
	// requests among them, and those that were told one by one.
	requests, toldRequests uint64
	// instances of the proxy, batches that came, that are missing, and that came
	// more than once.
	instances, batches, lost, repeated int
	// numbers counts the events of each request, by its number.
	numbers map[int]int
	wrong   []string
}

// sheet is what one instance of a proxy published, by sequence.
type sheet struct {
	pod     string
	batches map[uint64][]byte
}

// readLedger reads the stream from the beginning.
func (w *chaosWorld) readLedger() ledger {
	t := w.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c, err := client.Connect(ctx, client.Options{URL: "nats://" + w.bus, Name: "ledger"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sheets := map[uint64]*sheet{}
	repeated := map[string]int{}
	var d event.Decoder
	err = c.ReadEvents(ctx, event.Workload{Namespace: "chaos"}, w.began, time.Now(), nil, func(_ uint64, _ event.Workload, _ time.Time, data []byte) error {
		if err := d.Reset(data); err != nil {
			return err
		}
		h := d.Header()
		s := sheets[h.Instance]
		if s == nil {
			s = &sheet{pod: strings.Clone(h.Source.Pod), batches: map[uint64][]byte{}}
			sheets[h.Instance] = s
		}
		if before, again := s.batches[h.Sequence]; again {
			repeated[s.pod]++
			if !bytes.Equal(before, data) {
				return fmt.Errorf("%s has two batches %d of instance %x that differ", s.pod, h.Sequence, h.Instance)
			}
		}
		s.batches[h.Sequence] = data
		return nil
	})
	if err != nil {
		t.Fatalf("cannot read the stream: %v", err)
	}
	l := ledger{}
	for _, p := range w.pods {
		l[p.name] = &account{numbers: map[int]int{}, repeated: repeated[p.name]}
	}
	for instance, s := range sheets {
		if l[s.pod] == nil {
			t.Fatalf("the stream has batches of %q", s.pod)
		}
		if err := l[s.pod].add(s); err != nil {
			l[s.pod].wrong = append(l[s.pod].wrong, fmt.Sprintf("instance %x: %v", instance, err))
		}
	}
	return l
}

// add counts what an instance published.
func (a *account) add(s *sheet) error {
	var d event.Decoder
	a.instances++
	sequences := slices.Sorted(maps.Keys(s.batches))
	last := sequences[len(sequences)-1]
	a.lost += int(last) - len(sequences)
	var told, shed, produced uint64
	for _, n := range sequences {
		if err := d.Reset(s.batches[n]); err != nil {
			return err
		}
		a.batches++
		told += uint64(d.Len())
		var e event.Event
		for d.Next(&e) {
			if e.IsRequest() {
				a.requests++
				a.toldRequests++
				a.number(e.Path)
			}
		}
		var sum event.Summary
		for d.NextSummary(&sum) {
			shed += sum.Events
			d.Describe(sum.Exchange, sum.Connection, &e)
			if e.IsRequest() {
				a.requests += sum.Events
			}
		}
		h := d.Header()
		produced = h.Produced
		if told+shed != h.Produced || shed != h.Shed {
			return fmt.Errorf("batch %d of %d: %d events and %d in sums; its header says %d produced, %d shed", n, last, told, shed, h.Produced, h.Shed)
		}
	}
	a.told, a.shed, a.produced = a.told+told, a.shed+shed, a.produced+produced
	return nil
}

// number notes an event of the request with this path.
func (a *account) number(path string) {
	rest, ok := strings.CutPrefix(path, "/orders/")
	rest, _, _ = strings.Cut(rest, "/")
	n, err := strconv.Atoi(rest)
	if !ok || err != nil {
		a.wrong = append(a.wrong, fmt.Sprintf("nobody sent %q", path))
		return
	}
	a.numbers[n]++
}

// check compares the account with what the pod's clients know. Where a proxy was
// killed, each client may have its answer some microseconds before the proxy
// recorded it.
func (a *account) check(t *testing.T, p *chaosPod) {
	t.Helper()
	attempts, answered := p.numbers()
	open := p.open()
	missing, repeated := 0, 0
	for n, count := range a.numbers {
		if count > 1 {
			repeated++
		}
		if n > attempts {
			a.wrong = append(a.wrong, fmt.Sprintf("request %d was never sent", n))
		}
	}
	for n := range p.answered {
		if a.numbers[n] == 0 {
			missing++
		}
	}
	coalesced := a.requests - a.toldRequests
	missing -= int(coalesced)
	t.Logf("%s: %d requests tried, %d answered; %d counted, of them %d in sums; %d instances, %d batches, %d of them repeated; %d kills, %d answers not recorded",
		p.name, attempts, answered, a.requests, coalesced, a.instances, a.batches, a.repeated, p.kills, max(missing, 0))
	if a.lost != 0 {
		t.Errorf("%s: %d batches are missing in the stream", p.name, a.lost)
	}
	if a.produced != a.told+a.shed {
		t.Errorf("%s: produced %d = %d told + %d shed does not hold", p.name, a.produced, a.told, a.shed)
	}
	if repeated > 0 {
		t.Errorf("%s: %d requests have more than one event", p.name, repeated)
	}
	if missing > open {
		t.Errorf("%s: %d answered requests are not counted; %d kills leave %d open", p.name, missing, p.kills, open)
	}
	if a.requests+uint64(open) < uint64(answered) || a.requests > uint64(attempts) {
		t.Errorf("%s: %d requests are counted; %d were answered, %d tried", p.name, a.requests, answered, attempts)
	}
	for _, wrong := range a.wrong[:min(5, len(a.wrong))] {
		t.Errorf("%s: %s (and %d more)", p.name, wrong, len(a.wrong)-1)
	}
}
