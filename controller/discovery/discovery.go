// Package discovery tells proxies what is behind the addresses that their
// workloads connect to. It watches Kubernetes' Services, EndpointSlices and Pods
// (and who owns these), answers questions about single addresses, and announces
// what changes.
//
// A destination is a service's port in one version of IP, or a single pod's
// port. Of each endpoint it says which workload it is, and which identity its
// proxy must prove: one where the pod is injected and its proxy has started with
// a certificate; else why there is none.
package discovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/control"
)

const (
	// coalesce is for how long changes are gathered before they are announced.
	coalesce = 100 * time.Millisecond
	// maxEndpoints bounds those that are told of one destination, for a message's
	// size. Of more, some are chosen.
	maxEndpoints = 2000
	// maxAddrs bounds the pods that one message is about.
	maxAddrs = 1000
)

// Options of a Discovery; Kubernetes and Announce are required.
type Options struct {
	Kubernetes kubernetes.Interface
	// Announce publishes on a subject of the bus.
	Announce func(subject string, data []byte) error
	// Cluster is the cluster's name in events, default "local"; TrustDomain that
	// of identities, default "cluster.local".
	Cluster, TrustDomain string
	// Logger; default slog.Default().
	Logger *slog.Logger
}

// Discovery knows destinations. Its methods are safe for concurrent use, but Run
// is called once.
type Discovery struct {
	o     Options
	log   *slog.Logger
	epoch int64

	factory informers.SharedInformerFactory
	stores  stores
	synced  atomic.Bool
	version atomic.Uint64

	mu sync.Mutex
	// dirty is what changed and was not announced: guarded by mu, as wake is sent
	// to after it was.
	dirty changes
	wake  chan struct{}
	// announced is what was said of each destination; run's alone.
	announced map[name]map[key]said

	answered, refused, announcements, errs atomic.Uint64
}

// changes are what is to be announced.
type changes struct {
	services map[name]struct{}
	// pods are addresses whose pods changed, with their namespaces.
	pods map[string]string
}

// name is a namespaced name.
type name struct{ namespace, name string }

// New makes a Discovery that knows nothing before Run.
func New(o Options) (*Discovery, error) {
	if o.Cluster == "" {
		o.Cluster = "local"
	}
	if o.TrustDomain == "" {
		o.TrustDomain = "cluster.local"
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	d := &Discovery{
		o: o, log: o.Logger, epoch: time.Now().UnixMicro(), wake: make(chan struct{}, 1), announced: make(map[name]map[key]said),
		factory: informers.NewSharedInformerFactoryWithOptions(o.Kubernetes, 0, informers.WithTransform(trim)),
	}
	d.dirty.clear()
	if err := d.watch(); err != nil {
		return nil, fmt.Errorf("cannot watch Kubernetes: %w", err)
	}
	return d, nil
}

func (c *changes) clear() {
	c.services, c.pods = make(map[name]struct{}), make(map[string]string)
}

// Run watches and announces until ctx ends, and returns its error.
func (d *Discovery) Run(ctx context.Context) error {
	d.factory.StartWithContext(ctx)
	defer d.factory.Shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), d.stores.synced...) {
		return ctx.Err()
	}
	d.synced.Store(true)
	defer d.synced.Store(false)
	d.log.Info("endpoints are known", "services", len(d.stores.services.ListKeys()), "pods", len(d.stores.pods.ListKeys()))
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.wake:
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(coalesce):
		}
		d.flush()
	}
}

// Ready says why it cannot answer now; nil: it can.
func (d *Discovery) Ready() error {
	if !d.synced.Load() {
		return errors.New("services, endpoints and pods are not read yet")
	}
	return nil
}

// Resolve answers a control.ResolveRequest with a control.Destination, both as
// JSON.
func (d *Discovery) Resolve(_ context.Context, request []byte) []byte {
	answer := d.resolve(request)
	if answer.Error != nil {
		d.refused.Add(1)
	} else {
		d.answered.Add(1)
	}
	return d.encode(answer)
}

func (d *Discovery) resolve(request []byte) *control.Destination {
	fail := func(code, message string) *control.Destination {
		return &control.Destination{Error: &control.Error{Code: code, Message: message}}
	}
	var r control.ResolveRequest
	if err := control.Decode(request, &r); err != nil {
		return fail(control.CodeInvalid, err.Error())
	}
	if err := d.Ready(); err != nil {
		return fail(control.CodeUnavailable, err.Error())
	}
	version := d.version.Load() // before the state that it stands for
	answer := d.destination(r.Addr)
	answer.Epoch, answer.Version = d.epoch, version
	return answer
}

// encode is a destination as JSON.
func (d *Discovery) encode(to *control.Destination) []byte {
	b, err := json.Marshal(to)
	if err != nil { // nothing in it can fail
		d.log.Error("cannot encode a destination", "error", err)
	}
	return b
}

// touch notes what is to be announced.
func (d *Discovery) touch(note func(*changes)) {
	d.mu.Lock()
	note(&d.dirty)
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// touchService notes that a service changed.
func (d *Discovery) touchService(n name) {
	d.touch(func(c *changes) { c.services[n] = struct{}{} })
}

// touchPod notes that a pod changed, whose addresses these are.
func (d *Discovery) touchPod(pods ...*core.Pod) {
	d.touch(func(c *changes) {
		for _, p := range pods {
			for _, n := range d.stores.servicesOf(p) {
				c.services[n] = struct{}{}
			}
			for _, ip := range podIPs(p) {
				c.pods[ip] = p.Namespace
			}
		}
	})
}

// flush announces what changed.
func (d *Discovery) flush() {
	d.mu.Lock()
	dirty := d.dirty
	d.dirty.clear()
	d.mu.Unlock()
	for n := range dirty.services {
		d.announceService(n)
	}
	byNamespace := make(map[string]*control.Destination)
	for ip, namespace := range dirty.pods {
		addr, err := address(ip, 0)
		if err != nil {
			continue
		}
		to := byNamespace[namespace]
		if to != nil && len(to.Addrs) >= maxAddrs {
			d.announce(to)
			to = nil
		}
		if to == nil {
			to = &control.Destination{Namespace: namespace, Known: true}
			byNamespace[namespace] = to
		}
		to.Addrs = append(to.Addrs, addr)
	}
	for _, to := range byNamespace {
		d.announce(to)
	}
}

// announce tells all proxies of a destination.
func (d *Discovery) announce(to *control.Destination) {
	to.Epoch, to.Version = d.epoch, d.version.Add(1)
	d.announcements.Add(1)
	if err := d.o.Announce(bus.EndpointsSubject(to.Namespace, to.Service), d.encode(to)); err != nil {
		// Who comes back to the bus asks again.
		d.errs.Add(1)
		d.log.Debug("cannot announce a destination", "namespace", to.Namespace, "service", to.Service, "error", err)
	}
}

// WriteMetrics writes the counters in the format of Prometheus.
func (d *Discovery) WriteMetrics(w io.Writer) {
	// A writer that fails is the scraper's, who has gone.
	_, _ = fmt.Fprintf(w, "weir_discovery_answers_total %d\nweir_discovery_refusals_total %d\nweir_discovery_announcements_total %d\nweir_discovery_announcement_errors_total %d\n",
		d.answered.Load(), d.refused.Load(), d.announcements.Load(), d.errs.Load())
	_, _ = fmt.Fprintf(w, "weir_discovery_services %d\nweir_discovery_pods %d\n", len(d.stores.services.ListKeys()), len(d.stores.pods.ListKeys()))
}
