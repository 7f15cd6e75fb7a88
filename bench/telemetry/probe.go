package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/bench/measure"
)

// probeEvery is how often a probe's request is sent.
const probeEvery = 25 * time.Millisecond

// probeExtra bounds the events of connections without a request: the look
// whether the proxy listens is one.
const probeExtra = 8

// A probe is a real proxy before a real server, whose requests are followed to
// where they are shown.
type probe struct {
	mesh    *mesh
	server  *http.Server
	served  chan struct{}
	proxy   *measure.Process
	address string
	client  *http.Client
	sent    atomic.Uint64 // requests, all successful
}

var probeResource = &weirpb.Resource{Namespace: "probe", Kind: "deploy", Name: "probe"}

// startProbe starts one. Close it, also after an error.
func startProbe(ctx context.Context, m *mesh) (*probe, error) {
	// One connection, so that an exchange is an event and no other is made: it
	// stays open to the end.
	p := &probe{mesh: m, served: make(chan struct{}), client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxConnsPerHost: 1}}}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		close(p.served)
		return p, err
	}
	p.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })}
	go func() {
		defer close(p.served)
		_ = p.server.Serve(listener) // its error is that it was closed
	}()
	if p.address, err = m.lab.address(); err != nil {
		return p, err
	}
	p.proxy, err = m.start(ctx, "weir-proxy", []string{filepath.Join(m.lab.o.bin, "weir-proxy"), "--inbound", p.address + "=" + listener.Addr().String(),
		"--workload", "probe/deploy/probe", "--pod", "probe-0", "--cluster", clusterName, "--bus", m.url, "--admin", "off"}, p.address)
	return p, err
}

func (p *probe) close() {
	p.client.CloseIdleConnections()
	if p.server != nil {
		_ = p.server.Close()
	}
	<-p.served
}

// request sends one and gives the time at which it ended.
func (p *probe) request(ctx context.Context) (time.Time, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.address+"/probe", nil)
	if err != nil {
		return time.Time{}, err
	}
	response, err := p.client.Do(request)
	if err != nil {
		return time.Time{}, err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return time.Time{}, err
	}
	if response.StatusCode != http.StatusOK {
		return time.Time{}, fmt.Errorf("the probe's server answered %d", response.StatusCode)
	}
	p.sent.Add(1)
	return time.Now(), nil
}

// requests sends some for a while and then calls done; each one's end is noted.
func (p *probe) requests(ctx context.Context, length time.Duration, note func(time.Time)) error {
	for end := time.Now().Add(length); time.Now().Before(end); {
		at, err := p.request(ctx)
		if err != nil {
			return err
		}
		note(at)
		if err := sleepUntil(ctx, time.Now().Add(probeEvery)); err != nil {
			return err
		}
	}
	return nil
}

// A seen is, of each request of a while, how long after its end it was counted,
// s: in an answer that reaches to the present, and in one to a question as it
// is usually asked, whose window ends a moment ago.
type seen struct{ counted, shown []float64 }

// askFresh is how often stat is asked for what is fresh: the error of seen.
const askFresh = 25 * time.Millisecond

// count asks stat how many requests of the probe there are in a window; false
// where nobody answers now.
func (p *probe) count(ctx context.Context, w *weirpb.Window) (n uint64, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	r, err := p.mesh.client.Stat(ctx, &weirpb.StatRequest{Resource: probeResource, Window: w})
	for _, row := range r.GetRows() {
		n += row.GetStats().GetRequests()
	}
	return n, err == nil
}

// freshness follows the requests of a while to where stat counts them.
func (p *probe) freshness(ctx context.Context, length time.Duration) (s seen, err error) {
	since := timestamppb.New(time.Now().Add(-time.Minute))
	before := p.sent.Load()
	var mu sync.Mutex
	var ends []time.Time
	sent := make(chan error, 1)
	go func() {
		sent <- p.requests(ctx, length, func(at time.Time) {
			mu.Lock()
			defer mu.Unlock()
			ends = append(ends, at)
		})
	}()
	note := func(w *weirpb.Window, into *[]float64) (missing int) {
		n, ok := p.count(ctx, w)
		now := time.Now()
		mu.Lock()
		defer mu.Unlock()
		for ok && uint64(len(*into))+before < n && len(*into) < len(ends) {
			*into = append(*into, now.Sub(ends[len(*into)]).Seconds())
		}
		return len(ends) - len(*into)
	}
	over := false
	for deadline := time.Now().Add(length + 30*time.Second); ; {
		missing := note(&weirpb.Window{Since: since, Until: timestamppb.New(time.Now().Add(2 * time.Second))}, &s.counted)
		missing += note(&weirpb.Window{Since: since}, &s.shown)
		switch {
		case over && missing == 0:
			return s, nil
		case time.Now().After(deadline):
			return s, fmt.Errorf("%d requests did not come to be counted", missing)
		}
		select {
		case err := <-sent:
			if err != nil {
				return s, err
			}
			over = true
		case <-time.After(askFresh):
		}
	}
}

// tap is, of each request of a while, from its end until the API's stream shows
// it, in s.
func (p *probe) tap(ctx context.Context, length time.Duration) ([]float64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := p.mesh.client.Tap(ctx, &weirpb.TapRequest{Resource: probeResource})
	if err != nil {
		return nil, err
	}
	shown := make(chan float64, 4096)
	ended := make(chan error, 1)
	go func() {
		defer close(shown)
		for {
			r, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			if e := r.GetEvent(); e != nil && e.GetPath() == "/probe" {
				end := e.GetStart().AsTime().Add(time.Duration(e.GetDurationUs()) * time.Microsecond)
				shown <- time.Since(end).Seconds()
			}
		}
	}()
	// The proxy learns within a second that it is tapped.
	if err := p.requests(ctx, 2*time.Second, func(time.Time) {}); err != nil {
		return nil, err
	}
	drain(shown)
	want := 0
	if err := p.requests(ctx, length, func(time.Time) { want++ }); err != nil {
		return nil, err
	}
	var times []float64
	deadline := time.After(5 * time.Second)
	for len(times) < want {
		select {
		case t, ok := <-shown:
			if !ok {
				return nil, fmt.Errorf("the tap ended: %w", <-ended)
			}
			times = append(times, t)
		case <-deadline:
			return nil, fmt.Errorf("a tap showed %d of %d requests", len(times), want)
		}
	}
	cancel()
	for range shown { // until the reader has ended
	}
	return times, nil
}

func drain(shown <-chan float64) {
	for {
		select {
		case <-shown:
		default:
			return
		}
	}
}
