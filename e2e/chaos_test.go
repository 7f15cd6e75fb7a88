package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// chaosNumber is a number from the environment.
func chaosNumber(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	if os.Getenv(name) == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(os.Getenv(name), 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// TestChaos kills, stops, pauses and cuts off proxies, the bus and aggregators,
// and fills the bus's disk, under load, round by round: WEIR_CHAOS_ROUNDS, as
// WEIR_CHAOS_SEED deals them. Then the ledger of each pod balances: what its
// proxy produced is what was counted, and what its clients know; a tap of it all
// has the same requests, and every aggregator gives one answer.
func TestChaos(t *testing.T) {
	w := newChaosWorld(t)
	rounds, seed := int(chaosNumber(t, "WEIR_CHAOS_ROUNDS", 8)), uint64(50)
	if rounds > 8 {
		seed = rand.Uint64() >> 32
	}
	seed = chaosNumber(t, "WEIR_CHAOS_SEED", seed)
	t.Logf("WEIR_CHAOS_SEED=%d WEIR_CHAOS_ROUNDS=%d", seed, rounds)
	w.watch()
	stops := make([]func(), len(w.pods))
	for i, p := range w.pods {
		stops[i] = p.run()
	}
	attended := w.attend()
	defer attended()
	counts := map[string]int{}
	for i, r := range w.plan(rand.New(rand.NewPCG(seed, 0)), rounds) {
		var names []string
		for _, f := range r.faults {
			names = append(names, f.String())
			counts[f.kind]++
		}
		t.Logf("%s round %d: %s", time.Now().Format("15:04:05.000"), i+1, strings.Join(names, "; "))
		if err := w.play(r); err != nil {
			t.Errorf("round %d: %v", i+1, err)
		}
		if i%5 == 4 {
			w.watch()
		}
		if t.Failed() && i%5 == 4 {
			break
		}
	}
	for _, stop := range stops {
		stop()
	}
	attended()
	t.Logf("faults: %v", counts)
	w.settleAndCheck()
	for _, a := range w.everyone() {
		for _, crash := range a.crashes {
			t.Error(crash)
		}
	}
}

// podRow is what `weir stat pod -o json` says of one.
type podRow struct {
	Namespace, Name string
	Requests, Shed  uint64
	Lost            uint64 `json:"lost_batches"`
}

// podRows are the rows of the run; the error says whether that is all of it.
func (w *chaosWorld) podRows(args ...string) (map[string]podRow, error) {
	out, errOut, err := w.try(append([]string{"stat", "pod", "-n", "chaos", "-o", "json", "--since", w.mesh.began}, args...)...)
	if err != nil || errOut != "" {
		return nil, fmt.Errorf("%v %s", err, errOut)
	}
	var rows []podRow
	if err := json.Unmarshal([]byte(out), &rows); err != nil {
		return nil, fmt.Errorf("%v in %s", err, out)
	}
	byName := map[string]podRow{}
	for _, r := range rows {
		byName[r.Name] = r
	}
	return byName, nil
}

// totals are the rows of the run. No total may ever be less than in the answer
// before, if that was whole, nor more than was tried.
func (w *chaosWorld) totals() (map[string]podRow, error) {
	w.asking.Lock()
	defer w.asking.Unlock()
	now, err := w.podRows()
	if err != nil {
		return nil, err
	}
	for name, was := range w.told {
		if now[name].Requests < was.Requests {
			w.t.Errorf("%s %s had %d requests, and has %d", time.Now().Format("15:04:05.000"), name, was.Requests, now[name].Requests)
		}
	}
	for _, p := range w.pods {
		if attempts, _ := p.numbers(); now[p.name].Requests > uint64(attempts) {
			w.t.Errorf("%s %s has %d requests; %d were tried", time.Now().Format("15:04:05.000"), p.name, now[p.name].Requests, attempts)
		}
	}
	w.told = now
	w.answers++
	return now, nil
}

// attend asks for the totals once a second, whatever happens, until stop is called.
func (w *chaosWorld) attend() (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-end:
				return
			case <-time.After(time.Second):
			}
			_, _ = w.totals() // what can't be told now is told later
		}
	}()
	return sync.OnceFunc(func() {
		close(end)
		<-ended
		w.t.Logf("%d answers were whole", w.answers)
	})
}

// watch waits until the clients' answers of now are all counted, but for what
// kills leave open.
func (w *chaosWorld) watch() {
	w.t.Helper()
	began := time.Now()
	least := map[string]int{}
	for _, p := range w.pods {
		_, answered := p.numbers()
		least[p.name] = answered - p.open()
	}
	eventually(w.t, 60*time.Second, func() string {
		now, err := w.totals()
		if err != nil {
			return err.Error()
		}
		for name, want := range least {
			if got := int(now[name].Requests); got < want {
				return fmt.Sprintf("%d requests of %s are counted; %d are answered", got, name, want)
			}
		}
		return ""
	})
	if took := time.Since(began); took > 3*time.Second {
		w.t.Logf("%s all is answered for after %v", time.Now().Format("15:04:05.000"), took.Round(time.Millisecond))
	}
}

// settleAndCheck waits until what the aggregators count is what the stream has, and
// holds everything against everything.
func (w *chaosWorld) settleAndCheck() {
	t := w.t
	t.Helper()
	var l ledger
	time.Sleep(3 * time.Second) // proxies keep what ended last for a second and a half, where nothing tells it
	eventually(t, 90*time.Second, func() string {
		for _, p := range w.pods {
			if waiting := w.waiting(p); waiting != "" {
				return waiting
			}
		}
		rows, err := w.podRows()
		if err != nil {
			return err.Error()
		}
		l = w.readLedger()
		return l.differs(rows)
	})
	for _, p := range w.pods {
		l[p.name].check(t, p)
	}
	time.Sleep(4 * time.Second) // what is counted twice would show by now, and all that happened is in the past
	until := time.Now().Truncate(time.Second)
	rows, err := w.podRows("--until", until.Format(time.RFC3339))
	if err != nil {
		t.Fatal(err)
	}
	if problem := l.differs(rows); problem != "" {
		t.Errorf("after it had settled: %s", problem)
	}
	w.checkTap(l, until)
	w.checkOneAnswer(l, until)
}

// differs says where counted numbers differ from the stream's.
func (l ledger) differs(rows map[string]podRow) string {
	var problems []string
	for name, a := range l {
		if r := rows[name]; r.Requests != a.requests || r.Shed != a.shed || r.Lost != 0 {
			problems = append(problems, fmt.Sprintf("%s: %d requests, %d shed, %d batches lost are counted; the stream has %d requests, %d shed, %d missing batches",
				name, r.Requests, r.Shed, r.Lost, a.requests, a.shed, a.lost))
		}
	}
	return strings.Join(problems, "; ")
}

// waiting says what a pod's proxy has not yet published.
func (w *chaosWorld) waiting(p *chaosPod) string {
	spool := ""
	for i, arg := range p.args {
		if arg == "--telemetry-spool" {
			spool = p.args[i+1]
		}
	}
	files, err := os.ReadDir(spool)
	if err != nil {
		return err.Error()
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name(), ".batch") {
			return p.name + " has not published " + f.Name()
		}
	}
	return ""
}

// checkTap holds a tap of the whole run against the stream.
func (w *chaosWorld) checkTap(l ledger, until time.Time) {
	t := w.t
	t.Helper()
	out, errOut, err := w.try("tap", "ns/chaos", "--since", w.mesh.began, "--until", until.Format(time.RFC3339), "--where", "request", "-o", "json")
	if err != nil {
		t.Fatalf("tap: %v\n%s", err, errOut)
	}
	tapped, ids := map[string]uint64{}, map[string]bool{}
	for line := range strings.Lines(out) {
		var e struct {
			ID          string
			Destination struct{ Metadata struct{ Pod string } }
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		if ids[e.ID] {
			t.Errorf("%s is tapped twice", e.ID)
		}
		ids[e.ID] = true
		tapped[e.Destination.Metadata.Pod]++
	}
	var shed uint64
	for name, a := range l {
		shed += a.shed
		if tapped[name] != a.toldRequests {
			t.Errorf("a tap of the run has %d requests of %s; want %d\n%s", tapped[name], name, a.toldRequests, errOut)
		}
	}
	var said uint64
	for line := range strings.Lines(errOut) {
		if !strings.HasPrefix(line, "{") {
			continue // how far it has come, and how far back events reach
		}
		var note struct {
			Gap struct {
				Count  uint64
				Reason string
			}
		}
		if err := json.Unmarshal([]byte(line), &note); err != nil || note.Gap.Reason != "shed" {
			t.Errorf("tap says: %s", line)
		}
		said += note.Gap.Count
	}
	if said != shed {
		t.Errorf("tap says that it lacks %d events; the proxies shed %d", said, shed)
	}
	t.Logf("a tap of the whole run: %d requests, each once", len(ids))
}

// checkOneAnswer asks for the same window of three aggregators, two and one, and
// after all were killed.
func (w *chaosWorld) checkOneAnswer(l ledger, until time.Time) {
	t := w.t
	t.Helper()
	// Where only coarse steps are known, the window's edges lie on them.
	end := until.Truncate(time.Minute)
	if end.Sub(w.began) < time.Minute {
		end = until
	}
	answer := func() string {
		out, errOut, err := w.try("stat", "deploy", "-n", "chaos", "-o", "json", "--since", w.mesh.began, "--until", end.Format(time.RFC3339))
		if err != nil || errOut != "" {
			return fmt.Sprint("cannot tell: ", err, errOut)
		}
		var rows []map[string]any
		if err := json.Unmarshal([]byte(out), &rows); err != nil {
			t.Fatalf("%v in %s", err, out)
		}
		for _, r := range rows {
			for _, key := range ofThePresent {
				delete(r, key)
			}
		}
		return fmt.Sprint(rows)
	}
	same := func(when string, want string) {
		t.Helper()
		// The API answers the same question from memory for a second.
		time.Sleep(1100 * time.Millisecond)
		eventually(t, 40*time.Second, func() string {
			if got := answer(); got != want {
				return fmt.Sprintf("%s stat says\n%s\nwant\n%s", when, got, want)
			}
			return ""
		})
	}
	three := answer()
	if !strings.Contains(three, "requests:") {
		t.Errorf("three aggregators: %s", three)
	}
	for i, when := range []string{"of two aggregators", "of one aggregator"} {
		if err := w.aggregators[i].end(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		same(when, three)
	}
	for _, a := range append(w.aggregators[2:], w.busAt) {
		if err := a.end(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range append(w.aggregators, w.busAt) {
		if err := a.start(); err != nil {
			t.Fatal(err)
		}
	}
	same("after all were killed", three)
	rows, err := w.podRows("--until", until.Format(time.RFC3339))
	if err != nil {
		t.Fatal(err)
	}
	if problem := l.differs(rows); problem != "" {
		t.Errorf("after all were killed: %s", problem)
	}
}
