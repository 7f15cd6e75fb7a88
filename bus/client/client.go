// Package client is a Weir process's one connection to the bus. Proxies publish
// batches through it; aggregators consume them, keep rollups and answer
// queries; the API asks and taps.
//
// A client works on through any absence of the bus: it connects when it can,
// for as long as it lives, and says once a change what became of the
// connection. What cannot be sent now fails at once, so that no caller waits
// for a bus that is away, and nothing piles up in memory.
package client

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/weirmesh/weir/bus"
)

const (
	dialTimeout = 2 * time.Second
	// requestTimeout bounds a request whose context has no deadline.
	requestTimeout = 5 * time.Second
	// The delay before connecting again doubles from least to most; half of it
	// is random, so that many proxies do not come back in step.
	reconnectLeast = 100 * time.Millisecond
	reconnectMost  = 2 * time.Second
	pingInterval   = 10 * time.Second
)

// Options of a connection. Only URL is required.
type Options struct {
	// URL is the bus's address, nats://host:port; several may be given,
	// separated by commas.
	URL string
	// Name tells the operators of the bus who this is.
	Name string
	// User and Password, or Token, where the bus asks for them. They may stand
	// in the URL instead.
	User, Password, Token string
	// TokenFile holds the token instead, and is read anew for each connection:
	// Kubernetes exchanges it.
	TokenFile string
	// Anchors are trusted certificates, PEM; where there are any, the
	// connection is made with TLS, and the bus must prove its host name by a
	// certificate that leads to one of them. AnchorsFile holds them instead, and
	// is read anew for each connection.
	Anchors     []byte
	AnchorsFile string
	// Inbox is what the subjects of this client's replies begin with, where
	// others than its own are forbidden; default "_INBOX".
	Inbox string
	// Small trades throughput for memory; meant for proxies.
	Small bool
	// Logger is told of every change of the connection; default slog.Default().
	Logger *slog.Logger
}

// Client is a connection to the bus. Its methods may be called concurrently.
type Client struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	log    *slog.Logger
	link   link
	closed chan struct{}
	// nonce tells this client's own writes from those of others.
	nonce string
	// seeds are those of the hashes in the ids of rollups.
	seeds    [2]maphash.Seed
	small    bool
	interest interest
	pace     pace
	// epoch is when the client began: readings go on at the same time after it.
	epoch time.Time
	// turns bounds the readings of rollups.
	turns chan struct{}
	// repeats is how many requests of Ask are being put again.
	repeats atomic.Int32
}

// Connect starts a connection. It tries once, for two seconds at most or until
// ctx ends, and returns a working client whether the bus answered or not: the
// client goes on trying by itself. An error means that the options are wrong.
// The caller must Close the client; ctx ending later does not.
func Connect(ctx context.Context, o Options) (*Client, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	c := &Client{
		log:    o.Logger.With("bus", redact(o.URL)),
		closed: make(chan struct{}),
		epoch:  time.Now(),
		nonce:  nuid.Next(),
		seeds:  [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		small:  o.Small,
		turns:  make(chan struct{}, rollupReadings),
	}
	c.link.init()
	nc, err := nats.Connect(o.URL, c.options(ctx, o)...)
	if err != nil {
		return nil, fmt.Errorf("cannot set up the connection to the bus at %s: %w", redact(o.URL), err)
	}
	c.nc = nc
	c.js, err = jetstream.New(nc, jetstream.WithDefaultTimeout(requestTimeout))
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("cannot set up the connection to the bus at %s: %w", redact(o.URL), err)
	}
	if nc.IsConnected() {
		c.onConnect(nc)
	} else {
		c.log.Warn("bus does not answer yet; trying on")
	}
	return c, nil
}

func (c *Client) options(ctx context.Context, o Options) []nats.Option {
	timeout := dialTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = max(min(timeout, time.Until(deadline)), time.Millisecond)
	}
	queue, writeBuffer := 8192, 64<<10
	if o.Small {
		queue, writeBuffer = 256, 4<<10
	}
	options := []nats.Option{
		nats.Name(o.Name),
		nats.Timeout(timeout),
		nats.SetCustomDialer(dialer{timeout, &c.pace}),
		nats.SkipHostLookup(),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(),
		nats.CustomReconnectDelay(reconnectDelay),
		// What is published while disconnected fails instead of piling up.
		nats.ReconnectBufSize(-1),
		nats.WriteBufferSize(writeBuffer),
		nats.SyncQueueLen(queue),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(2),
		nats.ConnectHandler(c.onConnect),
		nats.ReconnectHandler(c.onConnect),
		nats.DisconnectErrHandler(c.onDisconnect),
		nats.ErrorHandler(c.onError),
		nats.ClosedHandler(func(*nats.Conn) { close(c.closed) }),
	}
	if o.User != "" || o.Password != "" {
		options = append(options, nats.UserInfo(o.User, o.Password))
	}
	if o.Token != "" {
		options = append(options, nats.Token(o.Token))
	}
	return append(options, o.credentials(c.log)...)
}

// check tells what is wrong with files at the start, where it can be mended.
func (o Options) check() error {
	if err := checkURL(o.URL); err != nil {
		return err
	}
	if o.TokenFile != "" {
		if _, err := os.ReadFile(o.TokenFile); err != nil {
			return fmt.Errorf("cannot read the token for the bus: %w", err)
		}
	}
	if len(o.Anchors) > 0 || o.AnchorsFile != "" {
		if _, err := o.roots(); err != nil {
			return err
		}
	}
	return nil
}

// credentials are the options that depend on files.
func (o Options) credentials(log *slog.Logger) []nats.Option {
	var options []nats.Option
	if o.TokenFile != "" {
		options = append(options, nats.TokenHandler(func() string {
			b, err := os.ReadFile(o.TokenFile)
			if err != nil {
				log.Error("cannot read the token for the bus", "error", err)
			}
			return strings.TrimSpace(string(b))
		}))
	}
	if len(o.Anchors) > 0 || o.AnchorsFile != "" {
		options = append(options, nats.ClientTLSConfig(nil, o.roots))
	}
	if o.Inbox != "" {
		options = append(options, nats.CustomInboxPrefix(o.Inbox))
	}
	return options
}

// roots are the trusted certificates of the moment.
func (o Options) roots() (*x509.CertPool, error) {
	anchors := o.Anchors
	if o.AnchorsFile != "" {
		var err error
		if anchors, err = os.ReadFile(o.AnchorsFile); err != nil {
			return nil, fmt.Errorf("cannot read the trust anchors of the bus: %w", err)
		}
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(anchors) {
		return nil, errors.New("cannot trust the bus: there is no certificate among its trust anchors")
	}
	return pool, nil
}

func reconnectDelay(attempts int) time.Duration {
	d := reconnectMost
	if attempts < 5 {
		d = min(reconnectLeast<<max(attempts, 0), reconnectMost)
	}
	return d/2 + rand.N(d/2)
}

func (c *Client) onConnect(nc *nats.Conn) {
	if c.link.up() {
		c.log.Info("connected to the bus", "server", nc.ConnectedServerName(), "address", nc.ConnectedAddr())
	}
}

func (c *Client) onDisconnect(nc *nats.Conn, err error) {
	if !c.link.down() || nc.IsClosed() {
		return
	}
	c.log.Warn("lost the connection to the bus; trying on", "error", err)
}

func (c *Client) onError(_ *nats.Conn, sub *nats.Subscription, err error) {
	switch {
	case sub != nil && errors.Is(err, nats.ErrSlowConsumer):
		// Each kind of subscription reports its own drops.
	case sub != nil:
		c.log.Warn("bus reports an error", "subject", sub.Subject, "error", err)
	default:
		c.log.Warn("bus reports an error", "error", err)
	}
}

// Connected tells whether there is a connection now.
func (c *Client) Connected() bool {
	// The handlers, and with them the session, run a little behind.
	return c.nc.IsConnected() && c.link.session().Err() == nil
}

// WaitConnected waits until there is a connection. It returns ctx's error if
// ctx ends before, or bus.ErrNotConnected if the client is closed.
func (c *Client) WaitConnected(ctx context.Context) error {
	for !c.Connected() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.closed:
			return bus.ErrNotConnected
		case <-c.link.isUp():
			// Connected before, but not now: the loss is not handled yet.
			select {
			case <-ctx.Done():
			case <-time.After(time.Millisecond):
			}
		}
	}
	return nil
}

// Close sends what is still buffered, for a second at most, and ends the
// connection with all its subscriptions. It returns when all is closed.
func (c *Client) Close() {
	if c.nc.IsConnected() {
		// An error means that the connection is gone, which is no news here.
		_ = c.nc.FlushTimeout(time.Second)
	}
	c.interest.stop()
	c.nc.Close()
	<-c.closed
	c.link.down()
}

// request bounds ctx by the default timeout where it has no deadline, and ends
// it when the connection is lost, since no answer will come then. done must be
// called with the request's error, and returns what to give the caller.
func (c *Client) request(ctx context.Context) (context.Context, func(error) error, error) {
	session := c.link.session()
	if !c.Connected() {
		return nil, nil, bus.ErrNotConnected
	}
	cancel := context.CancelFunc(func() {})
	if _, ok := ctx.Deadline(); !ok {
		ctx, cancel = context.WithTimeout(ctx, requestTimeout)
	}
	inner, lost := context.WithCancelCause(ctx)
	stop := context.AfterFunc(session, func() { lost(bus.ErrNotConnected) })
	return inner, func(err error) error {
		cause := context.Cause(inner)
		stop()
		lost(nil)
		cancel()
		if err != nil && errors.Is(cause, bus.ErrNotConnected) {
			return fmt.Errorf("%w: the connection was lost before the answer came", bus.ErrNotConnected)
		}
		return translate(err)
	}, nil
}

// translate gives the errors of NATS that callers act upon those of package
// bus.
func translate(err error) error {
	var api *jetstream.APIError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrMaxPayload):
		return fmt.Errorf("%w: %w", bus.ErrTooLarge, err)
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionClosed),
		errors.Is(err, nats.ErrConnectionReconnecting), errors.Is(err, nats.ErrDisconnected):
		return fmt.Errorf("%w: %w", bus.ErrNotConnected, err)
	case errors.As(err, &api):
		switch api.ErrorCode {
		case jetstream.JSErrCodeStreamMessageExceedsMaximum:
			return fmt.Errorf("%w: %w", bus.ErrTooLarge, err)
		case jetstream.JSErrCodeStreamWrongLastSequence, jetstream.JSErrCodeStreamWrongLastSequenceConstant:
			return fmt.Errorf("%w: %w", bus.ErrFenced, err)
		}
		return fmt.Errorf("%w: %w", bus.ErrRefused, err)
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrNoStreamResponse):
		return fmt.Errorf("%w: its streams are not ready: %w", bus.ErrRefused, err)
	}
	return err
}

func checkURL(list string) error {
	for one := range strings.SplitSeq(list, ",") {
		one = strings.TrimSpace(one)
		if one == "" {
			return fmt.Errorf("cannot use %q as the address of the bus: want nats://host:port", redact(list))
		}
		if !strings.Contains(one, "://") {
			one = "nats://" + one
		}
		u, err := url.Parse(one)
		if err != nil {
			return fmt.Errorf("cannot use %q as the address of the bus: want nats://host:port", redact(list))
		}
		if u.Scheme != "nats" && u.Scheme != "tls" || u.Hostname() == "" {
			return fmt.Errorf("cannot use %q as the address of the bus: want nats://host:port or tls://host:port", redact(list))
		}
	}
	return nil
}

// redact removes passwords and tokens from addresses, for logs.
func redact(list string) string {
	var out []string
	for one := range strings.SplitSeq(list, ",") {
		if at := strings.LastIndexByte(one, '@'); at >= 0 {
			scheme := ""
			if i := strings.Index(one, "://"); i >= 0 {
				scheme = one[:i+3]
			}
			one = scheme + one[at+1:]
		}
		out = append(out, strings.TrimSpace(one))
	}
	return strings.Join(out, ",")
}

// link is the state of the connection for those who wait upon it.
type link struct {
	mu sync.Mutex
	// connected is closed while there is a connection.
	connected chan struct{}
	isOpen    bool
	// current ends when the connection that it belongs to is lost.
	current context.Context
	lose    context.CancelFunc
}

func (l *link) init() {
	l.connected = make(chan struct{})
	l.current, l.lose = context.WithCancel(context.Background())
	l.lose()
}

// up notes that there is a connection, and tells whether that is new.
func (l *link) up() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isOpen {
		return false
	}
	l.isOpen = true
	l.current, l.lose = context.WithCancel(context.Background())
	close(l.connected)
	return true
}

// down notes that there is none, and tells whether that is new.
func (l *link) down() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.isOpen {
		return false
	}
	l.isOpen = false
	l.connected = make(chan struct{})
	l.lose()
	return true
}

func (l *link) session() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current
}

func (l *link) isUp() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.connected
}
