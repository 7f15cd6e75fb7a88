package api_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/weirmesh/weir/api/apitest"
	"github.com/weirmesh/weir/api/client"
	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/event"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// tapUntil taps until n events came, and gives their paths, the gaps' reasons and
// the place after the last event.
func tapUntil(t *testing.T, c *client.Client, req *weirpb.TapRequest, n int, opened func()) (paths, gaps []string, at *weirpb.TapPosition) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	stream, err := c.Tap(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	for n > 0 || at == nil {
		r, err := stream.Recv()
		if err != nil {
			t.Fatalf("after %q: %v", paths, err)
		}
		if p := r.GetProgress().GetPosition(); p != nil && (at == nil || p.GetSequence() > at.GetSequence()) {
			if at = p; opened != nil {
				opened()
				opened = nil
			}
		}
		if g := r.GetGap(); g != nil {
			gaps = append(gaps, g.GetReason())
		}
		if e := r.GetEvent(); e != nil {
			n--
			paths = append(paths, e.GetPath())
			index := 0
			if _, err := fmt.Sscanf(e.GetId(), "0000000000000abc-%d-%d", new(int), &index); err != nil {
				t.Fatal(err)
			}
			at.Sequence, at.Events = e.GetSequence(), uint32(index+1)
		}
	}
	return paths, gaps, at
}

func justNow(e *event.Event) { e.Start = time.Now().UnixMicro() - int64(e.Duration) }

// A tap goes on where an earlier one ended, be it in the middle of a batch.
func TestTapGoesOn(t *testing.T) {
	for _, since := range []*timestamppb.Timestamp{nil, timestamppb.New(time.Now().Add(-time.Minute))} {
		b := &apitest.Backend{}
		_, c := start(t, b)
		publish := func(from, to int) {
			for i := from; i < to; i++ {
				b.Publish(webHeader(uint64(i+1)), tapEvent(fmt.Sprintf("/%d/a", i), 200, justNow), tapEvent(fmt.Sprintf("/%d/b", i), 200, justNow))
			}
		}
		req := &weirpb.TapRequest{Since: since, Follow: since != nil}
		paths, _, at := tapUntil(t, c, req, 5, func() { publish(0, 3) })
		waitTaps(t, b, 0)
		publish(3, 5)
		req.After = at
		more, gaps, _ := tapUntil(t, c, req, 5, nil)
		waitTaps(t, b, 0)
		want := []string{"/0/a", "/0/b", "/1/a", "/1/b", "/2/a", "/2/b", "/3/a", "/3/b", "/4/a", "/4/b"}
		if got := slices.Concat(paths, more); !slices.Equal(got, want) || len(gaps) > 0 {
			t.Errorf("since %v: %q, gaps %q; want %q", since.AsTime(), got, gaps, want)
		}
	}
}

// Where the stream has no longer what came meanwhile, or is another, that is said.
func TestTapGoesOnWithAGap(t *testing.T) {
	for name, change := range map[string]func(b *apitest.Backend){
		"discarded": func(b *apitest.Backend) { b.Discard(4) },
		"renewed":   func(b *apitest.Backend) { b.Renew() },
	} {
		b := &apitest.Backend{}
		_, c := start(t, b)
		publish := func(i int) { b.Publish(webHeader(uint64(i+1)), tapEvent(fmt.Sprint("/", i), 200, nil)) }
		_, _, at := tapUntil(t, c, &weirpb.TapRequest{}, 2, func() { publish(0); publish(1) })
		waitTaps(t, b, 0)
		publish(2)
		publish(3)
		change(b)
		publish(4)
		paths, gaps, _ := tapUntil(t, c, &weirpb.TapRequest{After: at}, 1, nil)
		waitTaps(t, b, 0)
		if !slices.Equal(paths, []string{"/4"}) || !slices.Equal(gaps, []string{"discarded"}) {
			t.Errorf("%s: %q, gaps %q", name, paths, gaps)
		}
	}
}

func TestTapRefusesABadPlace(t *testing.T) {
	_, c := start(t, &apitest.Backend{})
	for _, at := range []*weirpb.TapPosition{
		{},
		{Stream: timestamppb.Now()},
		{Stream: timestamppb.Now(), Stored: timestamppb.Now(), Events: 1 << 31},
	} {
		stream, err := c.Tap(t.Context(), &weirpb.TapRequest{After: at})
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", at, err)
		}
	}
}

// In the past the true rate is that of the events, however fast they are read.
func TestTapRateOfThePast(t *testing.T) {
	b := &apitest.Backend{}
	_, c := start(t, b)
	const each, seconds = 20, 101
	now := time.Now().Truncate(time.Second)
	for i := range seconds {
		h := webHeader(uint64(i + 1))
		h.Sent = now.Add(time.Duration(i-seconds-60) * time.Second).UnixMicro()
		events := make([]event.Event, each)
		for n := range events {
			events[n] = tapEvent("/", 200, func(e *event.Event) { e.Start = h.Sent - int64(e.Duration) })
		}
		b.Publish(h, events...)
	}
	stream, err := c.Tap(t.Context(), &weirpb.TapRequest{Since: timestamppb.New(now.Add(-time.Hour)), MaxRps: 1})
	if err != nil {
		t.Fatal(err)
	}
	skipped, rate := uint64(0), 0.0
	for {
		r, err := stream.Recv()
		if err != nil {
			break
		}
		skipped += r.GetGap().GetSkipped()
		if p := r.GetProgress(); p.GetMatched() > 0 {
			rate = p.GetMatchedRps()
		}
	}
	if want := float64(each*seconds) / (seconds - 1); skipped < each*seconds-10 || rate < want-1 || rate > want+1 {
		t.Errorf("%d skipped, rate %.1f; want %.1f", skipped, rate, want)
	}
}
