// Package demo runs a whole mesh on one machine: the sample application of
// package app on loopback, one weir-proxy process beside each of its workloads,
// and Weir's own roles (bus, aggregator, api, dashboard) as processes of their
// own, started again when they die.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options of a demo. The addresses must be free.
type Options struct {
	// Rate is the bot's votes a second; 0: no traffic of its own.
	Rate float64
	// DataDir keeps the bus's streams; empty: a temporary folder that is
	// removed at the end.
	DataDir string
	// Addresses of the roles, and of the application's page behind its proxy.
	BusAddr, GRPCAddr, HTTPAddr, DashboardAddr, WebAddr string
	// PortBase is the first of nine consecutive ports of 127.0.0.1 that the
	// proxies use among themselves.
	PortBase int
	// Weir and Proxy are the binaries; empty: this program, and weir-proxy
	// beside it or in PATH.
	Weir, Proxy string
	// Verbose shows everything that the processes log, not just warnings.
	Verbose bool
}

// Defaults returns the options of a plain `weir demo`.
func Defaults() Options {
	return Options{
		Rate:          100,
		BusAddr:       "127.0.0.1:4222",
		GRPCAddr:      "127.0.0.1:8085",
		HTTPAddr:      "127.0.0.1:8086",
		DashboardAddr: "127.0.0.1:8084",
		WebAddr:       "127.0.0.1:8080",
		PortBase:      14140,
	}
}

// Run runs the demo until ctx ends, and returns nil when everything has
// stopped then. What to try is written to out, what happens to talk. An error
// says why it could not start, or what broke.
func Run(ctx context.Context, o Options, out, talk io.Writer) error {
	if err := checkSystem(); err != nil {
		return err
	}
	if o.Rate < 0 {
		return fmt.Errorf("--rate is %v votes a second: it must not be negative", o.Rate)
	}
	if o.PortBase < 1024 || o.PortBase+portCount > 65536 {
		return fmt.Errorf("--port-base is %d: it must be at least 1024 and leave room for %d ports", o.PortBase, portCount)
	}
	if err := o.findBinaries(); err != nil {
		return err
	}
	l := layout{o}
	if err := l.checkPorts(); err != nil {
		return err
	}
	data, remove, err := dataDir(o.DataDir)
	if err != nil {
		return err
	}
	defer remove()

	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(talk, format+"\n", args...)
	}
	m := &mesh{o: o, l: l, data: data, say: say, sup: newSupervisor(say, o.Verbose), broken: make(chan error, 1)}
	return m.run(ctx, out)
}

// mesh is a demo under way.
type mesh struct {
	o      Options
	l      layout
	data   string
	say    func(string, ...any)
	sup    *supervisor
	broken chan error

	roles, proxies []*process
}

func (m *mesh) run(ctx context.Context, out io.Writer) error {
	forking, endForking := context.WithCancel(context.Background())
	var forker sync.WaitGroup
	forker.Go(func() { m.sup.forker(forking) })
	defer forker.Wait()
	defer endForking()
	defer m.stopAll(&m.roles)

	services, err := listen(m.l, func(err error) {
		select {
		case m.broken <- err:
		default: // the first one is told
		}
	})
	if err != nil {
		return err
	}
	defer services.stop()
	defer m.stopAll(&m.proxies)

	if err := m.up(ctx, services); err != nil {
		if ctx.Err() != nil {
			return nil // asked to stop while starting
		}
		return err
	}
	stopVoting := services.vote()
	defer func() {
		stopVoting()
		m.say("vote-bot sent %s", counts(services.bot.Counts()))
	}()
	if _, err := io.WriteString(out, m.l.welcome()); err != nil {
		return fmt.Errorf("cannot write what to try: %w", err)
	}
	select {
	case <-ctx.Done():
		m.say("stopping")
		return nil
	case err := <-m.broken:
		return err
	}
}

// up starts the roles and the proxies and waits until all of them are ready.
func (m *mesh) up(ctx context.Context, s *services) error {
	busURL := "nats://" + m.o.BusAddr
	role := func(name string, args ...string) {
		m.roles = append(m.roles, m.sup.start(name, m.o.Weir, append([]string{name}, args...)...))
	}
	// In the order in which they are to be stopped, last first.
	role("bus", "--listen", m.o.BusAddr, "--data", m.data)
	if err := waitFor(ctx, "the bus", dialable(m.o.BusAddr)); err != nil {
		return err
	}
	role("aggregator", "--bus", busURL, "--id", "demo")
	role("api", "--bus", busURL, "--grpc-addr", m.o.GRPCAddr, "--http-addr", m.o.HTTPAddr)
	role("dashboard", "--api", "http://"+m.o.HTTPAddr, "--listen", m.o.DashboardAddr)

	node, err := os.Hostname()
	if err != nil {
		node = "localhost"
	}
	for _, p := range m.l.proxies(s.addresses) {
		m.proxies = append(m.proxies, m.sup.start(p.name+" proxy", m.o.Proxy, p.args(busURL, node)...))
		if err := waitFor(ctx, p.name+"'s proxy", answers("http://"+p.admin+"/ready")); err != nil {
			return err
		}
	}
	if err := waitFor(ctx, "the dashboard", dialable(m.o.DashboardAddr)); err != nil {
		return err
	}
	return waitFor(ctx, "the API", func(ctx context.Context) error {
		return seen(ctx, "http://"+m.o.HTTPAddr, "emoji", "voting", "web", "vote-bot")
	})
}

// stopAll stops processes: each at once where they are peers, last started
// first where one needs the other.
func (m *mesh) stopAll(processes *[]*process) {
	for _, p := range slices.Backward(*processes) {
		p.stop()
	}
	*processes = nil
}

// findBinaries fills in the binaries that were not named.
func (o *Options) findBinaries() error {
	if o.Weir == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("cannot find this program's own file: %w", err)
		}
		o.Weir = self
	}
	if o.Proxy != "" {
		return nil
	}
	beside := filepath.Join(filepath.Dir(o.Weir), "weir-proxy")
	if _, err := os.Stat(beside); err == nil {
		o.Proxy = beside
		return nil
	}
	found, err := exec.LookPath("weir-proxy")
	if err != nil {
		return fmt.Errorf("cannot find weir-proxy: it is neither %s nor in PATH; build it with `make build`, or name it with --proxy", beside)
	}
	o.Proxy = found
	return nil
}

func dialable(address string) func(context.Context) error {
	return func(ctx context.Context) error {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return c.Close()
	}
}

func answers(url string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := fetch(ctx, url)
		return err
	}
}

// seen tells whether the API knows all of these workloads.
func seen(ctx context.Context, api string, names ...string) error {
	body, err := fetch(ctx, api+"/api/v1/workloads?resource.namespace="+Namespace)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !strings.Contains(body, `"`+name+`"`) {
			return fmt.Errorf("%s has not reported yet", name)
		}
	}
	return nil
}

func fetch(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	client := http.Client{Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answers %s: %s", url, resp.Status, strings.TrimSpace(string(body)))
	}
	return string(body), nil
}
