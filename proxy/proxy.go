// Package proxy is Weir's data plane: what stands beside a workload, carries
// its traffic and tells of it. It puts the parts together: listeners
// (proxy/listen), relays (proxy/tcp, proxy/http1, proxy/http2), telemetry
// (proxy/telemetry), the admin port, and their start and end.
//
// The bus is not needed for traffic: a proxy without it carries on, is ready,
// and retains its telemetry within a bound.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/weirmesh/weir/event"
	"github.com/weirmesh/weir/proxy/discover"
	"github.com/weirmesh/weir/proxy/http1"
	"github.com/weirmesh/weir/proxy/http2"
	"github.com/weirmesh/weir/proxy/listen"
	"github.com/weirmesh/weir/proxy/mtls"
	"github.com/weirmesh/weir/proxy/relay"
	"github.com/weirmesh/weir/proxy/tcp"
	"github.com/weirmesh/weir/proxy/telemetry"
)

// flushTimeout bounds the delivery of the last telemetry.
const flushTimeout = 5 * time.Second

// Proxy is a proxy whose ports are bound. Its methods are safe for concurrent
// use, but Run is called once.
type Proxy struct {
	cfg      Config
	log      *slog.Logger
	group    *listen.Group
	pipeline *telemetry.Pipeline // nil without telemetry
	admin    *admin              // nil without admin port
	identity *mtls.Identity      // nil without identity
	resolver *discover.Resolver  // nil without discovery
	specs    []listen.Spec       // those that are listened on
	addrs    []netip.AddrPort    // of specs
	stop     context.CancelFunc  // ends the goroutines of background
	// background are goroutines that go on until all connections have ended.
	background sync.WaitGroup
}

// New binds all ports of cfg and starts telemetry towards sink, which may be
// nil: then there is none. Its errors name the address and the flag. The
// caller must Run the Proxy.
func New(ctx context.Context, cfg Config, sink telemetry.Sink, log *slog.Logger) (*Proxy, error) {
	p := &Proxy{cfg: cfg, log: log, stop: func() {}}
	var err error
	if p.identity, err = p.newIdentity(); err != nil {
		return nil, err
	}
	p.resolver = p.newResolver()
	var recorder relay.Recorder = telemetry.Off{}
	var pipeline *telemetry.Pipeline
	if sink != nil && !cfg.Telemetry.Off {
		pipeline, err = telemetry.New(telemetry.Options{
			Source:          cfg.Self,
			Version:         cfg.Version,
			Sink:            sink,
			RetainBytes:     cfg.Telemetry.RetainBytes,
			Spool:           cfg.Telemetry.Spool,
			OpenConnections: func() uint64 { return p.group.Open() },
			Logger:          log,
		})
		if err != nil {
			return nil, fmt.Errorf("%w; change --telemetry-spool %s", err, cfg.Telemetry.Spool)
		}
		recorder = pipeline
	}
	p.group = listen.New(listen.Options{
		Self:           cfg.Self,
		Relays:         listen.Relays{HTTP1: http1.Serve, HTTP2: http2.Serve, TCP: tcp.Serve},
		Recorder:       recorder,
		MaxConnections: cfg.Traffic.MaxConnections,
		ConnectTimeout: cfg.Traffic.ConnectTimeout,
		MaxHeadBytes:   cfg.Traffic.MaxHeadBytes,
		HeadTimeout:    cfg.Traffic.HeadTimeout,
		Identity:       p.identity,
		Discovery:      p.resolver,
		RequireMutual:  cfg.Identity.RequireMutual,
		PlainFrom:      cfg.Identity.ProbesFrom,
		PlainPorts:     cfg.Identity.ProbePorts,
		Logger:         log,
	})
	if err := p.bind(ctx); err != nil {
		if pipeline != nil {
			pipeline.Discard()
		}
		return nil, errors.Join(err, p.close(ctx))
	}
	if pipeline != nil {
		// Not before the ports are bound: a proxy that cannot start is silent.
		pipeline.Start()
		p.pipeline = pipeline
	}
	return p, nil
}

// bind opens all ports.
func (p *Proxy) bind(ctx context.Context) error {
	for _, s := range p.cfg.Traffic.Listeners {
		addr, err := p.group.Listen(ctx, s)
		switch {
		case err == nil:
		case s.Transparent && lacksAddress(err):
			p.log.Info("not listening: the host lacks this version of IP", "direction", s.Direction.String(), "listen", s.Listen)
			continue
		case s.Transparent:
			return fmt.Errorf("%w; change --%s-port here and of weir-proxy init", err, s.Direction)
		default:
			return fmt.Errorf("%w; change --%s %s=%s", err, s.Direction, s.Listen, s.Target)
		}
		p.addrs = append(p.addrs, addr)
		p.specs = append(p.specs, s)
	}
	if p.cfg.Admin.Listen == "" {
		return nil
	}
	var err error
	if p.admin, err = listenAdmin(ctx, p.cfg.Admin.Listen, p); err != nil {
		return fmt.Errorf("%w; change --admin %s", err, p.cfg.Admin.Listen)
	}
	return nil
}

// lacksAddress tells that a listener's address is none of this host's.
func lacksAddress(err error) bool {
	return errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)
}

// Addrs returns where the listeners of the Config listen, in its order;
// transparent ones of a version of IP that the host lacks are left out.
func (p *Proxy) Addrs() []netip.AddrPort { return p.addrs }

// AdminAddr returns where the admin port listens; invalid where there is none.
func (p *Proxy) AdminAddr() netip.AddrPort {
	if p.admin == nil {
		return netip.AddrPort{}
	}
	return p.admin.addr
}

// Run carries traffic until ctx ends. Then it is no longer ready, goes on
// accepting for the drain delay, lets connections end for up to the drain
// timeout, cuts the rest, and delivers the last telemetry. When it returns, no
// goroutine is left. Its error says what was cut or not delivered.
func (p *Proxy) Run(ctx context.Context) error {
	p.startBackground(context.WithoutCancel(ctx))
	p.group.Serve()
	if p.admin != nil {
		p.admin.serve()
	}
	for i, s := range p.specs {
		target := s.Target
		if s.Transparent {
			target = "the original destination"
		}
		p.log.Info("accepting connections", "direction", s.Direction.String(), "listen", p.addrs[i], "target", target)
	}
	p.trim(ctx) // until ctx ends
	return p.drain(context.WithoutCancel(ctx))
}

// startBackground begins what goes on beside the traffic, until the last
// connection has ended.
func (p *Proxy) startBackground(ctx context.Context) {
	ctx, p.stop = context.WithCancel(ctx)
	if p.identity != nil {
		p.background.Go(func() { p.identity.Run(ctx) })
	}
	if p.resolver != nil {
		p.background.Go(func() { p.resolver.Run(ctx) })
	}
}

// drain is the orderly end.
func (p *Proxy) drain(ctx context.Context) error {
	p.log.Info("draining", "open_connections", p.group.Open(),
		"delay", p.cfg.Traffic.DrainDelay, "timeout", p.cfg.Traffic.DrainTimeout)
	if p.admin != nil {
		p.admin.ready.Store(false)
	}
	time.Sleep(p.cfg.Traffic.DrainDelay)
	p.group.Drain()
	wait, cancel := context.WithTimeout(ctx, p.cfg.Traffic.DrainTimeout)
	err := p.group.Wait(wait)
	cancel()
	if err != nil {
		err = fmt.Errorf("cannot drain within %s: %w", p.cfg.Traffic.DrainTimeout, err)
	}
	return errors.Join(err, p.close(ctx))
}

// close ends all parts, telemetry last: it has the events of all others' ends.
func (p *Proxy) close(ctx context.Context) error {
	p.group.Close()
	p.stop()
	p.background.Wait()
	var err error
	if p.pipeline != nil {
		flush, cancel := context.WithTimeout(ctx, flushTimeout)
		err = p.pipeline.Close(flush)
		cancel()
	}
	if p.admin != nil {
		p.admin.close()
	}
	return err
}

// Run binds the ports of cfg and carries traffic until ctx ends: New and
// Proxy.Run in one.
func Run(ctx context.Context, cfg Config, sink telemetry.Sink, log *slog.Logger) error {
	p, err := New(ctx, cfg, sink, log)
	if err != nil {
		return err
	}
	return p.Run(ctx)
}

// directions are those that count connections.
func directions() [2]event.Direction { return [2]event.Direction{event.Inbound, event.Outbound} }
