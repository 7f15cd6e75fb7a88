package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
)

const (
	// repairEvery is how often it is looked whether the streams take messages.
	repairEvery = time.Second
	// repairRoom is what must fit on the disk before they are opened again, bytes.
	repairRoom = 1 << 20
)

// repair opens the streams again when they have stopped for good, which is what
// nats-server does with a stream that it once could not write to: a disk that was
// full for a moment would end it until the process is started anew. It returns
// when ctx ends.
//
// Where several servers are one bus, the others have what this one lacks, and
// nats-server must join them from its start: there it only complains.
func (s *Server) repair(ctx context.Context, admin admin) {
	ticker := time.NewTicker(repairEvery)
	defer ticker.Stop()
	// It holds the limits as nats-server has read them from the options.
	config := s.ns.JetStreamConfig()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		broken := s.broken()
		if broken == nil {
			said = ""
			continue
		}
		if said != broken.Error() {
			said = broken.Error()
			s.options.Logger.Error("the bus's streams take no messages; proxies keep theirs", "data", s.options.DataDir, "error", broken)
		}
		if s.options.Cluster != nil || config == nil {
			continue
		}
		if err := hasRoom(s.options.DataDir); err != nil {
			continue
		}
		if err := s.reopen(ctx, *config, admin); err != nil {
			if ctx.Err() == nil {
				s.options.Logger.Warn("cannot open the bus's streams again; trying on", "data", s.options.DataDir, "error", err)
			}
			continue
		}
		said = ""
		s.options.Logger.Info("the bus's streams take messages again", "data", s.options.DataDir)
	}
}

// broken says why streams have stopped; nil where they work, or will by
// themselves.
func (s *Server) broken() error {
	if !s.ns.JetStreamEnabled() {
		return errors.New("streams are switched off")
	}
	// nats-server does not export what it knows of a stream, but says so.
	if health := s.ns.Healthz(&natsserver.HealthzOptions{}); strings.Contains(health.Error, "write error") {
		return errors.New(health.Error)
	}
	return nil
}

// hasRoom tries whether something can be written.
func hasRoom(dir string) error {
	f, err := os.Create(filepath.Join(dir, "room"))
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, repairRoom))
	return errors.Join(err, f.Close(), os.Remove(f.Name()))
}

// reopen closes all streams and recovers them from their files. Clients stay
// connected; their consumers are gone.
func (s *Server) reopen(ctx context.Context, config natsserver.JetStreamConfig, admin admin) error {
	if err := s.ns.ShutdownJetStream(); err != nil {
		return fmt.Errorf("cannot close the streams: %w", err)
	}
	config.StoreDir = s.options.DataDir // nats-server adds its own folder
	if err := s.ns.EnableJetStream(&config); err != nil {
		return fmt.Errorf("cannot open the streams: %w", err)
	}
	return s.setUp(ctx, admin)
}
