package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// faultKind is something that can go wrong: begin makes it so, end puts it right.
type faultKind struct {
	name string
	// least and most are how long it lasts.
	least, most time.Duration
	// targets are those it may come upon, by number of the victims.
	victims func(w *chaosWorld) []victim
}

// victim is what a fault comes upon. Of all faults of a round at most one comes
// upon each of its keys.
type victim struct {
	keys       []string
	begin, end func() error
}

// fault is one that will happen: so long after the round's begin, for so long.
type fault struct {
	kind        string
	victim      victim
	after, last time.Duration
}

func (f *fault) String() string {
	return fmt.Sprintf("%s %s after %v for %v", f.kind, strings.Join(f.victim.keys, "+"), f.after.Round(time.Millisecond), f.last.Round(time.Millisecond))
}

// round is the faults that come at once, and how long it is calm afterwards.
type round struct {
	faults []fault
	calm   time.Duration
}

// The lease of an aggregator is 2.5 s: a pause that is longer moves its partitions.
var faultKinds = []faultKind{
	{"kill proxy", 50 * time.Millisecond, 1500 * time.Millisecond, podVictims(killed)},
	{"stop proxy", 50 * time.Millisecond, 500 * time.Millisecond, podVictims(stopped)},
	{"pause proxy", 500 * time.Millisecond, 4 * time.Second, podVictims(paused)},
	{"cut proxy", time.Second, 5 * time.Second, podVictims(unplugged)},
	{"deafen proxy", time.Second, 5 * time.Second, podVictims(deafened)},
	{"kill bus", 50 * time.Millisecond, 2500 * time.Millisecond, busVictims(killed)},
	{"restart bus", 50 * time.Millisecond, 500 * time.Millisecond, busVictims(stopped)},
	{"pause bus", time.Second, 4500 * time.Millisecond, busVictims(paused)},
	{"cut bus", time.Second, 4500 * time.Millisecond, busVictims(unplugged)},
	{"deafen bus", time.Second, 4500 * time.Millisecond, busVictims(deafened)},
	{"fill disk", time.Second, 4 * time.Second, func(w *chaosWorld) []victim {
		return []victim{{keys: []string{"disk"}, begin: w.disk.fill, end: w.disk.free}}
	}},
	{"kill aggregator", 50 * time.Millisecond, 4 * time.Second, aggregatorVictims(killed)},
	{"kill two aggregators", 50 * time.Millisecond, 4 * time.Second, severalAggregators(2)},
	{"kill all aggregators", 50 * time.Millisecond, 1500 * time.Millisecond, severalAggregators(chaosAggregators)},
	{"stop aggregator", 50 * time.Millisecond, 4 * time.Second, aggregatorVictims(stopped)},
	{"pause aggregator", 3500 * time.Millisecond, 5500 * time.Millisecond, aggregatorVictims(paused)},
	{"cut aggregator", 1500 * time.Millisecond, 5500 * time.Millisecond, aggregatorVictims(unplugged)},
	{"deafen aggregator", 1500 * time.Millisecond, 5500 * time.Millisecond, aggregatorVictims(deafened)},
}

func killed(a *actor) victim {
	return victim{[]string{a.name}, func() error { return a.end(syscall.SIGKILL) }, a.start}
}

func stopped(a *actor) victim {
	return victim{[]string{a.name}, func() error { return a.end(syscall.SIGTERM) }, a.start}
}

func paused(a *actor) victim {
	return victim{[]string{a.name}, func() error { return a.signal(syscall.SIGSTOP) }, func() error { return a.signal(syscall.SIGCONT) }}
}

func unplugged(a *actor) victim {
	return victim{[]string{a.name + "'s link"}, func() error { return a.cut(true) }, func() error { return a.cut(false) }}
}

func deafened(a *actor) victim {
	return victim{[]string{a.name + "'s link"}, func() error { return a.deafen(true) }, func() error { return a.deafen(false) }}
}

func podVictims(f func(*actor) victim) func(*chaosWorld) []victim {
	return func(w *chaosWorld) (all []victim) {
		for _, p := range w.pods {
			all = append(all, f(p.actor))
		}
		return all
	}
}

func busVictims(f func(*actor) victim) func(*chaosWorld) []victim {
	return func(w *chaosWorld) []victim { return []victim{f(w.busAt)} }
}

func aggregatorVictims(f func(*actor) victim) func(*chaosWorld) []victim {
	return func(w *chaosWorld) (all []victim) {
		for _, a := range w.aggregators {
			all = append(all, f(a))
		}
		return all
	}
}

// severalAggregators kills so many at once: each n that follow one another.
func severalAggregators(n int) func(*chaosWorld) []victim {
	return func(w *chaosWorld) (all []victim) {
		for first := range w.aggregators {
			v := victim{}
			var each []victim
			for i := range n {
				one := killed(w.aggregators[(first+i)%len(w.aggregators)])
				v.keys, each = append(v.keys, one.keys...), append(each, one)
			}
			do := func(f func(victim) error) (err error) {
				for _, one := range each {
					err = errors.Join(err, f(one))
				}
				return err
			}
			v.begin = func() error { return do(func(v victim) error { return v.begin() }) }
			v.end = func() error { return do(func(v victim) error { return v.end() }) }
			all = append(all, v)
		}
		return all
	}
}

// chosenKinds are the kinds of faults that WEIR_CHAOS_FAULTS names, as often as it does:
// those of which bugs are expected may come more often than others. All, where it is
// not set.
func chosenKinds(t *testing.T) (chosen []faultKind) {
	t.Helper()
	names := os.Getenv("WEIR_CHAOS_FAULTS")
	if names == "" {
		return faultKinds
	}
	for name := range strings.SplitSeq(names, ",") {
		at := slices.IndexFunc(faultKinds, func(k faultKind) bool { return k.name == strings.TrimSpace(name) })
		if at < 0 {
			t.Fatalf("WEIR_CHAOS_FAULTS: there is no fault %q", name)
		}
		chosen = append(chosen, faultKinds[at])
	}
	return chosen
}

// plan says what happens in so many rounds: one, two or three faults each, kinds
// dealt as cards, so that each comes as often as the others.
func (w *chaosWorld) plan(random *rand.Rand, rounds int) []round {
	kinds := chosenKinds(w.t)
	var deck []int
	all := make([]round, rounds)
	for i := range all {
		taken := map[string]bool{}
		for range 1 + random.IntN(3) {
			if len(deck) == 0 {
				deck = random.Perm(len(kinds))
			}
			at := slices.IndexFunc(deck, func(k int) bool { return len(free(kinds[k].victims(w), taken)) > 0 })
			if at < 0 {
				break
			}
			kind := kinds[deck[at]]
			deck = slices.Delete(deck, at, at+1)
			left := free(kind.victims(w), taken)
			f := fault{kind.name, left[random.IntN(len(left))],
				time.Duration(random.Int64N(int64(800 * time.Millisecond))), kind.least + time.Duration(random.Int64N(int64(kind.most-kind.least)))}
			for _, key := range f.victim.keys {
				taken[key] = true
			}
			all[i].faults = append(all[i].faults, f)
		}
		all[i].calm = time.Duration(random.Int64N(int64(1200 * time.Millisecond)))
	}
	return all
}

// free are the victims that nothing else comes upon.
func free(all []victim, taken map[string]bool) []victim {
	return slices.DeleteFunc(all, func(v victim) bool {
		return slices.ContainsFunc(v.keys, func(key string) bool { return taken[key] })
	})
}

// play lets a round's faults happen, and puts all right again.
func (w *chaosWorld) play(r round) error {
	errs := make([]error, len(r.faults))
	var wg sync.WaitGroup
	for i := range r.faults {
		wg.Go(func() {
			f := &r.faults[i]
			time.Sleep(f.after)
			err := f.victim.begin()
			time.Sleep(f.last)
			errs[i] = errors.Join(err, f.victim.end())
		})
	}
	wg.Wait()
	for _, a := range w.everyone() {
		errs = append(errs, a.revive(a == w.busAt && w.disk.excuses(a.began())))
	}
	time.Sleep(r.calm)
	return errors.Join(errs...)
}
