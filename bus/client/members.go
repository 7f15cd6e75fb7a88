package client

import (
	"context"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirmesh/weir/bus"
)

// Heartbeat says that the member id is live, for bus.MemberTTL from now. The
// error may wrap bus.ErrNotConnected, bus.ErrRefused or ctx's error.
func (c *Client) Heartbeat(ctx context.Context, id string) error {
	if _, err := c.store(ctx, bus.MemberSubject(id), "", nil); err != nil {
		return fmt.Errorf("cannot send the heartbeat of member %q: %w", id, err)
	}
	return nil
}

// Leave says that the member id is not live any more, so that others need not
// wait for its last heartbeat to expire. Errors are as Heartbeat's.
func (c *Client) Leave(ctx context.Context, id string) error {
	ctx, done, err := c.request(ctx)
	if err == nil {
		var s jetstream.Stream
		if s, err = c.js.Stream(ctx, bus.StreamMembers); err == nil {
			err = s.Purge(ctx, jetstream.WithPurgeSubject(bus.MemberSubject(id)))
		}
		err = done(err)
	}
	if err != nil {
		return fmt.Errorf("cannot leave as member %q: %w", id, err)
	}
	return nil
}

// Members returns the ids of the live members, sorted. Errors are as
// Heartbeat's.
func (c *Client) Members(ctx context.Context) ([]string, error) {
	ctx, done, err := c.request(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot list the members: %w", err)
	}
	var info *jetstream.StreamInfo
	s, err := c.js.Stream(ctx, bus.StreamMembers)
	if err == nil {
		info, err = s.Info(ctx, jetstream.WithSubjectFilter(bus.MembersFilter()))
	}
	if err := done(err); err != nil {
		return nil, fmt.Errorf("cannot list the members: %w", err)
	}
	ids := make([]string, 0, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		id, err := bus.ParseMember(subject)
		if err != nil {
			c.log.Warn("bus holds an unknown key among the members", "error", err)
			continue
		}
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids, nil
}
