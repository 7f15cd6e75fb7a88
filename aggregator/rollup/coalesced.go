package rollup

import "github.com/weirmesh/weir/event"

// coalesce counts the batch's summaries: events that their proxy could not keep
// one by one. They count in their pod, their peer and the route
// event.CoalescedPath, so that totals are those of all events. It returns how
// many events they are.
func (f *Folder) coalesce(b *batch) (events uint64) {
	var s event.Summary
	for f.decoder.NextSummary(&s) {
		e := event.Event{}
		f.decoder.Describe(s.Exchange, s.Connection, &e)
		if e.Direction != event.Inbound && e.Direction != event.Outbound {
			b.skipped += int(s.Events)
			continue
		}
		events += s.Events
		// The decoder has checked them.
		_ = f.latency.UnmarshalBinary(s.Latency)
		_ = f.duration.UnmarshalBinary(s.Duration)
		second := f.coalescedSecond(b, s.Second)
		add := func(k Key) {
			k.Direction, k.Workload = e.Direction, b.workload
			f.cell(f.slot(k, second), second).addSummary(&e, &s, &f.latency, &f.duration)
		}
		route := Route{Protocol: e.Protocol, Path: event.CoalescedPath}
		add(Key{Dimension: ByPod, Pod: b.pod})
		add(Key{Dimension: ByRoute, Route: route})
		peer := coalescedPeer(&e)
		add(Key{Dimension: ByPeer, Peer: peer})
		if e.Direction == event.Outbound {
			add(Key{Dimension: ByPeerRoute, Peer: Peer{Workload: peer.Workload}, Route: route})
		}
	}
	return events
}

// coalescedPeer is the peer of a summary; the others' where it says none.
func coalescedPeer(e *event.Event) Peer {
	if e.Peer.Workload.IsZero() && !e.Peer.Addr.IsValid() {
		return Peer{Workload: event.Workload{Kind: External, Name: OtherName}, Meshed: e.Peer.Meshed}
	}
	return peerOf(e)
}

// coalescedSecond is the second that a summary counts in. It may be as old as a
// bus was away; where it is not possible it is the batch's.
func (f *Folder) coalescedSecond(b *batch, second int64) int64 {
	at := bounded(min(max(second, 0), farTime/1_000_000)*1_000_000) + b.shift
	if at > b.sent+maxSkew || at < b.sent-maxBacklog || f.pending >= 2*f.limits.Pending {
		b.moved++
		at = b.sent
	}
	return at / 1e6
}

// addSummary adds the events of a summary, which are as e is.
func (c *Cell) addSummary(e *event.Event, s *event.Summary, latency, duration *event.Histogram) {
	c.RequestBytes += s.RequestBytes
	c.ResponseBytes += s.ResponseBytes
	if e.Kind != event.End {
		return
	}
	if e.Error != "" {
		c.addError(e.Error, s.Events, true)
	}
	if !e.IsRequest() {
		c.Connections += s.Events
		return
	}
	c.Requests += s.Events
	if e.Success() {
		c.Successes += s.Events
	}
	c.Status = addCount(c.Status, e.Status, s.Events, OtherStatus)
	if e.Protocol == event.GRPC {
		c.GRPC = addCount(c.GRPC, e.GRPCStatus, s.Events, OtherGRPC)
	}
	c.Latency.Merge(latency)
	c.Duration.Merge(duration)
}
