// Package server runs the bus inside a Weir process: a nats-server with
// JetStream in files, Weir's streams, and limits that keep one client from
// harming the others. It is a plain nats-server in all else, so that any NATS
// client can subscribe to it, and an installation that outgrows it can use an
// existing NATS instead.
//
// A message counts as stored when it has been written to its file. It then
// survives the end of the process, kill -9 included, since the kernel holds it;
// it survives the loss of power only once the file has been synchronised, which
// happens every Options.SyncInterval.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/weirmesh/weir/bus"
)

// Limits on every client.
const (
	maxControlLine = 4 << 10
	// maxPending is how much may wait for a client that does not read before
	// it is disconnected. It must hold all that an aggregator has asked for at a
	// time: of each partition a message of events, four messages of rollups, and
	// the answers to queries.
	maxPending    = (bus.Partitions+8)*bus.MaxBatch + 5*bus.MaxPayload
	writeDeadline = 5 * time.Second
	maxSubs       = 10000
	// readyTimeout bounds the recovery of the streams from their files.
	readyTimeout = 2 * time.Minute
)

// Defaults of Options.
const (
	DefaultListen         = "127.0.0.1:4222"
	DefaultMaxConnections = 16384
	DefaultSyncInterval   = 10 * time.Second
)

// Options of a server. Only DataDir is required.
type Options struct {
	// Listen is the address for clients, host:port; default DefaultListen.
	// Port 0 takes a free one. An address other than loopback needs Users, an
	// Authenticator or Insecure.
	Listen string
	// DataDir is the folder of the streams' files, created if it is missing.
	// One server at a time can use it.
	DataDir string
	// Name is the server's name; default "weir".
	Name string
	// Users may connect; where there are none, anyone who reaches the address
	// may do anything.
	Users []User
	// Authenticator decides over clients that are none of Users; where there is
	// one, nobody connects without credentials.
	Authenticator Authenticator
	// TLS, where set, is what clients must connect with.
	TLS *CertificateFiles
	// Cluster, where set, makes this one of several servers that are one bus.
	Cluster *Cluster
	// Insecure permits an address other than loopback without Users or an
	// Authenticator.
	Insecure bool
	// Retention of the streams; a changed one applies to existing streams.
	Retention bus.Retention
	// MaxConnections bounds the clients; default DefaultMaxConnections.
	MaxConnections int
	// SyncInterval is how often files are synchronised to the disk; default
	// DefaultSyncInterval.
	SyncInterval time.Duration
	// Logger gets the server's log; default slog.Default().
	Logger *slog.Logger
}

// User is a client that may connect.
type User struct {
	Name, Password string
	// Publish and Subscribe are the subjects, wildcards included, that the user
	// may use; nil means all. Replies to a user's own requests need
	// "_INBOX.>" in Subscribe.
	Publish, Subscribe []string
}

// Server is a running bus. Its methods may be called concurrently.
type Server struct {
	ns      *natsserver.Server
	options Options
	addr    string
	close   sync.Once
	unlock  func()
	gate    *gate // nil without an Authenticator
	// stop ends what authenticates, endRepair what repairs, and waits for it.
	stop      context.CancelFunc
	endRepair func()
	// started is closed when nats-server's own start has returned; fatal gets
	// why it cannot go on.
	started chan struct{}
	fatal   <-chan string
	// violations counts what clients tried that they may not do.
	violations *atomic.Uint64
}

// Start starts a server and returns when it accepts clients and its streams are
// set up, with what an earlier one left in DataDir. ctx bounds the start; the
// caller must Close the server. An error names the address or the folder that
// cannot be used.
func Start(ctx context.Context, o Options) (*Server, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	host, port, err := listenAddress(o)
	if err != nil {
		return nil, err
	}
	unlock, err := lockDir(o.DataDir)
	if err != nil {
		return nil, err
	}
	s := &Server{options: o, unlock: unlock, stop: func() {}, endRepair: func() {}}
	// nats-server tells of an address in use only in its log.
	if err := probeListen(o.Listen); err != nil {
		unlock()
		return nil, err
	}
	warnOfSmallDisk(o)
	admin := newAdmin()
	options := s.natsOptions(host, port, admin)
	if err := s.guard(options, admin); err != nil {
		s.stop()
		unlock()
		return nil, err
	}
	if s.ns, err = natsserver.NewServer(options); err != nil {
		s.stop()
		unlock()
		return nil, fmt.Errorf("cannot set up the bus on %s: %w", o.Listen, err)
	}
	log := newLogger(o.Logger)
	s.ns.SetLoggerV2(log, false, false, false)
	s.started, s.fatal, s.violations = make(chan struct{}), log.fatal, log.violations
	go func() {
		defer close(s.started)
		s.ns.Start()
	}()
	if err := s.await(ctx); err != nil {
		s.Close()
		return nil, err
	}
	s.addr = s.ns.Addr().String()
	if err := s.setUp(ctx, admin); err != nil {
		s.Close()
		return nil, err
	}
	repairing, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	s.endRepair = func() { cancel(); <-done }
	go func() {
		defer close(done)
		s.repair(repairing, admin)
	}()
	o.Logger.Info("bus is ready", "listen", s.addr, "data", o.DataDir)
	return s, nil
}

func (o Options) withDefaults() (Options, error) {
	if o.DataDir == "" {
		return o, errors.New("cannot start the bus: no folder for its data is given")
	}
	if o.Listen == "" {
		o.Listen = DefaultListen
	}
	if o.Name == "" {
		o.Name = "weir"
	}
	if o.MaxConnections == 0 {
		o.MaxConnections = DefaultMaxConnections
	}
	if o.SyncInterval == 0 {
		o.SyncInterval = DefaultSyncInterval
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if strings.ContainsAny(o.Name, " \t\r\n") {
		return o, fmt.Errorf("cannot name the bus %q: a name has no spaces", o.Name)
	}
	if o.MaxConnections < 0 || o.SyncInterval < 0 {
		return o, errors.New("cannot start the bus: its limits must not be negative")
	}
	for _, u := range o.Users {
		if u.Name == "" || u.Password == "" {
			return o, fmt.Errorf("cannot admit user %q to the bus: a name and a password are needed", u.Name)
		}
		if u.Name == adminName {
			return o, fmt.Errorf("cannot admit user %q to the bus: the name is its own", u.Name)
		}
	}
	var err error
	o.Retention, err = o.Retention.WithDefaults()
	return o, err
}

// listenAddress takes Listen apart and refuses to serve others unguarded.
func listenAddress(o Options) (host string, port int, err error) {
	host, service, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return "", 0, fmt.Errorf("cannot listen on %q: want host:port: %w", o.Listen, err)
	}
	port, err = strconv.Atoi(service)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("cannot listen on %q: %q is no port", o.Listen, service)
	}
	if host == "" {
		host = "0.0.0.0"
	}
	if !isLoopback(host) && len(o.Users) == 0 && o.Authenticator == nil && !o.Insecure {
		return "", 0, fmt.Errorf("cannot listen on %s: others could reach the bus there without a password; "+
			"give it users, choose a loopback address, or permit it explicitly as insecure", o.Listen)
	}
	if port == 0 {
		port = natsserver.RANDOM_PORT
	}
	return host, port, nil
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

func probeListen(address string) error {
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("cannot listen on %s: the address is in use by another process: %w", address, err)
	}
	if err != nil {
		return fmt.Errorf("cannot listen on %s: %w", address, err)
	}
	return l.Close()
}

func (s *Server) natsOptions(host string, port int, admin admin) *natsserver.Options {
	o := s.options
	options := &natsserver.Options{
		ServerName: o.Name, Host: host, Port: port,
		NoSigs: true, NoLog: false,
		MaxConn: o.MaxConnections, MaxSubs: maxSubs,
		MaxControlLine: maxControlLine, MaxPayload: bus.MaxPayload, MaxPending: maxPending,
		WriteDeadline: writeDeadline, PingInterval: 20 * time.Second, MaxPingsOut: 2,
		JetStream: true, StoreDir: o.DataDir, SyncInterval: o.SyncInterval,
		JetStreamMaxMemory: 256 << 20,
		// The streams bound themselves. A bound here would have to hold those
		// of an earlier start too, or they could not be made smaller.
		JetStreamMaxStore:      1 << 50,
		DisableJetStreamBanner: true,
	}
	if len(o.Users) > 0 && o.Authenticator == nil {
		options.Users = []*natsserver.User{{Username: admin.name, Password: admin.password}}
		for _, u := range o.Users {
			options.Users = append(options.Users, &natsserver.User{Username: u.Name, Password: u.Password, Permissions: u.permissions()})
		}
	}
	return options
}

// guard adds TLS, the Authenticator and the other servers.
func (s *Server) guard(options *natsserver.Options, admin admin) error {
	o := s.options
	var c *certificate
	if o.TLS != nil {
		var err error
		if c, err = newCertificate(*o.TLS, o.Logger); err != nil {
			return err
		}
		options.TLS, options.TLSTimeout = true, authTimeout.Seconds()
		options.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: c.get}
	}
	if o.Authenticator != nil {
		var ctx context.Context
		ctx, s.stop = context.WithCancel(context.Background())
		s.gate = newGate(ctx, o, admin)
		options.CustomClientAuthentication = s.gate
		options.AuthTimeout = 2 * authTimeout.Seconds()
	}
	return s.cluster(options, c)
}

func (u User) permissions() *natsserver.Permissions {
	if u.Publish == nil && u.Subscribe == nil {
		return nil
	}
	p := &natsserver.Permissions{}
	if u.Publish != nil {
		p.Publish = &natsserver.SubjectPermission{Allow: u.Publish}
	}
	if u.Subscribe != nil {
		p.Subscribe = &natsserver.SubjectPermission{Allow: u.Subscribe}
	}
	return p
}

// await waits until the server accepts clients.
func (s *Server) await(ctx context.Context) error {
	timeout := time.NewTimer(readyTimeout)
	defer timeout.Stop()
	for !s.ns.ReadyForConnections(20 * time.Millisecond) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot start the bus on %s: %w", s.options.Listen, ctx.Err())
		case reason := <-s.fatal:
			return fmt.Errorf("cannot start the bus on %s with the data in %s: %s", s.options.Listen, s.options.DataDir, reason)
		case <-timeout.C:
			return fmt.Errorf("cannot start the bus on %s with the data in %s: it was not ready after %v; its log says why",
				s.options.Listen, s.options.DataDir, readyTimeout)
		default:
		}
	}
	if !s.ns.JetStreamEnabled() {
		return fmt.Errorf("cannot start the bus's streams in %s: its log says why", s.options.DataDir)
	}
	return nil
}

// URL is the address for clients on this host, nats://host:port.
func (s *Server) URL() string {
	host, port, err := net.SplitHostPort(s.addr)
	if ip, parseErr := netip.ParseAddr(host); err == nil && parseErr == nil && ip.IsUnspecified() {
		return "nats://" + net.JoinHostPort("127.0.0.1", port)
	}
	return "nats://" + s.addr
}

// Addr is the address that the server listens on, host:port.
func (s *Server) Addr() string { return s.addr }

// Options returns what the server was started with, defaults filled in, and
// Listen with the port that it took: starting with them again continues it.
func (s *Server) Options() Options {
	o := s.options
	o.Listen = s.addr
	return o
}

// Ready tells whether the server accepts clients and keeps streams; the error
// says what is wrong.
func (s *Server) Ready() error {
	if health := s.ns.Healthz(&natsserver.HealthzOptions{}); health.Error != "" {
		return fmt.Errorf("bus on %s is not ready: %s", s.addr, health.Error)
	}
	if !s.ns.Running() {
		return fmt.Errorf("bus on %s is not ready: it has stopped", s.addr)
	}
	return nil
}

// Close stops the server, disconnects its clients, writes what is open to the
// files and returns when all is done. Closing again does nothing.
func (s *Server) Close() {
	s.close.Do(func() {
		s.endRepair()
		s.stop()
		s.ns.Shutdown()
		<-s.started
		s.ns.WaitForShutdown()
		s.unlock()
	})
}
