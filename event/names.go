package event

import (
	"slices"
	"strings"
)

const unknownName = "unknown"

var (
	directionNames = [...]string{unknownName, "inbound", "outbound"}
	protocolNames  = [...]string{unknownName, "http/1", "http/2", "grpc", "websocket", "tcp", "tls"}
	kindNames      = [...]string{"end", "progress"}
	securityNames  = [...]string{"none", "mutual", "passthrough"}
	detectionNames = [...]string{"none", "bytes", "server_first", "opaque", "hello", "remembered", "config"}
	fateNames      = [...]string{"retried", "timed_out", "shed", "denied", "breaker_open", "refused", "drained"}
)

func name(names []string, i int) string {
	if i < len(names) {
		return names[i]
	}
	return unknownName
}

// String is "inbound" or "outbound", and "unknown" for anything else.
func (d Direction) String() string { return name(directionNames[:], int(d)) }

// String is "http/1", "http/2", "grpc", "websocket", "tcp", "tls", and
// "unknown" for anything else.
func (p Protocol) String() string { return name(protocolNames[:], int(p)) }

// String is "end" or "progress", and "unknown" for anything else.
func (k Kind) String() string { return name(kindNames[:], int(k)) }

// String is "none", "mutual" or "passthrough", and "unknown" for anything
// else.
func (s Security) String() string { return name(securityNames[:], int(s)) }

// String is "none", "bytes", "server_first", "opaque", "hello", "remembered"
// or "config", and "unknown" for anything else.
func (d Detection) String() string { return name(detectionNames[:], int(d)) }

// String joins the names of the set with commas: "retried", "timed_out",
// "shed", "denied", "breaker_open", "refused", "drained". The empty set is "".
// Bits without a name are left out.
func (f Fate) String() string {
	var set [len(fateNames)]string
	n := 0
	for i, s := range fateNames {
		if f&(1<<i) != 0 {
			set[n] = s
			n++
		}
	}
	if n == 1 {
		return set[0]
	}
	return strings.Join(set[:n], ",")
}

// ParseDirection is the inverse of [Direction.String]; false where s names
// none.
func ParseDirection(s string) (Direction, bool) {
	i := slices.Index(directionNames[:], s)
	return Direction(max(i, 0)), i >= 0
}

// ParseProtocol is the inverse of [Protocol.String]; false where s names none.
func ParseProtocol(s string) (Protocol, bool) {
	i := slices.Index(protocolNames[:], s)
	return Protocol(max(i, 0)), i >= 0
}

// ParseKind is the inverse of [Kind.String]; false where s names none.
func ParseKind(s string) (Kind, bool) {
	i := slices.Index(kindNames[:], s)
	return Kind(max(i, 0)), i >= 0
}

// ParseSecurity is the inverse of [Security.String]; false where s names none.
func ParseSecurity(s string) (Security, bool) {
	i := slices.Index(securityNames[:], s)
	return Security(max(i, 0)), i >= 0
}

// ParseDetection is the inverse of [Detection.String]; false where s names
// none.
func ParseDetection(s string) (Detection, bool) {
	i := slices.Index(detectionNames[:], s)
	return Detection(max(i, 0)), i >= 0
}

// ParseFate is the inverse of [Fate.String]: names joined with commas in any
// order, "" for the empty set; false where any of them is no name.
func ParseFate(s string) (Fate, bool) {
	var f Fate
	if s == "" {
		return 0, true
	}
	for one := range strings.SplitSeq(s, ",") {
		i := slices.Index(fateNames[:], one)
		if i < 0 {
			return 0, false
		}
		f |= 1 << i
	}
	return f, true
}
