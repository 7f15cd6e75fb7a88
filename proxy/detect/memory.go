package detect

import (
	"container/list"
	"sync"
	"time"
)

// Memory remembers the destinations whose servers speak first, so that the
// next connection to one of them need not wait. It is bounded: the least
// recently used go first, and all are forgotten after a time, so that no
// verdict is for ever. Safe for concurrent use.
type Memory struct {
	max int
	ttl time.Duration

	mu      sync.Mutex // guards both below
	order   list.List  // of *memory, most recently used first
	entries map[string]*list.Element
}

type memory struct {
	destination string
	until       time.Time
}

// NewMemory returns a Memory of at most max destinations, each for ttl.
func NewMemory(max int, ttl time.Duration) *Memory {
	return &Memory{max: max, ttl: ttl, entries: make(map[string]*list.Element)}
}

// Remember notes that the server at destination spoke first at now.
func (m *Memory) Remember(destination string, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if el, ok := m.entries[destination]; ok {
		el.Value.(*memory).until = now.Add(m.ttl)
		m.order.MoveToFront(el)
		return
	}
	if m.order.Len() >= m.max {
		m.remove(m.order.Back())
	}
	m.entries[destination] = m.order.PushFront(&memory{destination, now.Add(m.ttl)})
}

// Knows tells whether the server at destination is known to speak first.
func (m *Memory) Knows(destination string, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	el, ok := m.entries[destination]
	if !ok {
		return false
	}
	if !now.Before(el.Value.(*memory).until) {
		m.remove(el)
		return false
	}
	m.order.MoveToFront(el)
	return true
}

// Forget drops what is known of destination.
func (m *Memory) Forget(destination string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if el, ok := m.entries[destination]; ok {
		m.remove(el)
	}
}

// Len is the number of destinations remembered.
func (m *Memory) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.order.Len()
}

// remove forgets an entry; mu is held.
func (m *Memory) remove(el *list.Element) {
	m.order.Remove(el)
	delete(m.entries, el.Value.(*memory).destination)
}
