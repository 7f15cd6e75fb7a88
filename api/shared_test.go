package api

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirmesh/weir/aggregator/query"
)

// asker counts how often it is asked; each answer takes a while.
type asker struct {
	mu         sync.Mutex
	asked      int
	takes      time.Duration
	partitions []int
	err        error
}

func (a *asker) ask() (*answer, error) {
	a.mu.Lock()
	a.asked++
	n, err := a.asked, a.err
	a.mu.Unlock()
	time.Sleep(a.takes)
	if err != nil {
		return nil, err
	}
	return &answer{Reply: &query.Reply{Member: fmt.Sprint(n), Total: 2, Partitions: a.partitions}, answered: 1}, nil
}

func (a *asker) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked
}

// crowd has so many ask the same at once, and returns which answers they got.
func crowd(t *testing.T, s *shared, a *asker, n int) map[string]int {
	t.Helper()
	var mu sync.Mutex
	got := map[string]int{}
	var group sync.WaitGroup
	for range n {
		group.Go(func() {
			r, err := s.do(t.Context(), "q", a.ask)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				got[err.Error()]++
				return
			}
			got[r.Member]++
		})
	}
	group.Wait()
	return got
}

func TestShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s shared
		a := &asker{takes: 300 * time.Millisecond, partitions: []int{0, 1}}
		if got := crowd(t, &s, a, 20); got["1"] != 20 {
			t.Errorf("of one question under way: %v", got)
		}
		time.Sleep(699 * time.Millisecond) // a second after it was put, less a bit
		if got := crowd(t, &s, a, 5); got["1"] != 5 {
			t.Errorf("just after: %v", got)
		}
		if _, err := s.do(t.Context(), "another", a.ask); err != nil || a.count() != 2 {
			t.Errorf("another question was not put: %v", err)
		}
		if got := crowd(t, &s, a, 5); got["3"] != 5 {
			t.Errorf("after a second: %v", got)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if len(s.flights) != 0 {
			t.Errorf("%d answers are kept for ever", len(s.flights))
		}
	})
}

// An answer that takes longer than a second is not given to who asked later
// than that.
func TestSharedSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s shared
		a := &asker{takes: 3 * time.Second, partitions: []int{0, 1}}
		var group sync.WaitGroup
		for i := range 4 {
			group.Go(func() {
				time.Sleep(time.Duration(i) * 600 * time.Millisecond)
				r, err := s.do(t.Context(), "q", a.ask)
				if want := fmt.Sprint(1 + i/2); err != nil || r.Member != want {
					t.Errorf("%d got %v, %v, want %s", i, r, err, want)
				}
			})
		}
		group.Wait()
		if len(s.flights) != 0 {
			t.Errorf("%d answers older than a second are kept", len(s.flights))
		}
	})
}

// What failed, and what is not of all partitions or of one twice, is nobody
// else's.
func TestSharedOnlyWhole(t *testing.T) {
	for _, a := range []*asker{
		{takes: time.Millisecond, partitions: []int{0}},
		{takes: time.Millisecond, partitions: []int{0, 1, 1}},
		{takes: time.Millisecond, err: errors.New("no")},
	} {
		synctest.Test(t, func(t *testing.T) {
			var s shared
			crowd(t, &s, a, 5)
			if a.count() != 5 || len(s.flights) != 0 {
				t.Errorf("%d of 5 were asked, %d are kept", a.count(), len(s.flights))
			}
		})
	}
}

// Who waits for another's answer can give up; and gets one where the other does.
func TestSharedCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s shared
		a := &asker{takes: 500 * time.Millisecond, partitions: []int{0, 1}}
		first, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		group.Go(func() {
			_, err := s.do(first, "q", func() (*answer, error) { <-first.Done(); return nil, first.Err() })
			if !errors.Is(err, context.Canceled) {
				t.Errorf("the first: %v", err)
			}
		})
		synctest.Wait()
		group.Go(func() {
			hasty, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			defer cancel()
			if _, err := s.do(hasty, "q", a.ask); err == nil || a.count() != 0 {
				t.Errorf("the hasty: %v", err)
			}
		})
		group.Go(func() {
			if r, err := s.do(t.Context(), "q", a.ask); err != nil || r.Member != "1" {
				t.Errorf("the patient: %v", err)
			}
		})
		time.Sleep(100 * time.Millisecond)
		cancel()
		group.Wait()
	})
}

// There are so many at a time, and none after the end.
func TestSharedBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s shared
		a := &asker{partitions: []int{0, 1}}
		for i := range 3 * maxShared {
			if _, err := s.do(t.Context(), fmt.Sprint(i), a.ask); err != nil {
				t.Fatal(err)
			}
		}
		if len(s.flights) != maxShared {
			t.Errorf("%d answers are kept", len(s.flights))
		}
		s.stop()
		if _, err := s.do(t.Context(), "0", a.ask); err != nil || a.count() != 3*maxShared+1 || len(s.flights) != 0 {
			t.Errorf("after the end: %v, %d kept", err, len(s.flights))
		}
	})
}
