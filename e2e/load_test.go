package e2e

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"
)

// sent is what a load generator knows of what it sent.
type sent struct {
	requests uint64
	status   map[string]uint64
	// Calls that web must have made of it.
	emoji, voting, votingFailed uint64
}

// kinds of requests, and what becomes of them.
var mix = []struct {
	path                        string
	status                      int
	emoji, voting, votingFailed uint64
}{
	{"/api/vote?choice=" + url.QueryEscape(":rocket:"), 200, 1, 1, 0},
	{"/api/vote?choice=" + url.QueryEscape(":wave:"), 200, 1, 1, 0},
	{"/api/vote?choice=" + url.QueryEscape(":doughnut:"), 500, 1, 1, 1},
	{"/api/vote?choice=" + url.QueryEscape(":nobody:"), 404, 1, 0, 0},
	{"/api/list", 200, 1, 0, 0},
	{"/api/leaderboard", 200, 0, 1, 0},
	{"/", 200, 0, 0, 0},
	{"/missing", 404, 0, 0, 0},
}

// load sends requests over so many connections to the application, as the
// vote-bot, and checks each answer.
func load(t *testing.T, address string, requests, connections int, seed uint64) sent {
	t.Helper()
	transport := &http.Transport{
		MaxIdleConnsPerHost: connections, MaxConnsPerHost: connections, DisableCompression: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 60 * time.Second}

	var mu sync.Mutex
	total := sent{status: map[string]uint64{}}
	var wg sync.WaitGroup
	for c := range connections {
		share := requests / connections
		if c < requests%connections {
			share++
		}
		wg.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(c)))
			own := sent{status: map[string]uint64{}}
			for range share {
				kind := mix[random.IntN(len(mix))]
				status, err := fetch(client, "http://web.emojivoto"+kind.path)
				if err != nil || status != kind.status {
					t.Errorf("%s: %d, %v; want %d", kind.path, status, err, kind.status)
					return
				}
				own.requests++
				own.status[fmt.Sprint(status)]++
				own.emoji += kind.emoji
				own.voting += kind.voting
				own.votingFailed += kind.votingFailed
			}
			mu.Lock()
			defer mu.Unlock()
			total.add(own)
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return total
}

func (s *sent) add(o sent) {
	s.requests += o.requests
	s.emoji += o.emoji
	s.voting += o.voting
	s.votingFailed += o.votingFailed
	for code, n := range o.status {
		s.status[code] += n
	}
}

func fetch(client *http.Client, url string) (int, error) {
	resp, err := client.Get(url)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0, err
	}
	return resp.StatusCode, nil
}
