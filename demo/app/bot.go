package app

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// Bot is the application's traffic: it votes at a steady rate.
type Bot struct {
	// URL is where it finds the front end, e.g. "http://web.emojivoto".
	URL string
	// Dial is the address that it connects to for that, as a name service
	// would say it; empty: the one in URL.
	Dial string
	// Rate is votes a second. Beside them it asks for the list and the
	// leaderboard, a tenth as often each. 0: it does nothing until it ends.
	Rate float64
	// Concurrency bounds its requests under way; 0 means 64. Votes that find
	// none free are left out, so that a slow application is not buried.
	Concurrency int

	mu     sync.Mutex
	status map[int]uint64
}

// Run votes until ctx ends, and returns when its last request has ended.
func (b *Bot) Run(ctx context.Context) {
	if b.Rate <= 0 {
		<-ctx.Done()
		return
	}
	concurrency := b.Concurrency
	if concurrency <= 0 {
		concurrency = 64
	}
	transport := &http.Transport{MaxIdleConnsPerHost: concurrency, DisableCompression: true}
	if b.Dial != "" {
		transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, b.Dial)
		}
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	free := make(chan struct{}, concurrency)

	var wg sync.WaitGroup
	defer wg.Wait()
	start, n := time.Now(), 0
	tick := time.NewTicker(max(time.Duration(float64(time.Second)/b.Rate), time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// The ticker may skip beats; the clock says how many votes are due.
		for due := int(time.Since(start).Seconds() * b.Rate); n < due; n++ {
			for _, path := range paths(n) {
				select {
				case free <- struct{}{}:
					wg.Go(func() {
						defer func() { <-free }()
						b.get(ctx, client, path)
					})
				default:
				}
			}
		}
	}
}

// paths are the requests of the n-th vote.
func paths(n int) []string {
	all := catalog()
	vote := "/api/vote?choice=" + url.QueryEscape(all[rand.IntN(len(all))].shortcode)
	switch n % 10 {
	case 0:
		return []string{"/api/list", vote}
	case 5:
		return []string{vote, "/api/leaderboard"}
	}
	return []string{vote}
}

// get carries one request to its end, even when the bot is told to stop
// meanwhile: what it counted is what the application answered.
func (b *Bot) get(ctx context.Context, client *http.Client, path string) {
	req, err := http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodGet, b.URL+path, nil)
	if err != nil {
		b.count(0)
		return
	}
	resp, err := client.Do(req)
	if err != nil {
		b.count(0)
		return
	}
	_, err = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close() // read to its end already
	if err != nil {
		b.count(0)
		return
	}
	b.count(resp.StatusCode)
}

func (b *Bot) count(status int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.status == nil {
		b.status = map[int]uint64{}
	}
	b.status[status]++
}

// Counts returns how many requests ended with each HTTP status; 0 stands for
// those without a response. Safe for concurrent use.
func (b *Bot) Counts() map[int]uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	counts := make(map[int]uint64, len(b.status))
	for s, n := range b.status {
		counts[s] = n
	}
	return counts
}
