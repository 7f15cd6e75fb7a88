package aggregator

import (
	"slices"
	"testing"
	"time"
)

// lose lets the bus lose what came last of some streams of rollups, each as much as
// it likes, and restarts all members: what they own is gone with the bus.
func (w *world) lose() {
	most := [...]int{12, 3, 2}
	for tier := range w.bus.rollups {
		all := w.bus.rollups[tier]
		n := 0
		switch w.rng.IntN(3) {
		case 0:
		case 1:
			n = w.rng.IntN(most[tier] + 1)
		case 2:
			n = 1
		}
		w.bus.rollups[tier] = all[:max(len(all)-n, min(w.synced[tier], len(all)))]
	}
	w.restart()
}

func (w *world) restart() { w.members = [2]*partition{w.partition("member0"), w.partition("member1")} }

// losing lets a world go on, with a loss every so many steps.
func (w *world) losing(steps, every int, lose func()) {
	for i := 1; i < steps || len(w.toSend) > 0; i++ {
		if n := min(w.rng.IntN(3), len(w.toSend)); n > 0 {
			w.bus.events = append(w.bus.events, w.toSend[:n]...)
			w.toSend = w.toSend[n:]
		}
		if w.rng.IntN(4) == 0 {
			w.now = w.now.Add(time.Duration(w.rng.IntN(15)) * time.Second)
		}
		w.step(w.rng.IntN(2))
		if w.each != nil {
			w.each(i)
		}
		if i%every == every/2 {
			// The bus synchronises its files from time to time: what is there then stays.
			for tier := range w.bus.rollups {
				w.synced[tier] = len(w.bus.rollups[tier])
			}
		}
		if i%every == 0 {
			lose()
		}
	}
}

// TestRollupsLost: the bus loses what came last of the streams of rollups, of the
// finer more than of the coarser or the other way round, now and again, while
// members die. What the coarser tier has already does not go there again, and what
// no tier has is counted again.
func TestRollupsLost(t *testing.T) {
	eachSeed(t, 40, func(w *world) {
		w.losing(300, 40, w.lose)
		w.settle()
	})
}

// TestEventsLostToo: the stream of events loses what came last, too, and gives its
// sequences again, to other batches, before anybody takes over. What was summed up
// before counts on, once, and so does what came then.
func TestEventsLostToo(t *testing.T) {
	eachSeed(t, 20, func(w *world) {
		// Proxies send again what they were not told was stored.
		w.losing(300, 30, func() {
			n := min(w.rng.IntN(12), len(w.bus.events))
			if others := n + w.rng.IntN(20) - 5; others > 0 && others <= len(w.toSend) {
				lost := slices.Clone(w.bus.events[len(w.bus.events)-n:])
				w.bus.loseEvents(n, w.toSend[:others])
				w.toSend = append(lost, w.toSend[others:]...)
			}
			w.lose()
		})
		w.settle()
	})
}
