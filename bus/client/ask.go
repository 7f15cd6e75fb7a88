package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/weirmesh/weir/bus"
)

// Whoever has answered tells how many members there are. One that died just now
// is still among them, and nobody can wait for it to the end: a request that lacks
// a reply for some time is put again, to all, and so on, and whichever is answered
// by all first counts. So a death is over for who asks when the members know of it,
// and a member that is only slow is still waited for.
const (
	// overdue is how long a reply may be missing, and slower how many times slower a
	// member may be than the slowest of the others, before the request is put again.
	overdue = 500 * time.Millisecond
	slower  = 3
	// maxRounds is how often a request is put at most, and maxRepeats how many
	// are being repeated at a time: who is busy gets no more work by it.
	maxRounds  = 4
	maxRepeats = 2
)

// asking is a request under way.
type asking struct {
	c       *Client
	sub     *nats.Subscription
	subject string
	inbox   string
	request []byte
	rounds  []askRound
	// repeats: this is one of those that maxRepeats bounds.
	repeats bool
}

// askRound is one time that the request was put.
type askRound struct {
	began, last time.Time
	replies     [][]byte
	members     int
}

// Ask sends a request to every member that serves the method and gathers their
// replies, each a JSON object, after which more may follow. The first reply's "members" says how many there
// are. Where one is missing for long, the request is sent again, so that members may
// get it several times; the replies are those to one of them.
// Where ctx ends (after five seconds, if it has no deadline) before all
// have answered, Ask returns the replies that came, and an error that says how many are missing.
//
// The error wraps bus.ErrNoResponders where nobody serves the method,
// bus.ErrNotConnected without a connection, bus.ErrTooLarge where request or a
// reply is too large for the bus.
func (c *Client) Ask(ctx context.Context, service, method string, request []byte) (replies [][]byte, err error) {
	fail := func(err error) error { return fmt.Errorf("cannot ask %s.%s: %w", service, method, err) }
	ctx, done, err := c.request(ctx)
	if err != nil {
		return nil, fail(err)
	}
	a := asking{c: c, subject: bus.RPCSubject(service, method), inbox: c.nc.NewInbox() + ".", request: request}
	if a.sub, err = c.nc.SubscribeSync(a.inbox + "*"); err != nil {
		return nil, fail(done(err))
	}
	defer a.end()
	if err := a.put(); err != nil {
		return nil, fail(done(err))
	}
	for {
		number, reply, err := a.next(ctx)
		if errors.Is(err, bus.ErrNoResponders) {
			if len(a.rounds) > 1 || len(a.rounds[0].replies) > 0 {
				continue // they answered before, or will yet
			}
			_ = done(nil)
			return nil, fail(err)
		}
		if err != nil {
			best := a.best()
			if n := len(best.replies); n > 0 {
				err = fmt.Errorf("%d of %d members answered: %w", n, best.members, err)
			}
			return best.replies, fail(done(err))
		}
		if r := &a.rounds[number]; r.add(reply) {
			return r.replies, done(nil)
		}
	}
}

// put sends the request, once more.
func (a *asking) put() error {
	inbox := a.inbox + strconv.Itoa(len(a.rounds))
	a.rounds = append(a.rounds, askRound{began: time.Now(), members: 1})
	return a.c.nc.PublishRequest(a.subject, inbox, a.request)
}

// end gives back what the request took.
func (a *asking) end() {
	_ = a.sub.Unsubscribe()
	if a.repeats {
		a.c.repeats.Add(-1)
	}
}

// next is the next reply, and to which round; it puts the request again where that
// is due.
func (a *asking) next(ctx context.Context) (round int, reply []byte, err error) {
	for {
		due, repeat := a.rounds[len(a.rounds)-1].due()
		if !repeat || len(a.rounds) == maxRounds {
			return a.receive(ctx)
		}
		wait, cancel := context.WithDeadline(ctx, due)
		round, reply, err = a.receive(wait)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil || time.Now().Before(due) {
			return round, reply, err
		}
		if !a.mayRepeat() {
			return a.receive(ctx)
		}
		if err := a.put(); err != nil {
			return 0, nil, err
		}
	}
}

func (a *asking) mayRepeat() bool {
	if !a.repeats {
		if a.c.repeats.Add(1) > maxRepeats {
			a.c.repeats.Add(-1)
			return false
		}
		a.repeats = true
	}
	return true
}

// due is when the request is to be put again; not before anybody has answered.
func (r *askRound) due() (at time.Time, repeat bool) {
	if len(r.replies) == 0 {
		return time.Time{}, false
	}
	return r.last.Add(max(overdue, slower*r.last.Sub(r.began))), true
}

// add takes a reply, and tells whether it was the last.
func (r *askRound) add(reply []byte) (all bool) {
	if r.replies = append(r.replies, reply); len(r.replies) == 1 {
		r.members = countMembers(reply)
	}
	r.last = time.Now()
	return len(r.replies) >= r.members
}

// best is the round with the most replies, the last of several.
func (a *asking) best() *askRound {
	best := &a.rounds[0]
	for i := range a.rounds {
		if r := &a.rounds[i]; len(r.replies) >= len(best.replies) {
			best = r
		}
	}
	return best
}

func (a *asking) receive(ctx context.Context) (round int, reply []byte, err error) {
	msg, err := a.sub.NextMsgWithContext(ctx)
	if errors.Is(err, nats.ErrNoResponders) {
		return 0, nil, bus.ErrNoResponders
	}
	if err != nil {
		return 0, nil, err
	}
	if text := msg.Header.Get(micro.ErrorHeader); text != "" {
		if msg.Header.Get(micro.ErrorCodeHeader) == codeTooLarge {
			return 0, nil, fmt.Errorf("%w: %s", bus.ErrTooLarge, text)
		}
		return 0, nil, errors.New(text)
	}
	round, err = strconv.Atoi(strings.TrimPrefix(msg.Subject, a.inbox))
	if err != nil || round < 0 || round >= len(a.rounds) {
		return 0, nil, fmt.Errorf("a reply came to %q, where none was asked for", msg.Subject)
	}
	return round, msg.Data, nil
}

// countMembers reads how many members a reply speaks of, at least one. After the
// JSON object there may be more, which is for whoever asked.
func countMembers(reply []byte) int {
	var head struct {
		Members int `json:"members"`
	}
	// What is no JSON speaks of no members; its reader will say so.
	_ = json.NewDecoder(bytes.NewReader(reply)).Decode(&head)
	return max(head.Members, 1)
}
