// Package injector is the admission webhook that adds the proxy to pods as they are
// made, where they or their namespace ask for it. What it does is deploy/inject's;
// here are the server, its certificate, and the settings, which it reads again when
// their files change.
//
// What it cannot decide it answers with an error, and the webhook's failure policy
// holds. It never touches the pods of Kubernetes' own namespaces and of Weir's.
package injector

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/weirmesh/weir/controller/workload"
	"github.com/weirmesh/weir/deploy/inject"
)

const (
	// drainTimeout bounds how long open admissions may go on at the end.
	drainTimeout = 10 * time.Second
	// lookTimeout bounds what is asked of Kubernetes for one admission.
	lookTimeout = 5 * time.Second
)

// Signer certifies the key of a server for DNS names. It gives the chain, leaf first,
// and the trust anchors that it leads to, as PEM.
type Signer func(public any, names []string, lifetime time.Duration) (chain, anchors []byte, err error)

// Options of a Server. All but Logger are required.
type Options struct {
	// Listen is the address, HOST:PORT, that the API server reaches.
	Listen string
	// Namespace is Weir's own, Service the name of the Service before Listen.
	Namespace, Service string
	// Webhook is the MutatingWebhookConfiguration whose caBundles are kept.
	Webhook string
	// Cluster names the cluster in workloads.
	Cluster string
	// Files are the settings of the installation.
	Files Files
	// By is what the mark weir.dev/injected-by says.
	By string
	// Sign certifies the server's key.
	Sign Signer
	// Kubernetes is asked for namespaces and for the webhook's configuration.
	Kubernetes kubernetes.Interface
	// Owners are asked whose a pod is.
	Owners workload.Owners
	// Logger; default slog.Default().
	Logger *slog.Logger
}

// Server is the webhook. Its methods are safe for concurrent use, but Run is called
// once.
type Server struct {
	o        Options
	log      *slog.Logger
	listener net.Listener
	config   atomic.Pointer[inject.Config]
	keeper   *keeper

	injected, unasked, skipped, refused, failed atomic.Uint64
}

// New reads the settings, makes a first certificate and opens the port. The error
// says what is wrong; else the caller must Run the Server.
func New(o Options) (*Server, error) {
	s := &Server{o: o, log: o.Logger}
	if s.log == nil {
		s.log = slog.Default()
	}
	c, err := o.Files.read(o.Namespace)
	if err != nil {
		return nil, err
	}
	s.config.Store(&c)
	if s.keeper, err = newKeeper(o, s.log); err != nil {
		return nil, err
	}
	if s.listener, err = net.Listen("tcp", o.Listen); err != nil {
		return nil, fmt.Errorf("cannot listen for admissions: %w", err)
	}
	return s, nil
}

// Addr is where it listens.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Ready says why it cannot be asked yet: the API server does not know its
// certificate.
func (s *Server) Ready() error { return s.keeper.ready() }

// Run answers admissions, and keeps certificate, caBundles and settings up to date,
// until ctx ends; then it lets open admissions end.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /inject", s.serve)
	server := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.keeper.certificate},
	}
	var wg sync.WaitGroup
	wg.Go(func() { s.keeper.run(ctx) })
	wg.Go(func() { s.watchFiles(ctx) })
	wg.Go(func() {
		<-ctx.Done()
		end, stop := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer stop()
		if err := server.Shutdown(end); err != nil {
			_ = server.Close() // what did not end is cut
		}
	})
	err := server.ServeTLS(s.listener, "", "")
	cancel()
	wg.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("cannot serve admissions: %w", err)
}

// WriteMetrics writes the counters in the format of Prometheus.
func (s *Server) WriteMetrics(w io.Writer) {
	for _, c := range []struct {
		outcome string
		n       *atomic.Uint64
	}{{"injected", &s.injected}, {"unasked", &s.unasked}, {"skipped", &s.skipped}, {"refused", &s.refused}, {"failed", &s.failed}} {
		_, _ = fmt.Fprintf(w, "weir_injector_admissions_total{outcome=%q} %d\n", c.outcome, c.n.Load()) // the reader may be gone
	}
	_, _ = fmt.Fprintf(w, "weir_injector_certificate_not_after_seconds %d\n", s.keeper.notAfter().Unix())
}

// untouched are the namespaces whose pods are let through unseen: without them there
// is no cluster, or no Weir.
func (s *Server) untouched(namespace string) bool {
	switch namespace {
	case "kube-system", "kube-public", "kube-node-lease", s.o.Namespace:
		return true
	}
	return false
}

// decide says what is to be done with a pod of a namespace.
func (s *Server) decide(ctx context.Context, namespace string, raw []byte, pod *core.Pod) (inject.Decision, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	ns, err := s.o.Kubernetes.CoreV1().Namespaces().Get(ctx, namespace, getOptions)
	if err != nil {
		return inject.Decision{}, &unavailableError{fmt.Errorf("cannot read namespace %s: %w", namespace, err)}
	}
	pod.Namespace = namespace // the API server has not set it yet
	w, err := workload.Of(ctx, s.o.Owners, s.o.Cluster, &pod.ObjectMeta)
	if err != nil {
		return inject.Decision{}, &unavailableError{err}
	}
	return inject.Pod(raw, inject.PodOptions{
		Config:    *s.config.Load(),
		Owner:     inject.Owner{Kind: w.Kind, Name: w.Name},
		Namespace: inject.Namespace{Name: namespace, Labels: ns.Labels, Annotations: ns.Annotations},
		By:        s.o.By,
	})
}

// unavailableError is one that is not the pod's fault.
type unavailableError struct{ error }
