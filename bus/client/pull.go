package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirmesh/weir/bus"
)

// pull asks a consumer for its messages, so many at a time, and for more only when
// those are handled. The library's own iterator takes several times as long for
// each.
type pull struct {
	nc   *nats.Conn
	sub  *nats.Subscription
	msgs chan *nats.Msg
	// next is the consumer's subject for requests, inbox what their replies begin
	// with, each with a number of its own.
	next, inbox, reply string
	number             int
	request            []byte
	bytes              int
	// messagesLeft and bytesLeft are what the request under way may still bring;
	// without messages there is none.
	messagesLeft, bytesLeft int
	silence                 *time.Timer
}

// pullRequest is what the server is asked for; times are ns.
type pullRequest struct {
	Expires   time.Duration `json:"expires"`
	Batch     int           `json:"batch"`
	MaxBytes  int           `json:"max_bytes"`
	Heartbeat time.Duration `json:"idle_heartbeat"`
}

// newPull subscribes to what a consumer will be asked for; bytes bounds what one
// request brings. It must be stopped.
func newPull(nc *nats.Conn, stream, consumer string, bytes int) (*pull, error) {
	request, err := json.Marshal(pullRequest{readExpiry, readMessages, bytes, readHeartbeat})
	if err != nil {
		return nil, fmt.Errorf("cannot encode a request for messages: %w", err)
	}
	p := &pull{
		nc: nc, request: request, bytes: bytes,
		next:  "$JS.API.CONSUMER.MSG.NEXT." + stream + "." + consumer,
		inbox: nc.NewInbox() + ".",
		// Heartbeats have room beside the messages: as many as come until a request
		// expires, twice where one has been repeated.
		msgs: make(chan *nats.Msg, 2*(readMessages+int(readExpiry/readHeartbeat)+1)),
	}
	if p.sub, err = nc.ChanSubscribe(p.inbox+"*", p.msgs); err != nil {
		return nil, translate(err)
	}
	p.silence = time.NewTimer(time.Hour)
	return p, nil
}

// stop ends the subscription.
func (p *pull) stop() {
	p.silence.Stop()
	// An error means that the connection is gone, and the subscription with it.
	_ = p.sub.Unsubscribe()
}

// ask sends the next request.
func (p *pull) ask() error {
	p.number++
	p.reply = p.inbox + strconv.Itoa(p.number)
	p.messagesLeft, p.bytesLeft = readMessages, p.bytes
	if err := p.nc.PublishRequest(p.next, p.reply, p.request); err != nil {
		return translate(err)
	}
	return nil
}

// take gives the next message. began is when it began to wait for that; it is zero
// where the message was there.
func (p *pull) take(ctx context.Context) (m *nats.Msg, began time.Time, err error) {
	for {
		if p.messagesLeft <= 0 || p.bytesLeft <= 0 {
			if err := p.ask(); err != nil {
				return nil, began, err
			}
		}
		select {
		case m = <-p.msgs:
		default:
			if began.IsZero() {
				began = time.Now()
			}
			if m, err = p.wait(ctx); err != nil {
				return nil, began, err
			}
		}
		if m == nil {
			return nil, began, bus.ErrNotConnected // the subscription was closed
		}
		if len(m.Data) > 0 || m.Header.Get("Status") == "" {
			p.messagesLeft--
			p.bytesLeft -= m.Size()
			return m, began, nil
		}
		if err := p.status(m); err != nil {
			return nil, began, err
		}
	}
}

// errSilence tells that the server has not even sent heartbeats.
var errSilence = errors.New("no heartbeat from the bus")

// wait waits for something to come. Two heartbeats that are missed, twice in a row,
// tell that the consumer is gone: once may be this process itself, where it was
// held up.
func (p *pull) wait(ctx context.Context) (*nats.Msg, error) {
	for again := false; ; again = true {
		p.silence.Reset(2 * readHeartbeat)
		select {
		case m := <-p.msgs:
			return m, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-p.silence.C:
		}
		if again {
			return nil, errSilence
		}
		if err := p.ask(); err != nil {
			return nil, err
		}
	}
}

// status handles what the server says of a request: that it is over, as a rule.
func (p *pull) status(m *nats.Msg) error {
	status, text := m.Header.Get("Status"), m.Header.Get("Description")
	switch {
	case status == "100": // heartbeat
		return nil
	case status == "404", status == "408", status == "409" && (strings.HasPrefix(text, "Batch Completed") || strings.HasPrefix(text, "Message Size Exceeds MaxBytes")):
		if m.Subject == p.reply {
			p.messagesLeft = 0
		}
		return nil
	case status == "503":
		return jetstream.ErrConsumerNotFound
	}
	return fmt.Errorf("bus refuses to hand messages out: %s %s", status, text)
}

// position is where a message stands, as its reply subject tells.
type position struct {
	// stream and consumer are its sequences there, pending how many more there were.
	stream, consumer, pending uint64
	stored                    time.Time
}

var errPosition = errors.New("message does not tell its place in the stream")

// positionOf reads $JS.ACK.<stream>.<consumer>.<deliveries>.<stream sequence>.<consumer
// sequence>.<ns>.<pending>, or the longer form, with domain and account before the
// stream and perhaps more at the end.
func positionOf(reply string) (position, error) {
	const prefix = "$JS.ACK."
	rest, ok := strings.CutPrefix(reply, prefix)
	if !ok {
		return position{}, errPosition
	}
	skip := 3
	switch dots := strings.Count(rest, "."); {
	case dots == 6:
	case dots >= 8:
		skip = 5
	default:
		return position{}, errPosition
	}
	for range skip {
		rest = rest[strings.IndexByte(rest, '.')+1:]
	}
	var n [4]uint64
	for i := range n {
		var token string
		token, rest, _ = strings.Cut(rest, ".")
		v, err := strconv.ParseUint(token, 10, 64)
		if err != nil {
			return position{}, errPosition
		}
		n[i] = v
	}
	return position{stream: n[0], consumer: n[1], pending: n[3], stored: time.Unix(0, int64(n[2]))}, nil
}
