package bus

import (
	"fmt"
	"time"
)

// Names of the streams.
const (
	StreamEvents = "WEIR_EVENTS"
	// StreamRollups keeps the rollups of 1 s; see RollupStream for the others.
	StreamRollups = "WEIR_ROLLUPS"
	// BucketMembers is a NATS key-value bucket; StreamMembers is the stream
	// under it.
	BucketMembers = "WEIR_MEMBERS"
	StreamMembers = "KV_" + BucketMembers
)

// MemberTTL is how long a member counts as live after its last heartbeat.
const MemberTTL = 2500 * time.Millisecond

// DedupWindow is how long a stream remembers message ids. A batch that is sent
// again within it is stored once; later, the aggregators still tell it by its
// instance and sequence.
const DedupWindow = 2 * time.Minute

// Retention is what an installation chooses about the streams. The zero value
// of a field means its default.
type Retention struct {
	// EventAge is how long events are kept; default 1 h.
	EventAge time.Duration
	// EventBytes bounds the events stream; the oldest are discarded first;
	// default 4 GiB.
	EventBytes int64
	// RollupAge is how long one-second rollups are kept, at least; default
	// 15 min. The stream keeps them longer than the events that they count.
	RollupAge time.Duration
	// Rollup10sAge and Rollup1mAge are how long the coarser ones are kept;
	// defaults 6 h and 7 d.
	Rollup10sAge, Rollup1mAge time.Duration
	// RollupBytes bounds each stream of rollups; default 2 GiB.
	RollupBytes int64
	// Replicas of each stream, 1 to 5; default 1.
	Replicas int
}

// Defaults of Retention.
const (
	DefaultEventAge    = time.Hour
	DefaultEventBytes  = 4 << 30
	DefaultRollupAge   = 15 * time.Minute
	DefaultRollup10s   = 6 * time.Hour
	DefaultRollup1m    = 7 * 24 * time.Hour
	DefaultRollupBytes = 2 << 30
)

// WithDefaults returns r with its zero fields set, or an error that names the
// field which is out of range.
func (r Retention) WithDefaults() (Retention, error) {
	setDefault(&r.EventAge, DefaultEventAge)
	setDefault(&r.EventBytes, DefaultEventBytes)
	setDefault(&r.RollupAge, DefaultRollupAge)
	setDefault(&r.Rollup10sAge, DefaultRollup10s)
	setDefault(&r.Rollup1mAge, DefaultRollup1m)
	setDefault(&r.RollupBytes, DefaultRollupBytes)
	setDefault(&r.Replicas, 1)
	switch {
	case r.EventAge < time.Second:
		return r, fmt.Errorf("cannot keep events for %v: the least is 1s", r.EventAge)
	case r.RollupAge < time.Second:
		return r, fmt.Errorf("cannot keep rollups for %v: the least is 1s", r.RollupAge)
	case r.Rollup10sAge < time.Second:
		return r, fmt.Errorf("cannot keep rollups of 10 s for %v: the least is 1s", r.Rollup10sAge)
	case r.Rollup1mAge < time.Second:
		return r, fmt.Errorf("cannot keep rollups of 1 min for %v: the least is 1s", r.Rollup1mAge)
	case r.EventBytes < MaxPayload:
		return r, fmt.Errorf("cannot keep events in %d bytes: the least is %d", r.EventBytes, MaxPayload)
	case r.RollupBytes < MaxPayload:
		return r, fmt.Errorf("cannot keep rollups in %d bytes: the least is %d", r.RollupBytes, MaxPayload)
	case r.Replicas < 1 || r.Replicas > 5:
		return r, fmt.Errorf("cannot keep %d replicas: use 1, 3 or 5", r.Replicas)
	}
	return r, nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Stream says how a stream is to be set up. When it is full the oldest
// messages go first.
type Stream struct {
	Name, Description string
	Subjects          []string
	// TransformFrom and TransformTo rewrite the subjects as messages are
	// stored; empty where they stay.
	TransformFrom, TransformTo string
	MaxAge                     time.Duration
	// MaxBytes bounds the stream, MaxMessage one message, in bytes.
	MaxBytes   int64
	MaxMessage int32
	// Dedup is how long message ids are remembered.
	Dedup    time.Duration
	Replicas int
	// Memory keeps the stream in memory instead of in files.
	Memory bool
	// Latest makes it the stream of a key-value bucket: one message a subject.
	Latest bool
}

// maxHeaders is room for the headers of a batch, which count as part of it.
const maxHeaders = 1 << 10

// Streams are the streams of an installation, in the order in which to create
// them. The retention must have been through WithDefaults.
func Streams(r Retention) []Stream {
	transformTo := fmt.Sprintf("%s.{{partition(%d,1,2,3,4)}}.{{wildcard(1)}}.{{wildcard(2)}}.{{wildcard(3)}}.{{wildcard(4)}}", prefixPart, Partitions)
	streams := []Stream{{
		Name:        StreamEvents,
		Description: "Batches of events, as the proxies publish them",
		// Not weir.v1.events.>: a subject without exactly four tokens would be
		// stored in no partition and never be read; so it is refused.
		Subjects:      []string{prefixEvents + ".*.*.*.*"},
		TransformFrom: prefixEvents + ".*.*.*.*",
		TransformTo:   transformTo,
		MaxAge:        r.EventAge,
		MaxBytes:      r.EventBytes,
		MaxMessage:    MaxBatch + maxHeaders,
		Dedup:         min(DedupWindow, r.EventAge),
		Replicas:      r.Replicas,
	}, {
		Name:        StreamMembers,
		Description: "Live aggregators",
		Subjects:    []string{membersPrefix + ">"},
		MaxAge:      MemberTTL,
		MaxBytes:    1 << 20,
		MaxMessage:  1 << 10,
		Dedup:       MemberTTL,
		Replicas:    r.Replicas,
		Memory:      true,
		Latest:      true,
	}, exports(r)}
	return append(streams, rollupStreams(r)...)
}

const membersPrefix = "$KV." + BucketMembers + "."

// MemberSubject is where a member's heartbeat is kept: the key in the bucket is
// the id as Token writes it.
func MemberSubject(id string) string { return membersPrefix + Token(id) }

// MembersFilter matches all members' subjects.
func MembersFilter() string { return membersPrefix + ">" }

// ParseMember reads a member's id back from its subject.
func ParseMember(subject string) (string, error) {
	if len(subject) <= len(membersPrefix) || subject[:len(membersPrefix)] != membersPrefix {
		return "", fmt.Errorf("cannot parse subject %.300q: it is no member's subject", subject)
	}
	return ParseToken(subject[len(membersPrefix):])
}
