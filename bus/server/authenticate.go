package server

import (
	"context"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
)

// authTimeout bounds how long an Authenticator may take for a client.
const authTimeout = 8 * time.Second

// maxAuthenticating bounds the clients whose credentials are looked at at once;
// others wait for their turn, within authTimeout.
const maxAuthenticating = 32

// Credentials are what a client that connects says of itself.
type Credentials struct {
	// Token, or User and Password, as the client chose.
	Token, User, Password string
	// Name is what the client calls itself; it proves nothing.
	Name string
	// Addr is where it connects from, host:port.
	Addr string
}

// Grant is what a client may do.
type Grant struct {
	// Name tells operators and the log who it is.
	Name string
	// All permits everything; Publish and Subscribe do not count then.
	All bool
	// Publish and Subscribe are the subjects, wildcards included, that it may
	// use. None means none.
	Publish, Subscribe []string
	// Expires is when the client is disconnected, to come back with newer
	// credentials; zero means never.
	Expires time.Time
}

// Authenticator decides who may connect, and what for. Authenticate is called
// concurrently; ctx bounds it. An error refuses the client and is logged.
type Authenticator interface {
	Authenticate(ctx context.Context, c Credentials) (Grant, error)
}

// gate is nats-server's view of an Authenticator.
type gate struct {
	inner Authenticator
	admin admin
	users []User
	log   *slog.Logger
	ctx   context.Context // ends with the server
	slots chan struct{}

	admitted, refused atomic.Uint64
}

func newGate(ctx context.Context, o Options, a admin) *gate {
	return &gate{inner: o.Authenticator, admin: a, users: o.Users, log: o.Logger, ctx: ctx, slots: make(chan struct{}, maxAuthenticating)}
}

// Check admits or refuses a client. nats-server calls it in the client's own
// goroutine.
func (g *gate) Check(c natsserver.ClientAuthentication) bool {
	opts := c.GetOpts()
	if same(opts.Username, g.admin.name) && same(opts.Password, g.admin.password) {
		c.RegisterUser(&natsserver.User{Username: g.admin.name})
		return true
	}
	for _, u := range g.users {
		if same(opts.Username, u.Name) && same(opts.Password, u.Password) {
			c.RegisterUser(&natsserver.User{Username: u.Name, Permissions: u.permissions()})
			g.admitted.Add(1)
			return true
		}
	}
	addr := ""
	if a := c.RemoteAddress(); a != nil {
		addr = a.String()
	}
	grant, err := g.ask(Credentials{Token: opts.Token, User: opts.Username, Password: opts.Password, Name: opts.Name, Addr: addr})
	if err != nil {
		g.refused.Add(1)
		g.log.Warn("client of the bus refused", "client", fmt.Sprintf("%.100q", opts.Name), "address", addr, "reason", err)
		return false
	}
	g.admitted.Add(1)
	c.RegisterUser(&natsserver.User{Username: grant.Name, Permissions: grant.permissions(), ConnectionDeadline: grant.Expires})
	g.log.Debug("client of the bus admitted", "user", grant.Name, "client", fmt.Sprintf("%.100q", opts.Name), "address", addr)
	return true
}

func (g *gate) ask(c Credentials) (Grant, error) {
	if c.Token == "" && c.User == "" {
		return Grant{}, fmt.Errorf("it shows no credentials: a ServiceAccount's token for the audience %q is needed", "weir")
	}
	ctx, cancel := context.WithTimeout(g.ctx, authTimeout)
	defer cancel()
	select {
	case g.slots <- struct{}{}:
		defer func() { <-g.slots }()
	case <-ctx.Done():
		return Grant{}, fmt.Errorf("too many clients connect at once: %w", ctx.Err())
	}
	return g.inner.Authenticate(ctx, c)
}

func same(a, b string) bool {
	return a != "" && subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}

// permissions never leaves a list empty: for nats-server that would mean all.
func (g Grant) permissions() *natsserver.Permissions {
	if g.All {
		return nil
	}
	subjects := func(allow []string) *natsserver.SubjectPermission {
		if len(allow) == 0 {
			return &natsserver.SubjectPermission{Deny: []string{">"}}
		}
		return &natsserver.SubjectPermission{Allow: allow}
	}
	return &natsserver.Permissions{Publish: subjects(g.Publish), Subscribe: subjects(g.Subscribe)}
}

// AuthStats is how many clients an Authenticator admitted and refused, and how
// often one that was admitted tried what it may not do: hear or publish on another's
// subject.
type AuthStats struct{ Admitted, Refused, Violations uint64 }

// AuthStats returns the counters; zero where there is no Authenticator.
func (s *Server) AuthStats() AuthStats {
	if s.gate == nil {
		return AuthStats{}
	}
	return AuthStats{Admitted: s.gate.admitted.Load(), Refused: s.gate.refused.Load(), Violations: s.violations.Load()}
}
