package event_test

import (
	"net/netip"

	"pgregory.net/rapid"

	"github.com/weirmesh/weir/event"
)

// anyEvents draws events of which every field may have any value that the codec
// tells, with few enough distinct strings and ids that entries repeat.
func anyEvents() *rapid.Generator[[]event.Event] {
	words := rapid.OneOf(
		rapid.SampledFrom([]string{"", "a", "web", "GET", "/path", "ü", "日本", "\x00", "\"\\"}),
		rapid.String(),
	)
	numbers := rapid.OneOf(rapid.Uint64Range(0, 300), rapid.Uint64Range(0, 1<<20), rapid.Uint64())
	addr := rapid.Custom(func(t *rapid.T) netip.Addr {
		switch rapid.IntRange(0, 3).Draw(t, "family") {
		case 0:
			return netip.Addr{}
		case 1:
			return netip.AddrFrom4([4]byte{10, 0, 0, rapid.Byte().Draw(t, "host")})
		}
		return netip.AddrFrom16([16]byte{0x20, 1, 15: rapid.Byte().Draw(t, "host")})
	})
	one := rapid.Custom(func(t *rapid.T) event.Event {
		e := event.Event{
			Kind:           event.Kind(rapid.SampledFrom([]uint8{0, 0, 1, 255}).Draw(t, "kind")),
			Direction:      event.Direction(rapid.Uint8Max(3).Draw(t, "direction")),
			Protocol:       event.Protocol(rapid.SampledFrom([]uint8{0, 1, 2, 3, 4, 5, 6, 255}).Draw(t, "protocol")),
			Security:       event.Security(rapid.SampledFrom([]uint8{0, 1, 2, 255}).Draw(t, "security")),
			Fate:           event.Fate(rapid.Uint16().Draw(t, "fate")),
			Attempt:        rapid.Uint8().Draw(t, "attempt"),
			Status:         rapid.SampledFrom([]uint16{0, 200, 404, 503, 65535}).Draw(t, "status"),
			GRPCStatus:     rapid.SampledFrom([]int16{-1, 0, 14, 32767}).Draw(t, "grpc"),
			Method:         words.Draw(t, "method"),
			Authority:      words.Draw(t, "authority"),
			Path:           words.Draw(t, "path"),
			Error:          words.Draw(t, "error"),
			SecurityReason: words.Draw(t, "reason"),
			Start:          rapid.OneOf(rapid.Int64Range(start, start+1<<20), rapid.Int64()).Draw(t, "start"),
			Latency:        numbers.Draw(t, "latency"),
			Duration:       numbers.Draw(t, "duration"),
			RequestBytes:   numbers.Draw(t, "request"),
			ResponseBytes:  numbers.Draw(t, "response"),
			Connection:     rapid.OneOf(rapid.Uint64Range(1, 3), rapid.Uint64()).Draw(t, "connection"),
			Stream:         rapid.OneOf(rapid.Uint32Range(0, 5), rapid.Uint32()).Draw(t, "stream"),
			Detection:      event.Detection(rapid.SampledFrom([]uint8{0, 1, 6, 255}).Draw(t, "detection")),
			DetectionTime:  rapid.OneOf(rapid.Just(uint32(9)), rapid.Uint32()).Draw(t, "detection time"),
			Peer: event.Peer{
				Workload: event.Workload{
					Cluster: words.Draw(t, "cluster"), Namespace: words.Draw(t, "namespace"),
					Kind: words.Draw(t, "kind"), Name: words.Draw(t, "name"),
				},
				Pod: words.Draw(t, "pod"), Identity: words.Draw(t, "identity"), Meshed: rapid.Bool().Draw(t, "meshed"),
				Addr: netip.AddrPortFrom(addr.Draw(t, "addr"), rapid.Uint16().Draw(t, "port")),
			},
		}
		if rapid.IntRange(0, 3).Draw(t, "traced") == 0 {
			copy(e.TraceID[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "trace"))
		}
		return e
	})
	return rapid.Custom(func(t *rapid.T) []event.Event {
		events := rapid.SliceOfN(one, 0, 12).Draw(t, "events")
		// Repeat some, so that dictionaries are of use.
		for _, i := range rapid.SliceOfN(rapid.IntRange(0, 11), 0, 20).Draw(t, "again") {
			if i < len(events) {
				events = append(events, events[i])
			}
		}
		return events
	})
}

func anyHeader() *rapid.Generator[event.Header] {
	return rapid.Custom(func(t *rapid.T) event.Header {
		s := rapid.String()
		return event.Header{
			Source: event.Source{
				Workload: event.Workload{
					Cluster: s.Draw(t, "cluster"), Namespace: s.Draw(t, "namespace"),
					Kind: s.Draw(t, "kind"), Name: s.Draw(t, "name"),
				},
				Pod: s.Draw(t, "pod"), Node: s.Draw(t, "node"),
			},
			Instance: rapid.Uint64().Draw(t, "instance"), Sequence: rapid.Uint64().Draw(t, "sequence"),
			Sent: rapid.Int64().Draw(t, "sent"), Produced: rapid.Uint64().Draw(t, "produced"),
			Shed: rapid.Uint64().Draw(t, "shed"), OpenConnections: rapid.Uint64().Draw(t, "open"),
			Final: rapid.Bool().Draw(t, "final"), Version: s.Draw(t, "version"),
		}
	})
}
