package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirmesh/weir/api/client"
	"github.com/weirmesh/weir/bench/measure"
)

// askEvery is how often a component is asked whether it is ready yet. Asking
// costs it some processor time, too.
const askEvery = 50 * time.Millisecond

// aggregatorMemory is what an aggregator may work with: enough for rows of their
// own for 50,000 series.
const aggregatorMemory = "512MiB"

// busMemory is what the bus may work with: nats-server keeps what was written in
// the last ten seconds in memory, 300 MB at 30 MB a second, and the collector
// needs as much again.
const busMemory = "1GiB"

// A lab is the folder of a run and how to start programs.
type lab struct {
	o    options
	dir  string
	self string // this program's file
	port int    // the next to try
	made int    // folders
}

func newLab(o options) (*lab, error) {
	l := &lab{o: o, port: 21000}
	var err error
	if l.dir, err = os.MkdirTemp("", "bench-telemetry-"); err != nil {
		return nil, err
	}
	l.self, err = os.Executable()
	return l, err
}

func (l *lab) close() { _ = os.RemoveAll(l.dir) }

// address finds a free port below those that the kernel gives to connections.
func (l *lab) address() (string, error) {
	for ; l.port < 32000; l.port++ {
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(l.port)))
		if err != nil {
			continue
		}
		l.port++
		return listener.Addr().String(), listener.Close()
	}
	return "", errors.New("no port is free between 21000 and 32000")
}

// pinned is a command on the named cores only; "" is anywhere.
func (l *lab) pinned(cores string, argv ...string) []string {
	if cores == "" {
		return argv
	}
	return append([]string{l.self, rolePin, cores}, argv...)
}

// pin becomes another program on the cores, a list as "0,1".
func pin(cores string, argv []string) error {
	var set unix.CPUSet
	n := 0
	for core := range strings.SplitSeq(cores, ",") {
		i, err := strconv.Atoi(core)
		if err != nil || i < 0 {
			return fmt.Errorf("cannot use %q as a list of cores, such as 0,1", cores)
		}
		set.Set(i)
		n++
	}
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("cannot stay on cores %s: %w", cores, err)
	}
	env := append([]string{"GOMAXPROCS=" + strconv.Itoa(n)}, os.Environ()...)
	for i := 1; i < len(env); i++ {
		if strings.HasPrefix(env[i], "GOMAXPROCS=") {
			env[i] = env[0]
		}
	}
	return syscall.Exec(argv[0], argv, env)
}

// A mesh is Weir's side of a part: a bus, aggregators and an API.
type mesh struct {
	lab         *lab
	bus         *measure.Process
	url, data   string
	aggregators []*member
	api         *measure.Process
	client      *client.Client
	procs       []*measure.Process
}

// A member is one aggregator.
type member struct {
	proc  *measure.Process
	admin string
}

// placement says on which cores what runs; "" is anywhere.
type placement struct{ bus, aggregator, generator string }

// startBus starts a mesh that has only its bus yet. Close it, also after an
// error.
func (l *lab) startBus(ctx context.Context, at placement) (*mesh, error) {
	l.made++
	m := &mesh{lab: l, data: filepath.Join(l.dir, "bus-"+strconv.Itoa(l.made))}
	address, err := l.address()
	if err != nil {
		return m, err
	}
	m.url = "nats://" + address
	m.bus, err = m.start(ctx, "bus", l.pinned(at.bus, filepath.Join(l.o.bin, "weir"), "bus", "--listen", address, "--data", m.data, "--memory", busMemory), address)
	return m, err
}

// startMesh starts a bus, so many aggregators and an API, and waits until they
// are ready.
func (l *lab) startMesh(ctx context.Context, aggregators int, at placement) (*mesh, error) {
	m, err := l.startBus(ctx, at)
	if err != nil {
		return m, err
	}
	for range aggregators {
		if err := m.addAggregator(ctx, at); err != nil {
			return m, err
		}
	}
	if err := m.addAPI(ctx); err != nil {
		return m, err
	}
	return m, m.awaitOwned(ctx)
}

func (m *mesh) start(ctx context.Context, name string, argv []string, address string) (*measure.Process, error) {
	p, err := measure.Start(name, argv...)
	if err != nil {
		return nil, err
	}
	m.procs = append(m.procs, p)
	return p, p.AwaitPort(ctx, address)
}

func (m *mesh) addAggregator(ctx context.Context, at placement) error {
	admin, err := m.lab.address()
	if err != nil {
		return err
	}
	id := "agg-" + strconv.Itoa(len(m.aggregators))
	argv := m.lab.pinned(at.aggregator, filepath.Join(m.lab.o.bin, "weir"), "aggregator", "--bus", m.url, "--id", id, "--admin", admin, "--memory", aggregatorMemory)
	p, err := m.start(ctx, id, argv, admin)
	if err != nil {
		return err
	}
	m.aggregators = append(m.aggregators, &member{p, admin})
	return nil
}

func (m *mesh) addAPI(ctx context.Context) error {
	grpc, err := m.lab.address()
	if err != nil {
		return err
	}
	http, err := m.lab.address()
	if err != nil {
		return err
	}
	argv := []string{filepath.Join(m.lab.o.bin, "weir"), "api", "--bus", m.url, "--grpc-addr", grpc, "--http-addr", http}
	if m.api, err = m.start(ctx, "api", argv, grpc); err != nil {
		return err
	}
	m.client, err = client.Dial(ctx, grpc)
	return err
}

// awaitOwned waits until every partition has an owner.
func (m *mesh) awaitOwned(ctx context.Context) error {
	const partitions = 16
	return m.await(ctx, 30*time.Second, "partitions owned", func() (bool, error) {
		owned, err := m.sum(ctx, "weir_aggregator_partitions_owned")
		return owned == partitions, err
	})
}

// await asks every askEvery until it is so, for a while. Questions may fail
// meanwhile, but no process may end.
func (m *mesh) await(ctx context.Context, patience time.Duration, what string, so func() (bool, error)) error {
	for end := time.Now().Add(patience); ; {
		ok, err := so()
		if ok && err == nil {
			return nil
		}
		// Who is busy may not answer in time, and is asked again.
		if time.Now().After(end) {
			return errors.Join(fmt.Errorf("waited %v for %s", patience, what), err)
		}
		if err := measure.Alive(m.procs); err != nil {
			return err
		}
		if err := sleepUntil(ctx, time.Now().Add(askEvery)); err != nil {
			return err
		}
	}
}

// sum is a metric over all aggregators.
func (m *mesh) sum(ctx context.Context, name string) (total float64, err error) {
	for _, a := range m.aggregators {
		v, err := measure.Metric(ctx, a.admin, name)
		if err != nil {
			return 0, err
		}
		total += v
	}
	return total, nil
}

// awaitCounted waits until the aggregators counted so many events since they
// started, and up to more besides that nobody can tell.
func (m *mesh) awaitCounted(ctx context.Context, events, more uint64, patience time.Duration) error {
	var counted float64
	err := m.await(ctx, patience, fmt.Sprintf("%d events to be counted", events), func() (bool, error) {
		var err error
		counted, err = m.sum(ctx, "weir_aggregator_events_total")
		return uint64(counted) >= events, err
	})
	if err == nil && uint64(counted) > events+more {
		err = fmt.Errorf("%d events were sent and %.0f counted", events, counted)
	}
	if err != nil {
		return fmt.Errorf("%w (counted %.0f)", err, counted)
	}
	return nil
}

// forget leaves out an aggregator that was killed.
func (m *mesh) forget(gone *member) {
	m.aggregators = slices.DeleteFunc(m.aggregators, func(a *member) bool { return a == gone })
	m.procs = slices.DeleteFunc(m.procs, func(p *measure.Process) bool { return p == gone.proc })
}

func (m *mesh) aggregatorProcs() (procs []*measure.Process) {
	for _, a := range m.aggregators {
		procs = append(procs, a.proc)
	}
	return procs
}

// close ends every process and removes what the bus kept.
func (m *mesh) close() {
	if m.client != nil {
		_ = m.client.Close()
	}
	for i := len(m.procs) - 1; i >= 0; i-- {
		m.procs[i].Stop()
	}
	_ = os.RemoveAll(m.data)
}

// A ran is a generator's tally and the CPU it took.
type ran struct {
	tally
	cpu time.Duration
}

// generate runs a generator until it has done the order.
func (m *mesh) generate(ctx context.Context, cores string, o order) (ran, error) {
	o.Bus = m.url
	return m.lab.runTally(ctx, cores, o, roleGenerate)
}

// runTally runs this program in a role, with an order as the last argument, and
// reads the tally that it prints.
func (l *lab) runTally(ctx context.Context, cores string, o order, role ...string) (r ran, err error) {
	text, err := json.Marshal(o)
	if err != nil {
		return r, err
	}
	argv := l.pinned(cores, append(append([]string{l.self}, role...), string(text))...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		return r, fmt.Errorf("%s failed: %w: %s", role[0], err, strings.TrimSpace(problems.String()))
	}
	r.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if err := json.Unmarshal(out.Bytes(), &r.tally); err != nil {
		return r, fmt.Errorf("cannot read what %s says: %w", role[0], err)
	}
	return r, nil
}

// diskBytes is how much a folder's files take.
func diskBytes(dir string) (total int64) {
	_ = filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			total += info.Size()
		}
		return nil // a file that went meanwhile counts nothing
	})
	return total
}
