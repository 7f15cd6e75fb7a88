package e2e

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// chaosPod is a pod under load.
type chaosPod struct {
	*actor
	clients int
	pause   time.Duration // between two requests of a client, on average
	small   bool

	mu       sync.Mutex
	attempts int
	answered map[int]bool // attempts, by number
}

// run sends requests, each with a number in its path, until the function that it
// returns is called, which waits for those under way.
func (p *chaosPod) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range p.clients {
		wg.Go(func() {
			transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return p.dial(ctx, "127.0.0.1:4143") }}
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport, Timeout: 30 * time.Second}
			for ctx.Err() == nil {
				p.ask(client)
				time.Sleep(rand.N(2 * p.pause))
			}
		})
	}
	return func() { cancel(); wg.Wait() }
}

// ask sends one request. It is a POST, which no client sends twice by itself.
func (p *chaosPod) ask(client *http.Client) {
	p.mu.Lock()
	p.attempts++
	n := p.attempts
	p.mu.Unlock()
	path := fmt.Sprintf("/orders/%d", n)
	if p.small {
		path += "/" + strings.Repeat(fmt.Sprintf("%016x", rand.Uint64()), 12)
	}
	resp, err := client.Post("http://shop"+path, "text/plain", http.NoBody)
	if err != nil {
		return
	}
	_, err = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	if err != nil || resp.StatusCode != http.StatusOK {
		return
	}
	p.mu.Lock()
	p.answered[n] = true
	p.mu.Unlock()
}

// numbers are how many requests were tried and answered.
func (p *chaosPod) numbers() (attempts, answered int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.attempts, len(p.answered)
}

// open is how many answers kills of the proxy may have left unrecorded: a client
// may have its answer some microseconds before the proxy records it.
func (p *chaosPod) open() int {
	p.actor.mu.Lock()
	defer p.actor.mu.Unlock()
	return p.kills * p.clients
}
