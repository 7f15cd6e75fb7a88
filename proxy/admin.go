package proxy

import (
	"context"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/listen"
)

// admin serves /metrics, /live and /ready.
type admin struct {
	addr  netip.AddrPort
	ready atomic.Bool
	// certified is closed when the proxy has a certificate; nil: it needs none.
	certified <-chan struct{}

	listener net.Listener
	server   *http.Server
	done     sync.WaitGroup
}

// listenAdmin binds the admin port. serve answers on it, close ends it.
func listenAdmin(ctx context.Context, address string, p *Proxy) (*admin, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", address, err)
	}
	a := &admin{listener: ln, addr: ln.Addr().(*net.TCPAddr).AddrPort()}
	if p.identity != nil {
		a.certified = p.identity.Ready()
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/live", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "live\n")
	})
	mux.HandleFunc("/ready", a.handleReady)
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		p.writeMetrics(w)
	})
	a.server = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    8 << 10,
		// What net/http logs of strangers on the port is no news.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	return a, nil
}

// serve answers until close.
func (a *admin) serve() {
	a.ready.Store(true)
	a.done.Go(func() {
		// It always ends with an error: that it was closed.
		_ = a.server.Serve(a.listener)
	})
}

func (a *admin) close() {
	_ = a.server.Close()
	_ = a.listener.Close()
	a.done.Wait()
}

// handleReady says whether traffic is accepted. The bus is not asked: the proxy
// carries traffic without it. But one that is to have a certificate is not ready
// before it has its first: who is told of its identity relies on that.
func (a *admin) handleReady(w http.ResponseWriter, _ *http.Request) {
	no := func(why string) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, why+"\n")
	}
	if !a.ready.Load() {
		no("draining")
		return
	}
	if a.certified != nil {
		select {
		case <-a.certified:
		default:
			no("waiting for a certificate")
			return
		}
	}
	_, _ = io.WriteString(w, "ready\n")
}

// writeMetrics writes all metrics in Prometheus' text format.
func (p *Proxy) writeMetrics(w io.Writer) {
	st := p.group.Stats()
	for _, d := range directions() {
		label := fmt.Sprintf("{direction=%q}", d)
		metrics.WriteGaugeUint64(w, "weir_proxy_connections_open"+label, uint64(max(st.Open[d], 0)))
		metrics.WriteCounterUint64(w, "weir_proxy_connections_total"+label, st.Accepted[d])
		metrics.WriteCounterUint64(w, "weir_proxy_connections_refused_by_limit_total"+label, st.Limited[d])
		metrics.WriteCounterUint64(w, "weir_proxy_dial_errors_total"+label, st.DialErrors[d])
	}
	p.writeIdentityMetrics(w, &st)
	metrics.WriteCounterUint64(w, "weir_proxy_accept_errors_total", st.AcceptErrors)
	metrics.WriteCounterUint64(w, "weir_proxy_hello_errors_total", st.HelloErrors)
	for i := range st.Verdicts {
		for j, n := range st.Verdicts[i] {
			if n > 0 {
				metrics.WriteCounterUint64(w, fmt.Sprintf("weir_proxy_detections_total{detection=%q,protocol=%q}",
					event.Detection(i), event.Protocol(j)), n)
			}
		}
	}
	p.writeBalancerMetrics(w)
	p.writeTelemetryMetrics(w)
	metrics.WriteProcessMetrics(w)
}

func (p *Proxy) writeIdentityMetrics(w io.Writer, st *listen.Stats) {
	for _, why := range slices.Sorted(maps.Keys(st.Denied)) {
		metrics.WriteCounterUint64(w, fmt.Sprintf("weir_proxy_denied_total{reason=%q}", why), st.Denied[why])
	}
	for _, d := range directions() {
		label := fmt.Sprintf("{direction=%q}", d)
		metrics.WriteCounterUint64(w, "weir_proxy_handshakes_total"+label, st.Handshakes[d])
		metrics.WriteCounterUint64(w, "weir_proxy_handshake_errors_total"+label, st.HandshakeErrors[d])
	}
	if p.resolver != nil {
		rs := p.resolver.Stats()
		metrics.WriteGaugeUint64(w, "weir_proxy_destinations", uint64(rs.Known))
		metrics.WriteCounterUint64(w, "weir_proxy_discovery_requests_total", rs.Asked)
		metrics.WriteCounterUint64(w, "weir_proxy_discovery_errors_total", rs.Failed)
		metrics.WriteCounterUint64(w, "weir_proxy_discovery_changes_total", rs.Changes)
		metrics.WriteCounterUint64(w, "weir_proxy_discovery_evictions_total", rs.Evicted)
	}
	if p.identity == nil {
		return
	}
	is := p.identity.Stats()
	metrics.WriteCounterUint64(w, "weir_proxy_certificates_total", is.Renewals)
	metrics.WriteCounterUint64(w, "weir_proxy_certificate_errors_total", is.Failures)
	if t := p.identity.NotAfter(); !t.IsZero() {
		metrics.WriteGaugeUint64(w, "weir_proxy_certificate_expires_seconds", uint64(max(t.Unix(), 0)))
	}
}

func (p *Proxy) writeBalancerMetrics(w io.Writer) {
	for _, st := range p.group.BalancerStats() {
		metrics.WriteGaugeUint64(w, fmt.Sprintf("weir_proxy_endpoints{listen=%q}", st.Listen), uint64(len(st.Endpoints)))
		metrics.WriteCounterUint64(w, fmt.Sprintf("weir_proxy_retries_total{listen=%q}", st.Listen), st.Retries)
		for _, e := range st.Endpoints {
			label := fmt.Sprintf("{listen=%q,endpoint=%q}", st.Listen, e.Addr)
			metrics.WriteCounterUint64(w, "weir_proxy_endpoint_picks_total"+label, e.Picks)
			metrics.WriteCounterUint64(w, "weir_proxy_endpoint_ejections_total"+label, e.Ejections)
			metrics.WriteGaugeUint64(w, "weir_proxy_endpoint_ejected"+label, number(e.Ejected))
			metrics.WriteGaugeUint64(w, "weir_proxy_endpoint_requests_open"+label, uint64(max(e.Outstanding, 0)))
		}
	}
}

func (p *Proxy) writeTelemetryMetrics(w io.Writer) {
	if p.pipeline == nil {
		return
	}
	st := p.pipeline.Stats()
	for _, d := range directions() {
		label := fmt.Sprintf("{direction=%q}", d)
		metrics.WriteCounterUint64(w, "weir_proxy_requests_total"+label, st.Requests[d])
		metrics.WriteCounterUint64(w, "weir_proxy_events_total"+label, st.Events[d])
	}
	metrics.WriteCounterUint64(w, "weir_proxy_events_shed_total", st.Shed)
	metrics.WriteCounterUint64(w, "weir_proxy_events_late_total", st.Late)
	metrics.WriteCounterUint64(w, "weir_proxy_spool_errors_total", st.SpoolErrors)
	metrics.WriteCounterUint64(w, "weir_proxy_batches_sealed_total", st.Sealed)
	metrics.WriteCounterUint64(w, "weir_proxy_batches_published_total", st.Published)
	metrics.WriteCounterUint64(w, "weir_proxy_publish_errors_total", st.PublishErrors)
	metrics.WriteGaugeUint64(w, "weir_proxy_retained_bytes", uint64(st.RetainedBytes))
	metrics.WriteGaugeUint64(w, "weir_proxy_retained_batches", uint64(st.RetainedBatches))
	metrics.WriteGaugeUint64(w, "weir_proxy_bus_connected", number(st.Connected))
	metrics.WriteGaugeUint64(w, "weir_proxy_tapped", number(st.Tapped))
}

func number(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
