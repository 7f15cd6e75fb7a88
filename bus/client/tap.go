package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirmesh/weir/bus"
	"github.com/weirmesh/weir/event"
)

const (
	// maxInterest bounds the subjects whose listeners are remembered.
	maxInterest = 16384
	// unanswered is how long a subject stays known to have no listener.
	unanswered = time.Second
	// Limits of what waits for a tap's reader.
	tapMessages = 8192
	tapBytes    = 16 << 20
)

// interest remembers which subjects have listeners.
//
// NATS has no such question, but it answers a request that reaches nobody with
// status 503. So once a second and subject a message that was to be published
// anyway, an event of a tap or a summary, goes out as a request: a probe. Who
// listens gets it as any other and never one that is none. While nobody does, a
// probe is all that is encoded and sent. What is not known counts as listened to,
// since only a message finds it out.
//
//	known of the subject        Interested, sent      Listened
//	nothing yet                 yes, as a probe       no
//	a probe's answer is awaited as the answer before  by the last that got one
//	nobody, for less than 1 s   no                    no
//	nobody, for longer          yes, as a probe       no
//	somebody                    yes, a probe each 1 s for 2 s more
type interest struct {
	mu sync.Mutex
	// subjects is guarded by mu.
	subjects map[string]interestState
	// inbox is where the server says that nobody listens: a probe's reply
	// subject is the inbox, probed, and the subject itself. Where it has not said
	// so echoAfter later, the client writes to itself at echoed, once for all such
	// probes: the server keeps the order, so an echo without a word before it tells
	// that somebody got them. While nobody listens there are no echoes.
	inbox string
	sub   *nats.Subscription
	// sent are the probes since the last echo, and echoes is how many echoes there
	// have been. timer runs while there is something in sent. echoed are what the last
	// echoes are to settle, the oldest first.
	sent   []sentProbe
	echoes uint64
	timer  *time.Timer
	echoed []echo
}

// A sentProbe is a probe of a subject, and when it was made.
type sentProbe struct {
	subject string
	at      time.Time
}

// An echo is a message of the client to itself, the number-th, after the probes.
type echo struct {
	number uint64
	probes []sentProbe
}

const (
	// echoAfter is how long the server has to say that nobody listens before the
	// client makes sure by an echo.
	echoAfter = 20 * time.Millisecond
	// maxEchoes is how many echoes may be under way; the oldest are not waited for.
	maxEchoes = 32
)

// Tokens after the inbox.
const (
	probed = "p."
	echoed = "e."
)

// interestState is what is known of one subject.
type interestState struct {
	// probed is when the last probe was sent.
	probed time.Time
	// quiet: nobody listened when the one before was answered.
	quiet bool
	// answer is what came of it, at answered.
	answer   answer
	answered time.Time
	// heard is when somebody was last known to listen.
	heard time.Time
}

type answer uint8

const (
	pending answer = iota
	nobody
	somebody
)

// Interested tells whether [Client.PublishInterest] would send a message for the
// subject now, so that none is encoded for nothing. False means that there is no
// connection, or that nobody listened within the last second, or that a message
// sent just now is to tell whether anybody has come since. True does not mean
// that somebody listens (that is [Client.Listened]): the message may be the one
// that finds out. It sends nothing, and is safe for concurrent use.
func (c *Client) Interested(subject string) bool {
	if !c.nc.IsConnected() {
		return false
	}
	c.interest.mu.Lock()
	defer c.interest.mu.Unlock()
	return !c.interest.subjects[subject].silent(time.Now())
}

func (s interestState) silent(now time.Time) bool {
	return s.answer == nobody && now.Sub(s.answered) < unanswered || s.answer == pending && s.quiet && now.Sub(s.probed) < unanswered
}

// Listened tells whether somebody got a message of the subject within the last
// two seconds. Unlike Interested it is false while that is not known, for
// instance before the first message. It is safe for concurrent use.
func (c *Client) Listened(subject string) bool {
	c.interest.mu.Lock()
	defer c.interest.mu.Unlock()
	state, ok := c.interest.subjects[subject]
	return ok && state.answer != nobody && time.Since(state.heard) < 2*unanswered
}

// PublishInterest publishes a message to whoever listens on the subject, and
// tells whether it was sent. While nobody is known to listen it does nothing;
// once a second a message then serves as a probe, to which the server replies
// if nobody listens; those that follow wait for no answer, and are not sent
// before there is one. Whoever listens for longer than a second, and as long as
// an answer takes, gets every message. data may be used again when
// PublishInterest has returned. It is safe for concurrent use.
func (c *Client) PublishInterest(subject string, data []byte) bool {
	if !c.nc.IsConnected() {
		return false
	}
	now := time.Now()
	inbox, send := c.interest.probe(c, subject, now)
	if !send {
		return false
	}
	msg := &nats.Msg{Subject: subject, Data: data}
	if inbox == "" {
		return c.nc.PublishMsg(msg) == nil
	}
	msg.Reply = inbox + probed + subject
	if c.nc.PublishMsg(msg) != nil {
		return false
	}
	// Now that it is on its way an echo would come after it.
	c.interest.probeSent(c, subject, now)
	return true
}

// probeSent has an echo follow a probe, if nothing else tells what became of it.
func (i *interest) probeSent(c *Client, subject string, at time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.sent = append(i.sent, sentProbe{strings.Clone(subject), at})
	if len(i.sent) > 1 {
		return
	}
	if i.timer == nil {
		i.timer = time.AfterFunc(echoAfter, func() { i.echo(c) })
		return
	}
	i.timer.Reset(echoAfter)
}

// echo sends an echo for the probes that nothing has been heard of.
func (i *interest) echo(c *Client) {
	i.mu.Lock()
	probes := slices.DeleteFunc(i.sent, func(p sentProbe) bool { return !i.awaits(p) })
	i.sent = nil
	if len(probes) == 0 {
		i.sent = probes // for use again
		i.mu.Unlock()
		return
	}
	i.echoes++
	number := i.echoes
	i.echoed = append(i.echoed, echo{number, probes})
	i.echoed = i.echoed[max(0, len(i.echoed)-maxEchoes):]
	subject := i.inbox + echoed + strconv.FormatUint(number, 10)
	i.mu.Unlock()
	// Without the echo the subjects only stay unconfirmed.
	_ = c.nc.Publish(subject, nil)
}

// awaits tells whether nothing is known of a probe yet. i.mu is held.
func (i *interest) awaits(p sentProbe) bool {
	state := i.subjects[p.subject]
	return state.answer == pending && state.probed.Equal(p.at)
}

// heardEcho settles what waited for the echo of a number.
func (i *interest) heardEcho(number string) {
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	for len(i.echoed) > 0 && i.echoed[0].number <= n {
		first := i.echoed[0]
		i.echoed = i.echoed[1:]
		for _, p := range first.probes {
			// The connection may have gone between a probe and a later echo.
			if first.number == n && i.awaits(p) {
				i.note(p.subject, somebody)
			}
		}
	}
}

// probe decides whether to send a message, and whether as a probe (inbox is set
// then).
func (i *interest) probe(c *Client, subject string, now time.Time) (inbox string, send bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	state, known := i.subjects[subject]
	if state.silent(now) {
		return "", false
	}
	if state.answer != nobody && now.Sub(state.probed) < unanswered {
		return "", true
	}
	if i.sub == nil && !i.listen(c) {
		return "", true
	}
	if !known {
		i.shrink(now)
		subject = strings.Clone(subject)
	}
	state.quiet = state.answer == nobody || state.answer == pending && state.quiet
	state.probed, state.answer = now, pending
	i.subjects[subject] = state
	return i.inbox, true
}

// listen subscribes to the answers to probes. i.mu is held.
func (i *interest) listen(c *Client) bool {
	i.subjects = map[string]interestState{}
	i.inbox = c.nc.NewInbox() + "."
	inbox := len(i.inbox)
	sub, err := c.nc.Subscribe(i.inbox+">", func(msg *nats.Msg) {
		rest := msg.Subject[inbox:]
		if number, ok := strings.CutPrefix(rest, echoed); ok {
			i.heardEcho(number)
		} else if subject, ok := strings.CutPrefix(rest, probed); ok && len(msg.Data) == 0 && msg.Header.Get("Status") == "503" {
			i.heardNobody(subject)
		}
	})
	if err != nil {
		c.log.Warn("cannot ask who listens", "error", err)
		return false
	}
	i.sub = sub
	return true
}

// heardNobody notes that nobody got the last probe of a subject.
func (i *interest) heardNobody(subject string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if state, ok := i.subjects[subject]; ok && state.answer == pending {
		i.note(strings.Clone(subject), nobody)
	}
}

// note settles what came of a subject's probe; the first that comes counts. i.mu is
// held.
func (i *interest) note(subject string, a answer) {
	state := i.subjects[subject]
	state.answer, state.answered = a, time.Now()
	if a == somebody {
		state.heard = state.answered
	}
	i.subjects[subject] = state
}

// stop ends the timer; what has not been settled stays so.
func (i *interest) stop() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.timer != nil {
		i.timer.Stop()
	}
}

// shrink makes room for one more subject. i.mu is held.
func (i *interest) shrink(now time.Time) {
	if len(i.subjects) < maxInterest {
		return
	}
	for subject, state := range i.subjects {
		if now.Sub(state.probed) > 2*unanswered {
			delete(i.subjects, subject)
		}
	}
	for subject := range i.subjects {
		if len(i.subjects) < maxInterest {
			return
		}
		delete(i.subjects, subject) // any one: it is asked about again
	}
}

// AnnounceTapped tells the proxies of a workload that it is tapped. The error
// may wrap bus.ErrNotConnected.
func (c *Client) AnnounceTapped(w event.Workload) error {
	if err := c.nc.Publish(bus.TappedSubject(w), nil); err != nil {
		return fmt.Errorf("cannot announce that %s is tapped: %w", w, translate(err))
	}
	return nil
}

// WatchTap calls tapped, one call at a time, whenever an aggregator announces
// that the workload is tapped, until ctx ends; it returns ctx's error then. It
// may be called before there is a connection.
func (c *Client) WatchTap(ctx context.Context, w event.Workload, tapped func()) error {
	sub, err := c.nc.SubscribeSync(bus.TappedSubject(w))
	if err != nil {
		return fmt.Errorf("cannot watch for taps of %s: %w", w, translate(err))
	}
	defer func() { _ = sub.Unsubscribe() }()
	for {
		switch _, err := sub.NextMsgWithContext(ctx); {
		case err == nil, errors.Is(err, nats.ErrSlowConsumer):
			tapped()
		case ctx.Err() != nil:
			return ctx.Err()
		default:
			return fmt.Errorf("cannot watch for taps of %s: %w", w, translate(err))
		}
	}
}

// Tap calls fn with each event, as JSON (event.ParseJSON reads it), of the
// workloads that match w (its empty fields match any), from now until ctx ends.
// Calls come one at a time, in the order of each publisher; data is fn's to keep.
//
// The publishers never wait: where fn is too slow, messages are dropped once
// 8,192 messages or 16 MiB wait for it. dropped, where it is not nil, is called
// between calls of fn whenever more have been, with the total so far. Tap returns
// a *bus.DroppedError with their number when ctx ends, and ctx's error if none
// were. What is published while the connection is lost is missed; its loss is
// logged. What must not be missed is in the stream: [Client.ReadEvents].
func (c *Client) Tap(ctx context.Context, w event.Workload, fn func(data []byte), dropped func(total uint64)) error {
	filter := bus.TapFilter(w)
	sub, err := c.nc.SubscribeSync(filter)
	if err != nil {
		return fmt.Errorf("cannot tap %s: %w", filter, translate(err))
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := sub.SetPendingLimits(tapMessages, tapBytes); err != nil {
		return fmt.Errorf("cannot tap %s: %w", filter, translate(err))
	}
	var total uint64
	count := func() {
		// An error means that the subscription is closed: there is no news.
		if n, err := sub.Dropped(); err == nil && n > 0 && uint64(n) > total {
			total = uint64(n)
			if dropped != nil {
				dropped(total)
			}
		}
	}
	for {
		msg, err := sub.NextMsgWithContext(ctx)
		switch {
		case err == nil:
			fn(msg.Data)
		case errors.Is(err, nats.ErrSlowConsumer):
			count()
		case ctx.Err() != nil:
			if count(); total > 0 {
				return &bus.DroppedError{Count: total}
			}
			return ctx.Err()
		default:
			return fmt.Errorf("cannot tap %s: %w", filter, translate(err))
		}
	}
}
