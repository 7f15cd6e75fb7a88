package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/weirmesh/weir/api/client"
	"github.com/weirmesh/weir/api/weirpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	// A tap that lost its API asks again so soon, and so late at most.
	againLeast = 100 * time.Millisecond
	againMost  = 2 * time.Second
	// A tap that has an end gives up after so long without the API; others wait
	// for as long as it takes.
	finiteWait = time.Minute

	// gapUnseen is a gap that this side finds: the API does not say where its taps
	// are.
	gapUnseen = "unseen"
)

// tapReader reads a tap, and goes on with it where it was when the API ends and
// another takes its place.
type tapReader struct {
	client *client.Client
	req    *weirpb.TapRequest
	// handle gets what the tap brings, and say what happens to it. opened is
	// called once, when the API has understood what is asked for.
	handle func(*weirpb.TapResponse) error
	say    func(note string)
	opened func()
	now    func() time.Time

	// at is where the tap is; nil: the API has not said.
	at *weirpb.TapPosition
	// events is how many came. last is the progress heard last, and before the
	// sums of the streams before this one.
	events       uint32
	last, before tapCounts
	began        time.Time
	// lost is when the API was; zero: it is there.
	lost time.Time
}

// tapCounts are the events that a tap looked at, and that matched.
type tapCounts struct{ events, matched uint64 }

// errHandled is an error of handle.
type errHandled struct{ error }

// read reads until the tap or ctx ends, of which neither is an error.
func (r *tapReader) read(ctx context.Context) error {
	r.began = r.now()
	delay, worked := againLeast, false
	for {
		opened, err := r.once(ctx)
		worked = worked || opened
		var handled errHandled
		switch {
		case errors.As(err, &handled):
			return handled.error
		case ctx.Err() != nil || errors.Is(err, io.EOF):
			return nil
		case !worked:
			return callError("tap", err)
		case !r.again(err):
			return r.cannot(err)
		}
		if opened {
			delay = againLeast
		}
		if r.lost.IsZero() {
			r.lost = time.Now()
			r.say(fmt.Sprintf("Lost the Weir API at %s (%s). Trying again.", r.client.Addr(), reasonOf(err)))
		}
		if r.finite() && time.Since(r.lost) > finiteWait {
			return fmt.Errorf("%w; it has not been back for %s", r.cannot(err), finiteWait)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		}
		delay = min(2*delay, againMost)
	}
}

// finite tells whether the tap has an end.
func (r *tapReader) finite() bool { return r.req.GetSince() != nil && !r.req.GetFollow() }

// again tells whether to try again after an error: not where what came would come
// again.
func (r *tapReader) again(err error) bool {
	code := status.Code(err)
	return (code == codes.Unavailable || !r.lost.IsZero() && code == codes.ResourceExhausted) &&
		(r.at != nil || r.req.GetSince() == nil || r.events == 0)
}

func (r *tapReader) cannot(err error) error {
	unavailable := status.Code(err) == codes.Unavailable
	err = callError("go on with the tap", err)
	if unavailable && r.at == nil && r.req.GetSince() != nil {
		err = fmt.Errorf("%w; what came would come again, as that API cannot go on in the middle", err)
	}
	return err
}

// reasonOf is why a call failed, in short.
func reasonOf(err error) string {
	message := status.Convert(err).Message()
	if i := strings.LastIndex(message, "Error while dialing: "); i >= 0 {
		message = message[i+len("Error while dialing: "):]
	}
	return strings.TrimSuffix(message, `"`)
}

// request is what to ask for now: what was asked for, from where the tap is.
func (r *tapReader) request() *weirpb.TapRequest {
	if r.lost.IsZero() {
		return r.req
	}
	req := proto.CloneOf(r.req)
	req.After = r.at
	if limit := req.GetLimit(); limit > 0 {
		req.Limit = limit - min(r.events, limit-1)
	}
	if r.finite() && req.GetUntil() == nil {
		// Now has moved on, but not what was asked for.
		req.Until = timestamppb.New(r.began)
	}
	return req
}

// once reads one stream to its end. opened tells whether the API understood.
func (r *tapReader) once(ctx context.Context) (opened bool, err error) {
	if limit := r.req.GetLimit(); limit > 0 && r.events >= limit {
		return false, io.EOF
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := r.client.Tap(ctx, r.request())
	if err != nil {
		return false, err
	}
	// The header says that the tap was understood; without it, what comes says
	// why not.
	if head, err := stream.Header(); err != nil || head == nil {
		_, err = stream.Recv()
		return false, err
	}
	if err := r.back(); err != nil {
		return true, err
	}
	return true, r.receive(stream)
}

// back says that the API is there, where it was not.
func (r *tapReader) back() error {
	if r.lost.IsZero() {
		if r.opened != nil {
			r.opened()
			r.opened = nil
		}
		return nil
	}
	r.before = r.last
	away := time.Since(r.lost)
	r.lost = time.Time{}
	if r.at != nil || r.req.GetSince() != nil {
		r.say(fmt.Sprintf("The API is back after %s: going on from where the tap was.", max(away.Round(time.Second), time.Second)))
		return nil
	}
	r.say(fmt.Sprintf("The API is back after %s.", max(away.Round(time.Second), time.Second)))
	now := r.now()
	gap := &weirpb.TapGap{Reason: gapUnseen, Since: timestamppb.New(now.Add(-away)), Until: timestamppb.New(now)}
	if err := r.handle(&weirpb.TapResponse{Item: &weirpb.TapResponse_Gap{Gap: gap}}); err != nil {
		return errHandled{err}
	}
	return nil
}

func (r *tapReader) receive(stream grpc.ServerStreamingClient[weirpb.TapResponse]) error {
	for {
		item, err := stream.Recv()
		if err != nil {
			return err
		}
		r.note(item)
		if err := r.handle(item); err != nil {
			return errHandled{err}
		}
	}
}

// note keeps where the tap is after an item.
func (r *tapReader) note(item *weirpb.TapResponse) {
	if e := item.GetEvent(); e != nil {
		r.events++
		// The last part of an id is the event's place in its batch.
		index, err := strconv.ParseUint(e.GetId()[strings.LastIndexByte(e.GetId(), '-')+1:], 10, 31)
		if r.at == nil || err != nil || e.GetSequence() == 0 {
			r.at = nil
			return
		}
		r.at.Sequence, r.at.Events = e.GetSequence(), uint32(index)+1
	}
	if p := item.GetProgress(); p != nil {
		p.Events, p.Matched = p.GetEvents()+r.before.events, p.GetMatched()+r.before.matched
		r.last = tapCounts{p.GetEvents(), p.GetMatched()}
	}
	if p := item.GetProgress().GetPosition(); p != nil {
		r.at = &weirpb.TapPosition{Stream: p.GetStream(), Sequence: p.GetSequence(), Events: p.GetEvents(), Stored: p.GetStored()}
	}
}
