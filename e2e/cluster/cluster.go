package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/weirmesh/weir/e2e/cluster/node"
)

// A Cluster is one that is up. Its methods are safe for concurrent use.
type Cluster struct {
	o      Options
	config node.Config
	pid    int // the node's first process, as the host numbers it
	client *http.Client

	// What follows belongs to the process that started the cluster; it is nil
	// for the others.
	process *process
	lock    *lock

	down     sync.Once
	downWith error
}

// Up starts a cluster and returns when its node is ready and its DNS answers.
// Programs that were not built yet are built first, which takes minutes. The
// caller must call Down; if its process ends before, the cluster ends with it,
// and what it leaves in folders and cgroups is removed by the next Up.
//
// It errs with ErrCannotRun where this machine lacks something, and with the last
// lines of the logs if the cluster does not come up.
func Up(ctx context.Context, o Options) (*Cluster, error) {
	o, err := o.complete()
	if err != nil {
		return nil, fmt.Errorf("cannot start a cluster: %w", err)
	}
	plugins, err := check()
	if err != nil {
		return nil, err
	}
	folders, err := o.programs(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot start a cluster: %w", err)
	}
	if err := sweep(o); err != nil {
		o.Logger.Warn("cannot remove all that clusters left that ended", "error", err)
	}
	l, err := tryLock(o.dir() + ".lock")
	if errors.Is(err, errLocked) {
		return nil, fmt.Errorf("the cluster %q is up already (or just starting): `weir-cluster down --name %s` ends it", o.Name, o.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot start a cluster: %w", err)
	}
	c := &Cluster{o: o, config: o.config(plugins), lock: l}
	err = c.install(ctx, folders)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, o.Timeout)
		defer cancel()
		err = c.start(ctx, folders)
	}
	if err != nil {
		err = fmt.Errorf("cannot start a cluster: %w%s", err, c.evidence())
		return nil, errors.Join(err, c.Down())
	}
	return c, nil
}

// Attach returns a cluster that another process has started: `make cluster-up`,
// for one. Down then ends that process.
func Attach(o Options) (*Cluster, error) {
	o, err := o.complete()
	if err != nil {
		return nil, fmt.Errorf("cannot find the cluster: %w", err)
	}
	l, err := tryLock(o.dir() + ".lock")
	if err == nil {
		return nil, errors.Join(notUp(o), clean(o, o.Name), l.remove())
	}
	if !errors.Is(err, errLocked) {
		return nil, fmt.Errorf("cannot find the cluster: %w", err)
	}
	c := &Cluster{o: o}
	if c.config, err = node.Load(filepath.Join(o.dir(), "node.json")); err != nil {
		return nil, fmt.Errorf("the cluster %q is not up yet: %w", o.Name, err)
	}
	if c.pid, err = readPid(c.pidFile("node")); err != nil {
		return nil, fmt.Errorf("the cluster %q is not up yet: %w", o.Name, err)
	}
	return c, c.connect()
}

// Name is the cluster's.
func (c *Cluster) Name() string { return c.o.Name }

// Dir is the folder of the cluster's state; log/ in it has each component's log.
func (c *Cluster) Dir() string { return c.config.Dir }

// Kubeconfig is a file with which a client reaches the API server as one that may
// do everything, from within the node's network: see Command and DialContext.
func (c *Cluster) Kubeconfig() string { return c.config.Kubeconfig("admin") }

// Config says how the node is set up.
func (c *Cluster) Config() node.Config { return c.config }

// Done is closed when the cluster has ended, by itself or by Down; nil, which
// is never closed, for one that another process started.
func (c *Cluster) Done() <-chan struct{} {
	if c.process == nil {
		return nil
	}
	return c.process.ended
}

func (c *Cluster) pidFile(of string) string { return filepath.Join(c.o.dir(), of+".pid") }

func (c *Cluster) writePid(of string, pid int) error {
	return os.WriteFile(c.pidFile(of), []byte(strconv.Itoa(pid)+"\n"), 0o644)
}

// start makes the node's keys and cgroups, starts it and waits until it is ready.
func (c *Cluster) start(ctx context.Context, folders map[string]string) error {
	began := time.Now()
	o := c.o
	if err := errors.Join(certify(c.config), makeCgroups(o.Name), c.config.Save()); err != nil {
		return err
	}
	o.Logger.Debug("prepared", "after", time.Since(began))
	var err error
	if c.process, err = startNode(c.config); err != nil {
		return err
	}
	c.pid = c.process.pid
	if err := c.writePid("node", c.pid); err != nil {
		return err
	}
	if err := c.connect(); err != nil {
		return err
	}
	images := append([]string{filepath.Join(c.config.Dir, "pause.tar"), filepath.Join(folders["coredns"], "coredns.tar")}, o.Images...)
	if err := c.awaitRuntime(ctx); err != nil {
		return err
	}
	for _, tar := range images {
		if err := c.ImportImage(ctx, tar); err != nil {
			return err
		}
	}
	o.Logger.Debug("images imported", "after", time.Since(began))
	return c.awaitReady(ctx, began)
}

// install makes the cluster's folder and puts programs into it: links to those
// that are cached, and what is built in a moment.
func (c *Cluster) install(ctx context.Context, folders map[string]string) error {
	if err := clean(c.o, c.o.Name); err != nil {
		return err
	}
	for _, dir := range []string{c.config.Dir, c.config.Bin, c.config.LogDir()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := c.writePid("supervisor", os.Getpid()); err != nil {
		return err
	}
	for _, name := range components() {
		if err := os.Symlink(filepath.Join(folders["kubenode"], "kubenode"), filepath.Join(c.config.Bin, name)); err != nil {
			return err
		}
	}
	if err := c.o.build(ctx, program{"cmd/weir-cluster", "-s -w"}, filepath.Join(c.config.Bin, "weir-cluster")); err != nil {
		return err
	}
	pause := GoImage{Name: "localhost/pause:e2e", Package: "pause", User: "65535:65535"}
	return c.BuildImage(ctx, pause, filepath.Join(c.config.Dir, "pause.tar"))
}

// Down ends the cluster and removes all that it consisted of: processes, mounts,
// network, cgroups, folders. Calling it again does nothing.
func (c *Cluster) Down() error {
	c.down.Do(func() {
		if c.client != nil {
			c.client.CloseIdleConnections()
		}
		if c.lock == nil {
			c.downWith = stop(c.o)
			return
		}
		if c.process != nil {
			c.process.kill()
		}
		c.downWith = errors.Join(clean(c.o, c.o.Name), c.lock.remove())
	})
	if c.downWith != nil {
		return fmt.Errorf("cannot end the cluster %q: %w", c.o.Name, c.downWith)
	}
	return nil
}

// downTimeout bounds how long another process may take to end its cluster.
const downTimeout = time.Minute

// Stop ends a cluster that another process has started, or is starting, and removes
// what that leaves. It errs if there is none.
func Stop(o Options) error {
	o, err := o.complete()
	if err != nil {
		return fmt.Errorf("cannot end the cluster: %w", err)
	}
	return stop(o)
}

// stop has the process that holds a cluster end it.
func stop(o Options) error {
	l, err := tryLock(o.dir() + ".lock")
	if err == nil {
		return errors.Join(notUp(o), clean(o, o.Name), l.remove())
	}
	if !errors.Is(err, errLocked) {
		return err
	}
	// While the lock is held the number is surely still that process's.
	pid, err := readPid(filepath.Join(o.dir(), "supervisor.pid"))
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), downTimeout)
	defer cancel()
	if l, err = awaitLock(ctx, o.dir()+".lock", nil); err != nil {
		return err
	}
	return errors.Join(clean(o, o.Name), l.remove())
}

func notUp(o Options) error {
	return fmt.Errorf("no cluster %q is up: `make cluster-up` starts one", o.Name)
}

// Sweep removes what clusters have left whose process was killed: folders and
// cgroups. Up does it, too.
func Sweep(o Options) error {
	o, err := o.complete()
	if err != nil {
		return fmt.Errorf("cannot remove what clusters left: %w", err)
	}
	return sweep(o)
}

func sweep(o Options) error {
	locks, err := filepath.Glob(filepath.Join(o.runs(), "*.lock"))
	if err != nil {
		return err
	}
	for _, path := range locks {
		name := strings.TrimSuffix(filepath.Base(path), ".lock")
		l, e := tryLock(path)
		if errors.Is(e, errLocked) {
			continue
		}
		if e == nil {
			e = errors.Join(clean(o, name), l.remove())
		}
		err = errors.Join(err, e)
	}
	return err
}

// clean removes the folders and cgroups of a cluster that has ended.
func clean(o Options, name string) error {
	return errors.Join(removeCgroups(name), os.RemoveAll(filepath.Join(o.runs(), name)))
}

// evidence is the end of the logs of a cluster that did not come up.
func (c *Cluster) evidence() string {
	var text strings.Builder
	logs, _ := filepath.Glob(filepath.Join(c.config.LogDir(), "*.log")) // the pattern is a good one
	for _, path := range append([]string{filepath.Join(c.config.Dir, "node.log")}, logs...) {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		fmt.Fprintf(&text, "\n--- %s\n%s", filepath.Base(path), tail(f, 8))
		_ = f.Close() // only read
	}
	return text.String()
}

func readPid(path string) (int, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("there is no %s", path)
	}
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}
