package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirmesh/weir/bus"
)

// adminName is the user under which the server sets up its own streams.
const adminName = "weir-bus"

// admin is that user, with a password that never leaves the process.
type admin struct{ name, password string }

func newAdmin() admin { return admin{name: adminName, password: rand.Text()} }

const (
	setUpTimeout = 30 * time.Second
	// joinTimeout bounds how long several servers may take to find each other;
	// then the process ends, and whoever runs it starts it again.
	joinTimeout = 5 * time.Minute
	tryTimeout  = 3 * time.Second
	joinPause   = 100 * time.Millisecond
)

// setUp creates the streams, or gives existing ones their present limits.
func (s *Server) setUp(ctx context.Context, admin admin) error {
	options := []nats.Option{nats.InProcessServer(s.ns), nats.Name("weir-bus-setup"), nats.Timeout(setUpTimeout)}
	if len(s.options.Users) > 0 || s.options.Authenticator != nil {
		options = append(options, nats.UserInfo(admin.name, admin.password))
	}
	closed := make(chan struct{})
	options = append(options, nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	nc, err := nats.Connect("", options...)
	if err != nil {
		return fmt.Errorf("cannot set up the bus's streams: %w", err)
	}
	defer func() {
		nc.Close()
		<-closed
	}()
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("cannot set up the bus's streams: %w", err)
	}
	timeout := setUpTimeout
	if s.options.Cluster != nil {
		timeout = joinTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for _, stream := range bus.Streams(s.options.Retention) {
		if err := s.setUpStream(ctx, js, config(stream)); err != nil {
			return fmt.Errorf("cannot set up the bus's stream %s in %s: %w", stream.Name, s.options.DataDir, err)
		}
	}
	return nil
}

// setUpStream sets up a stream. Where there are several servers it waits until
// they have a leader, which makes what is missing, and tries on.
func (s *Server) setUpStream(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) error {
	if s.options.Cluster == nil {
		return setUpStream(ctx, js, want)
	}
	said := ""
	for {
		err := s.tryStream(ctx, js, want)
		if err == nil {
			return nil
		}
		if err.Error() != said {
			said = err.Error()
			s.options.Logger.Info("waiting for the bus's other servers", "stream", want.Name, "reason", said)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; are most of the bus's servers up?", err)
		case <-time.After(joinPause):
		}
	}
}

func (s *Server) tryStream(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) error {
	// Without a leader nobody would answer.
	if health := s.ns.Healthz(&natsserver.HealthzOptions{JSServerOnly: true}); health.Error != "" {
		return errors.New(health.Error)
	}
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	found, err := js.Stream(ctx, want.Name)
	switch {
	case err == nil && asWanted(found.CachedInfo().Config, want):
		return nil
	case err != nil && (!errors.Is(err, jetstream.ErrStreamNotFound) || !s.ns.JetStreamIsLeader()):
		return err
	}
	return setUpStream(ctx, js, want)
}

// asWanted tells whether a stream is as wanted, in what an installation chooses.
func asWanted(is, want jetstream.StreamConfig) bool {
	return is.MaxAge == want.MaxAge && is.MaxBytes == want.MaxBytes && is.Replicas == want.Replicas && is.Duplicates == want.Duplicates &&
		is.Storage == want.Storage && is.MaxMsgSize == want.MaxMsgSize && slices.Equal(is.Subjects, want.Subjects)
}

// unavailable is the code of what may work later.
const unavailable = 503

// setUpStream creates or updates a stream. A stream in memory whose setting
// cannot be changed in place is made anew: what it holds is short-lived.
func setUpStream(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) error {
	_, err := js.CreateOrUpdateStream(ctx, want)
	var refused *jetstream.APIError
	if err == nil || want.Storage != jetstream.MemoryStorage || !errors.As(err, &refused) || refused.Code == unavailable {
		return err
	}
	if err := js.DeleteStream(ctx, want.Name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return err
	}
	_, err = js.CreateStream(ctx, want)
	return err
}

// config says in NATS's terms what a stream is to be.
func config(s bus.Stream) jetstream.StreamConfig {
	c := jetstream.StreamConfig{
		Name: s.Name, Description: s.Description, Subjects: s.Subjects,
		Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld,
		MaxAge: s.MaxAge, MaxBytes: s.MaxBytes, MaxMsgSize: s.MaxMessage,
		MaxMsgs: -1, MaxMsgsPerSubject: -1, MaxConsumers: -1,
		Duplicates: s.Dedup, Replicas: s.Replicas, Storage: jetstream.FileStorage,
	}
	if s.Memory {
		c.Storage = jetstream.MemoryStorage
	}
	if s.TransformTo != "" {
		c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: s.TransformFrom, Destination: s.TransformTo}
	}
	if s.Latest {
		// As NATS's own key-value buckets are, so that its clients can read it.
		c.MaxMsgsPerSubject = 1
		c.AllowRollup, c.DenyDelete, c.AllowDirect = true, true, true
		c.Discard = jetstream.DiscardNew
	}
	return c
}
