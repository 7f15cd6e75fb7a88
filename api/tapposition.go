package api

import (
	"math"
	"time"

	"github.com/weirmesh/weir/aggregator/scan"
	"github.com/weirmesh/weir/api/weirpb"
	"github.com/weirmesh/weir/event"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// gapDiscarded: the stream has no longer what came after a tap's beginning.
const gapDiscarded = "discarded"

// tapAfter checks where a tap is to go on; nil: nowhere.
func tapAfter(p *weirpb.TapPosition) (*scan.Position, error) {
	if p == nil {
		return nil, nil
	}
	if err := p.GetStream().CheckValid(); err != nil {
		return nil, invalid("after.stream", "%v", err)
	}
	if err := p.GetStored().CheckValid(); err != nil {
		return nil, invalid("after.stored", "%v", err)
	}
	if p.GetEvents() > math.MaxInt32 {
		return nil, invalid("after.events", "%d are more than a batch has", p.GetEvents())
	}
	return &scan.Position{Stream: p.GetStream().AsTime(), Sequence: p.GetSequence(), Events: int(p.GetEvents()), Stored: p.GetStored().AsTime()}, nil
}

func position(p *scan.Position) *weirpb.TapPosition {
	return &weirpb.TapPosition{Stream: timestamppb.New(p.Stream), Sequence: p.Sequence, Events: uint32(p.Events), Stored: timestamppb.New(p.Stored)}
}

// discarded is the gap between the place to go on from and what the stream still
// has.
func discarded(after *scan.Position, x *event.Extent, now time.Time) *weirpb.TapGap {
	until := x.Oldest
	if until.IsZero() {
		until = now
	}
	return &weirpb.TapGap{Reason: gapDiscarded, Since: timestamppb.New(after.Stored), Until: timestamppb.New(until)}
}
